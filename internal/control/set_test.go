package control

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// now is when tests without a world are.
var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// newSet makes documents of regions: "eu EU ap us" is eu, under EU, with failover to ap and then us.
func newSet(regions ...[]string) *spec.Set {
	set := &spec.Set{
		Regions: map[string]*spec.Region{}, Services: map[string]*spec.Service{}, Policies: map[string]*spec.Policy{},
		Rollouts: map[string]*spec.Rollout{},
	}
	for _, r := range regions {
		set.Regions[r[0]] = &spec.Region{Name: r[0], Jurisdiction: r[1], Failover: r[2:], Zones: []string{"a", "b"}}
	}
	set.Policies["careful"] = &spec.Policy{
		Name: "careful", Target: 0.999, Window: 30 * 24 * time.Hour,
		Steps:    []spec.Step{{Share: 500, Hold: 10 * time.Second, MinTries: 1}, {Share: 5000, Hold: 10 * time.Second, MinTries: 1}},
		Analysis: spec.Analysis{Alpha: 0.001, ToleratedRatio: 1, ToleratedDifference: 0.0001, LatencyFactor: 1.25}, BudgetShare: 0.1,
		Errors:    spec.ErrorClasses{HTTP: []int{5}},
		HoldAfter: 5 * time.Second, RetreatAfter: 30 * time.Second, LeaseTTL: 10 * time.Second,
		Waves: []spec.Wave{{Require: spec.Whole}}, OnHalt: spec.HaltHolds, RollbackWithin: 10 * time.Second, MinEndpoints: 5000,
	}
	return set
}

// nets number the networks of regions.
var nets = map[string]int{"eu": 1, "us": 2, "ap": 3, "sa": 4}

func networkOf(region string) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", nets[region]))
}

// placement has n endpoints in zone a, at addresses of the region that no other version of a service has.
func placement(region string, capacity float64, service, version, n int) spec.Placement {
	p := spec.Placement{Region: region, Capacity: capacity}
	for i := range n {
		p.Endpoints = append(p.Endpoints, spec.Endpoint{Zone: "a", Host: fmt.Sprintf("10.%d.%d.%d", nets[region], service, 10*version+i), Port: 80})
	}
	return p
}

// add declares a service with v1, stable, and v2, two endpoints each and a capacity of 1000 in the regions named.
func add(set *spec.Set, name string, regions ...string) *spec.Service {
	s := &spec.Service{
		Name: name, Hosts: []string{name + ".example"}, Protocol: spec.HTTP, Stable: "v1",
		Mirror: spec.Mirror{Methods: []string{"GET"}, StripHeaders: []string{"cookie"}},
	}
	for v := range 2 {
		version := spec.Version{Name: fmt.Sprintf("v%d", v+1), Digest: fmt.Sprintf("%s-%d", name, v+1)}
		for _, r := range regions {
			version.Placements = append(version.Placements, placement(r, 1000, len(set.Services), v+1, 2))
		}
		s.Versions = append(s.Versions, version)
	}
	set.Services[name] = s
	return s
}

// rollOut declares a rollout of v2 and returns its state, with every region in it.
func rollOut(set *spec.Set, service string, regions ...string) rollout.State {
	name := service + "-v2"
	set.Rollouts[name] = &spec.Rollout{Name: name, Service: service, Version: "v2", Policy: "careful", Regions: regions}
	state, _ := rollout.Step(set, name, rollout.State{Rollout: name}, nil, now)
	return state
}

// silent is a Delivery that goes nowhere.
type silent struct{}

func (silent) Publish(traffic.Plan, bool) {}
func (silent) Renew([]string)             {}

// still is a controller whose loop does not run, with documents and states in force. The test is its loop.
func still(set *spec.Set, states ...rollout.State) *Controller {
	c := New(Config{Delivery: silent{}, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	for _, s := range states {
		c.states[s.Rollout] = s
	}
	c.use(declared{set, 1})
	c.admit(now)
	return c
}

// in returns a state with one region changed.
func in(s rollout.State, region string, change func(*rollout.Region)) rollout.State {
	regions := map[string]rollout.Region{}
	for name, r := range s.Regions {
		regions[name] = r
	}
	r := regions[region]
	change(&r)
	regions[region] = r
	s.Regions = regions
	return s
}

func progressing(weight spec.Share) func(*rollout.Region) {
	return func(r *rollout.Region) {
		r.Phase, r.Reason, r.Weight, r.Shadow, r.Started, r.Begun, r.Shadowed = rollout.Progressing, rollout.StepReached, weight, 0, true, true, true
	}
}

func shadowing(share spec.Share) func(*rollout.Region) {
	return func(r *rollout.Region) {
		r.Phase, r.Reason, r.Shadow, r.Weight, r.Started, r.Begun, r.Shadowed = rollout.Shadowing, rollout.StepReached, share, 0, true, true, false
	}
}

func promoted(r *rollout.Region) {
	r.Phase, r.Reason, r.Weight, r.Shadow, r.Started = rollout.Promoted, rollout.StepsDone, 0, 0, true
	r.Previous, r.Stable, r.StableSince = r.Stable, rollout.Known{Version: r.Version, Digest: r.Digest}, now
}

func intentOf(p traffic.Plan, service string) traffic.Intent {
	for _, in := range p.Intents {
		if in.Service == service {
			return in
		}
	}
	return traffic.Intent{}
}
