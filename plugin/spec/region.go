package spec

import (
	"fmt"
	"net/netip"
	"slices"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// makeRegion makes the value of a region and checks what its fields mean together.
func (r *report) makeRegion(name string, d *aviaryv1.RegionSpec) *Region {
	region := &Region{
		Name:         name,
		Zones:        slices.Clone(d.GetZones()),
		Jurisdiction: d.GetJurisdiction(),
		Failover:     slices.Clone(d.GetFailover()),
	}
	for i, other := range region.Failover {
		if other == name {
			r.fault(fmt.Sprintf("spec.failover[%d]", i), "expected another region, found %q itself", name)
		}
	}
	for i, text := range d.GetNetworks() {
		network, err := netip.ParsePrefix(text)
		field := fmt.Sprintf("spec.networks[%d]", i)
		switch {
		case err != nil:
			r.fault(field, "expected %s, found %s", texts["aviary.v1.RegionSpec.networks"], quote(text))
		case network.Addr().Is4In6():
			r.fault(field, "expected an IPv4 range in its own form, such as 10.1.0.0/16, found %s", quote(text))
		case network.Masked().String() != text:
			r.fault(field, "expected the range in its one form, %s, found %s", network.Masked(), quote(text))
		}
		region.Networks = append(region.Networks, network)
	}
	return region
}
