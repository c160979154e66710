package lab

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const patient = `apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: slow}
spec:
  availability: {target: "99.9%", window: 30d}
  shadow: {share: "5%", hold: 1h}
  steps:
  - {share: "5%", hold: 1d}
  - {share: "50%", hold: 90s}
  paces:
  - regions: [us]
    steps: [{share: "10%", hold: 2h}]
  waves:
  - {regions: [eu], bake: 12h}
  - {}
  noData: {holdAfter: 5s}
  lease: {ttl: 4s}
  rollback: {within: 3s}
`

func TestSpeedDividesPatienceAlone(t *testing.T) {
	s := &Scenario{Speed: 60, Documents: patient}
	fast, err := s.prepare([]byte(patient + "---\nkind: Rollout\nmetadata: {name: r}\nspec: {steps: [{hold: 1h}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := yaml.Unmarshal(fast, &got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"window: 30d", "hold: 1m0s", "hold: 24m0s", "hold: 1.5s", "hold: 2m0s", "bake: 12m0s", "holdAfter: 5s",
		"ttl: 4s", "within: 3s", "kind: Rollout", "hold: 1h}"} {
		if !strings.Contains(string(fast), want) {
			t.Errorf("no %q in\n%s", want, fast)
		}
	}
	again, err := s.prepare([]byte(patient))
	if err != nil || !strings.HasPrefix(string(fast), string(again)) {
		t.Errorf("another time, another text: %v\n%s", err, again)
	}
	same, err := (&Scenario{Speed: 1}).prepare([]byte(patient))
	if err != nil || string(same) != patient {
		t.Errorf("a speed of 1 changes the text: %v\n%s", err, same)
	}
	if _, err := s.prepare([]byte("a: [")); err == nil {
		t.Error("what is no YAML was taken")
	}
}

func TestLimitsOfDocuments(t *testing.T) {
	d := newDeclared()
	d.read([]byte(patient + "---\nkind: Rollout\nmetadata: {name: r}\nspec: {service: cart, version: v2, policy: slow}\n---\n" +
		"kind: Policy\nmetadata: {name: bare}\nspec: {steps: [{share: 7%, hold: soon}]}\n"))
	l, ok := d.of("cart", "v2")
	if !ok || l.within() != 3*time.Second || l.lease() != 4*time.Second {
		t.Errorf("limits %+v, %v", l, ok)
	}
	for _, c := range []struct {
		region string
		weight uint32
		want   time.Duration
	}{{"eu", 500, 24 * time.Hour}, {"eu", 5000, 90 * time.Second}, {"us", 1000, 2 * time.Hour}, {"us", 500, 0}, {"eu", 1000, 0}} {
		if got := l.hold(c.region, c.weight); got != c.want {
			t.Errorf("hold of %d in %s: %v, want %v", c.weight, c.region, got, c.want)
		}
	}
	if _, ok := d.of("cart", "v3"); ok {
		t.Error("a version without a rollout has limits")
	}
	if l := d.policies["bare"]; l.within() != 10*time.Second || l.lease() != 10*time.Second || l.hold("eu", 700) != 0 {
		t.Errorf("defaults of %+v", l)
	}
}

func TestOwnPolicy(t *testing.T) {
	const one = "kind: Policy\nmetadata: {name: quick}\nspec: {steps: [{share: 50%, hold: 1s}]}\n---\nkind: Region\nmetadata: {name: eu}\n"
	const two = one + "---\nkind: Policy\nmetadata: {name: other}\nspec: {steps: [{share: 9%, hold: 1s}]}\n"
	for name, c := range map[string]struct {
		documents, policy string
		want              string // part of the documents then; or of the error
		fails             bool
	}{
		"the only one":  {one, patient, "name: quick}\nspec:\n    availability", false},
		"the same name": {two, strings.Replace(patient, "name: slow", "name: other", 1), "name: other}\nspec:\n    availability", false},
		"neither":       {two, patient, "1 of them (slow), and scenario x has other, quick", true},
		"no policy":     {one, "kind: Region\nmetadata: {name: eu}\n", "0 of them", true},
		"no YAML":       {one, "a: [", "policy: yaml", true},
	} {
		s := &Scenario{Name: "x", Documents: c.documents}
		err := s.UsePolicy([]byte(c.policy))
		if c.fails {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 2 { // what is declared again is no faster
			s.Speed = 10
			got, err := s.prepare([]byte(c.documents))
			if err != nil || !strings.Contains(string(got), c.want) || !strings.Contains(string(got), "bake: 1h12m0s") ||
				!strings.Contains(string(got), "kind: Region") {
				t.Errorf("%s: %v, no %q in\n%s", name, err, c.want, got)
			}
		}
	}
}
