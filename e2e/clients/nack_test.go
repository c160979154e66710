package clients

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// TestARefusedRouteLeavesTheLastGoodOne gives an Envoy routes that it refuses: the text is kept, traffic goes on by the
// routes before, nothing is sent again until the content changes, and then all is well.
func TestARefusedRouteLeavesTheLastGoodOne(t *testing.T) {
	server := ads.New(ads.Config{Identify: func(_ context.Context, n *corev3.Node) (ads.Client, error) {
		return ads.Client{Proxy: n.GetId(), Region: "eu", Service: "front", View: "v", Lease: true}, nil
	}})
	t.Cleanup(server.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(server.Options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, server)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)

	shop, err := lab.StartInstance(lab.InstanceOptions{Service: "shop", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shop.Close)
	port, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)

	plan := func(timeout time.Duration) traffic.Plan {
		at := shop.Address()
		host, number, _ := net.SplitHostPort(at)
		var n uint32
		_, _ = fmt.Sscan(number, &n)
		return traffic.Plan{Region: "eu", Callers: map[string][]string{"front": {"shop"}}, Intents: []traffic.Intent{{
			Service: "shop", Hosts: []string{"shop.example"}, Protocol: traffic.HTTP, Timeout: timeout,
			Stable: traffic.Arm{Version: "v1", Localities: []traffic.Locality{{Region: "eu", Zone: "a", Endpoints: []traffic.Endpoint{{Host: host, Port: n}}}}},
		}}}
	}
	view := resource.View{Service: "front", Port: uint32(port.Number())}
	publish := func(p traffic.Plan, spoil func(*routev3.RouteConfiguration)) {
		t.Helper()
		var all []*ads.Resource
		for _, in := range resource.Intents(p, view) {
			for _, c := range resource.Clusters(in, view) {
				all = append(all, encoded(t, func() (*ads.Resource, error) { return ads.NewResource(c.Name, c) }))
			}
			for _, a := range resource.Assignments(in, view) {
				all = append(all, encoded(t, func() (*ads.Resource, error) { return ads.NewResource(a.ClusterName, a) }))
			}
		}
		for _, l := range resource.Listeners(p, view) {
			all = append(all, encoded(t, func() (*ads.Resource, error) { return ads.NewResource(l.Name, l) }))
		}
		for _, r := range resource.Routes(p, view) {
			spoil(r)
			all = append(all, encoded(t, func() (*ads.Resource, error) { return ads.NewResource(r.Name, r) }))
		}
		snap, err := ads.NewSnapshot(all...)
		if err != nil {
			t.Fatal(err)
		}
		server.Publish("v", snap, ads.Routine)
	}
	if err := server.PublishLayer("v", ads.Layer{Name: "aviary"}); err != nil {
		t.Fatal(err)
	}
	publish(plan(time.Second), func(*routev3.RouteConfiguration) {})

	text, err := bootstrap.Render(bootstrap.Options{
		ID: "front-1", Service: "front", Region: "eu", Port: port.Number(), Edges: signal.Edges, Servers: []string{listener.Addr().String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := lab.StartEnvoy(context.Background(), lab.Options{Name: "front-1", Bootstrap: text})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Kill)
	get := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+port.Address()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.example"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	routes := func() ads.TypeStatus {
		for _, p := range server.Proxies() {
			for _, s := range p.Types {
				if s.Type == ads.Route {
					return s
				}
			}
		}
		return ads.TypeStatus{}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %+v", what, routes())
			}
		}
	}
	until("served", func() bool { return get() == http.StatusOK })
	good := routes().Acked

	publish(plan(2*time.Second), func(r *routev3.RouteConfiguration) {
		r.VirtualHosts = append(r.VirtualHosts, &routev3.VirtualHost{Name: "twin", Domains: []string{"shop.example"}})
	})
	until("refused", func() bool { return routes().State == ads.Nacked })
	refused := routes()
	if !strings.Contains(refused.Nack, "unique") || refused.Acked != good {
		t.Errorf("the NACK says %q, and %q is ACKed, want %q", refused.Nack, refused.Acked, good)
	}
	t.Logf("NACK: %s", refused.Nack)
	sent := server.Stats().Pushes[ads.Route]
	for range 50 {
		if code := get(); code != http.StatusOK {
			t.Fatalf("%d by the last good routes", code)
		}
		time.Sleep(20 * time.Millisecond) // time in which a loop would show
	}
	if again := server.Stats().Pushes[ads.Route]; again != sent {
		t.Errorf("refused routes were sent %d more times", again-sent)
	}
	publish(plan(3*time.Second), func(*routev3.RouteConfiguration) {})
	until("synced", func() bool { return routes().State == ads.Synced })
	if routes().Nack != "" || get() != http.StatusOK {
		t.Errorf("after the mend: %+v", routes())
	}
}

func encoded(t *testing.T, f func() (*ads.Resource, error)) *ads.Resource {
	t.Helper()
	r, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return r
}
