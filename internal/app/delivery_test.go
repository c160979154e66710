package app

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

func shop(stable string, canary *traffic.Arm, weight uint32) traffic.Plan {
	return traffic.Plan{Region: "eu", Intents: []traffic.Intent{{
		Service: "shop", Stable: traffic.Arm{Version: stable, Digest: "d-" + stable}, Canary: canary, Weight: weight,
	}}}
}

// A promoted canary's shares stay in the layer until something else takes their place.
func TestKeepPromoted(t *testing.T) {
	v2, v3 := &traffic.Arm{Version: "v2", Digest: "d-v2"}, &traffic.Arm{Version: "v3", Digest: "d-v3"}
	r := &region{promoted: map[string]traffic.Intent{}}
	for _, step := range []struct {
		what string
		plan traffic.Plan
		want uint32 // the share that is kept
	}{
		{"a canary at half", shop("v1", v2, 5000), 0},
		{"is promoted", shop("v2", nil, 0), 5000},
		{"and an edit comes", shop("v2", nil, 0), 5000},
		{"and the next canary", shop("v2", v3, 100), 0},
		{"which is aborted", shop("v2", v3, 0), 0},
		{"and withdrawn", shop("v2", nil, 0), 0},
		{"another build by that name", shop("v1", v2, 100), 0},
		{"is not what was promoted", traffic.Plan{Intents: []traffic.Intent{{Service: "shop", Stable: traffic.Arm{Version: "v2", Digest: "other"}}}}, 0},
	} {
		r.keepPromoted(step.plan)
		r.plan = step.plan
		if got := r.promoted["shop"].Weight; got != step.want {
			t.Errorf("%s: %d is kept, want %d", step.what, got, step.want)
		}
	}
}

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
		{"our gateway on a port", &corev3.Node{UserAgentName: "envoy", Metadata: ours(map[string]any{"lease": true, "gateway": true, "port": 9000})},
			resource.View{Service: "front", Weights: resource.InLayer, Gateway: true, Port: 9000}, "/gateway:9000"},
		{"somebody else's Envoy", &corev3.Node{UserAgentName: "envoy"},
			resource.View{Service: "front", Weights: resource.InRoutes}, "/sidecar-unleased"},
		{"proxyless gRPC", &corev3.Node{UserAgentName: "gRPC Go", Metadata: ours(map[string]any{"lease": true})},
			resource.View{Service: "front", Weights: resource.InRoutes, GRPC: true}, "/grpc"},
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
