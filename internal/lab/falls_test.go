package lab

import (
	"testing"
	"time"
)

// clockwork is a run without processes, whose statuses a test sets.
func clockwork(t *testing.T) *run {
	t.Helper()
	s, err := ParseScenario([]byte(`scenario: small
regions: {eu: [a], us: [a]}
services:
  cart: {versions: {v1: {}, v2: {needs: stock}}}
  stock: {versions: {v1: {}}}
sidecars: [{service: web}]
users: {crowd: {service: web, rate: 1}}
documents: ""
timeline: [{say: hello}]
`))
	if err != nil {
		t.Fatal(err)
	}
	r := &run{
		s: s, out: &printer{w: t.Output()}, world: new(world), set: map[place]time.Time{}, gone: map[string]time.Time{},
		down: map[string]bool{}, watcher: newWatcher(), begin: time.Now().Add(-time.Minute),
	}
	t.Cleanup(r.world.close)
	if err := r.world.startServices(s); err != nil {
		t.Fatal(err)
	}
	r.declare([]byte(`kind: Policy
metadata: {name: quick}
spec: {steps: [{share: 25%, hold: 4s}], shadow: {hold: 2s}, rollback: {within: 2500ms}, lease: {ttl: 3s}}
---
kind: Rollout
metadata: {name: cart}
spec: {service: cart, version: v2, policy: quick}
`))
	return r
}

// becomes is a change that the control plane dates; after is the time after the users began.
func (r *run) becomes(region string, before, now RegionStatus, after time.Duration) RegionStatus {
	now.Since = r.begin.Add(after)
	r.changed("cart", region, before, now)
	return now
}

// received has an instance in a region get a request, or a copy, at a time after the users began.
func (r *run) received(region string, after time.Duration, bad bool) {
	i := r.world.instances[place{"cart", "v2", region}][0]
	at := int64(r.begin.Add(after).Sub(started))
	i.tally.received.Add(1)
	i.tally.lastReceived.Store(at)
	if bad {
		i.tally.firstBad.CompareAndSwap(0, at)
	}
}

func TestFallsAreHeldAgainstTheirLimit(t *testing.T) {
	pending := RegionStatus{Phase: "Pending"}
	live := RegionStatus{Phase: "Progressing", Weight: 2500, Reason: "StepReached"}
	halted := RegionStatus{Phase: "Halted", Reason: "CanaryWorse"}
	began := time.Now().Add(-60 * time.Second)
	fault := func(p place) demand { return demand{at: began.Add(5 * time.Second), place: p, text: "500"} }
	for name, c := range map[string]struct {
		demands []demand
		last    time.Duration
		bad     bool
		want    Fall
		broken  bool
	}{
		"a fault of its own, from the first failure": {
			[]demand{fault(place{"cart", "v2", "eu"})}, 6500 * time.Millisecond, true,
			Fall{Cause: "500", At: 6500 * time.Millisecond, Decided: 500 * time.Millisecond, Last: 0}, false,
		},
		"a fault that fails nothing, from the fault": {
			[]demand{fault(place{"cart", "v2", "eu"})}, 6500 * time.Millisecond, false,
			Fall{Cause: "500", At: 5 * time.Second, Decided: 2 * time.Second, Last: 1500 * time.Millisecond}, false,
		},
		"requests after the limit": {
			[]demand{fault(place{"cart", "v2", "eu"})}, 7600 * time.Millisecond, false,
			Fall{Cause: "500", At: 5 * time.Second, Decided: 2 * time.Second, Last: 2600 * time.Millisecond}, true,
		},
		"a fault of stable": {
			[]demand{fault(place{"cart", "v1", "eu"})}, 7 * time.Second, false,
			Fall{Cause: "500", At: 5 * time.Second, Decided: 2 * time.Second, Last: 2 * time.Second}, false,
		},
		"a fault elsewhere": {
			[]demand{fault(place{"cart", "v2", "us"})}, 7 * time.Second, false,
			Fall{Cause: "500", At: 5 * time.Second, Decided: 2 * time.Second, Last: 2 * time.Second}, false,
		},
		"a command": {
			[]demand{fault(place{"cart", "v1", "eu"}), {at: began.Add(6 * time.Second), rollout: "cart", place: place{region: "eu"}, text: "abort"}},
			6 * time.Second, false, Fall{Cause: "abort", At: 6 * time.Second, Decided: time.Second, Last: 0}, false,
		},
		"a command before it had traffic": {
			[]demand{{at: began.Add(2 * time.Second), rollout: "cart", place: place{region: "eu"}, text: "abort"}},
			6 * time.Second, false, Fall{At: 7 * time.Second}, false,
		},
		"a command for another region": {
			[]demand{{at: began.Add(6 * time.Second), rollout: "cart", place: place{region: "us"}, text: "abort"}},
			6 * time.Second, false, Fall{At: 7 * time.Second}, false,
		},
		"nothing that is known": {nil, 7100 * time.Millisecond, false, Fall{At: 7 * time.Second, Last: 100 * time.Millisecond}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := clockwork(t)
			r.begin = began
			r.becomes("eu", pending, live, 3*time.Second)
			for _, d := range c.demands {
				r.ask(d)
			}
			r.received("eu", c.last, c.bad)
			r.becomes("eu", live, halted, 7*time.Second)
			r.settle(map[[2]string]RegionStatus{})
			if len(r.falls) != 1 {
				t.Fatalf("falls %+v, open %d", r.falls, len(r.open))
			}
			got := r.falls[0]
			if got.Service != "cart" || got.Version != "v2" || got.Region != "eu" || got.Limit != 2500*time.Millisecond || got.Reason != "CanaryWorse" || !got.Quiet {
				t.Errorf("fall %+v", got)
			}
			near := func(a, b time.Duration) bool { return (a - b).Abs() < 50*time.Millisecond }
			if got.Cause != c.want.Cause || !near(got.At, c.want.At) || !near(got.Decided, c.want.Decided) || !near(got.Last, c.want.Last) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.Broken() != c.broken {
				t.Errorf("broken %v", got.Broken())
			}
		})
	}
}

