package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

var (
	acts         = []string{"start", "pause", "resume", "abort", "promote", "rollback", "retry"}
	controlActs  = []string{"start", "stop", "kill", "pause", "continue"}
	templateStub = template.FuncMap{
		"endpoints":  func(string, string, string) string { return "[]" },
		"placements": func(string, string, float64) string { return "[]" },
		"network":    func(string) string { return "127.0.0.0/8" },
	}
)

// ParseScenario reads a scenario strictly: an unknown field, a wrong type, a name that nothing has or an expectation that
// makes no sense is an error with its line, all of them at once.
func ParseScenario(text []byte) (*Scenario, error) {
	s := new(Scenario)
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(s); err != nil {
		return nil, fmt.Errorf("lab: scenario: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("lab: scenario %s: more than one document", s.Name)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("lab: scenario %s: %w", s.Name, err)
	}
	p := problems{lines: map[string]int{}}
	for i := 0; i+1 < len(root.Content[0].Content); i += 2 {
		key, value := root.Content[0].Content[i], root.Content[0].Content[i+1]
		p.lines[key.Value] = key.Line
		if key.Value == "timeline" && value.Kind == yaml.SequenceNode {
			for n, item := range value.Content {
				s.Timeline[n].line = item.Line
			}
		}
	}
	s.check(&p)
	if len(p.all) > 0 {
		return nil, fmt.Errorf("lab: scenario %s: %w", s.Name, errors.Join(p.all...))
	}
	return s, nil
}

type problems struct {
	lines map[string]int // of the sections
	all   []error
}

func (p *problems) at(line int, format string, args ...any) {
	p.all = append(p.all, fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...)))
}

func (p *problems) in(section, format string, args ...any) {
	p.at(max(p.lines[section], 1), "%w", fmt.Errorf(format, args...))
}

func (s *Scenario) check(p *problems) {
	if s.Name == "" {
		p.in("scenario", "scenario: want its name")
	}
	if s.Speed < 0 || s.Speed > 1e6 || s.Speed != s.Speed {
		p.in("speed", "speed %v; want more than 0", s.Speed)
	}
	for region, zones := range s.Regions {
		if len(zones) == 0 {
			p.in("regions", "region %s has no zone", region)
		}
		if slices.Contains(serviceMeasures, region) {
			p.in("regions", "%s is the name of a measure; want another", region)
		}
	}
	for name, service := range s.Services {
		for version, setup := range service.Versions {
			options := InstanceOptions{Service: name, Version: version, Protocol: service.Protocol}
			if _, err := setup.Behavior.prepared(options); err != nil {
				p.in("services", "%s %s: %w", name, version, err)
			}
			if setup.Endpoints < 0 {
				p.in("services", "%s %s: endpoints %d", name, version, setup.Endpoints)
			}
			for _, region := range setup.Regions {
				if s.Regions[region] == nil {
					p.in("services", "%s %s: no region %q", name, version, region)
				}
			}
			if err := s.checkNeeds(name, setup); err != nil {
				p.in("services", "%s %s: %w", name, version, err)
			}
		}
		if !slices.Contains([]Protocol{"", HTTP, HTTP2, GRPC}, service.Protocol) {
			p.in("services", "%s: protocol %q; want http, http2 or grpc", name, service.Protocol)
		}
	}
	for _, c := range s.Sidecars {
		if c.Region != "" && s.Regions[c.Region] == nil {
			p.in("sidecars", "no region %q", c.Region)
		}
	}
	for name, u := range s.Users {
		if !slices.ContainsFunc(s.sidecars(), u.behind) {
			p.in("users", "%s: no sidecar of service %q in region %q", name, u.Service, u.Region)
		}
		if slices.Contains(userMeasures, name) || name == "in" {
			p.in("users", "%s is the name of a measure; want another", name)
		}
	}
	if _, err := template.New("documents").Funcs(templateStub).Parse(s.Documents); err != nil {
		p.in("documents", "%w", err)
	}
	marks := map[string]bool{"": true}
	for n := range s.Timeline {
		s.checkStep(&s.Timeline[n], marks, p)
	}
}

// checkNeeds follows what a version of a service needs.
func (s *Scenario) checkNeeds(service string, v VersionSetup) error {
	if v.Needs == "" {
		return nil
	}
	needed, ok := s.Services[v.Needs]
	if !ok {
		return fmt.Errorf("needs: no service %q", v.Needs)
	}
	if needed.Protocol != "" && needed.Protocol != HTTP {
		return fmt.Errorf("needs: service %s speaks %s; want http", v.Needs, needed.Protocol)
	}
	for _, region := range s.regionsOf(v) {
		if !slices.ContainsFunc(slices.Collect(maps.Values(needed.Versions)), func(n VersionSetup) bool {
			return slices.Contains(s.regionsOf(n), region)
		}) {
			return fmt.Errorf("needs: service %s has no version in region %s", v.Needs, region)
		}
	}
	if s.reaches(v.Needs, service, map[string]bool{}) {
		return fmt.Errorf("needs: service %s needs %s in turn", v.Needs, service)
	}
	return nil
}

