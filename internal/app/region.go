package app

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// region is what one region's clients are given.
//
// Who publishes takes away: layers, and for clients without one their routes, go out at once with what the last good build
// and the newest plan both allow. The worker gives: it builds the newest plan, checks it, and makes it the good one. A plan
// that is refused leaves the good one under the newest shares, and so does a service that is, alone. No lock is held while a
// plan is built, nor while the worker makes routes of one with less; who publishes makes those that are to go out before it
// returns.
type region struct {
	d     *delivery
	name  string
	now   func() time.Time
	woken chan struct{} // of capacity 1

	mu     sync.Mutex // guards what follows
	views  map[string]resource.View
	newest edition
	good   *build // what is out; nil: nothing was built yet
	// layers is the plan whose shares the layers say, shown the one that routes say.
	layers, shown traffic.Plan
	said          saying
	out           map[string]*ads.Snapshot // by view
	// promoted are, by service, the splits of canaries that are stable now. Their shares stay in the layer, as routes that
	// name the split are at the proxies for a moment longer, and without its shares would go back to the old version.
	promoted map[string]traffic.Intent

	refusal           *refusal // of the newest plan that was built, or of services of it; nil: it is the good one
	published         time.Time
	accepted, refused uint64 // counts of plans; those with refused services are refused
}

// edition is a plan and its place in the order: number counts plans, and arms is the number of the last one that differed
// from the one before it in more than shares; 0 is no plan's.
type edition struct {
	plan         traffic.Plan
	number, arms uint64
}

// saying is what layers are made of: they are not made twice.
type saying struct {
	newest uint64 // the number of the plan
	good   uint64 // that of the build that bounds it; 0 is none
	// promoted are the services whose former splits are kept.
	promoted []string
}

// refusal is why a plan was not published, or services of it.
type refusal struct {
	number uint64
	text   string
	at     time.Time
}

// publish takes a plan. It waits for no build.
func (r *region) publish(plan traffic.Plan, weights bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest.plan = plan
	r.newest.number++
	if !weights || r.newest.arms == 0 {
		r.newest.arms = r.newest.number
	}
	r.takeAway()
	r.wake()
}

// see makes a view when its first client comes; the worker gives it routes.
func (r *region) see(name string, view resource.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.views[name]; ok {
		return
	}
	r.views[name] = view
	if view.Weights == resource.InLayer {
		r.say(name, r.layer(view))
	}
	r.wake()
}

func (r *region) current() edition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

func (r *region) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

func (r *region) work() {
	for {
		select {
		case <-r.d.stop:
			return
		case <-r.woken:
			r.turn()
		}
	}
}

// turn builds the newest plan for every view, and makes it the good one unless it is refused.
func (r *region) turn() {
	r.mu.Lock()
	newest, good, views := r.newest, r.good, maps.Clone(r.views)
	known := r.refusal != nil && r.refusal.number == newest.number
	r.mu.Unlock()
	if !known {
		next, err := r.build(newest, views, good)
		if err == nil {
			r.adopt(next)
			return
		}
		r.refuse(newest.number, err)
	}
	if good == nil {
		return
	}
	// A view that came since has nothing yet. When the good plan cannot be built for it either, its clients wait.
	if next, err := r.build(good.edition, views, good); err == nil {
		r.adopt(next)
	}
}

// build makes and checks the resources of a plan. What goes wrong in it is that plan's affair: it ends in a refusal.
func (r *region) build(e edition, views map[string]resource.View, before *build) (_ *build, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the build failed: %v", p)
		}
	}()
	r.d.building(r.name)
	begun := time.Now()
	defer func() { r.d.builds.WithLabelValues(r.name).Observe(time.Since(begun).Seconds()) }()
	return assemble(e, views, before)
}

// adopt makes a build the good one, with no more than the newest plan gives. While its routes are made a newer one may come
// that takes more away, and then they are made again. What that one gives has a turn of its own.
func (r *region) adopt(next *build) {
	low, made := next.plan, map[string]*ads.Snapshot{}
	for !r.adopted(next, low, made) {
		before := low
		low = lowered(low, r.current().plan)
		r.d.building(r.name)
		moved := differing(before, low)
		for name, c := range next.views {
			if c.view.Weights == resource.InRoutes && c.sees(moved) {
				made[name] = r.under(name, c, low)
			}
		}
	}
}

