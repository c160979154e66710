package control

import (
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// turns is a rollout in two regions that was started, with rates that are measured.
func turns(t *testing.T, policy func(*spec.Policy)) (c *Controller, flush func(region string)) {
	set := newSet([]string{"eu", ""}, []string{"us", ""})
	add(set, "shop", "eu", "us")
	policy(set.Policies["careful"])
	state, _, err := rollout.Act(set, rollOut(set, "shop", "eu", "us"), rollout.Action{Verb: rollout.Start}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	c, clock := still(set, state), now
	c.cfg.Now = func() time.Time { return clock }
	of := func(region string) signal.Flush {
		return signal.Flush{Proxy: region, Region: region, Service: "front", At: clock, Span: time.Second, Arms: []signal.Arm{
			{Service: "shop", Version: "v1", Endpoints: 1, Healthy: 1, Outcomes: []signal.Outcome{outcome(200, 10)}},
		}}
	}
	for range 3 {
		for _, region := range []string{"eu", "us"} {
			c.meter.take(of(region), func(string) bool { return true }, clock)
		}
		clock = clock.Add(time.Second)
	}
	return c, func(region string) {
		clock = clock.Add(5 * time.Millisecond)
		c.observe([]signal.Flush{of(region)}, clock)
	}
}

// written has the store answer all that is proposed.
func (c *Controller) written() {
	for p, r := range c.rising {
		c.settleSaved(saved{job: job{place: p, rise: r.number}})
	}
}

func begun(c *Controller) (names []string) {
	for _, region := range []string{"eu", "us"} {
		if c.states["shop-v2"].Regions[region].Begun {
			names = append(names, region)
		}
	}
	return names
}

// A region's turn is told by those that have begun; one whose beginning the store has not answered yet is neither.
func TestNoRegionBeginsBesideOneThatIsAboutTo(t *testing.T) {
	c, flush := turns(t, func(p *spec.Policy) {
		p.Waves, p.MinRegions = []spec.Wave{{Require: spec.Whole, Parallel: 1}}, 1
	})
	flush("eu")
	flush("us")
	if len(c.rising) != 1 || len(begun(c)) != 0 {
		t.Fatalf("%d are proposed, %v have begun", len(c.rising), begun(c))
	}
	c.written()
	flush("us")
	c.written()
	equal(t, "begun", begun(c), []string{"eu"})
	if r := c.states["shop-v2"].Regions["us"]; r.Reason != rollout.WaitingForTurn {
		t.Errorf("us: %s", r.Reason)
	}
}

func TestAHaltKeepsBackABeginningOnItsWayToTheStore(t *testing.T) {
	for _, c := range []struct {
		name string
		on   spec.OnHalt
		want []string
	}{{"hold", spec.HaltHolds, nil}, {"continue", spec.HaltContinues, []string{"eu"}}} {
		t.Run(c.name, func(t *testing.T) {
			control, flush := turns(t, func(p *spec.Policy) { p.OnHalt = c.on })
			flush("eu")
			control.states["shop-v2"] = in(control.states["shop-v2"], "us", func(r *rollout.Region) { r.Phase, r.Reason = rollout.Halted, rollout.CanaryWorse })
			control.written()
			equal(t, "begun", begun(control), c.want)
		})
	}
}
