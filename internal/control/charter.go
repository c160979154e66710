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

// charter is that of a region now: what documents say, and how many endpoints stable must have after a promotion.
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

// minEndpoints is the part of the endpoints of the version before that the policy of a rollout wants left where it
// promoted its version, at least one; 0 where what serves was not promoted by a rollout that is declared.
func minEndpoints(f *facts, s *spec.Service, region string) int {
	for _, state := range f.states[s.Name] {
		here := state.Regions[region]
		r := f.set.Rollouts[state.Rollout]
		if r == nil || here.Phase != rollout.Promoted || here.StableSince.IsZero() || here.Stable.Version != here.Version {
			continue
		}
		if rollout.Stable(f.set, s.Name, region, f.states[s.Name]).Version != here.Version {
			continue
		}
		least, of := uint64(f.set.Policies[r.Policy].MinEndpoints), uint64(0)
		if before := s.Version(here.Previous.Version); before != nil {
			of = uint64(counted(f.set.Regions[region], before, f.addresses))
		}
		return int(max(1, (least*of+uint64(spec.Whole)-1)/uint64(spec.Whole)))
	}
	return 0
}

// counted is how many different addresses a version has in a region, within its networks.
func counted(in *spec.Region, v *spec.Version, addresses map[string][]netip.Addr) int {
	found := map[netip.AddrPort]bool{}
	for _, p := range v.Placements {
		if p.Region != in.Name {
			continue
		}
		for _, e := range p.Endpoints {
			of := addresses[e.Host]
			if address, err := netip.ParseAddr(e.Host); err == nil {
				of = []netip.Addr{address}
			}
			for _, address := range of {
				if address = address.Unmap(); len(in.Networks) == 0 || in.Has(address) {
					found[netip.AddrPortFrom(address, uint16(e.Port))] = true
				}
			}
		}
	}
	return len(found)
}
