package app

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// recorder keeps what is published, in order.
type recorder struct {
	mu     sync.Mutex
	events []published
}

// published is a layer or a snapshot.
type published struct {
	view     string
	layer    *structpb.Struct
	snapshot *ads.Snapshot
	urgency  ads.Urgency
}

func (r *recorder) PublishLayer(view string, l ads.Layer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, published{view: view, layer: l.Values})
	return nil
}

func (r *recorder) Publish(view string, s *ads.Snapshot, u ads.Urgency) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, published{view: view, snapshot: s, urgency: u})
}

// of are the events of a view since the first n of all.
func (r *recorder) of(view string, since int) []published {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []published
	for _, e := range r.events[since:] {
		if e.view == view {
			all = append(all, e)
		}
	}
	return all
}

func (r *recorder) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// The kinds of clients of these tests: a sidecar that holds leases, and one that has its shares in the routes.
var (
	leasedView   = resource.View{Service: "front", Weights: resource.InLayer}
	unleasedView = resource.View{Service: "front", Weights: resource.InRoutes}
)

// rig is a delivery into a recorder.
type rig struct {
	*delivery
	t   *testing.T
	out *recorder
	log *bytes.Buffer
}

func deliver(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, out: &recorder{}, log: &bytes.Buffer{}}
	r.delivery = newDelivery(slog.New(slog.NewTextHandler(r.log, nil)))
	r.to = r.out
	t.Cleanup(r.close)
	return r
}

// clients come, of both kinds, to each region.
func (r *rig) clients(regions ...string) {
	r.t.Helper()
	for _, name := range regions {
		r.region(name).see(name+"/leased", leasedView)
		r.region(name).see(name+"/unleased", unleasedView)
	}
	r.settle(regions...)
}

// settle waits until the newest plan of each region was built for every view, or refused.
func (r *rig) settle(regions ...string) {
	r.t.Helper()
	for _, name := range regions {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			of := r.region(name)
			of.mu.Lock()
			refused := of.refusal != nil && of.refusal.number == of.newest.number
			given := of.good != nil && of.good.number == of.newest.number && len(of.good.views) == len(of.views)
			of.mu.Unlock()
			if refused || given {
				break
			}
			if time.Now().After(deadline) {
				r.t.Fatalf("the worker of %s does not end", name)
			}
		}
	}
}

// has says what clients of a region have: by their layer, and by their routes, which are compared with those of a plan.
func (r *rig) has(region string) (layer *structpb.Struct, routes, endpoints string) {
	r.t.Helper()
	for _, e := range r.out.of(region+"/leased", 0) {
		if e.layer != nil {
			layer = e.layer
		}
	}
	for _, e := range r.out.of(region+"/unleased", 0) {
		if e.snapshot != nil {
			routes, endpoints = e.snapshot.Get(ads.Route, unleasedView.RouteName()).Version(), e.snapshot.Version(ads.Endpoint)
		}
	}
	return layer, routes, endpoints
}

// expect holds the canary's share of a region against want, by the layer and by the routes of the plan that is out.
func (r *rig) expect(what string, out traffic.Plan, want uint32) {
	r.t.Helper()
	layer, routes, _ := r.has(out.Region)
	if got := resource.Weight(layer, "shop", "v2"); got != want {
		r.t.Errorf("%s: the layer gives v2 %d, want %d", what, got, want)
	}
	out.Intents = slices.Clone(out.Intents)
	out.Intents[0].Weight = want
	if routes != routesOf(r.t, out) {
		r.t.Errorf("%s: the routes are not those with %d for v2", what, want)
	}
}

// routesOf is the version of the routes that the unleased clients have under a plan.
func routesOf(t *testing.T, plan traffic.Plan) string {
	t.Helper()
	config := resource.Routes(plan, unleasedView)[0]
	res, err := ads.NewResource(config.GetName(), config)
	if err != nil {
		t.Fatal(err)
	}
	return res.Version()
}

// arm has endpoints at the given addresses of a region.
func arm(version, region string, addresses ...string) traffic.Arm {
	a := traffic.Arm{Version: version, Digest: "d-" + version, Localities: []traffic.Locality{{Region: region, Zone: "a"}}}
	for _, host := range addresses {
		a.Localities[0].Endpoints = append(a.Localities[0].Endpoints, traffic.Endpoint{Host: host, Port: 80})
	}
	return a
}

