package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
)

// Scenario is a document that says what is on the machine, what happens, and what must be seen.
type Scenario struct {
	Name string `yaml:"scenario"`
	// About is printed first.
	About string `yaml:"about"`
	// Regions have zones by name; every version has its endpoints in each of them.
	Regions map[string][]string `yaml:"regions"`
	// Services by name run in this process.
	Services map[string]ServiceSetup `yaml:"services"`
	// Sidecars are started before the users.
	Sidecars []SidecarSetup `yaml:"sidecars"`
	// Users by name begin when all sidecars are ready.
	Users map[string]UsersSetup `yaml:"users"`
	// Documents are applied first. They are a Go template: {{endpoints "service" "version" "region"}} is the list of a
	// version's endpoints in a region.
	Documents string `yaml:"documents"`
	// Timeline is done one step after the other.
	Timeline []Step `yaml:"timeline"`
}

// ServiceSetup is a service with its versions by name.
type ServiceSetup struct {
	Protocol Protocol                `yaml:"protocol"`
	Versions map[string]VersionSetup `yaml:"versions"`
}

// VersionSetup is a version of a service.
type VersionSetup struct {
	// Endpoints in each region, spread over its zones; default 1.
	Endpoints int      `yaml:"endpoints"`
	Behavior  Behavior `yaml:"behavior"`
}

// SidecarSetup is a number of sidecars of one calling service in one region.
type SidecarSetup struct {
	Region  string `yaml:"region"`
	Service string `yaml:"service"`
	// Count defaults to 1.
	Count int           `yaml:"count"`
	Flush time.Duration `yaml:"flush"`
}

// UsersSetup is a group of users behind all sidecars of a calling service.
type UsersSetup struct {
	// Service whose sidecars they send to, in Region; "" is every region.
	Service string `yaml:"service"`
	Region  string `yaml:"region"`
	// The rest is as in UsersOptions.
	Host          string            `yaml:"host"`
	Protocol      Protocol          `yaml:"protocol"`
	Path          string            `yaml:"path"`
	Rate          float64           `yaml:"rate"`
	Poisson       bool              `yaml:"poisson"`
	Concurrency   int               `yaml:"concurrency"`
	Users         int               `yaml:"users"`
	UserHeader    string            `yaml:"userHeader"`
	Cookies       bool              `yaml:"cookies"`
	Headers       map[string]string `yaml:"headers"`
	Testers       float64           `yaml:"testers"`
	TesterHeaders map[string]string `yaml:"testerHeaders"`
	Posts         float64           `yaml:"posts"`
	Body          int               `yaml:"body"`
	Timeout       time.Duration     `yaml:"timeout"`
}

// Step is one thing that happens: exactly one of its verbs is set. With At it waits until that long after the users began.
type Step struct {
	At time.Duration `yaml:"at"`

	// Say prints a line.
	Say string `yaml:"say"`
	// Wait lets time pass.
	Wait time.Duration `yaml:"wait"`
	// Set changes what a version's instances do.
	Set *SetStep `yaml:"set"`
	// Act is done to Rollout: start, pause, resume, abort, promote, rollback or retry.
	Act string `yaml:"act"`
	// Apply declares more documents, a template as Scenario.Documents.
	Apply string `yaml:"apply"`
	// ControlPlane is start, stop, kill, pause or continue.
	ControlPlane string `yaml:"controlPlane"`
	// Rate changes the requests per second of groups of users, by name.
	Rate map[string]float64 `yaml:"rate"`
	// Mark names this moment for Since.
	Mark string `yaml:"mark"`
	// Expect checks an expectation and goes on whatever it says; Until ends the timeline when it fails.
	Expect string `yaml:"expect"`
	Until  string `yaml:"until"`

	// Rollout that Act is for.
	Rollout string `yaml:"rollout"`
	// Within is how long an expectation may take to come true; For is how long it must then stay true.
	Within time.Duration `yaml:"within"`
	For    time.Duration `yaml:"for"`
	// Since is the mark from which an expectation counts; "": from the start.
	Since string `yaml:"since"`

	line        int
	expectation *expectation
}

// SetStep says whose behavior becomes what.
type SetStep struct {
	Service string `yaml:"service"`
	Version string `yaml:"version"`
	// Region: "" is every region.
	Region   string   `yaml:"region"`
	Behavior Behavior `yaml:"behavior"`
}

var (
	acts         = []string{"start", "pause", "resume", "abort", "promote", "rollback", "retry"}
	controlActs  = []string{"start", "stop", "kill", "pause", "continue"}
	templateStub = template.FuncMap{"endpoints": func(string, string, string) (string, error) { return "[]", nil }}
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
	for region, zones := range s.Regions {
		if len(zones) == 0 {
			p.in("regions", "region %s has no zone", region)
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
		}
		if !slices.Contains([]Protocol{"", HTTP, HTTP2, GRPC}, service.Protocol) {
			p.in("services", "%s: protocol %q; want http, http2 or grpc", name, service.Protocol)
		}
	}
	for _, c := range s.Sidecars {
		if s.Regions[c.Region] == nil {
			p.in("sidecars", "no region %q", c.Region)
		}
	}
	for name, u := range s.Users {
		if !slices.ContainsFunc(s.Sidecars, u.behind) {
			p.in("users", "%s: no sidecar of service %q in region %q", name, u.Service, u.Region)
		}
		if slices.Contains(userMeasures, name) {
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

// behind says whether a group of users sends to a sidecar.
func (u UsersSetup) behind(c SidecarSetup) bool {
	return c.Service == u.Service && (u.Region == "" || u.Region == c.Region)
}

func (s *Scenario) checkStep(step *Step, marks map[string]bool, p *problems) {
	verbs := map[string]bool{
		"say": step.Say != "", "wait": step.Wait != 0, "set": step.Set != nil, "act": step.Act != "", "apply": step.Apply != "",
		"controlPlane": step.ControlPlane != "", "rate": step.Rate != nil, "mark": step.Mark != "", "expect": step.Expect != "",
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
	if set[0] != "act" && step.Rollout != "" {
		p.at(step.line, "rollout belongs to act")
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
