package control

import (
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// neighbour is a region that may take over stable's requests of another one, with the version that is stable there.
type neighbour struct {
	region     string
	capacity   float64
	version    string
	localities []traffic.Locality
}

// neighbours are those of a region in its failover order: where the service may be, its stable version has endpoints, and
// says what it carries.
func (f *facts) neighbours(s *spec.Service, region string) []neighbour {
	in := f.set.Regions[region]
	if in == nil {
		return nil
	}
	var all []neighbour
	for _, other := range in.Failover {
		v := f.stable(s, other)
		if v == nil || v.In(other) == nil || !(v.In(other).Capacity > 0) {
			continue
		}
		if localities := f.localities(s, v, other); len(localities) > 0 {
			all = append(all, neighbour{other, v.In(other).Capacity, v.Name, localities})
		}
	}
	return all
}

// failover says where stable's requests go beside the region, nil when that is nowhere. Neighbours share them at the first
// priority as far as each has room, and those that are not needed for it follow one by one. One without room is not there.
func (f *facts) failover(s *spec.Service, region, stable string, weight uint32) *traffic.Failover {
	neighbours := f.neighbours(s, region)
	if len(neighbours) == 0 {
		return nil
	}
	parts, admitted := f.parts(s, neighbours)
	out := &traffic.Failover{}
	out.Admit, out.Shed = divide(admitted, f.shed(s, region, admitted), weight)
	next := uint32(1)
	for i, n := range neighbours {
		if f.room[site{n.region, s.Name}] == 0 {
			continue
		}
		priority := uint32(0)
		if parts[i] == 0 {
			priority, next = next, next+1
		}
		for _, l := range n.localities {
			l.Priority = priority
			if n.version != stable {
				l.Version = n.version
			}
			if parts[i] > 0 {
				l.Weight = portion(parts[i], l, n.localities)
			}
			out.Localities = append(out.Localities, l)
		}
	}
	sortLocalities(out.Localities)
	return out
}

// parts are what each neighbour takes of a region's requests, and admitted is their sum.
func (f *facts) parts(s *spec.Service, neighbours []neighbour) (parts []uint32, admitted uint32) {
	room := make([]uint32, len(neighbours))
	for i, n := range neighbours {
		room[i] = f.room[site{n.region, s.Name}]
	}
	return fill(room)
}

// shed is the part of stable's requests that goes elsewhere for the region's relief.
func (f *facts) shed(s *spec.Service, region string, admitted uint32) uint32 {
	if !f.relief[site{region, s.Name}].Active {
		return 0
	}
	return min(uint32(s.Relief.Shed), admitted)
}

// portion is a zone's weight when its region has a part of traffic.Whole: the zones share it as they do at home.
func portion(part uint32, zone traffic.Locality, all []traffic.Locality) uint32 {
	var sum uint64
	for _, l := range all {
		sum += uint64(weightOf(l))
	}
	return max(1, uint32(uint64(part)*uint64(weightOf(zone))/sum))
}

func weightOf(l traffic.Locality) uint32 {
	if l.Weight == 0 {
		return uint32(len(l.Endpoints))
	}
	return l.Weight
}
