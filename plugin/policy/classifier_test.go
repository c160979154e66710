package policy_test

import (
	"testing"

	"github.com/aviary-mesh/aviary/plugin/policy"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// defaults are those of a Policy that says nothing of errors.
var defaults = spec.ErrorClasses{
	HTTP:  []int{5},
	GRPC:  []int{2, 4, 12, 13, 14, 15},
	Flags: []string{"LR", "SI", "UC", "UF", "UH", "UMSDR", "UO", "UPE", "UR", "URX", "UT"},
}

// none is the gRPC status of a try that has none.
const none = -1

func TestClassifier(t *testing.T) {
	narrow := spec.ErrorClasses{HTTP: []int{4, 503}, GRPC: []int{14}, Flags: []string{"UF"}}
	for name, c := range map[string]struct {
		classes spec.ErrorClasses
		class   signal.Class
		want    bool
	}{
		"200":                                    {defaults, signal.Class{Status: 200, GRPC: none}, false},
		"404 is the caller's mistake":            {defaults, signal.Class{Status: 404, GRPC: none}, false},
		"499 is below the class 5xx":             {defaults, signal.Class{Status: 499, GRPC: none}, false},
		"500 is the first of the class 5xx":      {defaults, signal.Class{Status: 500, GRPC: none}, true},
		"599 is the last of the class 5xx":       {defaults, signal.Class{Status: 599, GRPC: none}, true},
		"600 is in no class":                     {defaults, signal.Class{Status: 600, GRPC: none}, false},
		"a negative status is in no class":       {defaults, signal.Class{Status: -5, GRPC: none}, false},
		"a policy's own class":                   {narrow, signal.Class{Status: 404, GRPC: none}, true},
		"a policy's own code":                    {narrow, signal.Class{Status: 503, GRPC: none}, true},
		"a neighbour of a policy's own code":     {narrow, signal.Class{Status: 502, GRPC: none}, false},
		"an unknown flag beside 200":             {defaults, signal.Class{Status: 200, GRPC: none, Flags: "XX"}, false},
		"a flag makes 200 an error":              {defaults, signal.Class{Status: 200, GRPC: none, Flags: "UC"}, true},
		"the second flag":                        {defaults, signal.Class{Status: 200, GRPC: none, Flags: "DI,UF"}, true},
		"the first flag":                         {defaults, signal.Class{Status: 200, GRPC: none, Flags: "UF,DI"}, true},
		"a flag within another":                  {narrow, signal.Class{Status: 200, GRPC: none, Flags: "UFX"}, false},
		"a flag that the policy leaves out":      {narrow, signal.Class{Status: 200, GRPC: none, Flags: "URX"}, false},
		"no answer, with a flag":                 {defaults, signal.Class{GRPC: none, Flags: "UF,URX"}, true},
		"no answer, and nothing says why":        {defaults, signal.Class{GRPC: none}, true},
		"no answer under a policy of no errors":  {spec.ErrorClasses{}, signal.Class{GRPC: none}, true},
		"no answer, for the caller went away":    {defaults, signal.Class{GRPC: none, Flags: "DC"}, false},
		"gRPC OK":                                {defaults, signal.Class{Status: 200, GRPC: 0}, false},
		"gRPC INTERNAL behind HTTP 200":          {defaults, signal.Class{Status: 200, GRPC: 13}, true},
		"gRPC DATA_LOSS":                         {defaults, signal.Class{Status: 200, GRPC: 15}, true},
		"gRPC NOT_FOUND is the caller's mistake": {defaults, signal.Class{Status: 200, GRPC: 5}, false},
		"gRPC UNAUTHENTICATED, the last one":     {defaults, signal.Class{Status: 200, GRPC: 16}, false},
		"gRPC status beyond the last is UNKNOWN": {defaults, signal.Class{Status: 200, GRPC: 99}, true},
		"gRPC status goes before HTTP status":    {narrow, signal.Class{Status: 503, GRPC: 13}, false},
		"gRPC status without an HTTP status":     {narrow, signal.Class{GRPC: 14}, true},
		"gRPC OK with a flag":                    {defaults, signal.Class{Status: 200, GRPC: 0, Flags: "UR"}, true},
		"gRPC call that ended without a status":  {defaults, signal.Class{Status: 503, GRPC: none}, true},
		"gRPC call that was reset":               {defaults, signal.Class{Status: 200, GRPC: none, Flags: "UR"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := policy.Classifier(c.classes)(c.class); got != c.want {
				t.Errorf("%+v: error %v, want %v", c.class, got, c.want)
			}
		})
	}
}

// The codes of a parsed policy fit the classifier, whatever the document lists.
func TestClassifierTakesWhatAPolicyMayDeclare(t *testing.T) {
	_, set, err := spec.Load(nil, []spec.Source{{File: "p.yaml", Content: []byte(`
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: p}
spec:
  availability: {target: 99%}
  errors: {http: [1xx, 5xx, 599], grpc: [CANCELLED, UNAUTHENTICATED], flags: [UDO]}
  steps: [{share: 1%, hold: 1m}]
`)}})
	if err != nil {
		t.Fatal(err)
	}
	failed := policy.Classifier(set.Policies["p"].Errors)
	for class, want := range map[signal.Class]bool{
		{Status: 100, GRPC: none}: true, {Status: 599, GRPC: none}: true, {Status: 200, GRPC: none}: false,
		{Status: 200, GRPC: 1}: true, {Status: 200, GRPC: 16}: true, {Status: 200, GRPC: 2}: false,
		{Status: 200, GRPC: none, Flags: "UDO"}: true, {Status: 200, GRPC: none, Flags: "UF"}: false,
	} {
		if got := failed(class); got != want {
			t.Errorf("%+v: error %v, want %v", class, got, want)
		}
	}
}

func TestClassifierAllocatesNothing(t *testing.T) {
	failed := policy.Classifier(defaults)
	class := signal.Class{Status: 503, GRPC: none, Flags: "DI,FI,XX"}
	if n := testing.AllocsPerRun(100, func() { failed(class) }); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func BenchmarkClassifier(b *testing.B) {
	failed := policy.Classifier(defaults)
	class := signal.Class{Status: 503, GRPC: none, Flags: "DI,URX"}
	for b.Loop() {
		failed(class)
	}
}
