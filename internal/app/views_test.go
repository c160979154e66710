package app

import (
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

func TestViewOf(t *testing.T) {
	ours := func(fields map[string]any) *structpb.Struct {
		s, err := structpb.NewStruct(map[string]any{"aviary": fields})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name string
		node *corev3.Node
		want resource.View
		kind string
	}{
		{"our sidecar", &corev3.Node{UserAgentName: "envoy", Metadata: ours(map[string]any{"lease": true})},
			resource.View{Service: "front", Weights: resource.InLayer}, "/sidecar"},
		{"our sidecar in a zone", &corev3.Node{UserAgentName: "envoy", Metadata: ours(map[string]any{"lease": true}), Locality: &corev3.Locality{Region: "eu", Zone: "a"}},
			resource.View{Service: "front", Weights: resource.InLayer, Zone: "a"}, "/sidecar@a"},
		{"our gateway on a port", &corev3.Node{UserAgentName: "envoy", Metadata: ours(map[string]any{"lease": true, "gateway": true, "port": 9000})},
			resource.View{Service: "front", Weights: resource.InLayer, Gateway: true, Port: 9000}, "/gateway:9000"},
		{"somebody else's Envoy", &corev3.Node{UserAgentName: "envoy"},
			resource.View{Service: "front", Weights: resource.InRoutes}, "/sidecar-unleased"},
		{"proxyless gRPC in a zone", &corev3.Node{UserAgentName: "gRPC Go", Metadata: ours(map[string]any{"lease": true}), Locality: &corev3.Locality{Zone: "b"}},
			resource.View{Service: "front", Weights: resource.InRoutes, GRPC: true, Zone: "b"}, "/grpc@b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := viewOf(c.node, identity{node: "n", region: "eu", service: "front"})
			if err != nil || got != c.want || kind(got) != c.kind {
				t.Errorf("%+v (%s), %v; want %+v (%s)", got, kind(got), err, c.want, c.kind)
			}
		})
	}
	if _, err := viewOf(&corev3.Node{Metadata: ours(map[string]any{"port": 70000})}, identity{}); err == nil {
		t.Error("port 70000 is taken")
	}
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
