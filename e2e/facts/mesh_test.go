package facts

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// patience is for what must come, on a machine that does much else.
const patience = 20 * time.Second

// proxyID names the one sidecar of a mesh.
const proxyID = "front-1"

// mesh is a sidecar of the service "front" and the server that it is configured by. Without a sidecar the clients are
// proxyless, and nobody waits for them.
type mesh struct {
	srv    *ads.Server
	addr   string // of srv
	view   resource.View
	envoy  *lab.Envoy
	log    *rig.Log
	egress string

	// keep is whether the lease is renewed.
	keep atomic.Bool
	// unserve stops the server and its connections.
	unserve func()
	stop    []func()
}

// meshOptions are what a mesh is like when it is not like the shared one.
type meshOptions struct {
	sotw bool // state of the world in place of delta
	// view and bootstrap change what the sidecar asks for and starts with.
	view      func(*resource.View)
	bootstrap func(map[string]any)
}

var (
	sharing sync.Mutex
	shared  *mesh
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		shared.close()
	}
	os.Exit(code)
}

// theMesh is the mesh that tests share. Each of them has a service of its own in it.
func theMesh(t *testing.T) *mesh {
	t.Helper()
	sharing.Lock()
	defer sharing.Unlock()
	if shared == nil {
		m, err := start(meshOptions{})
		if err != nil {
			t.Fatal(err)
		}
		shared = m
	}
	m := shared
	t.Cleanup(func() {
		m.keep.Store(true)
		if t.Failed() {
			t.Logf("sidecar:\n%s", m.log)
		}
	})
	return m
}

// newMesh is a mesh for one test.
func newMesh(t *testing.T, o meshOptions) *mesh {
	t.Helper()
	m, err := start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.close()
		if t.Failed() {
			t.Logf("sidecar:\n%s", m.log)
		}
	})
	return m
}

func start(o meshOptions) (*mesh, error) {
	m := &mesh{log: &rig.Log{}, view: resource.View{Service: "front", Zone: "a"}}
	m.keep.Store(true)
	ok := false
	defer func() {
		if !ok {
			m.close()
		}
	}()
	port, err := lab.NewPort()
	if err != nil {
		return nil, err
	}
	m.stop = append(m.stop, port.Close)
	m.egress, m.view.Port = port.Address(), uint32(port.Number())
	if o.view != nil {
		o.view(&m.view)
	}
	if err := m.serve(); err != nil {
		return nil, err
	}
	text, err := render(m.addr, port.Number(), func(b map[string]any) {
		// Every statistic, also those that the product does not report.
		delete(b["stats_config"].(map[string]any), "stats_matcher")
		if o.sotw {
			b["dynamic_resources"].(map[string]any)["ads_config"].(map[string]any)["api_type"] = "GRPC"
		}
		if o.bootstrap != nil {
			o.bootstrap(b)
		}
	})
	if err != nil {
		return nil, err
	}
	if m.envoy, err = lab.StartEnvoy(context.Background(), lab.Options{Name: proxyID, Bootstrap: text, Log: m.log}); err != nil {
		return nil, err
	}
	m.stop = append(m.stop, m.envoy.Kill)
	ok = true
	return m, nil
}

// render is the product's bootstrap, changed.
func render(server string, port int, change func(map[string]any)) ([]byte, error) {
	text, err := bootstrap.Render(bootstrap.Options{
		ID: proxyID, Service: "front", Region: "eu-west", Zone: "a", Servers: []string{server}, Port: port,
		// No reports: nobody reads them here.
		Flush: 4 * time.Minute, Edges: signal.Edges, Admin: "127.0.0.1:0",
	})
	if err != nil {
		return nil, err
	}
	var b map[string]any
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, err
	}
	change(b)
	return json.Marshal(b)
}

// serve starts the server, and what vouches for the sidecar.
func (m *mesh) serve() error {
	m.srv = ads.New(ads.Config{
		Debounce: -1,
		Identify: func(_ context.Context, n *corev3.Node) (ads.Client, error) {
			return ads.Client{
				Proxy: n.GetId(), Region: "eu-west", Service: "front", View: "v", Lease: m.view.Weights == resource.InLayer,
			}, nil
		},
	})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m.addr = lis.Addr().String()
	g := grpc.NewServer(append(m.srv.Options(),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, m.srv)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(lis) })
	quit := make(chan struct{})
	running.Go(func() {
		every := time.NewTicker(50 * time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-quit:
				return
			case <-every.C:
				if m.keep.Load() {
					m.srv.Renew(proxyID)
				}
			}
		}
	})
	m.unserve = sync.OnceFunc(func() {
		close(quit)
		m.srv.Close()
		g.Stop()
		running.Wait()
	})
	m.stop = append(m.stop, m.unserve)
	return nil
}

