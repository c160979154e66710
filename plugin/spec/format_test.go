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

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/regions/*.yaml", "testdata/cases/*.yaml"} {
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
