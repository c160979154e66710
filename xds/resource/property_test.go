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
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// someDuration may be 0, which is "none" in an intent.
func someDuration(t *rapid.T, label string) time.Duration {
	return time.Duration(rapid.IntRange(0, 5000).Draw(t, label)) * time.Millisecond
}

func someOf(t *rapid.T, label string, all ...string) []string {
	if len(all) == 0 {
		return nil
	}
	picked := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, len(all), rapid.ID[string]).Draw(t, label)
	slices.Sort(picked)
	return picked
}

func someArm(t *rapid.T, version string) traffic.Arm {
	arm := traffic.Arm{Version: version}
	for priority := range rapid.IntRange(0, 2).Draw(t, "localities") {
		l := traffic.Locality{Region: "eu-west", Zone: "a", Priority: uint32(priority)}
		for n := range rapid.IntRange(0, 3).Draw(t, "endpoints") {
			l.Endpoints = append(l.Endpoints, traffic.Endpoint{Host: fmt.Sprintf("10.%d.0.%d", priority, n), Port: 80})
		}
		arm.Localities = append(arm.Localities, l)
	}
	return arm
}

func someIntent(t *rapid.T, service string) traffic.Intent {
	in := traffic.Intent{
		Service:      service,
		Hosts:        []string{service + ".example", "*." + service + ".example"}[:rapid.IntRange(1, 2).Draw(t, "hosts")],
		Protocol:     rapid.SampledFrom([]traffic.Protocol{traffic.HTTP, traffic.HTTP2, traffic.GRPC}).Draw(t, "protocol"),
		Stable:       someArm(t, "v1"),
		Timeout:      someDuration(t, "timeout"),
		HangLimit:    someDuration(t, "hang limit"),
		RetryOn:      someOf(t, "retry on", "5xx", "reset", "unavailable"),
		RetryMethods: someOf(t, "methods", "GET", "HEAD", "POST"),
		TesterHeader: rapid.SampledFrom([]string{"", "x-version"}).Draw(t, "tester header"),
		Limits:       traffic.Limits{Retries: rapid.SampledFrom([]uint32{0, 1, 500}).Draw(t, "retries")},
	}
	switch rapid.IntRange(0, 2).Draw(t, "sticky") {
	case 1:
		in.StickyHeader = "x-user"
	case 2:
		in.StickyCookie, in.CookieTTL = "user", someDuration(t, "cookie ttl")
	}
	if rapid.Bool().Draw(t, "health") {
		in.Health = &traffic.Health{Interval: time.Second, Timeout: time.Second, UnhealthyAfter: 3, HealthyAfter: 2,
			Path: rapid.SampledFrom([]string{"", "/healthz"}).Draw(t, "path")}
	}
	if rapid.Bool().Draw(t, "canary") {
		arm := someArm(t, "v2")
		in.Canary = &arm
		in.Weight = rapid.Uint32Range(0, traffic.Whole).Draw(t, "weight")
		in.Testers = rapid.Bool().Draw(t, "testers")
		in.Lease = time.Second + someDuration(t, "lease")
	}
	return in
}

func somePlan(t *rapid.T) traffic.Plan {
	services := someOf(t, "services", "cart", "shop", "mail.api")
	plan := traffic.Plan{Region: "eu-west", Callers: map[string][]string{"front": someOf(t, "calls", services...)}}
	for _, service := range services {
		plan.Intents = append(plan.Intents, someIntent(t, service))
	}
	return plan
}

func someView(t *rapid.T) View {
	v := View{Service: "front"}
	if rapid.Bool().Draw(t, "grpc") {
		v.GRPC, v.Weights = true, InRoutes
		return v
	}
	v.Gateway = rapid.Bool().Draw(t, "gateway")
	v.Weights = rapid.SampledFrom([]WeightsIn{InLayer, InRoutes}).Draw(t, "weights in")
	v.Port = rapid.SampledFrom([]uint32{0, 9000}).Draw(t, "port")
	return v
}

// given is all that a view is given.
type given struct {
	messages []proto.Message
	clusters map[string]*clusterv3.Cluster
	assigned map[string]bool
	splits   map[string]*routev3.WeightedCluster // by virtual host, which has the service's name
	routed   []string                            // clusters that routes name
	stable   map[string]bool                     // clusters that carry a stable version
}

