package lab

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Scenario is a document that says what is on the machine, what happens, and what must be seen.
type Scenario struct {
	Name string `yaml:"scenario"`
	// About is printed first; its first sentence says in short what it is.
	About string `yaml:"about"`
	// Speed divides the times of patience in the policies of the documents: how long steps and shadows are held and waves
	// bake. What is a reaction keeps its time. Default 1.
	Speed float64 `yaml:"speed"`
	// Regions have zones by name.
	Regions map[string][]string `yaml:"regions"`
	// Services by name run in this process.
	Services map[string]ServiceSetup `yaml:"services"`
	// Sidecars are started before the users.
	Sidecars []SidecarSetup `yaml:"sidecars"`
	// Users by name begin when all sidecars are ready.
	Users map[string]UsersSetup `yaml:"users"`
	// Documents are applied first. They are a Go template:
	//
	//	{{endpoints "service" "version" "region"}}  the list of a version's endpoints in a region
	//	{{placements "service" "version" 1000}}     the list of its regions, each with a capacity and its endpoints
	//	{{network "region"}}                        the network that all endpoints of a region are in
	Documents string `yaml:"documents"`
	// Timeline is done one step after the other.
	Timeline []Step `yaml:"timeline"`

	policies map[string]*yaml.Node // specs in place of those in the documents, by the policy's name there
}

// ServiceSetup is a service with its versions by name.
type ServiceSetup struct {
	Protocol Protocol                `yaml:"protocol"`
	Versions map[string]VersionSetup `yaml:"versions"`
	// Personal are the headers, beside those with credentials, that a copy of a request must not have.
	Personal []string `yaml:"personal"`
}

// VersionSetup is a version of a service.
type VersionSetup struct {
	// Endpoints in each region, spread over its zones; default 1.
	Endpoints int `yaml:"endpoints"`
	// Regions that it is in; default all.
	Regions []string `yaml:"regions"`
	// Needs is another service, one of whose instances in the same region each request calls.
	Needs    string   `yaml:"needs"`
	Behavior Behavior `yaml:"behavior"`
}

// SidecarSetup is a number of sidecars of one calling service in one region; "" is every region.
type SidecarSetup struct {
	Region  string `yaml:"region"`
	Service string `yaml:"service"`
	// Count defaults to 1.
	Count int           `yaml:"count"`
	Flush time.Duration `yaml:"flush"`
}

// UsersSetup is a group of users behind all sidecars of a calling service.
type UsersSetup struct {
	// Service whose sidecars they send to, in Region; "" is every region, and then Rate is shared among the sidecars.
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
	// Network changes how the sidecars of a region reach the control plane.
	Network *NetworkStep `yaml:"network"`
	// Rate changes the requests per second of groups of users, by name.
	Rate map[string]float64 `yaml:"rate"`
	// Mark names this moment for Since.
	Mark string `yaml:"mark"`
	// Expect checks an expectation and goes on whatever it says; Until ends the timeline when it fails.
	Expect string `yaml:"expect"`
	Until  string `yaml:"until"`

	// Rollout that Act is for, in Regions; none is all of them.
	Rollout string   `yaml:"rollout"`
	Regions []string `yaml:"regions"`
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

// NetworkStep is what becomes of the network between a region and the control plane; only a region heals it.
type NetworkStep struct {
	Region string        `yaml:"region"`
	Delay  time.Duration `yaml:"delay"`
	Jitter time.Duration `yaml:"jitter"`
	// Loss is a percentage, "5%".
	Loss      string `yaml:"loss"`
	Cut       bool   `yaml:"cut"`
	Blackhole bool   `yaml:"blackhole"`
}

func (s *NetworkStep) network() (Network, error) {
	n := Network{Delay: s.Delay, Jitter: s.Jitter, Cut: s.Cut, Blackhole: s.Blackhole}
	if s.Loss != "" {
		var err error
		if n.Loss, err = parsePercent(s.Loss); err != nil {
			return n, fmt.Errorf("network: loss: %w", err)
		}
	}
	return n, n.check()
}

// parsePercent reads "5%" as .05.
func parsePercent(text string) (float64, error) {
	digits, percent := strings.CutSuffix(text, "%")
	if !percent {
		return 0, fmt.Errorf("%q; want a percentage", text)
	}
	n, err := strconv.ParseFloat(digits, 64)
	return n / 100, err
}
