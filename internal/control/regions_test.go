package control

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

const twoRegions = `
apiVersion: aviary.dev/v1
kind: Region
metadata: {name: eu}
spec: {zones: [a], jurisdiction: EU, failover: [us]}
---
apiVersion: aviary.dev/v1
kind: Region
metadata: {name: us}
spec: {zones: [a], jurisdiction: US}
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.example]
  stable: v1
  limits: {requests: 100}
  relief: {pending: 10, after: 2s, until: 5s, tighten: "50%", shed: "20%"}
  versions:
    - name: v1
      digest: "sha256:1111"
      regions:
        - {region: eu, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8001"}]}
        - {region: us, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8003"}]}
    - name: v2
      digest: "sha256:2222"
      regions:
        - {region: eu, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8002"}]}
        - {region: us, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8004"}]}
---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: quick}
spec:
  availability: {target: "99.9%"}
  steps: [{share: "5%", hold: 3s}, {share: "50%", hold: 3s}]
---
apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop-v2}
spec: {service: shop, version: v2, policy: quick, regions: [eu]}
`

func (w *world) regionState(name string) *aviaryv1.ServiceState {
	w.t.Helper()
	all, err := w.RegionStates(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.GetName() == name {
			return r.GetServices()[0]
		}
	}
	w.t.Fatalf("no region %s in %v", name, all)
	return nil
}

// The neighbour's room follows its own traffic, and one plan follows the other.
func TestAdmittedIsWhatTheNeighbourCanTake(t *testing.T) {
	w := newWorldOf(t, twoRegions)
	w.start()
	if f := w.intentIn("eu").Failover; f == nil || f.Admit != 10_000 || len(f.Localities) != 1 {
		t.Fatalf("before anything is measured: %+v", f)
	}
	if f := w.intentIn("us").Failover; f != nil {
		t.Fatalf("us names no region: %+v", f)
	}
	for range 5 {
		w.flush("eu", signal.Arm{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 1600)}, Endpoints: 1, Healthy: 1})
		w.flush("us", signal.Arm{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 1200)}, Endpoints: 1, Healthy: 1})
	}
	w.mu.Lock()
	w.now = w.now.Add(surveyEvery) // it may have been looked at before the last flush
	w.mu.Unlock()
	w.until("a part of eu's that fits into us", func() bool {
		eu, us := w.regionState("eu"), w.regionState("us")
		lands := eu.GetRate() * float64(eu.GetAdmitted()) / 10_000
		return lands > 0 && lands <= us.GetCapacity()-us.GetRate() && w.intentIn("eu").Failover.Admit == eu.GetAdmitted()
	})
	if s := w.regionState("eu"); s.GetRate() < 700 || s.GetRate() > 1000 || s.GetCapacity() != 1000 || !slices.Equal(s.GetFailover(), []string{"us"}) || s.GetAdmitted() == 10_000 {
		t.Errorf("eu is %v", s)
	}
}

// Tries that another region answered, and copies, say nothing about stable here, and copies are not paid for.
func TestOnlyTheOwnRegionIsEvidence(t *testing.T) {
	w := newWorldOf(t, twoRegions)
	w.start()
	w.act(rollout.Start)
	bad := []signal.Outcome{outcome(500, 100)}
	judged := func() {
		w.flush("eu",
			signal.Arm{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 100)}, Endpoints: 1, Healthy: 1},
			signal.Arm{Version: "v1", Region: "us", Outcomes: bad, Endpoints: 1},
			signal.Arm{Version: "v2", Outcomes: []signal.Outcome{outcome(200, 5)}, Endpoints: 1, Healthy: 1},
			signal.Arm{Version: "v2", Region: "us", Outcomes: bad, Endpoints: 1},
			signal.Arm{Version: "v2", Shadow: true, Outcomes: bad, Endpoints: 1})
	}
	compared := false
	for range 6 { // the first step is three seconds long; tries of before a step do not count
		judged()
		st, err := w.Status(t.Context(), "shop-v2")
		if err != nil {
			t.Fatal(err)
		}
		e := st.Regions[0].Evidence
		if e.GetStableErrors() != 0 || e.GetCanaryErrors() != 0 {
			t.Fatalf("judged by %v", e)
		}
		compared = compared || e.GetStableTries() == 100 && e.GetCanaryTries() == 5
	}
	if r := w.region(); !compared || r.Phase != rollout.Progressing {
		t.Errorf("compared %v; %+v", compared, r)
	}
}

func TestReliefInALoop(t *testing.T) {
	w := newWorldOf(t, twoRegions)
	w.start()
	w.climb(500)
	queue := func(pending uint64) {
		w.flush("eu", signal.Arm{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 100)}, Endpoints: 1, Healthy: 1, Pending: pending},
			signal.Arm{Version: "v2", Outcomes: []signal.Outcome{outcome(200, 5)}, Endpoints: 1, Healthy: 1})
	}
	queue(10)
	w.until("saturated", func() bool { return w.regionState("eu").GetSaturated() })
	if in := w.intentIn("eu"); in.Failover.Shed != 0 || in.Tight != nil {
		t.Errorf("at the first sign: %+v", in)
	}
	for range 5 {
		queue(10)
	}
	w.until("shedding", func() bool { return w.intentIn("eu").Failover.Shed > 0 })
	// A fifth of what the canary leaves to stable.
	if in := w.intentIn("eu"); in.Failover.Shed != (10_000-in.Weight)/5 || in.Limits.Requests != 100 || in.Tight == nil || in.Tight.Requests != 50 {
		t.Errorf("in relief: %+v, %+v, %+v", in.Failover, in.Limits, in.Tight)
	}
	if in := w.intentIn("us"); in.Tight != nil {
		t.Errorf("us is relieved of what it has not: %+v", in.Tight)
	}
	if s := w.regionState("eu"); !s.GetTightened() || s.GetShed() != 2000 {
		t.Errorf("the state says %v", s)
	}
	for range 7 {
		queue(0)
	}
	w.until("back", func() bool { in := w.intentIn("eu"); return in.Failover.Shed == 0 && in.Tight == nil })
}

