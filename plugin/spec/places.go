package spec

import (
	"fmt"
	"slices"
	"strings"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// placesExist checks a service's placements against their regions.
func (b *builder) placesExist(p *Parsed) {
	for i, v := range p.Document.GetService().GetVersions() {
		for j, placement := range v.GetRegions() {
			path := fmt.Sprintf("spec.versions[%d].regions[%d]", i, j)
			if !b.known(p, path+".region", "region", placement.GetRegion(), b.regions) {
				continue
			}
			if there := b.regions[placement.GetRegion()]; !there.broken() {
				b.mayBeThere(p, path+".region", there.region)
				b.endpointsFit(p, path, placement.GetEndpoints(), there.region)
			}
		}
	}
}

// mayBeThere: what runs in a region answers callers there, so that a service with a residency runs in no other one.
func (b *builder) mayBeThere(p *Parsed, field string, region *Region) {
	if p.service.MayReach(region) || p.report.wrong("spec.residency") {
		return
	}
	found := "is in " + region.Jurisdiction
	if region.Jurisdiction == "" {
		found = "declares no jurisdiction"
	}
	b.fault(p, field, "expected a region within the residency of the service (%s), found %s, which %s",
		clip(strings.Join(p.service.Residency, ", ")), region.Name, found)
}

func (b *builder) endpointsFit(p *Parsed, path string, endpoints []*aviaryv1.Endpoint, region *Region) {
	for k, e := range endpoints {
		if e.GetZone() != "" && !slices.Contains(region.Zones, e.GetZone()) {
			b.fault(p, fmt.Sprintf("%s.endpoints[%d].zone", path, k), "no zone %q in region %s%s",
				clip(e.GetZone()), region.Name, instead(e.GetZone(), region.Zones))
		}
		a, err := parseAddress(e.GetAddress())
		field := fmt.Sprintf("%s.endpoints[%d].address", path, k)
		switch {
		case err != nil:
		case a.ip.IsValid() && !region.Has(a.ip):
			b.fault(p, field, "expected an address in a network of region %s, found %s; networks: %s", region.Name, a.ip, region.networks())
		// What a name stands for is checked whenever it is resolved; without networks there is nothing to hold it against.
		case !a.ip.IsValid() && len(p.service.Residency) > 0 && len(region.Networks) == 0:
			b.fault(p, field, "expected an IP address, or networks of region %s, as the service has a residency and a name may stand for any address, found %s",
				region.Name, clip(a.host))
		}
	}
}

func (r *Region) networks() string {
	var out []string
	for _, n := range r.Networks {
		out = append(out, n.String())
	}
	return clip(strings.Join(out, ", "))
}

// residencyIsSomewhere: a jurisdiction that no region declares is misspelt.
func (b *builder) residencyIsSomewhere(p *Parsed) {
	var known []string
	for _, r := range b.regions {
		if r.report.wrong("spec.jurisdiction") {
			return // it may be the one
		}
		if j := r.region.Jurisdiction; j != "" && !slices.Contains(known, j) {
			known = append(known, j)
		}
	}
	for i, j := range p.Document.GetService().GetResidency() {
		if !slices.Contains(known, j) {
			b.fault(p, fmt.Sprintf("spec.residency[%d]", i), "no region in jurisdiction %q%s", clip(j), instead(j, known))
		}
	}
}
