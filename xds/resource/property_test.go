package resource

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// given is all that a view is given.
type given struct {
	messages []proto.Message
	clusters map[string]*clusterv3.Cluster
	assigned map[string]*endpointv3.ClusterLoadAssignment
	splits   map[string][]*routev3.WeightedCluster // by virtual host, which has the service's name
	routed   []string                              // clusters that routes and mirrors name
}

func give(plan traffic.Plan, v View) given {
	g := given{clusters: map[string]*clusterv3.Cluster{}, assigned: map[string]*endpointv3.ClusterLoadAssignment{},
		splits: map[string][]*routev3.WeightedCluster{}}
	for _, l := range Listeners(plan, v) {
		g.messages = append(g.messages, l)
	}
	for _, in := range Intents(plan, v) {
		for _, c := range Clusters(in, v) {
			g.messages = append(g.messages, c)
			g.clusters[c.Name] = c
		}
		for _, a := range Assignments(in, v) {
			g.messages = append(g.messages, a)
			g.assigned[a.ClusterName] = a
		}
	}
	for _, config := range Routes(plan, v) {
		g.messages = append(g.messages, config)
		for _, host := range config.VirtualHosts {
			for _, r := range host.Routes {
				for _, m := range r.GetRoute().RequestMirrorPolicies {
					g.routed = append(g.routed, m.Cluster)
				}
				if name := r.GetRoute().GetCluster(); name != "" {
					g.routed = append(g.routed, name)
				}
				if split := r.GetRoute().GetWeightedClusters(); split != nil {
					g.splits[host.Name] = append(g.splits[host.Name], split)
					for _, c := range split.Clusters {
						g.routed = append(g.routed, c.Name)
					}
				}
			}
		}
	}
	return g
}

// members are the clusters that a cluster is made of.
func members(t *rapid.T, c *clusterv3.Cluster) []string {
	if c.GetClusterType() == nil {
		return nil
	}
	m, err := c.GetClusterType().GetTypedConfig().UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := m.(*aggregatev3.ClusterConfig); ok {
		return m.Clusters
	}
	t.Fatalf("%s is a %T", c.Name, m)
	return nil
}

// check validates a message and every message that is packed into it.
func check(t *rapid.T, m proto.Message) {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Fatalf("%T: %v", m, err)
		}
	}
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		if packed, ok := m.Interface().(*anypb.Any); ok {
			inner, err := packed.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			check(t, inner)
			return
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.IsMap():
				if f.MapValue().Message() != nil {
					v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { walk(v.Message()); return true })
				}
			case f.Message() == nil:
			case f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			default:
				walk(v.Message())
			}
			return true
		})
	}
	walk(m.ProtoReflect())
}

func role(cluster string) string { return strings.Split(cluster, "/")[1] }

func TestWhatAViewIsGivenHoldsTogether(t *testing.T) {
	// What each kind of cluster is made of; the others have endpoints.
	made := map[string][]string{"arm": {"canary", "stable"}, "everywhere": {"stable", "remote"}, "shed": {"remote", "stable"}}
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		g := give(plan, v)
		for _, m := range g.messages {
			check(t, m)
		}
		for _, name := range g.routed {
			if g.clusters[name] == nil {
				t.Fatalf("a route names %s, which is not there", name)
			}
		}
		for name, c := range g.clusters {
			parts := members(t, c)
			var roles []string
			for _, part := range parts {
				if g.clusters[part] == nil {
					t.Fatalf("%s is made of %s, which is not there", name, part)
				}
				roles = append(roles, role(part))
			}
			if needs := c.GetType() == clusterv3.Cluster_EDS; needs != (g.assigned[name] != nil) {
				t.Fatalf("%s: asks for endpoints: %v, has some: %v", name, needs, g.assigned[name])
			}
			switch {
			case v.GRPC && len(parts) > 0:
				t.Fatalf("%s: a gRPC client has no aggregates", name)
			case !slices.Equal(roles, made[role(name)]):
				t.Fatalf("%s is made of %v", name, parts)
			case role(name) == "stable" && strings.Contains(c.String(), "max_stream_duration"):
				t.Fatalf("%s: stable has a limit of a try", name)
			}
		}
	})
}