// reaches says whether a service is, or needs in the end, another one.
func (s *Scenario) reaches(service, other string, seen map[string]bool) bool {
	if service == other {
		return true
	}
	if seen[service] {
		return false
	}
	seen[service] = true
	for _, v := range s.Services[service].Versions {
		if v.Needs != "" && s.reaches(v.Needs, other, seen) {
			return true
		}
	}
	return false
}

// regionsOf returns the regions of a version, sorted.
func (s *Scenario) regionsOf(v VersionSetup) []string {
	if len(v.Regions) > 0 {
		return slices.Sorted(slices.Values(v.Regions))
	}
	return s.regions()
}

// regions returns the names of all regions, sorted.
func (s *Scenario) regions() []string { return slices.Sorted(maps.Keys(s.Regions)) }

// sidecars returns the setups by region.
func (s *Scenario) sidecars() []SidecarSetup {
	var all []SidecarSetup
	for _, c := range s.Sidecars {
		if c.Region != "" {
			all = append(all, c)
			continue
		}
		for _, c.Region = range s.regions() {
			all = append(all, c)
		}
	}
	return all
}

// behind says whether a group of users sends to a sidecar.
func (u UsersSetup) behind(c SidecarSetup) bool {
	return c.Service == u.Service && (u.Region == "" || u.Region == c.Region)
}

func (s *Scenario) checkStep(step *Step, marks map[string]bool, p *problems) {
	verbs := map[string]bool{
		"say": step.Say != "", "wait": step.Wait != 0, "set": step.Set != nil, "act": step.Act != "", "apply": step.Apply != "",
		"controlPlane": step.ControlPlane != "", "network": step.Network != nil, "rate": step.Rate != nil, "mark": step.Mark != "", "expect": step.Expect != "",
		"until": step.Until != "",
	}
	var set []string
	for verb, is := range verbs {
		if is {
			set = append(set, verb)
		}
	}
	slices.Sort(set)
	if len(set) != 1 {
		p.at(step.line, "a step has one verb; this one has %d: %s", len(set), strings.Join(set, ", "))
		return
	}
	if set[0] != "act" && (step.Rollout != "" || len(step.Regions) > 0) {
		p.at(step.line, "rollout and regions belong to act")
	}
	if set[0] != "expect" && set[0] != "until" && (step.Within != 0 || step.For != 0 || step.Since != "") {
		p.at(step.line, "within, for and since belong to expect and until")
	}
	switch set[0] {
	case "set":
		service, ok := s.Services[step.Set.Service]
		if _, has := service.Versions[step.Set.Version]; !ok || !has {
			p.at(step.line, "no version %q of service %q", step.Set.Version, step.Set.Service)
		}
		if step.Set.Region != "" && s.Regions[step.Set.Region] == nil {
			p.at(step.line, "no region %q", step.Set.Region)
		}
		if _, err := step.Set.Behavior.prepared(InstanceOptions{Protocol: service.Protocol}); err != nil {
			p.at(step.line, "%w", err)
		}
	case "act":
		if !slices.Contains(acts, step.Act) || step.Rollout == "" {
			p.at(step.line, "act %q of rollout %q; want one of %s, and a rollout", step.Act, step.Rollout, strings.Join(acts, ", "))
		}
		for _, region := range step.Regions {
			if s.Regions[region] == nil {
				p.at(step.line, "no region %q", region)
			}
		}
	case "network":
		if s.Regions[step.Network.Region] == nil {
			p.at(step.line, "no region %q", step.Network.Region)
		}
		if _, err := step.Network.network(); err != nil {
			p.at(step.line, "%w", err)
		}
	case "controlPlane":
		if !slices.Contains(controlActs, step.ControlPlane) {
			p.at(step.line, "controlPlane %q; want one of %s", step.ControlPlane, strings.Join(controlActs, ", "))
		}
	case "apply":
		if _, err := template.New("apply").Funcs(templateStub).Parse(step.Apply); err != nil {
			p.at(step.line, "%w", err)
		}
	case "rate":
		for name := range step.Rate {
			if _, ok := s.Users[name]; !ok {
				p.at(step.line, "no users %q", name)
			}
		}
	case "mark":
		marks[step.Mark] = true
	case "expect", "until":
		var err error
		if step.expectation, err = s.parseExpectation(step.Expect + step.Until); err != nil {
			p.at(step.line, "%w", err)
		}
		if !marks[step.Since] {
			p.at(step.line, "no mark %q before this step", step.Since)
		}
	}
}