func give(plan traffic.Plan, v View) given {
	g := given{clusters: map[string]*clusterv3.Cluster{}, assigned: map[string]bool{}, splits: map[string]*routev3.WeightedCluster{},
		stable: map[string]bool{}}
	for _, l := range Listeners(plan, v) {
		g.messages = append(g.messages, l)
	}
	for _, in := range Intents(plan, v) {
		g.stable[StableCluster(in.Service, in.Stable.Version)] = true
		for _, c := range Clusters(in, v) {
			g.messages = append(g.messages, c)
			g.clusters[c.Name] = c
		}
		for _, a := range Assignments(in, v) {
			g.messages = append(g.messages, a)
			g.assigned[a.ClusterName] = true
		}
	}
	for _, config := range Routes(plan, v) {
		g.messages = append(g.messages, config)
		for _, host := range config.VirtualHosts {
			for _, r := range host.Routes {
				if name := r.GetRoute().GetCluster(); name != "" {
					g.routed = append(g.routed, name)
				}
				if split := r.GetRoute().GetWeightedClusters(); split != nil {
					g.splits[host.Name] = split
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

func TestWhatAViewIsGivenHoldsTogether(t *testing.T) {
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
			for _, part := range parts {
				if g.clusters[part] == nil {
					t.Fatalf("%s is made of %s, which is not there", name, part)
				}
			}
			if needs := c.GetType() == clusterv3.Cluster_EDS; needs != g.assigned[name] {
				t.Fatalf("%s: asks for endpoints: %v, has some: %v", name, needs, g.assigned[name])
			}
			switch {
			case v.GRPC && len(parts) > 0:
				t.Fatalf("%s: a gRPC client has no arm", name)
			case len(parts) > 0 && (len(parts) != tries || !g.stable[parts[len(parts)-1]]):
				t.Fatalf("%s is made of %v", name, parts)
			case g.stable[name] && strings.Contains(c.String(), "max_stream_duration"):
				t.Fatalf("%s: stable has a limit of a try", name)
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
		shortest := time.Duration(0)
		for _, in := range Intents(plan, v) {
			split := g.splits[in.Service]
			if (in.Canary != nil) != (split != nil) {
				t.Fatalf("%s: a canary: %v, a split: %v", in.Service, in.Canary != nil, split)
			}
			if split == nil {
				continue
			}
			total, layered := uint32(0), uint32(0)
			for i, c := range split.Clusters {
				total += c.Weight.GetValue()
				key := "aviary." + in.Service + "." + c.Name
				want = append(want, key)
				layered += uint32(values.Fields[key].GetNumberValue())
				if stable := StableCluster(in.Service, in.Stable.Version); (i == 0) != (c.Name == stable) {
					t.Fatalf("%s: %s is number %d of the split", in.Service, c.Name, i)
				}
			}
			if total != traffic.Whole || layered != traffic.Whole {
				t.Fatalf("%s: the routes' weights sum to %d, the layer's to %d", in.Service, total, layered)
			}
			canary := split.Clusters[1].Weight.GetValue()
			switch {
			case v.Weights == InLayer && (canary != 0 || split.RuntimeKeyPrefix != "aviary."+in.Service):
				t.Fatalf("%s: without the layer %d of the requests reach the canary, prefix %q", in.Service, canary, split.RuntimeKeyPrefix)
			case v.Weights == InRoutes && (canary != in.Weight || split.RuntimeKeyPrefix != ""):
				t.Fatalf("%s: %d of the requests reach the canary, prefix %q, want %d", in.Service, canary, split.RuntimeKeyPrefix, in.Weight)
			}
			if v.Weights == InLayer && Weight(values, in.Service, in.Canary.Version) != in.Weight {
				t.Fatalf("%s: the layer's weight is read as %d, want %d", in.Service, Weight(values, in.Service, in.Canary.Version), in.Weight)
			}
			if in.TesterHeader != "" {
				want = append(want, testersKey(in.Service))
			}
			if in.Weight > 0 || in.Testers && in.TesterHeader != "" {
				shortest = min(cmp.Or(shortest, in.Lease), in.Lease)
			}
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(values.Fields)); !slices.Equal(got, want) {
			t.Fatalf("the layer has %v, want %v", got, want)
		}
		if lease != shortest {
			t.Fatalf("a lease of %v, want %v", lease, shortest)
		}
	})
}

// What is given for stable must not depend on the canary: else a canary that begins, widens or ends would have Envoy make
// stable's cluster anew, with its connections and ejections.
func TestACanaryLeavesStableAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, v := someIntent(t, "shop"), someView(t)
		without := in
		without.Canary, without.Weight, without.Testers = nil, 0, false
		if !proto.Equal(Clusters(in, v)[0], Clusters(without, v)[0]) || !proto.Equal(Assignments(in, v)[0], Assignments(without, v)[0]) {
			t.Fatal("stable's cluster is another one beside a canary")
		}
	})
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
			if in := &plan.Intents[i]; in.Canary != nil {
				in.Weight, in.Testers = rapid.Uint32Range(0, traffic.Whole).Draw(t, "weight"), !in.Testers
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
