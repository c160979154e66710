package control

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// arm is a version with its endpoints in the region, none where the service may not be.
func (f *facts) arm(s *spec.Service, v *spec.Version, region string) traffic.Arm {
	return traffic.Arm{Version: v.Name, Digest: v.Digest, Localities: f.localities(s, v, region)}
}

// localities are a version's endpoints in a region by zone, weighted as they are declared.
func (f *facts) localities(s *spec.Service, v *spec.Version, region string) []traffic.Locality {
	place, in := v.In(region), f.set.Regions[region]
	if place == nil || in == nil || !s.MayReach(in) {
		return nil
	}
	byZone := map[string][]traffic.Endpoint{}
	for _, e := range place.Endpoints {
		if !e.Name {
			if ip, err := netip.ParseAddr(e.Host); err == nil && f.lawful(s, in, ip, e.Port) {
				byZone[e.Zone] = append(byZone[e.Zone], traffic.Endpoint{Host: e.Host, Port: e.Port})
			}
			continue
		}
		for _, ip := range f.addresses[e.Host] {
			if f.lawful(s, in, ip, e.Port) {
				byZone[e.Zone] = append(byZone[e.Zone], traffic.Endpoint{Host: ip.String(), Port: e.Port})
			}
		}
	}
	var all []traffic.Locality
	for _, zone := range slices.Sorted(maps.Keys(byZone)) {
		endpoints := byZone[zone]
		slices.SortFunc(endpoints, func(a, b traffic.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
		})
		l := traffic.Locality{Region: region, Zone: zone, Endpoints: slices.Compact(endpoints)}
		if len(place.Weights) > 0 {
			l.Weight = cmp.Or(place.Weights[zone], uint32(len(l.Endpoints)))
		}
		all = append(all, l)
	}
	return all
}

// lawful reports whether an address may be an endpoint of the service in a region that it may reach: within the region's
// networks, and not declared in a region that it may not reach. A name may say what nobody declared, or answer with no
// address of a host, as a DNS server does that blocks it.
func (f *facts) lawful(s *spec.Service, in *spec.Region, ip netip.Addr, port uint32) bool {
	ip = ip.Unmap()
	if ip.IsUnspecified() || ip.IsMulticast() || !in.Has(ip) {
		return false
	}
	for _, region := range f.where[netip.AddrPortFrom(ip, uint16(port))] {
		if !s.MayReach(f.set.Regions[region]) {
			return false
		}
	}
	return true
}

// endpoints counts those of a version in a region whose names are resolved. 0: there is no name among them, and they are
// what the documents say.
func (f *facts) endpoints(s *spec.Service, version, region string) int {
	v := s.Version(version)
	if !f.named[s.Name] || v == nil {
		return 0
	}
	n := 0
	for _, l := range f.localities(s, v, region) {
		n += len(l.Endpoints)
	}
	return n
}
