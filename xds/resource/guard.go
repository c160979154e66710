package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Check reports endpoints that a region's proxies may not be given. A charter without any service bounds nothing.
func Check(charter traffic.Charter, region string, messages ...proto.Message) error {
	var errs []error
	for _, m := range messages {
		a, ok := m.(*endpointv3.ClusterLoadAssignment)
		if !ok || len(charter) == 0 {
			continue
		}
		service, _, _ := strings.Cut(a.GetClusterName(), "/")
		b := charter[service]
		for _, l := range a.GetEndpoints() {
			in := l.GetLocality().GetRegion()
			networks, reachable := b.Others[in]
			if in == region {
				networks, reachable = b.Own, !b.Closed
			}
			for _, e := range l.GetLbEndpoints() {
				at := e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()
				ip, err := netip.ParseAddr(at)
				if !reachable || err != nil || len(networks) > 0 && !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
					errs = append(errs, fmt.Errorf("%s: %s in %s may not be given", a.GetClusterName(), at, in))
				}
			}
		}
	}
	return errors.Join(errs...)
}
