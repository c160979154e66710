package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func (r *report) versions(s *Service, declared []*aviaryv1.Version) {
	first := map[string]int{}
	for i, d := range declared {
		path := fmt.Sprintf("spec.versions[%d]", i)
		if j, ok := first[d.GetName()]; ok && d.GetName() != "" {
			r.fault(path+".name", "expected each version once, found the name %q of versions[%d]", d.GetName(), j)
		} else {
			first[d.GetName()] = i
		}
		s.Versions = append(s.Versions, Version{
			Name: d.GetName(), Digest: d.GetDigest(), Placements: r.placements(path, d.GetRegions()),
		})
	}
	if s.Stable != "" && s.Version(s.Stable) == nil && !r.wrong("spec.versions") {
		r.fault("spec.stable", "no version %q%s", clip(s.Stable), instead(s.Stable, keys(first)))
	}
}

func (r *report) placements(path string, declared []*aviaryv1.Placement) []Placement {
	var out []Placement
	first, taken := map[string]int{}, map[address]string{}
	for i, d := range declared {
		at := fmt.Sprintf("%s.regions[%d]", path, i)
		if j, ok := first[d.GetRegion()]; ok && d.GetRegion() != "" {
			r.fault(at+".region", "expected each region once, found %q of regions[%d]", clip(d.GetRegion()), j)
		} else {
			first[d.GetRegion()] = i
		}
		p := Placement{Region: d.GetRegion(), Capacity: d.GetCapacity()}
		for j, e := range d.GetEndpoints() {
			field := fmt.Sprintf("%s.endpoints[%d].address", at, j)
			a, err := parseAddress(e.GetAddress())
			if err != nil {
				r.fault(field, "expected %s, found %s: %v", texts["aviary.v1.Endpoint.address"], quote(e.GetAddress()), err)
				continue
			}
			if before, ok := taken[a]; ok {
				r.fault(field, "expected each address once in a version, found %s of %s", a, before)
			} else {
				taken[a] = strings.TrimSuffix(strings.TrimPrefix(field, path+"."), ".address")
			}
			p.Endpoints = append(p.Endpoints, Endpoint{Zone: e.GetZone(), Host: a.host, Port: uint32(a.port), Name: !a.ip.IsValid()})
		}
		p.Weights = r.weights(at, d)
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b Placement) int { return cmp.Compare(a.Region, b.Region) })
	return out
}

// weights of zones. A zone without endpoints would get a part of the requests and answer none.
func (r *report) weights(at string, d *aviaryv1.Placement) map[string]uint32 {
	var zones []string
	for _, e := range d.GetEndpoints() {
		zones = append(zones, e.GetZone())
	}
	slices.Sort(zones)
	zones = slices.Compact(zones)
	var out map[string]uint32
	first := map[string]int{}
	for i, w := range d.GetWeights() {
		field := fmt.Sprintf("%s.weights[%d].zone", at, i)
		j, again := first[w.GetZone()]
		switch {
		case again:
			r.fault(field, "expected each zone once, found %q of weights[%d]", clip(w.GetZone()), j)
			continue
		case !slices.Contains(zones, w.GetZone()) && !r.wrong(at+".endpoints"):
			r.fault(field, "no endpoint in zone %q%s", clip(w.GetZone()), instead(w.GetZone(), zones))
		}
		if out == nil {
			out = map[string]uint32{}
		}
		first[w.GetZone()], out[w.GetZone()] = i, w.GetWeight()
	}
	return out
}
