package control

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Regions returns where every rollout stands in every region; nil when the controller does not run.
func (c *Controller) Regions() map[string]map[string]rollout.Region {
	out := map[string]map[string]rollout.Region{}
	if c.call(context.Background(), func() {
		for name, state := range c.states {
			out[name] = maps.Clone(state.Regions)
		}
	}) != nil {
		return nil
	}
	return out
}

// RegionStates returns every declared region, sorted by name, with what is known here of each service in it: all but
// proxies, what was published and refused, and when names were looked up. Of those it has the addresses in force, and why what
// they answer is not.
func (c *Controller) RegionStates(ctx context.Context) ([]*aviaryv1.RegionState, error) {
	var out []*aviaryv1.RegionState
	err := c.call(ctx, func() {
		f, now := c.facts(), c.cfg.Now()
		for _, name := range slices.Sorted(maps.Keys(c.set.Regions)) {
			region := &aviaryv1.RegionState{Name: name, Jurisdiction: c.set.Regions[name].Jurisdiction}
			for _, service := range slices.Sorted(maps.Keys(c.set.Services)) {
				region.Services = append(region.Services, c.serviceState(f, c.set.Services[service], name, now))
			}
			out = append(out, region)
		}
	})
	return out, err
}

func (c *Controller) serviceState(f *facts, s *spec.Service, region string, now time.Time) *aviaryv1.ServiceState {
	at := site{region, s.Name}
	relief := c.relief[at]
	out := &aviaryv1.ServiceState{
		Service: s.Name, Rate: c.meter.perSecond(at, now), Saturated: relief.Saturated,
		Tightened: relief.Active && s.Relief.Tighten < spec.Whole,
	}
	if v := f.stable(s, region); v != nil && v.In(region) != nil {
		out.Capacity = v.In(region).Capacity
	}
	for _, name := range f.names {
		if slices.ContainsFunc(f.uses[name], func(u use) bool { return u.service == s && u.region == region }) {
			n := &aviaryv1.Resolved{Name: name, Error: c.refused[name]}
			for _, ip := range c.addresses[name] {
				n.Addresses = append(n.Addresses, ip.String())
			}
			out.Names = append(out.Names, n)
		}
	}
	neighbours := f.neighbours(s, region)
	for _, n := range neighbours {
		out.Failover = append(out.Failover, n.region)
	}
	_, out.Admitted = f.parts(s, neighbours)
	out.Shed = f.shed(s, region, out.Admitted)
	return out
}
