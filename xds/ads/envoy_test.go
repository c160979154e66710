package ads

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestEnvoy holds the server against a real Envoy: everything is ACKed, the lease's heartbeats keep the layer, its end takes
// it away, and a change from one cluster to another loses no request.
func TestEnvoy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Envoys")
	}
	binary := envoyBinary()
	if binary == "" {
		t.Fatal("no Envoy, neither $AVIARY_ENVOY, nor on PATH, nor in .tools: run `make envoy`")
	}
	for _, transport := range []Transport{Delta, Sotw} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			realEnvoy(t, binary, transport)
		})
	}
}

func envoyBinary() string {
	if p := os.Getenv("AVIARY_ENVOY"); p != "" {
		return p
	}
	if p, err := exec.LookPath("envoy"); err == nil {
		return p
	}
	if p, err := filepath.Abs("../../.tools/envoy/envoy"); err == nil {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func realEnvoy(t *testing.T, binary string, transport Transport) {
	s := New(Config{Identify: byNode, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	gs := grpc.NewServer(s.Options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, s)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = gs.Serve(lis) }()
	t.Cleanup(func() { s.Close(); gs.Stop(); <-served })
	upstream := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })}
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() { defer close(answered); _ = upstream.Serve(up) }()
	t.Cleanup(func() { upstream.Close(); <-answered })

	port, admin := freePort(t), freePort(t)
	view := func(cluster, variant string) *Snapshot {
		return must(NewSnapshot(envoyCluster(cluster, variant), envoyEndpoints(cluster, up.Addr().(*net.TCPAddr).Port),
			envoyListener("l", port), envoyRoutes("r", cluster)))
	}
	s.Publish("v", view("a", ""), Routine)
	const ttl = 1200 * time.Millisecond
	if err := s.PublishLayer("v", layerOf(ttl, map[string]any{"w.canary": 500})); err != nil {
		t.Fatal(err)
	}
	startEnvoy(t, binary, transport, lis.Addr().(*net.TCPAddr).Port, admin)

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	get := func(url string) (int, string) {
		resp, err := client.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	runtimeHas := func() bool {
		_, body := get(fmt.Sprintf("http://127.0.0.1:%d/runtime", admin))
		var out struct {
			Entries map[string]json.RawMessage
		}
		_ = json.Unmarshal([]byte(body), &out)
		return out.Entries["w.canary"] != nil
	}
	synced := func() bool {
		all := s.Proxies()
		if len(all) != 1 {
			return false
		}
		for _, ty := range all[0].Types {
			if ty.State != Synced {
				return false
			}
		}
		return true
	}
	within(t, "synced", synced)
	within(t, "serving", func() bool { code, _ := get(url); return code == 200 })

	// The lease: nothing without a renewal; heartbeats keep it; without any it goes, in the sidecar itself.
	if runtimeHas() {
		t.Error("the layer is live though nobody vouched for the proxy")
	}
	s.Renew("p")
	within(t, "live layer", runtimeHas)
	for end := time.Now().Add(3 * ttl); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		s.Renew("p")
		if !runtimeHas() {
			t.Fatal("the layer went though its lease was renewed")
		}
	}
	if n := s.Stats().Heartbeats; n < 5 {
		t.Error("heartbeats:", n)
	}
	within(t, "lapse", func() bool { return !runtimeHas() })
	within(t, "lapse seen", func() bool { return s.Proxies()[0].Lease == LeaseLapsed })
	s.Renew("p")
	within(t, "live layer again", runtimeHas)
	if err := s.PublishLayer("v", layerOf(0, nil)); err != nil {
		t.Fatal(err)
	}
	within(t, "no layer", func() bool { return !runtimeHas() })

	// From cluster to cluster, and changes of the cluster itself, with requests all the while.
	stop, failures := make(chan struct{}), make(chan string)
	go func() {
		defer close(failures)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if code, body := get(url); code != 200 {
				failures <- fmt.Sprint(code, " ", body)
				return
			}
		}
	}()
	for i := range 20 {
		next := view([]string{"b", "a"}[i%2], strings.Repeat("x", i/2))
		s.Publish("v", next, Routine)
		within(t, "synced", func() bool {
			return synced() && s.Proxies()[0].Types[Route].Acked == next.Version(Route) && s.Proxies()[0].Types[Cluster].Acked == next.Version(Cluster)
		})
	}
	close(stop)
	for f := range failures {
		t.Error("a request failed:", f)
	}
	st := s.Stats()
	if st.Nacks != [numTypes]uint64{} || st.Closed != 0 {
		t.Errorf("%+v", st)
	}
	t.Logf("kill lane: %d ACKs, p50 %v, p99 %v, max %v", st.Kill.Count, st.Kill.Quantile(.5), st.Kill.Quantile(.99), st.Kill.Max)
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

func startEnvoy(t *testing.T, binary string, transport Transport, ads, admin int) {
	api := map[Transport]string{Delta: "DELTA_GRPC", Sotw: "GRPC"}[transport]
	bootstrap := fmt.Sprintf(`
node: {id: p, cluster: v}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
layered_runtime:
  layers: [{name: aviary, rtds_layer: {name: aviary, rtds_config: {ads: {}, resource_api_version: V3}}}]
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`, admin, api, ads)
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", path, "--use-dynamic-base-id", "--concurrency", "2", "-l", "warning")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func address(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

func envoyCluster(name, variant string) *Resource {
	return must(NewResource(name, &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
		ConnectTimeout:   durationpb.New(time.Second + time.Duration(len(variant))*time.Millisecond),
	}))
}

func envoyEndpoints(name string, port int) *Resource {
	return must(NewResource(name, &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: address(port)}}}}}}}))
}

func envoyRoutes(name, cluster string) *Resource {
	return must(NewResource(name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
		}}}}}))
}

func envoyListener(name string, port int) *Resource {
	hcm := must(anypb.New(&hcmv3.HttpConnectionManager{
		StatPrefix:     name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "r", ConfigSource: adsSource()}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: must(anypb.New(&routerv3.Router{}))}}},
	}))
	return must(NewResource(name, &listenerv3.Listener{Name: name, Address: address(port), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}}}}}))
}