// within has shop's stable v1 at an address beside canary v2 with a share. The charter has all of it in 10.0.0.0/8.
func within(region, stable string, weight uint32) traffic.Plan {
	canary := arm("v2", region, "10.0.2.1")
	return traffic.Plan{
		Region: region,
		Intents: []traffic.Intent{{
			Service: "shop", Hosts: []string{"shop.internal"}, Stable: arm("v1", region, stable), Canary: &canary, Weight: weight,
			Lease: 10 * time.Second,
		}},
		Callers: map[string][]string{"front": {"shop"}},
		Charter: traffic.Charter{"shop": {Own: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	}
}

// beyond is a plan that the charter does not allow.
func beyond(region string, weight uint32) traffic.Plan { return within(region, "192.0.2.1", weight) }

func TestARefusedPlanIsItsRegionsAffair(t *testing.T) {
	r := deliver(t)
	for _, region := range []string{"eu", "us"} {
		r.Publish(within(region, "10.0.1.1", 1000), false)
	}
	r.clients("eu", "us")
	_, _, before := r.has("eu")
	r.Publish(beyond("eu", 1000), false)
	r.Publish(within("us", "10.0.1.2", 1000), false)
	r.settle("eu", "us")
	if _, _, now := r.has("eu"); now != before {
		t.Error("eu is given what its charter does not allow")
	}
	if _, _, now := r.has("us"); now == before {
		t.Error("us does not go on")
	}
	states := r.states()
	if s := states["eu"]; s.refusal == nil || !strings.Contains(s.refusal.text, "192.0.2.1") || s.refused != 1 || s.accepted != 1 {
		t.Errorf("the state of eu is %+v", s)
	}
	if s := states["us"]; s.refusal != nil || s.refused != 0 || s.accepted != 2 {
		t.Errorf("the state of us is %+v", s)
	}

	// The same refusal is told once, and stands since then; a good plan ends it.
	since := states["eu"].refusal.at
	r.Publish(beyond("eu", 1000), false)
	r.settle("eu")
	if s := r.states()["eu"]; s.refused != 2 || !s.refusal.at.Equal(since) || strings.Count(r.log.String(), "is refused") != 1 {
		t.Errorf("the state of eu is %+v, the log says\n%s", s, r.log)
	}
	r.Publish(within("eu", "10.0.1.3", 1000), false)
	r.settle("eu")
	if _, _, now := r.has("eu"); now == before {
		t.Error("a good plan does not reach eu")
	}
	if s := r.states()["eu"]; s.refusal != nil || s.accepted != 2 {
		t.Errorf("the state of eu is %+v", s)
	}
}

func TestZeroingPassesARefusal(t *testing.T) {
	r := deliver(t)
	good := within("eu", "10.0.1.1", 1000)
	r.Publish(good, false)
	r.clients("eu")
	r.expect("at the start", good, 1000)
	for _, step := range []struct {
		what    string
		weight  uint32
		weights bool
		want    uint32
	}{
		{"more, with a refused edit", 5000, false, 1000},
		{"more", 6000, true, 1000},
		{"less", 500, true, 500},
		{"zero", 0, true, 0},
		{"more again", 700, true, 700},
		{"zero, with another refused edit", 0, false, 0},
	} {
		from := r.out.len()
		r.Publish(beyond("eu", step.weight), step.weights)
		// What takes away is out when Publish returns.
		r.expect(step.what, good, step.want)
		r.settle("eu")
		r.expect(step.what+", once refused", good, step.want)
		for _, e := range r.out.of("eu/unleased", from) {
			if e.urgency != ads.Urgent {
				t.Errorf("%s: the routes go as routine", step.what)
			}
		}
	}
	r.Publish(within("eu", "10.0.1.2", 800), false)
	r.settle("eu")
	r.expect("a good plan", within("eu", "10.0.1.2", 800), 800)
}

func TestASlowBuildHoldsUpNothingElse(t *testing.T) {
	r := deliver(t)
	building, release := make(chan struct{}), make(chan struct{})
	var slow sync.Once
	for _, region := range []string{"eu", "us"} {
		r.Publish(within(region, "10.0.1.1", 1000), false)
	}
	r.clients("eu", "us")
	_, _, before := r.has("eu")
	r.building = func(region string) {
		if region == "eu" {
			slow.Do(func() {
				close(building)
				<-release
			})
		}
	}
	// From here to the release eu's worker does not come back. Whatever waits for it would never end.
	edit := within("eu", "10.0.1.2", 1000)
	r.Publish(edit, false)
	<-building
	r.Publish(within("us", "10.0.1.2", 1000), false)
	r.settle("us")
	if _, _, now := r.has("us"); now == before {
		t.Error("us waits for eu")
	}
	r.Publish(within("eu", "10.0.1.2", 3000), true)
	r.expect("more, of what is not built", within("eu", "10.0.1.1", 0), 1000)
	r.Publish(within("eu", "10.0.1.2", 0), true)
	r.expect("zero, of what is not built", within("eu", "10.0.1.1", 0), 0)
	r.region("eu").see("eu/another", leasedView)
	if events := r.out.of("eu/another", 0); len(events) != 1 || events[0].layer == nil {
		t.Errorf("a client that comes is given %d things, want a layer", len(events))
	}

	from := r.out.len()
	close(release)
	r.settle("eu")
	r.expect("in the end", within("eu", "10.0.1.2", 0), 0)
	for _, e := range r.out.of("eu/unleased", from) {
		if got := e.snapshot.Get(ads.Route, "egress").Version(); got == routesOf(t, edit) {
			t.Error("the plan that was built meanwhile gives back what was taken away")
		}
	}
	if events := r.out.of("eu/another", 0); events[len(events)-1].snapshot == nil {
		t.Error("the client that came is given nothing")
	}
}

// While the routes of a build are made with less, whoever takes away still more does not wait for them, and they do not give
// it back.
func TestRoutesWithLessHoldUpNothing(t *testing.T) {
	r := deliver(t)
	r.Publish(within("eu", "10.0.1.1", 1000), false)
	r.clients("eu")
	times := 0
	r.building = func(string) {
		switch times++; times {
		case 1: // the build of the edit
			r.Publish(within("eu", "10.0.1.2", 500), true)
		case 2: // the routes with 500; under the lock this would never return
			r.Publish(within("eu", "10.0.1.2", 100), true)
		}
	}
	from := r.out.len()
	r.Publish(within("eu", "10.0.1.2", 1000), false)
	r.settle("eu")
	r.expect("in the end", within("eu", "10.0.1.2", 0), 100)
	if times < 3 {
		t.Errorf("the worker makes routes %d times, with the build", times)
	}
	for _, e := range r.out.of("eu/unleased", from) {
		for _, weight := range []uint32{1000, 500} {
			if e.snapshot.Get(ads.Route, "egress").Version() == routesOf(t, within("eu", "10.0.1.2", weight)) && e.urgency == ads.Routine {
				t.Errorf("the build gives %d after 100 is published", weight)
			}
		}
	}
}

func TestLayersGoBeforeRoutes(t *testing.T) {
	r := deliver(t)
	r.Publish(within("eu", "10.0.1.1", 5000), false)
	r.clients("eu")
	next := within("eu", "10.0.1.1", 0)
	next.Intents[0].Stable, next.Intents[0].Canary = *next.Intents[0].Canary, nil
	from := r.out.len()
	r.Publish(next, false)
	r.settle("eu")
	events := r.out.of("eu/leased", from)
	if i := slices.IndexFunc(events, func(e published) bool { return e.snapshot != nil }); i < 1 || i != len(events)-1 {
		t.Fatalf("the routes are number %d of %d events", i, len(events))
	}
	for _, e := range events[:len(events)-1] {
		if got := resource.Weight(e.layer, "shop", "v2"); got != 5000 {
			t.Errorf("the promoted version has %d of the old routes, want 5000", got)
		}
	}
}

// Shares alone reach the layers when Publish returns, up or down, and make no work for those who have layers.
func TestSharesAloneNeedNoBuild(t *testing.T) {
	r := deliver(t)
	r.Publish(within("eu", "10.0.1.1", 1000), false)
	r.clients("eu")
	from := r.out.len()
	r.Publish(within("eu", "10.0.1.1", 2500), true)
	if layer, _, _ := r.has("eu"); resource.Weight(layer, "shop", "v2") != 2500 {
		t.Error("the layer waits")
	}
	r.settle("eu")
	r.expect("more", within("eu", "10.0.1.1", 0), 2500)
	for _, e := range r.out.of("eu/leased", from) {
		if e.snapshot != nil {
			t.Error("routes that do not say shares are published again")
		}
	}
	for _, e := range r.out.of("eu/unleased", from) {
		if e.urgency != ads.Urgent {
			t.Error("shares go as routine")
		}
	}
}

func TestAClientThatComesWhileAPlanIsRefused(t *testing.T) {
	r := deliver(t)
	good := within("eu", "10.0.1.1", 1000)
	r.Publish(good, false)
	r.clients("eu")
	r.Publish(beyond("eu", 400), false)
	r.settle("eu")
	r.region("eu").see("eu/late", unleasedView)
	for deadline := time.Now().Add(30 * time.Second); len(r.out.of("eu/late", 0)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is given nothing")
		}
	}
	less := good
	less.Intents = slices.Clone(good.Intents)
	less.Intents[0].Weight = 400
	if got := r.out.of("eu/late", 0)[0].snapshot.Get(ads.Route, "egress").Version(); got != routesOf(t, less) {
		t.Error("it is not given the last good plan with the newest shares")
	}
	if s := r.states()["eu"]; s.refusal == nil || s.refused != 1 {
		t.Errorf("the state of eu is %+v", s)
	}
}

func TestABuildThatFailsIsARefusal(t *testing.T) {
	r := deliver(t)
	r.building = func(region string) {
		if region == "eu" {
			panic("no plan for eu")
		}
	}
	for _, region := range []string{"eu", "us"} {
		r.Publish(within(region, "10.0.1.1", 0), false)
	}
	r.clients("us")
	r.settle("eu")
	if s := r.states()["eu"]; s.refusal == nil || !strings.Contains(s.refusal.text, "no plan for eu") {
		t.Errorf("the state of eu is %+v", s)
	}
	// Shares that were given before they were refused are taken back.
	r.building = func(string) { panic("no plan at all") }
	r.Publish(within("us", "10.0.1.1", 2000), true)
	r.settle("us")
	r.expect("refused shares", within("us", "10.0.1.1", 0), 0)

	r.close()
	r.Publish(within("ap", "10.0.1.1", 0), false) // too late, and no harm
	if r.region("ap") != nil {
		t.Error("a region begins after the end")
	}
}
