package lab

import (
	"strings"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func TestBuiltInScenarios(t *testing.T) {
	names := Scenarios()
	if len(names) < 7 {
		t.Errorf("only %v", names)
	}
	for _, name := range names {
		s, err := LoadScenario(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if s.Name != name || s.About == "" || len(s.Timeline) == 0 {
			t.Errorf("%s: name %q, about %q, %d steps", name, s.Name, s.About, len(s.Timeline))
		}
		w := new(world)
		if err := w.startServices(s); err != nil {
			t.Error(err)
		}
		documents, err := w.fill(s.Documents)
		if err != nil {
			t.Error(err)
		}
		parsed, _, err := spec.Load(nil, []spec.Source{{File: name, Content: documents}})
		if err != nil {
			t.Error(err)
			continue
		}
		kinds := map[string]int{}
		var stored []*aviaryv1.Document
		for _, p := range parsed {
			kinds[spec.Kind(p.Document)]++
			stored = append(stored, p.Document)
		}
		for _, step := range s.Timeline {
			if step.Apply == "" {
				continue
			}
			more, err := w.fill(step.Apply)
			if err != nil {
				t.Error(err)
			}
			if _, _, err := spec.Load(stored, []spec.Source{{File: name, Content: more}}); err != nil {
				t.Errorf("line %d: %v", step.line, err)
			}
		}
		d := newDeclared()
		d.read(documents)
		if kinds["Region"] == 0 || kinds["Service"] < 2 || len(d.policies) == 0 || len(d.rollouts) == 0 {
			t.Errorf("%s: documents %v", name, kinds)
		}
		w.close()
	}
	if _, err := LoadScenario("none"); err == nil || !strings.Contains(err.Error(), "demo") {
		t.Errorf("a scenario that is not there: %v", err)
	}
}