func TestNamesAreLookedUpAndHandedOver(t *testing.T) {
	text := strings.Replace(twoRegions, `"127.0.0.1:8001"`, `"v1.eu.example:8001"`, 1)
	w := newWorldOf(t, text)
	var asked [][]string
	w.discover = func(names []string) { asked = append(asked, names) }
	w.start()
	stable := func() []string {
		var hosts []string
		for _, l := range w.intentIn("eu").Stable.Localities {
			for _, e := range l.Endpoints {
				hosts = append(hosts, e.Host)
			}
		}
		return hosts
	}
	if got := stable(); len(got) != 0 {
		t.Errorf("never resolved: %v", got)
	}
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	w.Resolve(map[string][]netip.Addr{"v1.eu.example": {one, two}, "other.example": {one}})
	w.until("both", func() bool { return slices.Equal(stable(), []string{"192.0.2.1", "192.0.2.2"}) })
	w.Resolve(map[string][]netip.Addr{"v1.eu.example": {two}})
	w.until("one", func() bool { return slices.Equal(stable(), []string{"192.0.2.2"}) })

	w.apply(strings.Replace(text, `"127.0.0.1:8003"`, `"v1.us.example:8003"`, 1))
	w.until("two names", func() bool { return len(w.intentIn("us").Stable.Localities) == 0 })
	w.Resolve(map[string][]netip.Addr{"v1.us.example": {one}}) // the other one is not looked up yet
	w.until("us", func() bool { return len(w.intentIn("us").Stable.Localities) == 1 })
	if got := stable(); !slices.Equal(got, []string{"192.0.2.2"}) {
		t.Errorf("eu has %v", got)
	}
	w.stop()
	want := [][]string{{"v1.eu.example"}, {"v1.eu.example", "v1.us.example"}}
	if !slices.EqualFunc(asked, want, slices.Equal) {
		t.Errorf("asked for %v", asked)
	}
	w.mu.Lock()
	w.plans = nil
	w.mu.Unlock()
	w.start()
	if got := stable(); !slices.Equal(got, []string{"192.0.2.2"}) {
		t.Errorf("after a planned restart: %v", got)
	}
}

// Who does not follow a fall in time is told of once, and shown until it does.
func TestAnOverdueFallIsTold(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()
	w.act(rollout.Abort)
	overdue := func() bool {
		st, err := w.Status(t.Context(), "shop-v2")
		if err != nil {
			t.Fatal(err)
		}
		return st.Regions[0].Overdue
	}
	told := func() (n int) {
		events, err := w.store.Events(t.Context(), "shop-v2", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Reason == rollbackOverdue {
				if !strings.Contains(e.Message, "1 of 1 proxies") || e.Type != string(rollout.Aborted) {
					t.Errorf("told %+v", e)
				}
				n++
			}
		}
		return n
	}
	for range 9 {
		w.second(5, 0)
	}
	if overdue() || told() != 0 {
		t.Fatal("before its time")
	}
	w.second(5, 0)
	w.second(5, 0)
	w.until("overdue", overdue)
	w.until("told", func() bool { return told() == 1 })
	for range 3 {
		w.second(5, 0)
	}
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	w.second(5, 0)
	w.second(5, 0)
	w.until("followed", func() bool { return !overdue() })
	if n := told(); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// A promoted region's version goes on being judged, against the objective, so that others can wait for it to be well.
func TestAPromotedRegionIsStillJudged(t *testing.T) {
	w := newWorldOf(t, twoRegions)
	w.start()
	w.climb(500)
	w.secondsUntil("promoted", func() bool { return w.region().Phase == rollout.Promoted })
	serve := func(errors uint64) time.Time {
		w.flush("eu", signal.Arm{Version: "v2", Outcomes: []signal.Outcome{outcome(200, 1000-errors), outcome(500, errors)}, Endpoints: 1, Healthy: 1})
		return w.region().UnwellAt
	}
	if at := serve(0); !at.IsZero() {
		t.Errorf("unwell at first, at %v", at)
	}
	for range 5 {
		serve(50)
	}
	if at := serve(50); !at.Equal(w.clock()) || w.region().Phase != rollout.Promoted {
		t.Errorf("with one error in twenty: %+v", w.region())
	}
	for range 10 {
		serve(0)
	}
	if at := serve(0); !at.Before(w.clock().Add(-3 * time.Second)) {
		t.Errorf("well again, and still unwell at %v", at)
	}
}

// A watcher is woken by what is material, and not by every tick.
func TestWatchersSleepWhileNothingHappens(t *testing.T) {
	w := newWorld(t)
	w.start()
	var changed chan struct{}
	if err := w.call(t.Context(), func() { changed = w.changed }); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.second(5, 0)
	}
	select {
	case <-changed:
		t.Error("woken for nothing")
	default:
	}
	w.act(rollout.Start)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Error("not woken by an act")
	}
}
