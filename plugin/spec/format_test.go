package spec_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func one(t testing.TB, content string) *aviaryv1.Document {
	t.Helper()
	docs, err := spec.Parse("one.yaml", []byte(content))
	if err != nil || len(docs) != 1 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	return docs[0].Document
}

func TestHashIsOfTheContentAndNotOfItsForm(t *testing.T) {
	const plain = `apiVersion: aviary.dev/v1
kind: Policy
metadata:
  name: p
spec:
  availability:
    target: 99.9%
    window: 30d
  steps:
    - share: 1%
      hold: 60s
`
	for name, other := range map[string]string{
		"comments, order and flow": `# a comment
kind: "Policy"
spec: {steps: [{hold: 1m, share: "1%"}], availability: {window: 720h, target: '99.9%'}} # another
metadata: {name: p}
apiVersion: aviary.dev/v1
`,
		"JSON": `{"apiVersion": "aviary.dev/v1", "kind": "Policy", "metadata": {"name": "p"}, "spec":
{"availability": {"target": "99.90%", "window": "30d"}, "steps": [{"share": "01.00%", "hold": "1m0s"}]}}`,
	} {
		if got, want := spec.Hash(one(t, other)), spec.Hash(one(t, plain)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	seen := map[string]string{spec.Hash(one(t, plain)): "as it was"}
	for name, other := range map[string]string{
		"another name":   strings.Replace(plain, "name: p", "name: q", 1),
		"another target": strings.Replace(plain, "99.9%", "99.8%", 1),
		"another hold":   strings.Replace(plain, "60s", "61s", 1),
		"one more step":  plain + "    - {share: 2%, hold: 60s}\n",
		"a default said": plain + "  budgetShare: 10%\n",
	} {
		hash := spec.Hash(one(t, other))
		if before, ok := seen[hash]; ok {
			t.Errorf("%s has the hash of %s", name, before)
		}
		seen[hash] = name
	}
}

// The hash is in the store: it must not change from one build to the next.
func TestHashOutlivesTheBuild(t *testing.T) {
	got := spec.Hash(one(t, "apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: eu-west}\nspec: {zones: [a, b]}\n"))
	if want := "79317bc9ce0abb1489e6a6e2199a6fc761ece462903404eac7caad635c8c5d7f"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFormatOfWhatNoFileCanHold(t *testing.T) {
	service := func(s *aviaryv1.ServiceSpec) *aviaryv1.Document {
		return &aviaryv1.Document{
			Metadata: &aviaryv1.Metadata{Name: "shop"}, Spec: &aviaryv1.Document_Service{Service: s},
		}
	}
	for name, doc := range map[string]*aviaryv1.Document{
		"no kind":             {Metadata: &aviaryv1.Metadata{Name: "x"}},
		"a negative duration": service(&aviaryv1.ServiceSpec{Timeout: durationpb.New(-time.Second)}),
		"too long a duration": service(&aviaryv1.ServiceSpec{Timeout: &durationpb.Duration{Seconds: 1 << 38}}),
		"an invalid duration": service(&aviaryv1.ServiceSpec{Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}),
		"an unknown enum":     service(&aviaryv1.ServiceSpec{Protocol: 99}),
		"no number": service(&aviaryv1.ServiceSpec{Versions: []*aviaryv1.Version{
			{Regions: []*aviaryv1.Placement{{Capacity: math.NaN()}}}}}),
	} {
		if text, err := spec.Format(doc); err == nil {
			t.Errorf("%s: formatted as\n%s", name, text)
		}
	}
}

func TestFormattedIsParsedToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := anyDocument(t)
		text, err := spec.Format(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := spec.Parse("formatted.yaml", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(again) != 1 || !proto.Equal(again[0].Document, doc) {
			t.Fatalf("not the same document:\n%s", text)
		}
		if spec.Hash(again[0].Document) != spec.Hash(doc) {
			t.Fatalf("not the same hash:\n%s", text)
		}
	})
}

// The generators make documents that are right by themselves; half of the optional fields are set.

func anyDocument(t *rapid.T) *aviaryv1.Document {
	doc := &aviaryv1.Document{Metadata: &aviaryv1.Metadata{Name: name.Draw(t, "name")}}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		doc.Spec = &aviaryv1.Document_Region{Region: &aviaryv1.RegionSpec{Zones: names(1).Draw(t, "zones")}}
	case 1:
		doc.Spec = &aviaryv1.Document_Service{Service: anyService(t)}
	case 2:
		doc.Spec = &aviaryv1.Document_Policy{Policy: anyPolicy(t)}
	case 3:
		doc.Spec = &aviaryv1.Document_Rollout{Rollout: &aviaryv1.RolloutSpec{
			Service: text.Draw(t, "service"), Version: text.Draw(t, "version"), Policy: text.Draw(t, "policy"),
			Regions: names(0).Draw(t, "regions"),
		}}
	}
	return doc
}

var (
	// Words that YAML would take for something else are names too.
	name = rapid.OneOf(rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?`),
		rapid.SampledFrom([]string{"true", "null", "on", "yes", "1", "007", "1e3", "0x1f", "2024-01-02", "0", "1-2"}))
	// References are any text, for only Build knows what they may be.
	text = rapid.OneOf(name, rapid.StringN(1, 20, -1).Filter(func(s string) bool {
		return !strings.ContainsRune(s, 0xFFFD)
	}))
	count = rapid.Uint32Range(1, math.MaxUint32)
)

func names(least int) *rapid.Generator[[]string] {
	return rapid.SliceOfNDistinct(name, least, 3, rapid.ID[string])
}

func maybe[T any](t *rapid.T, label string, make func() *T) *T {
	if rapid.Bool().Draw(t, label+" set") {
		return make()
	}
	return nil
}

func between(t *rapid.T, label string, low, high time.Duration) func() *durationpb.Duration {
	return func() *durationpb.Duration {
		return durationpb.New(time.Duration(rapid.Int64Range(int64(low), int64(high)).Draw(t, label)))
	}
}

func anyService(t *rapid.T) *aviaryv1.ServiceSpec {
	const hour = time.Hour
	s := &aviaryv1.ServiceSpec{
		Hosts:        names(1).Draw(t, "hosts"),
		Protocol:     aviaryv1.Protocol(rapid.IntRange(0, 3).Draw(t, "protocol")),
		TesterHeader: rapid.SampledFrom([]string{"", "x-version"}).Draw(t, "header"),
		Calls:        names(0).Draw(t, "calls"),
		Timeout:      maybe(t, "timeout", between(t, "timeout", 2, hour)),
	}
	if s.Timeout != nil {
		s.HangLimit = maybe(t, "hang limit", between(t, "hang limit", 0, s.Timeout.AsDuration()-1))
	}
	for _, v := range names(1).Draw(t, "versions") {
		version := &aviaryv1.Version{Name: v, Digest: rapid.StringMatching(`[a-z0-9+._-]{1,8}:[A-Za-z0-9=_-]{1,8}`).Draw(t, "digest")}
		for _, region := range names(0).Draw(t, "regions") {
			version.Regions = append(version.Regions, &aviaryv1.Placement{
				Region:   region,
				Capacity: rapid.Float64Range(0, math.MaxFloat64).Draw(t, "capacity"),
			})
		}
		s.Versions = append(s.Versions, version)
	}
	s.Stable = s.Versions[0].Name
	s.Limits = maybe(t, "limits", func() *aviaryv1.Limits {
		return &aviaryv1.Limits{
			Connections: maybe(t, "connections", func() *uint32 { return proto.Uint32(count.Draw(t, "connections")) }),
			Retries:     maybe(t, "retries", func() *uint32 { return proto.Uint32(count.Draw(t, "retries")) }),
		}
	})
	s.Stickiness = maybe(t, "stickiness", func() *aviaryv1.Stickiness {
		if rapid.Bool().Draw(t, "cookie") {
			return &aviaryv1.Stickiness{By: &aviaryv1.Stickiness_Cookie{Cookie: &aviaryv1.Cookie{
				Name: name.Draw(t, "cookie"), Ttl: maybe(t, "ttl", between(t, "ttl", 1, math.MaxInt64-1)),
			}}}
		}
		return &aviaryv1.Stickiness{By: &aviaryv1.Stickiness_Header{Header: name.Draw(t, "by")}}
	})
	s.HealthCheck = maybe(t, "health check", func() *aviaryv1.HealthCheck {
		return &aviaryv1.HealthCheck{
			Path:     rapid.StringMatching(`(/[^\n]{0,8})?`).Draw(t, "path"),
			Interval: maybe(t, "interval", between(t, "interval", 10*time.Millisecond, hour)),
		}
	})
	if s.Protocol != aviaryv1.Protocol_PROTOCOL_GRPC {
		s.Retries = maybe(t, "retries", func() *aviaryv1.Retries {
			return &aviaryv1.Retries{
				On: rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) aviaryv1.RetryClass {
					return aviaryv1.RetryClass(rapid.IntRange(1, 5).Draw(t, "class"))
				}), 0, 5, rapid.ID[aviaryv1.RetryClass]).Draw(t, "on"),
				Methods: rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Z]{1,6}`), 0, 3, rapid.ID[string]).Draw(t, "methods"),
			}
		})
	}
	return s
}

