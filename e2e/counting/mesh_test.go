package counting

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
	"github.com/aviary-mesh/aviary/xds/resource"
	"github.com/aviary-mesh/aviary/xds/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	home         = "eu" // the sidecar's region
	armHeader    = "x-arm"
	shadowHeader = "x-shadow"
	flushEvery   = 100 * time.Millisecond
	hangLimit    = 500 * time.Millisecond // of a try on a canary
	routeTimeout = 700 * time.Millisecond
	patience     = 10 * time.Second // for what must come, on a machine that does much else
)

// mesh is one sidecar in front of one service: v1 is stable, v2 the canary, and v3 a canary with room for one request. Both
// have a shadow too, and v4 has one alone, without a limit of a try.
type mesh struct {
	t         *testing.T
	protocol  lab.Protocol
	instances map[string]*lab.Instance
	envoy     *lab.Envoy
	address   string
	seen      *seen
}

// newMesh starts all of it. The routes, clusters and endpoints are static, so that what is counted depends on nothing but
// the sidecar, its access logs and its bootstrap; change may alter that.
func newMesh(t *testing.T, protocol lab.Protocol, change func(*bootstrapv3.Bootstrap)) *mesh {
	t.Helper()
	m := &mesh{t: t, protocol: protocol, instances: map[string]*lab.Instance{}}
	for _, v := range []string{"v1", "v2", "v3", "v4"} {
		i, err := lab.StartInstance(lab.InstanceOptions{Service: "cart", Version: v, Protocol: protocol})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		m.instances[v] = i
	}
	var telemetryAt string
	m.seen, telemetryAt, _ = watch(t, "127.0.0.1:0", nil)
	raw, err := bootstrap.Render(bootstrap.Options{
		ID: "caller-1", Service: "caller", Region: home, Servers: []string{telemetryAt}, Flush: flushEvery, Edges: signal.Edges,
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	port, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	m.address = port.Address()
	b.DynamicResources, b.LayeredRuntime = nil, nil
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, m.clusters()...)
	b.StaticResources.Listeners = []*listenerv3.Listener{m.listener(port)}
	if change != nil {
		change(&b)
	}
	if raw, err = protojson.Marshal(&b); err != nil {
		t.Fatal(err)
	}
	m.envoy, err = lab.StartEnvoy(t.Context(), lab.Options{Bootstrap: raw, Log: os.Stderr, LogLevel: "error"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.envoy.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.envoy.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	m.seen.flushes(t, 2) // the first has nothing to compare with
	return m
}

func (m *mesh) clusters() []*clusterv3.Cluster {
	out := []*clusterv3.Cluster{m.cluster("stable", "v1"), m.cluster("canary", "v2"), m.cluster("canary", "v3"),
		m.cluster("shadow", "v2"), m.cluster("shadow", "v3"), m.cluster("shadow", "v4")}
	for _, tight := range []*clusterv3.Cluster{out[2], out[4]} {
		tight.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(1), MaxPendingRequests: wrapperspb.UInt32(1), MaxRequests: wrapperspb.UInt32(1),
		}}}
	}
	for _, version := range []string{"v2", "v3"} {
		out = append(out, &clusterv3.Cluster{
			Name: "cart/arm/" + version, ConnectTimeout: durationpb.New(time.Second), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
			ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
				Name:        "envoy.clusters.aggregate",
				TypedConfig: pack(&aggregatev3.ClusterConfig{Clusters: []string{"cart/canary/" + version, "cart/stable/v1"}}),
			}},
			CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
				RetryBudget: &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
					BudgetPercent: &typev3.Percent{Value: 100}, MinRetryConcurrency: wrapperspb.UInt32(1000),
				},
			}}},
		})
	}
	return out
}

func (m *mesh) cluster(role, version string) *clusterv3.Cluster {
	host, port, err := net.SplitHostPort(m.instances[version].Address())
	if err != nil {
		m.t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		m.t.Fatal(err)
	}
	of := map[string]any{"service": "cart", "version": version, "region": home}
	if role == "shadow" {
		of["shadow"] = "true"
	}
	metadata, err := structpb.NewStruct(of)
	if err != nil {
		m.t.Fatal(err)
	}
	options := &upstreamhttpv3.HttpProtocolOptions{CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{}}
	if version == "v2" || version == "v3" {
		options.CommonHttpProtocolOptions.MaxStreamDuration = durationpb.New(hangLimit)
	}
	explicit := &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}
	if m.protocol != lab.HTTP {
		explicit.ProtocolConfig = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	}
	options.UpstreamProtocolOptions = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	name := fmt.Sprintf("cart/%s/%s", role, version)
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(options)},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(host, uint32(n))}},
				Metadata:       &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"aviary": metadata}},
			}},
		}}},
	}
}