// A canary and its shadow stay in their region, and in one priority, so that a retry passes over all of the canary. No
// priority is left out, which clients refuse. Versions and regions of tries are those of the endpoints that they met.
func TestEndpointsAreWhereTheyBelong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		declared := map[string]traffic.Intent{}
		for _, in := range plan.Intents {
			declared[in.Service] = in
		}
		for name, a := range give(plan, v).assigned {
			in := declared[strings.Split(name, "/")[0]]
			highest := uint32(0)
			for i, group := range a.Endpoints {
				if next := group.Priority; i == 0 && next != 0 || next != highest && next != highest+1 {
					t.Fatalf("%s: priority %d follows %d", name, next, highest)
				}
				highest = group.Priority
				region, version := group.Locality.Region, map[string]string{"stable": "v1", "remote": "v1", "canary": "v2", "shadow": "v2"}[role(name)]
				home := region == plan.Region
				switch {
				case !home && slices.Contains([]string{"canary", "shadow"}, role(name)), home && role(name) == "remote",
					!home && role(name) == "stable" && (!v.GRPC || in.Failover.Admit < traffic.Whole):
					t.Fatalf("%s has endpoints in %s", name, region)
				case group.Priority > 0 && slices.Contains([]string{"canary", "shadow"}, role(name)):
					t.Fatalf("%s has priorities", name)
				case group.LoadBalancingWeight.GetValue() == 0:
					t.Fatalf("%s: %s has no weight", name, group.Locality)
				}
				if home && role(name) == "stable" && in.NearestZone && v.Zone != "" &&
					(group.Priority == 0) != (group.Locality.Zone == v.Zone || a.Endpoints[0].Locality.Zone != v.Zone) {
					t.Fatalf("%s: zone %s has priority %d for a caller in %s", name, group.Locality.Zone, group.Priority, v.Zone)
				}
				if !home {
					for _, l := range in.Failover.Localities {
						if l.Region == region {
							version = cmp.Or(l.Version, version)
						}
					}
				}
				for _, e := range group.LbEndpoints {
					says := e.GetMetadata().GetFilterMetadata()["aviary"].AsMap()
					want := map[string]any{"service": in.Service, "version": version, "region": region}
					if role(name) == "shadow" {
						want["shadow"] = "true"
					}
					if !maps.Equal(says, want) {
						t.Fatalf("%s: an endpoint says %v, want %v", name, says, want)
					}
				}
			}
		}
	})
}

func TestWeightsAreWholeAndTheLayerNamesTheSplits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		g := give(plan, v)
		values, lease := Layer(plan, v)
		var want []string
		shortest, sheds := time.Duration(0), false
		for _, in := range Intents(plan, v) {
			failsOver := in.Failover != nil && !v.GRPC
			if splits := in.Canary != nil || failsOver; splits != (len(g.splits[in.Service]) > 0) {
				t.Fatalf("%s: a split is wanted: %v, there are %v", in.Service, splits, g.splits[in.Service])
			}
			keys := "aviary." + in.Service
			if failsOver {
				keys += ".failover"
			}
			for i, split := range g.splits[in.Service] {
				total, layered := uint32(0), uint32(0)
				var roles []string
				for _, c := range split.Clusters {
					total += c.Weight.GetValue()
					key := keys + "." + c.Name
					if i == 0 {
						want = append(want, key)
					}
					layered += uint32(values.Fields[key].GetNumberValue())
					roles = append(roles, role(c.Name))
				}
				if total != traffic.Whole || layered != traffic.Whole {
					t.Fatalf("%s: the routes' weights sum to %d, the layer's to %d", in.Service, total, layered)
				}
				order := []string{"stable"}
				if failsOver {
					order = []string{"shed", "stable", "everywhere"}
				}
				if in.Canary != nil {
					order = append(order, role(v.target(in)))
				}
				if !slices.Equal(roles, order) {
					t.Fatalf("%s: a split of %v, want %v", in.Service, roles, order)
				}
				prefix := keys
				if v.Weights == InRoutes {
					prefix = ""
				}
				if split.RuntimeKeyPrefix != prefix {
					t.Fatalf("%s: prefix %q, want %q", in.Service, split.RuntimeKeyPrefix, prefix)
				}
				for _, c := range split.Clusters {
					routed, live := c.Weight.GetValue(), uint32(values.Fields[keys+"."+c.Name].GetNumberValue())
					leased := slices.Contains([]string{"shed", "arm"}, role(c.Name))
					switch {
					case v.Weights == InRoutes && routed != live:
						t.Fatalf("%s: %d of the requests, want %d", c.Name, routed, live)
					case v.Weights == InLayer && leased && routed != 0:
						t.Fatalf("%s: without the layer it has %d of the requests", c.Name, routed)
					}
				}
			}
			if in.Canary != nil && failsOver {
				// Routes from before there was failover read theirs, to the same end.
				plain := map[string]uint32{
					"aviary." + in.Service + "." + StableCluster(in.Service, in.Stable.Version): traffic.Whole - in.Weight,
					"aviary." + in.Service + "." + v.target(in):                                 in.Weight,
				}
				for key, weight := range plain {
					want = append(want, key)
					if got := uint32(values.Fields[key].GetNumberValue()); got != weight {
						t.Fatalf("%s is %d, want %d", key, got, weight)
					}
				}
			}
			if in.Canary != nil {
				if got := Weight(values, in.Service, "v2"); !v.GRPC && got != in.Weight {
					t.Fatalf("%s: the layer's weight is read as %d, want %d", in.Service, got, in.Weight)
				}
				if in.TesterHeader != "" {
					want = append(want, "aviary."+in.Service+".testers")
				}
				shadows := v.Weights == InLayer && len(in.ShadowMethods) > 0
				if shadows {
					want = append(want, "aviary."+in.Service+".shadow")
					if got := Shadow(values, in.Service); got != in.Shadow {
						t.Fatalf("%s: %d is copied, want %d", in.Service, got, in.Shadow)
					}
				}
				if in.Weight > 0 || in.Testers && in.TesterHeader != "" || shadows && in.Shadow > 0 {
					shortest = min(cmp.Or(shortest, in.Lease), in.Lease)
				}
			}
			sheds = sheds || failsOver && in.Failover.Shed > 0
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(values.Fields)); !slices.Equal(got, want) {
			t.Fatalf("the layer has %v, want %v", got, want)
		}
		if shortest == 0 && sheds {
			shortest = 10 * time.Second
		}
		if lease != shortest {
			t.Fatalf("a lease of %v, want %v", lease, shortest)
		}
	})
}

