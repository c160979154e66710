package resource

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// all is what a view is given with its layer.
func all(plan traffic.Plan, v View) []proto.Message {
	messages := give(plan, v).messages
	if v.Weights == InLayer {
		values, _ := Layer(plan, v)
		messages = append(messages, values)
	}
	return messages
}

func TestTheGuardPassesWhatIsBuiltOfAGoodPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		if err := Check(plan.Charter, plan.Region, all(plan, v)...); err != nil {
			t.Fatal(err)
		}
	})
}

// One endpoint of a random plan that is not where it says, or not where it may be, is found.
func TestTheGuardFindsAForeignEndpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		messages := all(plan, v)
		var endpoints []*endpointv3.LbEndpoint
		var at []*endpointv3.LocalityLbEndpoints
		for _, m := range messages {
			if a, ok := m.(*endpointv3.ClusterLoadAssignment); ok {
				for _, group := range a.Endpoints {
					for _, e := range group.LbEndpoints {
						endpoints, at = append(endpoints, e), append(at, group)
					}
				}
			}
		}
		if len(endpoints) == 0 {
			t.Skip()
		}
		i := rapid.IntRange(0, len(endpoints)-1).Draw(t, "endpoint")
		socket := endpoints[i].GetEndpoint().GetAddress().GetSocketAddress()
		what := socket.Address
		switch rapid.IntRange(0, 2).Draw(t, "mutation") {
		case 0:
			socket.Address = "192.0.2.1"
			what = socket.Address
		case 1:
			at[i].Locality.Region = "us-east"
			what = "us-east"
		case 2:
			for service, b := range plan.Charter {
				b.Forbidden = map[netip.AddrPort]string{netip.MustParseAddrPort(what + ":80"): "us-east"}
				plan.Charter[service] = b
			}
		}
		if err := Check(plan.Charter, plan.Region, messages...); err == nil || !strings.Contains(err.Error(), what) {
			t.Fatalf("%s: %v", what, err)
		}
	})
}

// guarded is a plan with all kinds of clusters, whose parts tests change.
type guarded struct {
	charter  traffic.Charter
	messages []proto.Message
}

func newGuarded(v View) *guarded {
	at := func(region, host string) []traffic.Locality {
		return []traffic.Locality{{Region: region, Zone: "a", Endpoints: []traffic.Endpoint{{Host: host, Port: 80}}}}
	}
	plan := traffic.Plan{
		Region: "eu-west", Callers: map[string][]string{"front": {"shop"}},
		Intents: []traffic.Intent{{
			Service: "shop", Hosts: []string{"shop.example"}, Protocol: traffic.HTTP,
			Stable:   traffic.Arm{Version: "v1", Localities: at("eu-west", "10.0.0.1")},
			Canary:   &traffic.Arm{Version: "v2", Localities: at("eu-west", "10.0.0.2")},
			Failover: &traffic.Failover{Admit: 5000, Shed: 1000, Localities: at("eu-north", "10.64.0.1")},
			Weight:   500, ShadowMethods: []string{"GET"}, TesterHeader: "x-version",
		}},
		Charter: traffic.Charter{"shop": {
			Own:          []netip.Prefix{networks["eu-west"]},
			Others:       map[string][]netip.Prefix{"eu-north": {networks["eu-north"]}},
			Forbidden:    map[netip.AddrPort]string{netip.MustParseAddrPort("10.0.0.66:80"): "us-east"},
			MinEndpoints: 1,
		}},
	}
	return &guarded{plan.Charter, all(plan, v)}
}

func (g *guarded) cluster(name string) *clusterv3.Cluster {
	for _, m := range g.messages {
		if c, ok := m.(*clusterv3.Cluster); ok && c.Name == name {
			return c
		}
	}
	panic(name)
}

func (g *guarded) assignment(name string) *endpointv3.ClusterLoadAssignment {
	for _, m := range g.messages {
		if a, ok := m.(*endpointv3.ClusterLoadAssignment); ok && a.ClusterName == name {
			return a
		}
	}
	panic(name)
}

func (g *guarded) endpoint(cluster string) *endpointv3.LbEndpoint {
	return g.assignment(cluster).Endpoints[0].LbEndpoints[0]
}