func TestAFallOnSuspicionTellsItsVerdict(t *testing.T) {
	live, suspected := RegionStatus{Phase: "Progressing", Weight: 2500}, RegionStatus{Phase: "Retreated", Reason: "CanarySuspected"}
	halted := RegionStatus{Phase: "Halted", Reason: "OverBudget"}
	for name, settled := range map[string]bool{"before it is quiet": false, "afterwards": true} {
		r := clockwork(t)
		r.becomes("eu", RegionStatus{Phase: "Pending"}, live, time.Second)
		r.becomes("us", RegionStatus{Phase: "Pending"}, live, time.Second)
		r.becomes("us", live, suspected, 2*time.Second)
		r.becomes("eu", live, suspected, 3*time.Second)
		if settled {
			r.settle(map[[2]string]RegionStatus{})
		}
		r.becomes("eu", suspected, halted, 4*time.Second)
		r.settle(map[[2]string]RegionStatus{})
		if len(r.falls) != 2 || r.falls[0].Phase != "Retreated" || r.falls[1].Phase != "Halted" || r.falls[1].Reason != "OverBudget" {
			t.Errorf("%s: %+v", name, r.falls)
		}
	}
}

func TestAFallThatNeverEndsIsBroken(t *testing.T) {
	r := clockwork(t)
	live := r.becomes("eu", RegionStatus{Phase: "Pending"}, RegionStatus{Phase: "Progressing", Weight: 2500}, 3*time.Second)
	r.received("eu", 60*time.Second, false) // now
	r.becomes("eu", live, RegionStatus{Phase: "Aborted"}, 59*time.Second)
	r.settle(map[[2]string]RegionStatus{})
	r.closeFalls(r.world.counts())
	if len(r.falls) != 1 || r.falls[0].Quiet || !r.falls[0].Broken() {
		t.Errorf("falls %+v", r.falls)
	}
}

func TestWhatIsNoFall(t *testing.T) {
	pending, live := RegionStatus{Phase: "Pending"}, RegionStatus{Phase: "Progressing", Weight: 2500}
	promoted := RegionStatus{Phase: "Promoted"}
	for name, c := range map[string]struct {
		path []RegionStatus
		want int
	}{
		"promotion":          {[]RegionStatus{pending, live, promoted}, 0},
		"another rollout":    {[]RegionStatus{promoted, pending}, 0},
		"lease":              {[]RegionStatus{live, {Phase: "Retreated", Reason: "LeaseLapsed"}}, 0},
		"rollback":           {[]RegionStatus{promoted, {Phase: "RolledBack"}}, 1},
		"shadow":             {[]RegionStatus{pending, {Phase: "Shadowing", Shadow: 500}, {Phase: "Halted"}}, 1},
		"shadow to live":     {[]RegionStatus{{Phase: "Shadowing", Shadow: 500}, live}, 0},
		"a lower share":      {[]RegionStatus{live, {Phase: "Progressing", Weight: 500}}, 0},
		"retreat, and again": {[]RegionStatus{live, {Phase: "Retreated"}, live, {Phase: "Halted"}}, 2},
	} {
		r := clockwork(t)
		for n := 1; n < len(c.path); n++ {
			r.becomes("eu", c.path[n-1], c.path[n], time.Duration(n)*time.Second)
		}
		r.settle(map[[2]string]RegionStatus{})
		if len(r.falls) != c.want {
			t.Errorf("%s: %+v, want %d falls", name, r.falls, c.want)
		}
	}
}