func (m *mesh) close() {
	for _, stop := range slices.Backward(m.stop) {
		stop()
	}
	m.stop = nil
}

// stat is one counter or gauge of the sidecar.
func (m *mesh) stat(t *testing.T, name string) uint64 {
	t.Helper()
	n, err := m.envoy.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// given is what a sidecar is given: what the product built, for a test to change.
type given struct {
	clusters    []*clusterv3.Cluster
	assignments []*endpointv3.ClusterLoadAssignment
	routes      []*routev3.RouteConfiguration
	values      *structpb.Struct
	ttl         time.Duration
}

// cluster of a name.
func (g *given) cluster(name string) *clusterv3.Cluster {
	return g.clusters[slices.IndexFunc(g.clusters, func(c *clusterv3.Cluster) bool { return c.Name == name })]
}

// all are the routes of the one service.
func (g *given) all() []*routev3.Route { return g.routes[0].VirtualHosts[0].Routes }

// shop is a service of one test with a stable and a canary version, one instance each.
type shop struct {
	t      *testing.T
	m      *mesh
	in     traffic.Intent
	v1, v2 *lab.Instance
	// change is what this test changes in what the product built.
	change func(*given)
}

var shops atomic.Int64

// newShop is a service in a mesh, at a weight of 0, that was not published yet.
func newShop(t *testing.T, m *mesh, p traffic.Protocol) *shop {
	t.Helper()
	name := fmt.Sprintf("shop%d", shops.Add(1))
	s := &shop{t: t, m: m, v1: instance(t, name, "v1", p), v2: instance(t, name, "v2", p)}
	s.in = traffic.Intent{
		Service: name, Hosts: []string{name + ".example"}, Protocol: p,
		Stable: arm("v1", s.v1), Canary: ptr(arm("v2", s.v2)),
		Lease: 10 * time.Second, Timeout: 10 * time.Second,
		RetryOn: []string{"5xx", "reset", "connect-failure", "refused-stream"}, RetryMethods: []string{"GET", "HEAD", "OPTIONS"},
	}
	if p == traffic.GRPC {
		s.in.RetryOn, s.in.RetryMethods = append(s.in.RetryOn, "cancelled", "internal", "unavailable"), []string{"POST"}
	}
	return s
}

func instance(t *testing.T, service, version string, p traffic.Protocol) *lab.Instance {
	t.Helper()
	protocol := map[traffic.Protocol]lab.Protocol{traffic.HTTP: lab.HTTP, traffic.HTTP2: lab.HTTP2, traffic.GRPC: lab.GRPC}[p]
	i, err := lab.StartInstance(lab.InstanceOptions{Service: service, Version: version, Protocol: protocol})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

func arm(version string, instances ...*lab.Instance) traffic.Arm {
	a := traffic.Arm{Version: version, Digest: "sha256:" + version}
	if len(instances) > 0 {
		a.Localities = []traffic.Locality{at("eu-west", "a", instances...)}
	}
	return a
}

// at is where instances are.
func at(region, zone string, instances ...*lab.Instance) traffic.Locality {
	l := traffic.Locality{Region: region, Zone: zone}
	for _, i := range instances {
		address := netip.MustParseAddrPort(i.Address())
		l.Endpoints = append(l.Endpoints, traffic.Endpoint{Host: address.Addr().String(), Port: uint32(address.Port())})
	}
	return l
}

func ptr[T any](v T) *T { return &v }

func (s *shop) stable() string { return resource.StableCluster(s.in.Service, s.in.Stable.Version) }
func (s *shop) canary() string { return resource.CanaryCluster(s.in.Service, s.in.Canary.Version) }
func (s *shop) arm() string    { return resource.ArmCluster(s.in.Service, s.in.Canary.Version) }

// key is the runtime key of a cluster's weight.
func (s *shop) key(cluster string) string { return "aviary." + s.in.Service + "." + cluster }

// set changes what an instance does.
func (s *shop) set(i *lab.Instance, b lab.Behavior) {
	s.t.Helper()
	if err := i.Set(b); err != nil {
		s.t.Fatal(err)
	}
}

// at publishes the service with a weight of its canary, and waits until the sidecar has it.
func (s *shop) at(weight uint32) {
	s.t.Helper()
	s.in.Weight = weight
	s.publish()
}

func (s *shop) publish() {
	s.t.Helper()
	g := s.send()
	s.layer(g.values, g.ttl)
	if s.m.envoy == nil {
		return
	}
	s.until("the sidecar has the routes", func() bool {
		ready, err := s.m.envoy.Stats(`^(cluster_manager\.warming_clusters|listener_manager\.total_listeners_(warming|active))$`)
		return err == nil && !s.m.stale() && ready["cluster_manager.warming_clusters"] == 0 && ready["listener_manager.total_listeners_warming"] == 0 &&
			ready["listener_manager.total_listeners_active"] == 1
	})
}

// stale reports whether a connected client has not acknowledged the newest of something.
func (m *mesh) stale() bool {
	return slices.ContainsFunc(m.srv.Proxies(), func(p ads.ProxyStatus) bool {
		return slices.ContainsFunc(p.Types, func(t ads.TypeStatus) bool { return t.State == ads.Stale })
	})
}

// send publishes all but the layer, and waits for nobody.
func (s *shop) send() *given {
	s.t.Helper()
	plan := traffic.Plan{
		Region: "eu-west", Intents: []traffic.Intent{s.in}, Callers: map[string][]string{"front": {s.in.Service}},
	}
	v := s.m.view
	g := &given{clusters: resource.Clusters(s.in, v), assignments: resource.Assignments(s.in, v), routes: resource.Routes(plan, v)}
	g.values, g.ttl = resource.Layer(plan, v)
	if s.change != nil {
		s.change(g)
	}
	var all []*ads.Resource
	add := func(name string, m proto.Message) {
		s.t.Helper()
		r, err := ads.NewResource(name, m)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, r)
	}
	for _, c := range g.clusters {
		add(c.Name, c)
	}
	for _, a := range g.assignments {
		add(a.ClusterName, a)
	}
	for _, c := range g.routes {
		add(c.Name, c)
	}
	for _, l := range resource.Listeners(plan, v) {
		add(l.Name, l)
	}
	snap, err := ads.NewSnapshot(all...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.srv.Publish("v", snap, ads.Routine)
	return g
}

// layer publishes a runtime layer, and waits until the sidecar stands at everything that is published.
func (s *shop) layer(values *structpb.Struct, ttl time.Duration) {
	s.t.Helper()
	if err := s.m.srv.PublishLayer("v", ads.Layer{Name: "aviary", Values: values, TTL: ttl}); err != nil {
		s.t.Fatal(err)
	}
	if s.m.envoy == nil {
		return
	}
	what := ""
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if what = s.behind(ttl > 0); what == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the sidecar is not in step after %v: %s", patience, what)
		}
	}
}

