package resource

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Check reads all that one view of a region is to be given (clusters, load assignments, route configurations, and if given
// the values of the runtime layer, a Struct; others are passed over) and holds it against the charter. It knows nothing of
// intents, and shares no code with what made the messages but the shape of clusters' names, so that a mistake there does
// not get past it. The error joins every violation, each with its resource, service and address; nil is none.
//
//   - Every endpoint is a host's IP address of the own region or of one that the service may reach, within that region's networks,
//     and not known to be anywhere else. Those of a canary and of a shadow are in the own region.
//   - Every cluster has its endpoints from a load assignment that is here, or is an aggregate of clusters that are here.
//   - Every cluster that a route, a split or a mirror names is here; the shadow answers nobody.
//   - Every split sums to traffic.Whole, as the routes say it and as the layer does.
//   - Stable has as many endpoints in the own region as the charter wants.
func Check(charter traffic.Charter, region string, messages ...proto.Message) error {
	g := guard{
		charter: charter, region: region,
		clusters: map[string]*clusterv3.Cluster{}, assignments: map[string]*endpointv3.ClusterLoadAssignment{},
	}
	for _, m := range messages {
		switch m := m.(type) {
		case *clusterv3.Cluster:
			g.clusters[m.GetName()] = m
		case *endpointv3.ClusterLoadAssignment:
			g.assignments[m.GetClusterName()] = m
		case *structpb.Struct:
			g.values = m
		}
	}
	for _, m := range messages {
		switch m := m.(type) {
		case *clusterv3.Cluster:
			g.cluster(m)
		case *endpointv3.ClusterLoadAssignment:
			g.endpoints("assignment", m.GetClusterName(), m)
		case *routev3.RouteConfiguration:
			g.routes(m)
		}
	}
	return errors.Join(g.violations...)
}

// guard is one check.
type guard struct {
	charter traffic.Charter
	region  string

	clusters    map[string]*clusterv3.Cluster
	assignments map[string]*endpointv3.ClusterLoadAssignment
	values      *structpb.Struct

	violations []error
}

func (g *guard) refuse(format string, args ...any) {
	g.violations = append(g.violations, fmt.Errorf(format, args...))
}

// roles that have endpoints of their own, and whether these are in the own region alone; the other roles are aggregates.
var ownRegionAlone = map[string]bool{"stable": false, "remote": false, "canary": true, "shadow": true}

// named reads service/role/version.
func named(cluster string) (service, role string, ok bool) {
	parts := strings.SplitN(cluster, "/", 3)
	if len(parts) != 3 || slices.Contains(parts, "") {
		return "", "", false
	}
	return parts[0], parts[1], true
}

func (g *guard) cluster(c *clusterv3.Cluster) {
	service, role, ok := named(c.GetName())
	if !ok {
		g.refuse("cluster %s: it is not named service/role/version", c.GetName())
		return
	}
	_, hasEndpoints := ownRegionAlone[role]
	custom := c.GetClusterType()
	switch {
	case hasEndpoints && custom == nil && c.GetType() == clusterv3.Cluster_EDS && c.GetLoadAssignment() == nil:
		name := c.GetEdsClusterConfig().GetServiceName()
		if name == "" {
			name = c.GetName()
		}
		assigned := g.assignments[name]
		if assigned == nil {
			g.refuse("cluster %s, service %s: there is no load assignment %s for it", c.GetName(), service, name)
			return
		}
		if name != c.GetName() {
			g.endpoints("cluster", c.GetName(), assigned)
		}
	case hasEndpoints:
		g.refuse("cluster %s, service %s: its endpoints do not come from a load assignment, where they can be checked", c.GetName(), service)
	case custom.GetTypedConfig().MessageIs(&aggregatev3.ClusterConfig{}):
		var config aggregatev3.ClusterConfig
		if err := custom.GetTypedConfig().UnmarshalTo(&config); err != nil {
			g.refuse("cluster %s, service %s: %w", c.GetName(), service, err)
		}
		for _, member := range config.GetClusters() {
			g.reached("cluster "+c.GetName(), service, member)
		}
	default:
		g.refuse("cluster %s, service %s: it is not an aggregate of clusters, as role %q is", c.GetName(), service, role)
	}
}

// reached is a cluster that requests of users are sent to.
func (g *guard) reached(by, service, cluster string) {
	if _, role, ok := named(cluster); ok && role == "shadow" {
		g.refuse("%s, service %s: it sends requests to %s, which answers nobody", by, service, cluster)
	}
	g.there(by, service, cluster)
}

func (g *guard) there(by, service, cluster string) {
	if g.clusters[cluster] == nil {
		g.refuse("%s, service %s: it names cluster %q, which is not there", by, service, cluster)
	}
}

// endpoints of a cluster.
func (g *guard) endpoints(kind, cluster string, a *endpointv3.ClusterLoadAssignment) {
	service, role, ok := named(cluster)
	if !ok {
		g.refuse("%s %s: it is not named service/role/version", kind, cluster)
		return
	}
	where := fmt.Sprintf("%s %s, service %s", kind, cluster, service)
	bounds, known := g.charter[service]
	if !known {
		g.refuse("%s: the charter of region %s does not have the service", where, g.region)
		return
	}
	if len(a.GetNamedEndpoints()) > 0 {
		g.refuse("%s: it has named endpoints, which are not checked", where)
	}
	own := 0
	for _, group := range a.GetEndpoints() {
		region := group.GetLocality().GetRegion()
		if group.GetLbConfig() != nil {
			g.refuse("%s: endpoints in region %s come from elsewhere, where they are not checked", where, region)
		}
		for _, e := range group.GetLbEndpoints() {
			for _, address := range addresses(e) {
				if at, why := g.allowed(bounds, role, region, address); why != "" {
					g.refuse("%s, endpoint %s in region %s: %s", where, at, region, why)
				}
			}
			if region == g.region {
				own++
			}
		}
	}
	if role == "stable" && own < bounds.MinEndpoints {
		g.refuse("%s: %d endpoints in region %s, at least %d are wanted", where, own, g.region, bounds.MinEndpoints)
	}
}

// addresses are all that an endpoint may be reached at; nil is one that is not in the message.
func addresses(e *endpointv3.LbEndpoint) []*corev3.Address {
	all := []*corev3.Address{e.GetEndpoint().GetAddress()}
	for _, more := range e.GetEndpoint().GetAdditionalAddresses() {
		all = append(all, more.GetAddress())
	}
	if probed := e.GetEndpoint().GetHealthCheckConfig().GetAddress(); probed != nil {
		all = append(all, probed)
	}
	return all
}

// allowed says why an endpoint may not be given; "" is no reason.
func (g *guard) allowed(bounds traffic.Bounds, role, region string, a *corev3.Address) (at, why string) {
	socket := a.GetSocketAddress()
	if socket == nil {
		return fmt.Sprintf("%q", a), "it is not an IP address and port"
	}
	at = net.JoinHostPort(socket.GetAddress(), strconv.Itoa(int(socket.GetPortValue())))
	ip, err := netip.ParseAddr(socket.GetAddress())
	if err != nil || socket.GetPortValue() == 0 || socket.GetPortValue() > math.MaxUint16 {
		return at, "it is not an IP address and port"
	}
	port := uint16(socket.GetPortValue())
	for _, form := range []netip.Addr{ip, ip.Unmap()} {
		if other, is := bounds.Forbidden[netip.AddrPortFrom(form, port)]; is {
			return at, fmt.Sprintf("it is known to be in region %s, which the service may not reach", other)
		}
	}
	ip = ip.Unmap()
	if ip.IsUnspecified() || ip.IsMulticast() {
		return at, "it is not the address of a host"
	}
	networks, reachable := bounds.Others[region]
	switch {
	case region == g.region && bounds.Closed:
		return at, "the service may not stay in its region"
	case region == g.region:
		networks = bounds.Own
	case !reachable:
		return at, "the service may not reach that region"
	case ownRegionAlone[role]:
		return at, fmt.Sprintf("a %s has endpoints in its own region alone, %s", role, g.region)
	}
	if len(networks) > 0 && !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
		return at, "it is outside of that region's networks"
	}
	return at, ""
}