// A user who is on the canary stays there when its neighbours have more or less room, or its region more or less to do.
func TestFailoverMovesNobodyOffTheCanary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, v := someIntent(t, "shop"), someView(t)
		if in.Failover == nil || in.Canary == nil {
			t.Skip()
		}
		// begins is where the arm's part of the hash space does; it goes on to the end.
		begins := func() (at uint32) {
			all := shares(in, v, live)
			for _, s := range all[:len(all)-1] {
				at += s.weight
			}
			if last := all[len(all)-1]; last.cluster != v.target(in) || at+last.weight != traffic.Whole {
				t.Fatalf("%v", all)
			}
			return at
		}
		before := begins()
		f := *in.Failover
		f.Admit, f.Shed = 500*rapid.Uint32Range(0, 20).Draw(t, "admit later"), rapid.Uint32Range(0, traffic.Whole).Draw(t, "shed later")
		in.Failover = &f
		if after := begins(); after != before {
			t.Fatalf("the arm began at %d and begins at %d", before, after)
		}
	})
}

// With every endpoint of the own region out, exactly the admitted part of what is not the canary's may go on.
func TestTheSplitBoundsTheFailover(t *testing.T) {
	for _, c := range []struct {
		name                                 string
		weight, admit, shed                  uint32
		wantShed, wantStable, wantEverywhere uint32
	}{
		{"all", 0, 10_000, 0, 0, 0, 10_000},
		{"nothing", 0, 0, 0, 0, 10_000, 0},
		{"a part", 500, 3000, 0, 0, 6650, 2850},
		{"rounded down", 125, 3500, 0, 0, 6419, 3456},
		{"a part beside what is shed", 1000, 5000, 3000, 3000, 3000, 3000},
		{"more is shed than the canary leaves", 4000, 10_000, 9000, 6000, 0, 0},
		{"the canary has all", 10_000, 10_000, 500, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := traffic.Intent{Service: "shop", Stable: traffic.Arm{Version: "v1"}, Canary: &traffic.Arm{Version: "v2"}, Weight: c.weight,
				Failover: &traffic.Failover{Admit: c.admit, Shed: c.shed}}
			want := []share{
				{"shop/shed/v1", c.wantShed}, {"shop/stable/v1", c.wantStable}, {"shop/everywhere/v1", c.wantEverywhere}, {"shop/arm/v2", c.weight},
			}
			if got := shares(in, View{}, live); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// What is given for stable must not depend on the canary: else a canary that begins, widens or ends would have Envoy make
// stable's cluster anew, with its connections and ejections.
func TestACanaryLeavesStableAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, v := someIntent(t, "shop"), someView(t)
		without := in
		without.Canary, without.Weight, without.Shadow, without.Testers = nil, 0, 0, false
		if !proto.Equal(Clusters(in, v)[0], Clusters(without, v)[0]) || !proto.Equal(Assignments(in, v)[0], Assignments(without, v)[0]) {
			t.Fatal("stable's cluster is another one beside a canary")
		}
	})
}