func TestHoldsAreHeldAgainstThePolicy(t *testing.T) {
	r := clockwork(t)
	pending := RegionStatus{Phase: "Pending"}
	shadow := RegionStatus{Phase: "Shadowing", Shadow: 5000}
	live := RegionStatus{Phase: "Progressing", Weight: 2500}
	waiting := RegionStatus{Phase: "Progressing", Weight: 2500, Reason: "HoldingForEvidence"}
	paused := RegionStatus{Phase: "Paused", Weight: 2500}
	s := time.Second
	r.becomes("eu", pending, shadow, 1*s)
	r.becomes("eu", shadow, live, 3100*time.Millisecond)
	r.becomes("eu", live, waiting, 5*s)
	r.becomes("eu", waiting, paused, 6*s)
	r.becomes("eu", paused, RegionStatus{Phase: "Promoted"}, 7200*time.Millisecond)
	r.becomes("us", pending, shadow, 1*s)
	r.becomes("us", shadow, live, 2*s) // after half of its time
	r.hurry("cart", "us", r.begin.Add(3*s))
	r.becomes("us", live, RegionStatus{Phase: "Promoted"}, 4*s)
	got := r.holds()
	want := []struct {
		region string
		held   time.Duration
		broken bool
	}{{"eu", 2100 * time.Millisecond, false}, {"eu", 4100 * time.Millisecond, false}, {"us", s, true}, {"us", 2 * s, false}}
	if len(got) != len(want) {
		t.Fatalf("holds %+v", got)
	}
	for n, w := range want {
		if h := got[n]; h.Region != w.region || (h.Held-w.held).Abs() > 10*time.Millisecond || h.Broken() != w.broken {
			t.Errorf("hold %d: %+v, broken %v, want %+v", n, h, h.Broken(), w)
		}
	}
	if !got[3].ByHand || got[0].Declared != 2*s || got[1].Declared != 4*s {
		t.Errorf("holds %+v", got)
	}
}

func TestLapsesAreOfTheirRegion(t *testing.T) {
	r := clockwork(t)
	live := r.becomes("us", RegionStatus{Phase: "Pending"}, RegionStatus{Phase: "Progressing", Weight: 2500}, 3*time.Second)
	r.leave("us")
	r.gone["us"] = r.begin.Add(10 * time.Second)
	r.becomes("us", live, RegionStatus{Phase: "Retreated", Reason: "NoData"}, 12*time.Second)
	r.received("us", 14*time.Second, false)
	r.received("eu", 14*time.Second, false)
	stable := r.world.instances[place{"cart", "v1", "us"}][0]
	stable.tally.lastReceived.Store(int64(r.begin.Add(20 * time.Second).Sub(started)))
	r.back("us")
	r.back("us")
	r.back("eu")
	if len(r.falls)+len(r.open) != 0 {
		t.Errorf("what happens while the control plane is gone is a lapse: %+v", r.falls)
	}
	if len(r.result.Lapses) != 1 {
		t.Fatalf("lapses %+v", r.result.Lapses)
	}
	l := r.result.Lapses[0]
	if l.Region != "us" || l.Version != "v2" || (l.Took-4*time.Second).Abs() > 10*time.Millisecond || l.Lease != 3*time.Second || !l.Broken() {
		t.Errorf("lapse %+v, broken %v", l, l.Broken())
	}
}

func TestFaultsReachWhoNeedsThem(t *testing.T) {
	r := clockwork(t)
	down := Behavior{Refuse: true}
	if err := r.setBehavior(&SetStep{Service: "stock", Version: "v1", Region: "eu", Behavior: down}); err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, d := range r.demands {
		places = append(places, d.place.String())
	}
	if len(places) != 2 || places[0] != "cart v2 eu" || places[1] != "stock v1 eu" {
		t.Errorf("demands of %v", places)
	}
	if len(r.order) != 1 {
		t.Errorf("behaviors were set of %v", r.order)
	}
	if err := r.setBehavior(&SetStep{Service: "stock", Version: "v1", Behavior: Behavior{}}); err != nil {
		t.Fatal(err)
	}
	if len(r.demands) != 0 {
		t.Errorf("what was healed still asks: %+v", r.demands)
	}
}
