package control

import (
	"net/netip"
	"strings"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// The charter is what a guard holds the built resources against (law 6). Nothing here uses what makes intents, so that a
// mistake there is not made here as well.

// charterOf are the bounds of every service in a region that follow from the documents alone.
func charterOf(set *spec.Set, region *spec.Region, forbidden map[string]map[netip.AddrPort]string) traffic.Charter {
	all := traffic.Charter{}
	for name, s := range set.Services {
		b := traffic.Bounds{
			Own: region.Networks, Others: map[string][]netip.Prefix{}, Closed: !permitted(s, region), Forbidden: forbidden[residency(s)],
		}
		for other, r := range set.Regions {
			if other != region.Name && permitted(s, r) {
				b.Others[other] = r.Networks
			}
		}
		all[name] = b
	}
	return all
}

// charters are those of all regions.
func charters(set *spec.Set) map[string]traffic.Charter {
	forbidden := map[string]map[netip.AddrPort]string{} // by residency
	for _, s := range set.Services {
		if len(s.Residency) > 0 && forbidden[residency(s)] == nil {
			forbidden[residency(s)] = elsewhere(set, s)
		}
	}
	all := map[string]traffic.Charter{}
	for name, region := range set.Regions {
		all[name] = charterOf(set, region, forbidden)
	}
	return all
}

func permitted(s *spec.Service, r *spec.Region) bool {
	if len(s.Residency) == 0 {
		return true
	}
	for _, jurisdiction := range s.Residency {
		if jurisdiction != "" && jurisdiction == r.Jurisdiction {
			return true
		}
	}
	return false
}

func residency(s *spec.Service) string { return strings.Join(s.Residency, " ") }

// elsewhere are the addresses that some service declares in regions that s may not reach.
func elsewhere(set *spec.Set, s *spec.Service) map[netip.AddrPort]string {
	found := map[netip.AddrPort]string{}
	for _, other := range set.Services {
		for _, v := range other.Versions {
			for _, p := range v.Placements {
				if r := set.Regions[p.Region]; r == nil || permitted(s, r) {
					continue
				}
				for _, e := range p.Endpoints {
					address, err := netip.ParseAddr(e.Host)
					if err != nil {
						continue
					}
					at := netip.AddrPortFrom(address.Unmap(), uint16(e.Port))
					if before, ok := found[at]; !ok || p.Region < before {
						found[at] = p.Region
					}
				}
			}
		}
	}
	return found
}

// charter is that of a region now: what documents say, and that stable must have an endpoint after a promotion.
func charter(f *facts, region string) traffic.Charter {
	all := make(traffic.Charter, len(f.charters[region]))
	for name, b := range f.charters[region] {
		if !b.Closed {
			b.MinEndpoints = minEndpoints(f, f.set.Services[name], region)
		}
		all[name] = b
	}
	return all
}

// minEndpoints is one where a rollout promoted what serves: a promotion leaves no region without endpoints. How many more
// it leaves is looked at when it is decided; later, versions are scaled as people like. 0 is no bound.
func minEndpoints(f *facts, s *spec.Service, region string) int {
	for _, state := range f.states[s.Name] {
		here := state.Regions[region]
		if f.set.Rollouts[state.Rollout] == nil || here.Phase != rollout.Promoted || here.StableSince.IsZero() || here.Stable.Version != here.Version {
			continue
		}
		if rollout.Stable(f.set, s.Name, region, f.states[s.Name]).Version == here.Version {
			return 1
		}
	}
	return 0
}
