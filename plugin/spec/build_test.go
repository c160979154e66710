package spec_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

const header = "apiVersion: aviary.dev/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n"

func source(file, kind, name, body string) spec.Source {
	return spec.Source{File: file, Content: fmt.Appendf(nil, header, kind, name, body)}
}

// values compares sets by what they say.
var values = cmp.Options{
	cmpopts.IgnoreUnexported(spec.Set{}), cmpopts.EquateComparable(netip.Prefix{}),
	cmp.Comparer(func(x, y float64) bool { return x-y < 1e-15 && y-x < 1e-15 }),
}

func TestDefaultsOfTheLeastDocuments(t *testing.T) {
	_, set, err := spec.Load(nil, []spec.Source{
		source("region.yaml", "Region", "eu-west", "{zones: [a]}"),
		source("shop.yaml", "Service", "shop", `{hosts: [shop.example], stable: v1, versions: [
			{name: v1, digest: "sha256:01", regions: [{region: eu-west, endpoints: [{zone: a, address: "[::1]:80"}]}]},
			{name: v2, digest: "sha256:02", regions: [{region: eu-west}]}]}`),
		source("pay.yaml", "Service", "pay", `{hosts: [pay.example], protocol: grpc, stable: v1, timeout: 0s, versions: [
			{name: v1, digest: "sha256:01"}]}`),
		source("policy.yaml", "Policy", "plain", "{availability: {target: 99.9%}, steps: [{share: 5%, hold: 1m}]}"),
		source("rollout.yaml", "Rollout", "shop-v2", "{service: shop, version: v2, policy: plain}"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &spec.Set{
		Regions: map[string]*spec.Region{"eu-west": {Name: "eu-west", Zones: []string{"a"}}},
		Services: map[string]*spec.Service{
			"shop": {
				Name: "shop", Hosts: []string{"shop.example"}, Protocol: spec.HTTP, Stable: "v1",
				Versions: []spec.Version{
					{Name: "v1", Digest: "sha256:01", Placements: []spec.Placement{
						{Region: "eu-west", Endpoints: []spec.Endpoint{{Zone: "a", Host: "::1", Port: 80}}}}},
					{Name: "v2", Digest: "sha256:02", Placements: []spec.Placement{{Region: "eu-west"}}},
				},
				Limits:  spec.Limits{Retries: 10000},
				Timeout: 15 * time.Second, HangLimit: 7500 * time.Millisecond,
				Retries: spec.Retries{
					On:      []string{"5xx", "connect-failure", "refused-stream", "reset"},
					Methods: []string{"GET", "HEAD", "OPTIONS"},
				},
				Mirror: spec.Mirror{
					Methods:      []string{"GET", "HEAD", "OPTIONS"},
					StripHeaders: []string{"authorization", "cookie", "proxy-authorization"},
				},
			},
			"pay": {
				Name: "pay", Hosts: []string{"pay.example"}, Protocol: spec.GRPC, Stable: "v1",
				Versions: []spec.Version{{Name: "v1", Digest: "sha256:01"}},
				Limits:   spec.Limits{Retries: 10000},
				Retries: spec.Retries{
					On: []string{"5xx", "cancelled", "connect-failure", "internal", "refused-stream", "reset", "unavailable"},
				},
				Mirror: spec.Mirror{StripHeaders: []string{"authorization", "cookie", "proxy-authorization"}},
			},
		},
		Policies: map[string]*spec.Policy{"plain": {
			Name: "plain", Target: 0.999, Window: 30 * 24 * time.Hour,
			Errors: spec.ErrorClasses{
				HTTP: []int{5}, GRPC: []int{2, 4, 12, 13, 14, 15},
				Flags: []string{"LR", "SI", "UC", "UF", "UH", "UMSDR", "UO", "UPE", "UR", "URX", "UT"},
			},
			Steps: []spec.Step{{Share: 500, Hold: time.Minute, MinTries: 1}},
			Analysis: spec.Analysis{
				Alpha: 0.001, ToleratedRatio: 1, ToleratedDifference: (1 - 0.999) / 10, LatencyFactor: 1.25,
			},
			BudgetShare: 0.1, HoldAfter: 5 * time.Second, RetreatAfter: 30 * time.Second, LeaseTTL: 10 * time.Second,
			Waves: []spec.Wave{{Require: spec.Whole}}, OnHalt: spec.HaltHolds, RollbackWithin: 10 * time.Second, MinEndpoints: 5000,
		}},
		Rollouts: map[string]*spec.Rollout{"shop-v2": {
			Name: "shop-v2", Service: "shop", Version: "v2", Policy: "plain", Regions: []string{"eu-west"},
		}},
	}
	if diff := cmp.Diff(want, set, values); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestHealthCheckDefaults(t *testing.T) {
	_, set, err := spec.Load(nil, []spec.Source{source("shop.yaml", "Service", "shop",
		`{hosts: [shop.example], stable: v1, versions: [{name: v1, digest: "sha256:01"}], healthCheck: {}}`)})
	if err != nil {
		t.Fatal(err)
	}
	want := &spec.HealthCheck{Interval: 5 * time.Second, Timeout: time.Second, UnhealthyAfter: 3, HealthyAfter: 2}
	if diff := cmp.Diff(want, set.Services["shop"].HealthCheck); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestGoodBatchAsValues(t *testing.T) {
	set, err := spec.Build(good(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	shop := set.Services["shop"]
	if got := shop.Version("v2").In("eu-west").Endpoints[1]; got != (spec.Endpoint{Zone: "b", Host: "fd00::12", Port: 8080}) {
		t.Errorf("endpoint %+v", got)
	}
	if shop.Version("v3") != nil || shop.Version("v1").In("mars") != nil {
		t.Error("a version or placement that nobody declared")
	}
	if got := shop.Stickiness; got != (spec.Stickiness{Cookie: "shop-version", CookieTTL: 24 * time.Hour}) {
		t.Errorf("stickiness %+v", got)
	}
	if got := set.Policies["careful"].Errors.HTTP; !cmp.Equal(got, []int{5, 429}) {
		t.Errorf("HTTP errors %v", got)
	}
	if got := set.Rollouts["shop-v2"].Regions; !cmp.Equal(got, []string{"eu-west"}) {
		t.Errorf("regions %v", got)
	}
}

func TestStoredDocumentsBuildTheSetOfTheirFiles(t *testing.T) {
	var files []spec.Source
	for _, path := range glob(t, "testdata/good/*.yaml") {
		files = append(files, spec.Source{File: path, Content: read(t, path)})
	}
	batch, fromFiles, err := spec.Load(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	for name, build := range map[string]func() (*spec.Set, error){
		"all stored":                func() (*spec.Set, error) { return spec.Build(documents(batch), nil) },
		"the batch again":           func() (*spec.Set, error) { return spec.Build(nil, batch) },
		"the batch over itself":     func() (*spec.Set, error) { return spec.Build(documents(batch), batch) },
		"the batch over one region": func() (*spec.Set, error) { return spec.Build(documents(batch)[1:2], batch) },
	} {
		set, err := build()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(fromFiles, set, values); diff != "" {
			t.Errorf("%s: -files +got:\n%s", name, diff)
		}
	}
}

func TestBatchReplacesStoredNamesakes(t *testing.T) {
	_, set, err := spec.Load(good(t), []spec.Source{source("r.yaml", "Region", "eu-west", "{zones: [b, a, c]}")})
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Regions["eu-west"].Zones; !cmp.Equal(got, []string{"b", "a", "c"}) {
		t.Errorf("zones %v", got)
	}
}

func TestDeletionThatLeavesReferencesIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ of, without, want string }{
		"a policy with a rollout": {"good", "Policy/careful", `stored: Rollout/shop-v2: spec.policy: no policy "careful"`},
		"a region that others fail over to and a wave and a pace name": {"regions", "Region/us-east",
			`stored: Policy/wide: spec.paces[0].regions[1]: no region "us-east"; known: ap-south, eu-north, eu-west
stored: Policy/wide: spec.waves[0].regions[0]: no region "us-east"; known: ap-south, eu-north, eu-west
stored: Region/eu-west: spec.failover[1]: no region "us-east"; known: ap-south, eu-north, eu-west
stored: Service/pay: spec.versions[0].regions[1].region: no region "us-east"; known: ap-south, eu-north, eu-west`},
	} {
		t.Run(name, func(t *testing.T) {
			left := slices.DeleteFunc(whole(t, c.of), func(doc *aviaryv1.Document) bool { return spec.Key(doc) == c.without })
			_, err := spec.Build(left, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestStoredDocumentThatIsNoLongerValid(t *testing.T) {
	docs := []*aviaryv1.Document{
		{},
		{Metadata: &aviaryv1.Metadata{Name: "x"}, Spec: &aviaryv1.Document_Service{Service: &aviaryv1.ServiceSpec{
			Protocol: 99, Retries: &aviaryv1.Retries{On: []aviaryv1.RetryClass{0, 99}},
		}}},
	}
	_, err := spec.Build(docs, nil)
	want := `stored: /: metadata: missing: expected a mapping
stored: /: spec: missing: expected one of region, service, policy, rollout
stored: Service/x: spec.hosts: expected at least 1 host
stored: Service/x: spec.protocol: expected one of http, http2, grpc, found 99
stored: Service/x: spec.retries.on[0]: expected one of 5xx, gateway-error, reset, connect-failure, refused-stream, grpc-cancelled, grpc-deadline-exceeded, grpc-internal, grpc-resource-exhausted, grpc-unavailable, found unspecified
stored: Service/x: spec.retries.on[1]: expected one of 5xx, gateway-error, reset, connect-failure, refused-stream, grpc-cancelled, grpc-deadline-exceeded, grpc-internal, grpc-resource-exhausted, grpc-unavailable, found 99
stored: Service/x: spec.stable: missing: expected the name of a version
stored: Service/x: spec.versions: expected at least 1 version`
	if err == nil {
		t.Fatal("accepted")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestErrorsOfSeveralFilesAreSortedAndNameBothPlaces(t *testing.T) {
	_, _, err := spec.Load(nil, []spec.Source{
		source("b.yaml", "Region", "eu-west", "{zones: []}"),
		source("a.yaml", "Region", "eu-west", "{zones: [a]}"),
	})
	want := `a.yaml:3:18: Region/eu-west: metadata.name: declared twice, first at b.yaml:1
b.yaml:4:15: Region/eu-west: spec.zones: expected at least 1 zone`
	if err == nil || err.Error() != want {
		t.Fatalf("got %v\nwant %s", err, want)
	}
	var errs spec.Errors
	var one *spec.Error
	if !errors.As(err, &errs) || !errors.As(err, &one) {
		t.Fatal("not Errors")
	}
	if want := (spec.Error{
		File: "a.yaml", Line: 3, Column: 18, Document: "Region/eu-west", Field: "metadata.name",
		Message: "declared twice, first at b.yaml:1",
	}); *errs[0] != want || *one != want {
		t.Errorf("first error %+v", *errs[0])
	}
}

// What a broken file declares is unknown, so nothing is called dangling for the lack of it.
func TestBrokenFileHidesNoOtherErrorAndInventsNone(t *testing.T) {
	_, _, err := spec.Load(nil, []spec.Source{
		{File: "broken.yaml", Content: []byte("kind: [\n")},
		source("rollout.yaml", "Rollout", "shop-v2", "{service: shop, version: v2, policy: plain, region: mars}"),
	})
	want := `broken.yaml:1:1: not YAML: did not find expected node content
rollout.yaml:4:51: Rollout/shop-v2: spec.region: unknown field "region"; did you mean "regions"?`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestTooLargeFileIsRefused(t *testing.T) {
	content := []byte("# " + strings.Repeat("x", spec.MaxBytes))
	_, err := spec.Parse("big.yaml", content)
	if want := "big.yaml:1:1: expected at most 4194304 bytes, found 4194306"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfOneDocumentAreBounded(t *testing.T) {
	zones := strings.Repeat("X, ", 5000)
	_, err := spec.Parse("many.yaml", source("", "Region", "r", "{zones: ["+zones+"]}").Content)
	var errs spec.Errors
	if !errors.As(err, &errs) || len(errs) != 1001 {
		t.Fatalf("%d errors", len(errs))
	}
	if !strings.Contains(err.Error(), "more than 1000 errors: the rest is not shown") {
		t.Error("nothing says that errors were left out")
	}
}

func TestErrorsOfManyDocumentsAreBounded(t *testing.T) {
	_, err := spec.Parse("many.yaml", []byte(strings.Repeat("---\n", 100_000)))
	var errs spec.Errors
	if !errors.As(err, &errs) || len(errs) != 2001 {
		t.Fatalf("%d errors", len(errs))
	}
	if !strings.Contains(err.Error(), "the rest of the file was not read") {
		t.Error("nothing says that errors were left out")
	}
}

func TestDeepNestingIsAnError(t *testing.T) {
	for name, body := range map[string]string{
		"flow":  strings.Repeat("[", 100_000),
		"block": strings.Repeat("- ", 100_000),
	} {
		if _, err := spec.Parse("deep.yaml", []byte(body)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
