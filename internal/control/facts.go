package control

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// facts are all that plans are made of. Whoever makes a plan reads them and changes nothing.
type facts struct {
	*index
	// states of rollouts by service, those of deleted ones too, in the order of their names.
	states map[string][]rollout.State
	// addresses of the names of endpoints.
	addresses map[string][]netip.Addr
	// room is what a region can take, of traffic.Whole, of the requests of every region that leans on it.
	room   map[site]uint32
	relief map[site]relief.State
}

// index is a set of documents with what is asked of it on every flush. It is never changed after it was made.
type index struct {
	set *spec.Set
	// leaning are the regions that have a region in their failover order.
	leaning map[string][]string
	// where says in which regions an address is declared, of whatever service.
	where map[netip.AddrPort][]string
	// names of endpoints, sorted, and the services that have some.
	names []string
	named map[string]bool
	// uses are the places that a name has endpoints for.
	uses map[string][]use
	// charters are the bounds that documents alone give, by region.
	charters map[string]traffic.Charter
}

// use is a place that a name has endpoints for.
type use struct {
	service *spec.Service
	region  string
	port    uint32
}

func indexOf(set *spec.Set) *index {
	x := &index{
		set: set, leaning: map[string][]string{},
		where: map[netip.AddrPort][]string{}, named: map[string]bool{}, uses: map[string][]use{}, charters: charters(set),
	}
	for _, name := range slices.Sorted(maps.Keys(set.Regions)) {
		for _, other := range set.Regions[name].Failover {
			x.leaning[other] = append(x.leaning[other], name)
		}
	}
	names := map[string]bool{}
	for _, s := range set.Services {
		for _, v := range s.Versions {
			for _, p := range v.Placements {
				for _, e := range p.Endpoints {
					if e.Name {
						names[e.Host], x.named[s.Name] = true, true
						if set.Regions[p.Region] != nil {
							x.uses[e.Host] = append(x.uses[e.Host], use{s, p.Region, e.Port})
						}
					} else if ip, err := netip.ParseAddr(e.Host); err == nil {
						at := netip.AddrPortFrom(ip.Unmap(), uint16(e.Port))
						if !slices.Contains(x.where[at], p.Region) {
							x.where[at] = append(x.where[at], p.Region)
						}
					}
				}
			}
		}
	}
	x.names = slices.Sorted(maps.Keys(names))
	return x
}

// facts are those of now.
func (c *Controller) facts() *facts {
	f := &facts{index: c.index, states: map[string][]rollout.State{}, addresses: c.addresses, room: c.room, relief: c.relief}
	for _, name := range slices.Sorted(maps.Keys(c.states)) {
		s := c.states[name]
		f.states[s.Service] = append(f.states[s.Service], s)
	}
	return f
}

// stable is the version that serves in a region.
func (f *facts) stable(s *spec.Service, region string) *spec.Version {
	return s.Version(rollout.Stable(f.set, s.Name, region, f.states[s.Name]).Version)
}

// here is where the rollout of a service in a region stands.
func (f *facts) here(r *spec.Rollout, region string) rollout.Region {
	for _, st := range f.states[r.Service] {
		if st.Rollout == r.Name {
			return st.Regions[region]
		}
	}
	return rollout.Region{}
}