// behind says what the sidecar does not have yet; "" is nothing.
func (s *shop) behind(lease bool) string {
	s.t.Helper()
	all := s.m.srv.Proxies()
	if len(all) != 1 {
		return fmt.Sprintf("%d streams", len(all))
	}
	if lease && s.m.view.Weights == resource.InLayer && all[0].Lease != ads.LeaseHeld {
		return fmt.Sprintf("the lease is %s", all[0].Lease)
	}
	for _, t := range all[0].Types {
		if t.State == ads.Nacked {
			s.t.Fatalf("the sidecar refused %s: %s", t.Type, t.Nack)
		}
		if t.State != ads.Synced && t.State != ads.Unasked {
			return fmt.Sprintf("%+v", t)
		}
	}
	return ""
}

// until waits until ok, and fails the test when it does not come.
func (s *shop) until(what string, ok func() bool) {
	s.t.Helper()
	until(s.t, what, ok)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// runtime is the value that the sidecar has for a key; "" is none.
func (m *mesh) runtime(t *testing.T, key string) string {
	t.Helper()
	body, err := m.envoy.Admin("/runtime")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Entries map[string]struct {
			Final string `json:"final_value"`
		}
	}
	if err := json.Unmarshal(body, &all); err != nil {
		t.Fatal(err)
	}
	return all.Entries[key].Final
}

// values are a runtime layer's.
func values(t *testing.T, m map[string]any) *structpb.Struct {
	t.Helper()
	v, err := structpb.NewStruct(m)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var blanks = regexp.MustCompile(`\s+`)

// line is a text on one line, for the log of a test.
func line(s string) string { return strings.TrimSpace(blanks.ReplaceAllString(s, " ")) }