// listener sends what asks for a version to its arm, and all else to stable, with a copy to the shadow that it asks for.
func (m *mesh) listener(port *lab.Port) *listenerv3.Listener {
	retry := &routev3.RetryPolicy{
		RetryOn:    "5xx,reset,connect-failure,refused-stream,unavailable,internal,unknown",
		NumRetries: wrapperspb.UInt32(1),
		RetryPriority: &routev3.RetryPolicy_RetryPriority{Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: pack(&previousv3.PreviousPrioritiesConfig{UpdateFrequency: 1})}},
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(time.Millisecond)},
	}
	var routes []*routev3.Route
	for _, asked := range []struct{ header, version string }{
		{armHeader, "v2"}, {armHeader, "v3"}, {shadowHeader, "v2"}, {shadowHeader, "v3"}, {shadowHeader, "v4"}, {},
	} {
		match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
		to := &routev3.RouteAction{
			Timeout: durationpb.New(routeTimeout), ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "cart/stable/v1"},
		}
		if asked.header != "" {
			match.Headers = []*routev3.HeaderMatcher{exactly(asked.header, asked.version)}
		}
		switch asked.header {
		case armHeader:
			to.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "cart/arm/" + asked.version}
			to.RetryPolicy = retry
		case shadowHeader:
			to.RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: "cart/shadow/" + asked.version}}
		}
		routes = append(routes, &routev3.Route{Match: match, Action: &routev3.Route_Route{Route: to}})
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "egress",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "egress", VirtualHosts: []*routev3.VirtualHost{{Name: "cart", Domains: []string{"*"}, Routes: routes}},
		}},
		AccessLog: []*accesslogv3.AccessLog{resource.RequestLog()},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{UpstreamLog: resource.TryLogs()})},
		}},
	}
	return &listenerv3.Listener{
		Name: "egress", Address: socket("127.0.0.1", uint32(port.Number())),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)},
		}}}},
	}
}

func exactly(header, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: header, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}},
	}}
}

func socket(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// seen sums what telemetry said.
type seen struct {
	mu   sync.Mutex
	n    int
	arms map[armName]signal.Arm // outcomes and counts summed up, gauges of the newest flush
	bad  []string
}

// armName names an arm of the service.
type armName struct {
	version, region string
	shadow          bool
}

// watch serves telemetry on a loopback address, with TLS when there is a config, until the test's end or stop.
func watch(t *testing.T, address string, config *tls.Config) (s *seen, at string, stop func()) {
	t.Helper()
	s = &seen{arms: map[armName]signal.Arm{}}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	options := []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: bootstrap.KeepAlive / 2, PermitWithoutStream: true}),
	}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	g := grpc.NewServer(options...)
	telemetry.New(telemetry.Config{
		Identify: func(_ context.Context, n *corev3.Node) (telemetry.Proxy, error) {
			return telemetry.Proxy{ID: n.GetId(), Region: n.GetLocality().GetRegion(), Service: n.GetCluster()}, nil
		},
		Sink: s.take,
	}).Register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener)
	}()
	stop = func() {
		g.Stop()
		<-done
	}
	t.Cleanup(stop)
	return s, listener.Addr().String(), stop
}

func (s *seen) take(f signal.Flush) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	for _, a := range f.Arms {
		for _, o := range a.Outcomes {
			if o.Latency.Total() > o.Tries {
				s.bad = append(s.bad, fmt.Sprintf("%s: %d tries with %d latencies", a.Version, o.Tries, o.Latency.Total()))
			}
		}
		name := armName{a.Version, a.Region, a.Shadow}
		s.arms[name] = add(s.arms[name], a)
	}
}

// add sums the outcomes and counts of two flushes of an arm; the gauges are the second's.
func add(before, a signal.Arm) signal.Arm {
	a.Overflows += before.Overflows
	a.ConnectFailures += before.ConnectFailures
	a.Ejections += before.Ejections
	outcomes := slices.Clone(before.Outcomes)
	for _, o := range a.Outcomes {
		i := slices.IndexFunc(outcomes, func(b signal.Outcome) bool { return b.Class == o.Class })
		if i < 0 {
			outcomes = append(outcomes, o)
			continue
		}
		outcomes[i].Tries += o.Tries
		outcomes[i].Latency = outcomes[i].Latency.Merge(o.Latency)
	}
	a.Outcomes = outcomes
	return a
}

func (s *seen) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arms, s.bad = map[armName]signal.Arm{}, nil
}

// arm is the version in the sidecar's own region.
func (s *seen) arm(version string) signal.Arm { return s.of(armName{version: version}) }

func (s *seen) of(name armName) signal.Arm {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arms[name]
}

// flushes waits for n more.
func (s *seen) flushes(t *testing.T, n int) {
	t.Helper()
	until := s.count() + n
	wait(t, "flush", func() bool { return s.count() >= until })
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %v", what, patience)
		}
	}
}

func tries(a signal.Arm) (n uint64) {
	for _, o := range a.Outcomes {
		n += o.Tries
	}
	return n
}