// A region that is relieved has stable's clusters made anew with lower limits, and none that a canary is in: they would
// forget what they ejected.
func TestReliefLeavesTheCanaryAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, v := someIntent(t, "shop"), someView(t)
		relieved := in
		relieved.Tight = &traffic.Limits{Connections: 5, Pending: 6, Requests: 7}
		before, after := Clusters(in, v), Clusters(relieved, v)
		for i := range after {
			own := slices.Contains([]string{"stable", "remote"}, role(after[i].Name))
			if own == proto.Equal(before[i], after[i]) {
				t.Fatalf("%s: stable's: %v, the same: %v", after[i].Name, own, !own)
			}
			if limits := after[i].GetCircuitBreakers().GetThresholds(); own && (limits[0].GetMaxRequests().GetValue() != 7 || limits[1].GetMaxPendingRequests().GetValue() != 6) {
				t.Fatalf("%s: %v", after[i].Name, limits)
			}
		}
	})
}

// A gRPC client refuses an assignment that has an address twice, wherever it is.
func TestAGRPCClientIsGivenAnAddressOnce(t *testing.T) {
	at := func(region, zone string, priority uint32, hosts ...string) traffic.Locality {
		l := traffic.Locality{Region: region, Zone: zone, Priority: priority}
		for _, host := range hosts {
			l.Endpoints = append(l.Endpoints, traffic.Endpoint{Host: host, Port: 80})
		}
		return l
	}
	in := traffic.Intent{
		Service:  "shop",
		Stable:   traffic.Arm{Version: "v1", Localities: []traffic.Locality{at("eu-west", "a", 0, "10.0.0.1", "10.0.0.2"), at("eu-west", "b", 0, "10.0.0.2", "10.0.0.3")}},
		Canary:   &traffic.Arm{Version: "v2", Localities: []traffic.Locality{at("eu-west", "a", 0, "10.0.0.9"), at("eu-west", "b", 0, "10.0.0.9")}},
		Failover: &traffic.Failover{Admit: traffic.Whole, Localities: []traffic.Locality{at("eu-north", "a", 0, "10.0.0.3", "10.64.0.1")}},
	}
	var got []string
	for _, a := range Assignments(in, View{GRPC: true, Weights: InRoutes}) {
		for _, group := range a.Endpoints {
			var hosts []string
			for _, e := range group.LbEndpoints {
				hosts = append(hosts, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
			}
			got = append(got, fmt.Sprint(role(a.ClusterName), group.Priority, group.LoadBalancingWeight.GetValue(), hosts))
		}
	}
	want := []string{"stable0 2 [10.0.0.1 10.0.0.2]", "stable0 1 [10.0.0.3]", "stable1 1 [10.64.0.1]", "canary0 1 [10.0.0.9]", "canary0 1 []"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := len(in.Stable.Localities[1].Endpoints); n != 2 {
		t.Errorf("the plan has %d endpoints left", n)
	}
}

// A tester who names stable goes past the split, and so past what bounds the failover.
func TestTestersOfStableDoNotOverrunTheOthers(t *testing.T) {
	for admit, want := range map[uint32]string{0: "shop/stable/v1", 9500: "shop/stable/v1", traffic.Whole: "shop/everywhere/v1"} {
		in := traffic.Intent{Service: "shop", TesterHeader: "x-version", Stable: traffic.Arm{Version: "v1"}, Failover: &traffic.Failover{Admit: admit}}
		if got := testers(in, View{})[0].GetRoute().GetCluster(); got != want {
			t.Errorf("admitting %d they go to %s", admit, got)
		}
	}
}

// A weight is a value of the layer and nothing else, so that no other resource is sent when it changes.
func TestALeasedWeightIsInTheLayerAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		if v.Weights != InLayer {
			t.Skip()
		}
		before := give(plan, v)
		for i := range plan.Intents {
			in := &plan.Intents[i]
			if in.Canary != nil {
				someShares(t, in)
				in.Testers = !in.Testers
			}
			if in.Failover != nil {
				f := *in.Failover
				f.Shed = rapid.Uint32Range(0, traffic.Whole).Draw(t, "shed later")
				in.Failover = &f
			}
		}
		after := give(plan, v)
		for i := range before.messages {
			if !proto.Equal(before.messages[i], after.messages[i]) {
				t.Fatalf("%T changed with the weights", before.messages[i])
			}
		}
	})
}

func TestTheSameViewIsTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, v := somePlan(t), someView(t)
		a, b := give(plan, v), give(plan, v)
		for i := range a.messages {
			encode := func(m proto.Message) string {
				text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			if encode(a.messages[i]) != encode(b.messages[i]) {
				t.Fatalf("two encodings of one %T", a.messages[i])
			}
		}
	})
}