func (g *guard) routes(config *routev3.RouteConfiguration) {
	name := "routes " + config.GetName()
	g.mirrors(name, "", config.GetRequestMirrorPolicies())
	if config.GetVhds() != nil {
		g.refuse("%s: it has hosts that come from elsewhere, where they are not checked", name)
	}
	for _, host := range config.GetVirtualHosts() {
		if host.GetMatcher() != nil {
			g.refuse("%s, service %s: it has a tree of routes, which is not checked", name, host.GetName())
		}
		g.mirrors(name, host.GetName(), host.GetRequestMirrorPolicies())
		for _, r := range host.GetRoutes() {
			action := r.GetRoute()
			if action == nil {
				continue // answered by the proxy
			}
			g.mirrors(name, host.GetName(), action.GetRequestMirrorPolicies())
			switch to := action.GetClusterSpecifier().(type) {
			case *routev3.RouteAction_Cluster:
				g.reached(name, host.GetName(), to.Cluster)
			case *routev3.RouteAction_WeightedClusters:
				g.split(name, host.GetName(), to.WeightedClusters)
			default:
				g.refuse("%s, service %s: a request says itself which cluster it goes to", name, host.GetName())
			}
		}
	}
}

func (g *guard) mirrors(by, service string, all []*routev3.RouteAction_RequestMirrorPolicy) {
	for _, m := range all {
		g.there(by+", mirror", service, m.GetCluster())
	}
}

// split sums the weights of the routes, which hold without the layer, and what they become with it: a key that is missing
// there takes its weight from the routes.
func (g *guard) split(by, service string, w *routev3.WeightedCluster) {
	routed, layered := uint64(0), 0.0
	for _, c := range w.GetClusters() {
		g.reached(by, service, c.GetName())
		weight := uint64(c.GetWeight().GetValue())
		routed += weight
		value, ok := g.values.GetFields()[w.GetRuntimeKeyPrefix()+"."+c.GetName()]
		if !ok || w.GetRuntimeKeyPrefix() == "" {
			layered += float64(weight)
			continue
		}
		n, isNumber := value.GetKind().(*structpb.Value_NumberValue)
		if !isNumber || n.NumberValue < 0 || n.NumberValue != math.Trunc(n.NumberValue) {
			g.refuse("%s, service %s: the layer's weight of %s is %v, not a whole number", by, service, c.GetName(), value)
			continue
		}
		layered += n.NumberValue
	}
	if routed != traffic.Whole {
		g.refuse("%s, service %s: the weights of a split sum to %d, not to %d", by, service, routed, traffic.Whole)
	}
	if layered != traffic.Whole && g.values != nil {
		g.refuse("%s, service %s: the layer's weights of a split sum to %v, not to %d", by, service, layered, traffic.Whole)
	}
}