func anyPolicy(t *rapid.T) *aviaryv1.PolicySpec {
	p := &aviaryv1.PolicySpec{
		Availability: &aviaryv1.Availability{
			Target: rapid.SampledFrom([]string{"99.9%", "0.5%", "99.9999%"}).Draw(t, "target"),
			Window: maybe(t, "window", between(t, "window", time.Minute, 365*24*time.Hour)),
		},
		BudgetShare: rapid.SampledFrom([]string{"", "10%", "100%", "0.00001%"}).Draw(t, "budget share"),
		Errors: maybe(t, "errors", func() *aviaryv1.ErrorClasses {
			return &aviaryv1.ErrorClasses{
				Http: rapid.SliceOfNDistinct(rapid.StringMatching(`[1-5]([0-9][0-9]|xx)`), 0, 4, rapid.ID[string]).Draw(t, "http"),
				Grpc: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"INTERNAL", "UNKNOWN"}), 0, 2, rapid.ID[string]).Draw(t, "grpc"),
			}
		}),
		Analysis: maybe(t, "analysis", func() *aviaryv1.Analysis {
			return &aviaryv1.Analysis{
				Alpha: maybe(t, "alpha", func() *float64 {
					return proto.Float64(rapid.Float64Range(math.SmallestNonzeroFloat64, 0.5).Draw(t, "alpha"))
				}),
				ToleratedDifference: rapid.SampledFrom([]string{"", "0%", "0.01%"}).Draw(t, "difference"),
			}
		}),
		Lease: maybe(t, "lease", func() *aviaryv1.Lease {
			return &aviaryv1.Lease{Ttl: maybe(t, "ttl", between(t, "ttl", time.Second, 5*time.Minute))}
		}),
	}
	share := spec.Share(0)
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		share += spec.Share(rapid.Uint32Range(1, 2500).Draw(t, "share"))
		p.Steps = append(p.Steps, &aviaryv1.Step{
			Share: share.String(), Hold: between(t, "hold", 1, 30*24*time.Hour)(),
			MinTries: maybe(t, "tries", func() *uint32 { return proto.Uint32(count.Draw(t, "tries")) }),
		})
	}
	return p
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/cases/*.yaml"} {
		for _, path := range glob(f, pattern) {
			f.Add(read(f, path))
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		docs, err := spec.Parse("fuzz.yaml", content)
		if err != nil {
			errs, ok := err.(spec.Errors)
			if !ok || len(errs) == 0 || docs != nil {
				t.Fatalf("%T with %d errors beside %d documents", err, len(errs), len(docs))
			}
			for _, e := range errs {
				if e.File != "fuzz.yaml" || e.Line < 1 || e.Column < 1 || e.Message == "" || strings.Contains(e.Error(), "\n") {
					t.Fatalf("an error without a place, or over two lines: %+v", e)
				}
			}
			return
		}
		for _, p := range docs {
			text, err := spec.Format(p.Document)
			if err != nil {
				t.Fatal(err)
			}
			again, err := spec.Parse("again.yaml", text)
			if err != nil || len(again) != 1 {
				t.Fatalf("%v: not parsed again:\n%s", err, text)
			}
			if spec.Hash(again[0].Document) != spec.Hash(p.Document) {
				t.Fatalf("another hash:\n%s", text)
			}
		}
		_, _ = spec.Build(nil, docs)
	})
}