func (g *guarded) config() *routev3.RouteConfiguration {
	for _, m := range g.messages {
		if c, ok := m.(*routev3.RouteConfiguration); ok {
			return c
		}
	}
	panic("no routes")
}

// last is the route of the split that copies nothing; the one before it does.
func (g *guarded) last() *routev3.RouteAction {
	all := g.config().VirtualHosts[0].Routes
	return all[len(all)-1].GetRoute()
}

func (g *guarded) copies() *routev3.RouteAction {
	all := g.config().VirtualHosts[0].Routes
	return all[len(all)-2].GetRoute()
}

func (g *guarded) values() map[string]*structpb.Value {
	return g.messages[len(g.messages)-1].(*structpb.Struct).Fields
}

func (g *guarded) drop(gone func(proto.Message) bool) {
	g.messages = slices.DeleteFunc(g.messages, gone)
}

func (g *guarded) bounds(change func(*traffic.Bounds)) {
	b := g.charter["shop"]
	change(&b)
	g.charter["shop"] = b
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func TestTheGuardRefuses(t *testing.T) {
	const key = "aviary.shop.failover.shop/"
	for _, c := range []struct {
		name   string
		change func(*guarded)
		want   []string
	}{
		{"an address outside of the own networks", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().Address = socketAddress("10.64.0.9", 80)
		}, []string{"assignment shop/stable/v1, service shop, endpoint 10.64.0.9:80 in region eu-west: it is outside of that region's networks"}},
		{"an address outside of a neighbour's networks", func(g *guarded) {
			g.endpoint("shop/remote/v1").GetEndpoint().Address = socketAddress("10.0.0.9", 80)
		}, []string{"shop/remote/v1", "10.0.0.9:80 in region eu-north"}},
		{"a region that may not be reached", func(g *guarded) { delete(g.charter["shop"].Others, "eu-north") },
			[]string{"shop/remote/v1, service shop, endpoint 10.64.0.1:80 in region eu-north: the service may not reach that region"}},
		{"a region that nobody knows", func(g *guarded) { g.assignment("shop/remote/v1").Endpoints[0].Locality = nil },
			[]string{"10.64.0.1:80 in region : the service may not reach"}},
		{"an address that is elsewhere, whatever the locality says", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().Address = socketAddress("10.0.0.66", 80)
		}, []string{"10.0.0.66:80 in region eu-west: it is known to be in region us-east"}},
		{"the same in another notation", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().Address = socketAddress("::ffff:10.0.0.66", 80)
		}, []string{"it is known to be in region us-east"}},
		{"a service that may not stay", func(g *guarded) { g.bounds(func(b *traffic.Bounds) { b.Closed = true }) },
			[]string{"10.0.0.1:80 in region eu-west: the service may not stay", "10.0.0.2:80"}},
		{"a canary in another region", func(g *guarded) {
			g.assignment("shop/canary/v2").Endpoints = g.assignment("shop/remote/v1").Endpoints
		}, []string{"shop/canary/v2, service shop, endpoint 10.64.0.1:80 in region eu-north: a canary has endpoints in its own region alone, eu-west"}},
		{"a shadow in another region", func(g *guarded) {
			g.assignment("shop/shadow/v2").Endpoints = g.assignment("shop/remote/v1").Endpoints
		}, []string{"a shadow has endpoints in its own region alone"}},
		{"a canary with the endpoints of another cluster", func(g *guarded) {
			g.cluster("shop/canary/v2").EdsClusterConfig.ServiceName = "shop/remote/v1"
		}, []string{"cluster shop/canary/v2, service shop, endpoint 10.64.0.1:80 in region eu-north: a canary"}},
		{"a name", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().Address = socketAddress("shop.example", 80)
		}, []string{"shop.example:80 in region eu-west: it is not an IP address and port"}},
		{"no host", func(g *guarded) {
			g.bounds(func(b *traffic.Bounds) { b.Own = nil })
			g.endpoint("shop/stable/v1").GetEndpoint().Address = socketAddress("0.0.0.0", 80)
			g.endpoint("shop/canary/v2").GetEndpoint().Address = socketAddress("::ffff:0.0.0.0", 80)
			g.endpoint("shop/shadow/v2").GetEndpoint().Address = socketAddress("::", 80)
			g.endpoint("shop/remote/v1").GetEndpoint().Address = socketAddress("239.0.0.1", 80)
		}, []string{"0.0.0.0:80 in region eu-west: it is not the address of a host", "[::ffff:0.0.0.0]:80 in region eu-west: it is not the",
			"[::]:80 in region eu-west: it is not the", "239.0.0.1:80 in region eu-north: it is not the"}},
		{"a pipe", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/shop"}}}
		}, []string{"/run/shop", "it is not an IP address and port"}},
		{"an endpoint by reference", func(g *guarded) {
			g.endpoint("shop/stable/v1").HostIdentifier = &endpointv3.LbEndpoint_EndpointName{EndpointName: "x"}
		}, []string{"it is not an IP address and port"}},
		{"a second address", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().AdditionalAddresses = []*endpointv3.Endpoint_AdditionalAddress{{Address: socketAddress("192.0.2.1", 80)}}
		}, []string{"192.0.2.1:80"}},
		{"an address to check its health at", func(g *guarded) {
			g.endpoint("shop/stable/v1").GetEndpoint().HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{Address: socketAddress("192.0.2.1", 80)}
		}, []string{"192.0.2.1:80"}},
		{"named endpoints", func(g *guarded) {
			g.assignment("shop/stable/v1").NamedEndpoints = map[string]*endpointv3.Endpoint{"x": {}}
		}, []string{"it has named endpoints"}},
		{"endpoints from elsewhere", func(g *guarded) {
			g.assignment("shop/stable/v1").Endpoints[0].LbConfig = &endpointv3.LocalityLbEndpoints_LoadBalancerEndpoints{}
		}, []string{"endpoints in region eu-west come from elsewhere"}},
		{"too few endpoints", func(g *guarded) { g.bounds(func(b *traffic.Bounds) { b.MinEndpoints = 2 }) },
			[]string{"assignment shop/stable/v1, service shop: 1 endpoints in region eu-west, at least 2 are wanted"}},
		{"a service that the charter does not have", func(g *guarded) { delete(g.charter, "shop") },
			[]string{"shop/stable/v1, service shop: the charter of region eu-west does not have the service", "shop/canary/v2"}},

		{"a split that names a missing cluster", func(g *guarded) {
			g.drop(func(m proto.Message) bool { c, ok := m.(*clusterv3.Cluster); return ok && c.Name == "shop/shed/v1" })
		}, []string{`routes egress, service shop: it names cluster "shop/shed/v1", which is not there`}},
		{"a mirror that does", func(g *guarded) { g.copies().RequestMirrorPolicies[0].Cluster = "shop/shadow/v3" },
			[]string{`routes egress, mirror, service shop: it names cluster "shop/shadow/v3"`}},
		{"a mirror of all hosts", func(g *guarded) {
			g.config().RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{ClusterHeader: "x-to"}}
		}, []string{`routes egress, mirror, service : it names cluster ""`}},
		{"a mirror of a host", func(g *guarded) {
			g.config().VirtualHosts[0].RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: "x"}}
		}, []string{`routes egress, mirror, service shop: it names cluster "x"`}},
		{"an aggregate that does", func(g *guarded) {
			g.drop(func(m proto.Message) bool { c, ok := m.(*clusterv3.Cluster); return ok && c.Name == "shop/remote/v1" })
		}, []string{`cluster shop/everywhere/v1, service shop: it names cluster "shop/remote/v1"`, "cluster shop/shed/v1"}},
		{"a cluster without its assignment", func(g *guarded) {
			g.drop(func(m proto.Message) bool {
				a, ok := m.(*endpointv3.ClusterLoadAssignment)
				return ok && a.ClusterName == "shop/stable/v1"
			})
		}, []string{"cluster shop/stable/v1, service shop: there is no load assignment"}},
		{"a cluster with endpoints of its own", func(g *guarded) {
			g.cluster("shop/canary/v2").LoadAssignment = g.assignment("shop/remote/v1")
		}, []string{"cluster shop/canary/v2, service shop: its endpoints do not come from a load assignment"}},
		{"a cluster that asks DNS", func(g *guarded) {
			g.cluster("shop/stable/v1").ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		}, []string{"shop/stable/v1, service shop: its endpoints do not come"}},
		{"a canary that is an aggregate", func(g *guarded) {
			g.cluster("shop/canary/v2").ClusterDiscoveryType = g.cluster("shop/everywhere/v1").ClusterDiscoveryType
		}, []string{"cluster shop/canary/v2, service shop: its endpoints do not come"}},
		{"a cluster of another kind", func(g *guarded) {
			g.cluster("shop/arm/v2").GetClusterType().TypedConfig = packed(&clusterv3.Cluster{})
		}, []string{`cluster shop/arm/v2, service shop: it is not an aggregate of clusters, as role "arm" is`}},
		{"a name that says nothing", func(g *guarded) { g.cluster("shop/arm/v2").Name = "shop" },
			[]string{"cluster shop: it is not named", `it names cluster "shop/arm/v2"`}},
		{"an assignment with such a name", func(g *guarded) { g.assignment("shop/shadow/v2").ClusterName = "shop//v2" },
			[]string{"assignment shop//v2: it is not named", "no load assignment shop/shadow/v2"}},
		{"an arm that asks the shadow", func(g *guarded) {
			g.last().GetWeightedClusters().Clusters[3].Name = "shop/shadow/v2"
		}, []string{"routes egress, service shop: it sends requests to shop/shadow/v2, which answers nobody"}},

		{"weights of the routes that are not whole", func(g *guarded) {
			g.last().GetWeightedClusters().Clusters[1].Weight = wrapperspb.UInt32(1)
		}, []string{"routes egress, service shop: the weights of a split sum to 5001, not to 10000"}},
		{"weights of the layer that are not whole", func(g *guarded) { g.values()[key+"arm/v2"] = structpb.NewNumberValue(501) },
			[]string{"the layer's weights of a split sum to 10001, not to 10000"}},
		{"a key that is missing", func(g *guarded) { delete(g.values(), key+"stable/v1") },
			[]string{"the layer's weights of a split sum to 10750"}}, // 5000 come from the routes
		{"a weight that is no number", func(g *guarded) { g.values()[key+"arm/v2"] = structpb.NewStringValue("500") },
			[]string{"the layer's weight of shop/arm/v2 is"}},
		{"a weight below zero", func(g *guarded) { g.values()[key+"arm/v2"] = structpb.NewNumberValue(-500) },
			[]string{"the layer's weight of shop/arm/v2 is"}},
		{"a part of a weight", func(g *guarded) { g.values()[key+"arm/v2"] = structpb.NewNumberValue(.5) },
			[]string{"the layer's weight of shop/arm/v2 is"}},
		{"a request that chooses its cluster", func(g *guarded) {
			g.last().ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: "x-to"}
		}, []string{"routes egress, service shop: a request says itself which cluster"}},
		{"hosts from elsewhere", func(g *guarded) { g.config().Vhds = &routev3.Vhds{} },
			[]string{"routes egress: it has hosts that come from elsewhere"}},
		{"a tree of routes", func(g *guarded) {
			host := g.config().VirtualHosts[0].ProtoReflect()
			host.Mutable(host.Descriptor().Fields().ByName("matcher"))
		}, []string{"routes egress, service shop: it has a tree of routes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuarded(View{Service: "front"})
			if err := Check(g.charter, "eu-west", g.messages...); err != nil {
				t.Fatal(err)
			}
			c.change(g)
			err := Check(g.charter, "eu-west", g.messages...)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// Without a layer there is nothing to hold against the routes' weights; with an empty one they hold.
func TestTheGuardWithoutALayer(t *testing.T) {
	g := newGuarded(View{Service: "front"})
	g.drop(func(m proto.Message) bool { _, ok := m.(*structpb.Struct); return ok })
	if err := Check(g.charter, "eu-west", g.messages...); err != nil {
		t.Error(err)
	}
	if err := Check(g.charter, "eu-west", append(g.messages, &structpb.Struct{})...); err != nil {
		t.Error(err)
	}
}