// adopted makes a build the good one unless the newest plan gives less than low. made are the routes of views that have
// less under low than in the build.
func (r *region) adopted(next *build, low traffic.Plan, made map[string]*ads.Snapshot) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(differing(low, lowered(low, r.newest.plan))) > 0 {
		return false
	}
	urgency := ads.Routine
	if r.good != nil && r.good.arms == next.arms && next.arms > 0 {
		urgency = ads.Urgent // shares alone
	}
	if r.good == nil || r.good.number != next.number {
		r.published = r.now()
		if next.refused == nil {
			r.accepted++
			r.refusal = nil
		}
	}
	if next.refused != nil {
		r.refused++
		r.record(next.number, next.refused)
	}
	r.promoted = keepPromoted(r.promoted, r.shown, next.plan)
	var before map[string]*content
	if r.good != nil {
		before = r.good.views
	}
	r.good, r.shown = next, low
	// Layers first: they are what takes traffic from a canary.
	r.share()
	for name, c := range next.views {
		snapshot, ok := made[name]
		if !ok {
			snapshot = c.snapshot
		}
		switch {
		case c.view.Weights == resource.InLayer:
			r.give(name, snapshot, ads.Routine)
		case before[name] == c: // shares alone, of this view
			r.give(name, snapshot, ads.Urgent)
		default:
			r.give(name, snapshot, urgency)
		}
	}
	return true
}

// refuse leaves the good plan in force, under the shares of the newest.
func (r *region) refuse(number uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused++
	r.record(number, err)
	r.share() // routes follow when the good plan is adopted again
}

func (r *region) record(number uint64, err error) {
	if r.refusal == nil || r.refusal.text != err.Error() {
		r.d.log.Error("a plan is refused, or services of it; the region's proxies keep the last good ones", "region", r.name, "error", err)
		r.refusal = &refusal{text: err.Error(), at: r.now()}
	}
	r.refusal.number = number
}

// takeAway publishes what needs no build: layers, and the routes of clients without one that have more than the newest
// plan gives.
func (r *region) takeAway() {
	low := r.share()
	if r.good == nil {
		return
	}
	moved, lower := differing(r.shown, low), differing(r.good.plan, low)
	r.shown = low
	for name, c := range r.good.views {
		switch {
		case c.view.Weights != resource.InRoutes || !c.sees(moved):
		case c.sees(lower):
			r.give(name, r.under(name, c, low), ads.Urgent)
		default:
			r.give(name, c.snapshot, ads.Urgent)
		}
	}
}

// share publishes the layers, and returns the good plan with no more than the newest one gives. Layers say that too, or,
// when nothing but shares differs from what is out, the newest plan's.
func (r *region) share() traffic.Plan {
	var low traffic.Plan
	r.layers = r.newest.plan
	said := saying{newest: r.newest.number}
	if r.good != nil {
		low = lowered(r.good.plan, r.newest.plan)
		if r.good.arms != r.newest.arms || r.refusal != nil {
			r.layers = low
			said.good = r.good.number
		}
	}
	r.promoted = keepPromoted(r.promoted, traffic.Plan{}, r.newest.plan)
	said.promoted = slices.Sorted(maps.Keys(r.promoted))
	if reflect.DeepEqual(r.said, said) {
		return low
	}
	r.said = said
	made := map[resource.View]ads.Layer{}
	for name, view := range r.views {
		if view.Weights != resource.InLayer {
			continue
		}
		layer, ok := made[zoneless(view)]
		if !ok {
			layer = r.layer(view)
			made[zoneless(view)] = layer
		}
		r.say(name, layer)
	}
	return low
}

// layer has the shares of a view, and beside them those of splits that were promoted. It is the same in every zone.
func (r *region) layer(v resource.View) ads.Layer {
	values, lease := resource.Layer(r.layers, v)
	if len(r.promoted) > 0 {
		kept := traffic.Plan{Callers: r.layers.Callers}
		for _, service := range slices.Sorted(maps.Keys(r.promoted)) {
			kept.Intents = append(kept.Intents, r.promoted[service])
		}
		more, until := resource.Layer(kept, v)
		for key, value := range more.GetFields() {
			if _, ok := values.GetFields()[key]; !ok {
				values.Fields[key] = value
			}
		}
		if until > 0 && (lease == 0 || until < lease) {
			lease = until
		}
	}
	return ads.Layer{Name: layerName, Values: values, TTL: lease}
}

func (r *region) say(name string, layer ads.Layer) {
	if err := r.d.to.PublishLayer(name, layer); err != nil {
		r.d.log.Error("weights cannot be published; proxies keep what they have until their leases end", "view", name, "error", err)
	}
}

// under is what a view that has its shares in the routes is given with less than in the build; nil when that fails, and its
// clients keep what they have.
func (r *region) under(name string, c *content, low traffic.Plan) *ads.Snapshot {
	snapshot, err := c.under(low)
	if err != nil {
		r.d.log.Error("routes cannot be made; their clients keep what they have", "view", name, "error", err)
		return nil
	}
	return snapshot
}

func (r *region) give(name string, s *ads.Snapshot, urgency ads.Urgency) {
	if s != nil && r.out[name] != s {
		r.out[name] = s
		r.d.to.Publish(name, s, urgency)
	}
}
