package app

import (
	"maps"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/internal/control"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// ours is what our bootstrap says of a node.
func ours(t *testing.T, fields map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(map[string]any{"aviary": fields})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestViewOf(t *testing.T) {
	for _, c := range []struct {
		name string
		node *corev3.Node
		want resource.View
		kind string
	}{
		{"our sidecar", &corev3.Node{UserAgentName: "envoy", Metadata: ours(t, map[string]any{"lease": true})},
			resource.View{Service: "front", Weights: resource.InLayer}, "/sidecar"},
		{"our sidecar in a zone", &corev3.Node{UserAgentName: "envoy", Metadata: ours(t, map[string]any{"lease": true}), Locality: &corev3.Locality{Region: "eu", Zone: "a"}},
			resource.View{Service: "front", Weights: resource.InLayer, Zone: "a"}, "/sidecar@a"},
		{"our gateway on a port", &corev3.Node{UserAgentName: "envoy", Metadata: ours(t, map[string]any{"lease": true, "gateway": true, "port": 9000})},
			resource.View{Service: "front", Weights: resource.InLayer, Gateway: true, Port: 9000}, "/gateway:9000"},
		{"somebody else's Envoy", &corev3.Node{UserAgentName: "envoy"},
			resource.View{Service: "front", Weights: resource.InRoutes}, "/sidecar-unleased"},
		{"proxyless gRPC in a zone", &corev3.Node{UserAgentName: "gRPC Go", Metadata: ours(t, map[string]any{"lease": true}), Locality: &corev3.Locality{Zone: "b"}},
			resource.View{Service: "front", Weights: resource.InRoutes, GRPC: true, Zone: "b"}, "/grpc@b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := viewOf(c.node, identity{node: "n", region: "eu", service: "front"})
			if err != nil || got != c.want || kind(got) != c.kind {
				t.Errorf("%+v (%s), %v; want %+v (%s)", got, kind(got), err, c.want, c.kind)
			}
		})
	}
	if _, err := viewOf(&corev3.Node{Metadata: ours(t, map[string]any{"port": 70000})}, identity{}); err == nil {
		t.Error("port 70000 is taken")
	}
}

// Clients of zones without endpoints are of one kind, whatever they invent, and a layer is made once for all zones.
func TestZonesThatMakeNoDifference(t *testing.T) {
	r := deliver(t)
	r.Publish(within("eu", "10.0.1.1", 1000), false)
	views := map[string]bool{}
	ctx := peer.NewContext(t.Context(), &peer.Peer{})
	for _, zone := range []string{"a", "", "x", "y", "z"} {
		client, err := r.identify(ctx, &corev3.Node{
			Id: "front-" + zone, Cluster: "front", Locality: &corev3.Locality{Region: "eu", Zone: zone},
			Metadata: ours(t, map[string]any{"lease": true}),
		})
		if err != nil {
			t.Fatal(err)
		}
		views[client.View] = true
	}
	if want := map[string]bool{"eu/front/sidecar": true, "eu/front/sidecar@a": true}; !maps.Equal(views, want) {
		t.Fatalf("the views are %v, want %v", views, want)
	}
	r.settle("eu")
	from := r.out.len()
	r.Publish(within("eu", "10.0.1.1", 500), true)
	one, other := r.out.of("eu/front/sidecar", from), r.out.of("eu/front/sidecar@a", from)
	if len(one) != 1 || len(other) != 1 || one[0].layer == nil || one[0].layer != other[0].layer {
		t.Error("the layer is made for each zone")
	}
}

// A proxy that still copies has not followed to a plan without copies, nor with fewer; one that copies less has.
func TestEffectWaitsForCopiesToEnd(t *testing.T) {
	r := deliver(t)
	server := ads.New(ads.Config{Identify: r.identify})
	defer server.Close()
	r.ads, r.to = server, server
	plan := within("eu", "10.0.1.1", 0)
	plan.Intents[0].Shadow, plan.Intents[0].ShadowMethods = 1000, []string{"GET"}
	r.Publish(plan, false)
	stream := dial(t, server)
	node := &corev3.Node{
		Id: "front-1", Cluster: "front", Locality: &corev3.Locality{Region: "eu"}, Metadata: ours(t, map[string]any{"lease": true}),
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: ads.Runtime.URL(), ResourceNamesSubscribe: []string{layerName}}); err != nil {
		t.Fatal(err)
	}
	acknowledge := func() {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: ads.Runtime.URL(), ResponseNonce: resp.GetNonce()}); err != nil {
			t.Fatal(err)
		}
	}
	// follows waits until as many proxies as are wanted have followed to a plan with a shadow.
	follows := func(shadow uint32, want int) {
		t.Helper()
		var e control.Effect
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if e = r.effect("eu", "shop", "v2", 0, shadow); e.Proxies == 1 && e.Acked == want {
				return
			}
		}
		t.Fatalf("to a shadow of %d: %+v, want %d acked", shadow, e, want)
	}
	acknowledge() // of nothing, as nobody vouched for it
	server.Renew("eu/front/front-1")
	acknowledge()
	follows(0, 0)
	follows(1000, 1)
	follows(2000, 1)
	follows(999, 0)
	plan.Intents = slices.Clone(plan.Intents)
	plan.Intents[0].Shadow = 0
	r.Publish(plan, true)
	if e := r.effect("eu", "shop", "v2", 0, 0); e.Acked != 0 {
		t.Errorf("before the proxy acknowledges: %+v", e)
	}
	acknowledge()
	follows(0, 1)
}

func TestLacks(t *testing.T) {
	leased := resource.View{Weights: resource.InLayer}
	unleased := resource.View{Weights: resource.InRoutes}
	grpc := resource.View{Weights: resource.InRoutes, GRPC: true}
	plain := traffic.Intent{Service: "cart"}
	shadowed := traffic.Intent{Service: "shop", Shadow: 100}
	half := traffic.Intent{Service: "shop", Failover: &traffic.Failover{Admit: traffic.Whole / 2}}
	whole := traffic.Intent{Service: "shop", Failover: &traffic.Failover{Admit: traffic.Whole}}
	for _, c := range []struct {
		name string
		view resource.View
		sees []traffic.Intent
		want []string
	}{
		{"ours calls nothing", leased, nil, []string{"services"}},
		{"ours", leased, []traffic.Intent{plain, shadowed, half}, nil},
		{"somebody else's", unleased, []traffic.Intent{plain, half}, []string{"lease"}},
		{"somebody else's beside a shadow", unleased, []traffic.Intent{plain, shadowed}, []string{"lease", "shadow"}},
		{"gRPC, and neighbours take all", grpc, []traffic.Intent{plain, whole}, []string{"lease", "retry-on-stable", "exact-counts"}},
		{"gRPC, and neighbours take half", grpc, []traffic.Intent{plain, half, shadowed}, []string{"lease", "retry-on-stable", "exact-counts", "shadow", "failover"}},
	} {
		if got := lacks(c.view, c.sees); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
