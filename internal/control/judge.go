package control

import (
	"maps"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// judge takes a flush with all that arrived meanwhile, and lets the rollouts that they speak of decide.
func (c *Controller) judge(first signal.Flush) {
	batch := []signal.Flush{first}
	for more := true; more && len(batch) < cap(c.flushes); {
		select {
		case f := <-c.flushes:
			batch = append(batch, f)
		default:
			more = false
		}
	}
	begun := time.Now()
	c.observe(batch, c.cfg.Now())
	if c.cfg.Ticked != nil {
		c.cfg.Ticked(time.Since(begun))
	}
}

// observe measures flushes, has each rollout that they speak of judged and decided, and then renews the leases.
func (c *Controller) observe(batch []signal.Flush, now time.Time) {
	about := map[place][]*signal.Flush{}
	proxies := make([]string, len(batch))
	known := func(service string) bool { return c.set.Services[service] != nil }
	for i := range batch {
		f := &batch[i]
		proxies[i] = f.Proxy
		if c.set.Regions[f.Region] != nil {
			c.meter.take(*f, known, now)
		}
		c.route(f, about)
	}
	touched := map[string]bool{}
	for p, flushes := range about {
		r := c.set.Rollouts[p.rollout]
		here := c.states[p.rollout].Regions[p.region]
		c.watch(p).observe(c.set, here, r, p.region, flushes, c.meter.perSecond(site{p.region, r.Service}, now), now)
		touched[p.rollout] = true
	}
	c.decide(slices.Sorted(maps.Keys(touched)))
	c.publish()
	// After what was judged went out: a lease is never renewed for a weight that this very flush spoke against.
	c.cfg.Delivery.Renew(proxies)
}

// route adds a flush to the rollouts that it is evidence about: those of the services that its proxy routes to, which are
// what its caller declares, and for gateways those of whose clusters it tells. A proxy that does not route to a service is
// no evidence about it, however fresh its flushes are.
func (c *Controller) route(f *signal.Flush, about map[place][]*signal.Flush) {
	add := func(service string) {
		r := c.set.RolloutOf(service, f.Region)
		if r == nil {
			return
		}
		p := place{r.Name, f.Region}
		if of := about[p]; len(of) == 0 || of[len(of)-1] != f {
			about[p] = append(of, f)
		}
	}
	if caller := c.set.Services[f.Service]; caller != nil {
		for _, service := range caller.Calls {
			add(service)
		}
	}
	for i, a := range f.Arms {
		if i == 0 || a.Service != f.Arms[i-1].Service {
			add(a.Service)
		}
	}
}

func (c *Controller) watch(p place) *watch {
	w := c.watches[p]
	if w == nil {
		w = &watch{}
		c.watches[p] = w
	}
	return w
}

// spent reports whether a rollout is deleted and stands for nothing any more: no halt, no promotion, no share.
func spent(s rollout.State) bool {
	for _, r := range s.Regions {
		if r.Phase != rollout.Pending || len(r.Halts) > 0 || !r.StableSince.IsZero() {
			return false
		}
	}
	return s.Deleted
}

// all names every rollout that is declared, or was and still stands for something.
func (c *Controller) all() []string {
	names := map[string]bool{}
	for name := range c.set.Rollouts {
		names[name] = true
	}
	for name, state := range c.states {
		if !spent(state) {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
