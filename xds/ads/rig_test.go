package ads

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// byNode identifies a client by its node: id is the proxy, cluster is the view (default "v").
func byNode(_ context.Context, n *corev3.Node) (Client, error) {
	if n.GetId() == "stranger" {
		return Client{}, errors.New("region of the certificate is eu, claimed is us")
	}
	c := Client{Proxy: n.GetId(), View: n.GetCluster(), Lease: true}
	if c.View == "" {
		c.View = "v"
	}
	return c, nil
}

type rig struct {
	*Server
	t    testing.TB
	conn *grpc.ClientConn
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	if cfg.Identify == nil {
		cfg.Identify = byNode
	}
	r := &rig{Server: New(cfg), t: t}
	gs := grpc.NewServer(r.Options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(gs, r.Server)
	lis := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() { defer close(done); _ = gs.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///rig", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	r.conn = conn
	t.Cleanup(func() {
		r.Close()
		conn.Close()
		gs.Stop()
		<-done
	})
	return r
}

// in runs a test for both variants in a bubble of its own, where time is virtual and Wait means that all is said.
func inBoth(t *testing.T, run func(t *testing.T, open func(r *rig, node *corev3.Node) *peer)) {
	for _, transport := range []Transport{Delta, Sotw} {
		t.Run(string(transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				run(t, func(r *rig, node *corev3.Node) *peer { return r.dial(transport, node) })
			})
		})
	}
}

func in(t *testing.T, run func(t *testing.T)) { synctest.Test(t, run) }

func node(id string) *corev3.Node { return &corev3.Node{Id: id, UserAgentName: "envoy"} }

// got is a response in the terms of either variant.
type got struct {
	Type      Type
	Version   string
	Nonce     string
	Names     []string          // resources with a body, sorted as sent
	Versions  map[string]string // delta only
	Removed   []string
	TTL       map[string]time.Duration
	Heartbeat []string
	Layer     *structpb.Struct
	Header    string // of the last route: says which variant it is
}

func (g got) String() string {
	s := fmt.Sprintf("%s +%s", g.Type, strings.Join(g.Names, ","))
	if len(g.Removed) > 0 {
		s += " -" + strings.Join(g.Removed, ",")
	}
	if len(g.Heartbeat) > 0 {
		s += " ~" + strings.Join(g.Heartbeat, ",")
	}
	return s
}

// peer is a bare client of one stream.
type peer struct {
	t         testing.TB
	node      *corev3.Node
	transport Transport
	delta     discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	sotw      discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	cancel    context.CancelFunc

	mu    sync.Mutex
	inbox []got
	err   error

	asked []string // endpoints that a model of Envoy asked for

	// state of the world: what a request repeats
	names    [numTypes][]string
	nonces   [numTypes]string
	versions [numTypes]string
}

func (r *rig) dial(transport Transport, n *corev3.Node) *peer {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{t: r.t, node: n, transport: transport, cancel: cancel}
	c := discoveryv3.NewAggregatedDiscoveryServiceClient(r.conn)
	var err error
	if transport == Delta {
		p.delta, err = c.DeltaAggregatedResources(ctx)
	} else {
		p.sotw, err = c.StreamAggregatedResources(ctx)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			g, err := p.recv()
			p.mu.Lock()
			if err != nil {
				p.err = err
				p.mu.Unlock()
				return
			}
			p.inbox = append(p.inbox, g)
			p.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return p
}

func (p *peer) recv() (got, error) {
	if p.transport == Delta {
		m, err := p.delta.Recv()
		if err != nil {
			return got{}, err
		}
		g := p.blank(m.GetTypeUrl(), m.GetSystemVersionInfo(), m.GetNonce())
		g.Removed = m.GetRemovedResources()
		for _, r := range m.GetResources() {
			p.take(&g, r)
		}
		return g, nil
	}
	m, err := p.sotw.Recv()
	if err != nil {
		return got{}, err
	}
	g := p.blank(m.GetTypeUrl(), m.GetVersionInfo(), m.GetNonce())
	for _, a := range m.GetResources() {
		r := &discoveryv3.Resource{Resource: a}
		if a.GetTypeUrl() == wrapperURL {
			r = new(discoveryv3.Resource)
			if err := a.UnmarshalTo(r); err != nil {
				p.t.Error(err)
			}
			if r.GetVersion() != g.Version {
				p.t.Errorf("wrapped version %q in a response of version %q: Envoy would not know the heartbeat", r.GetVersion(), g.Version)
			}
		}
		p.take(&g, r)
	}
	return g, nil
}

func (p *peer) blank(url, version, nonce string) got {
	t, ok := typeOf(url)
	if !ok {
		p.t.Errorf("response of type %q", url)
	}
	if nonce == "" {
		p.t.Error("response without a nonce")
	}
	return got{Type: t, Version: version, Nonce: nonce, Versions: map[string]string{}, TTL: map[string]time.Duration{}}
}

func (p *peer) take(g *got, r *discoveryv3.Resource) {
	name := r.GetName()
	if r.GetResource() == nil {
		g.Heartbeat = append(g.Heartbeat, name)
	} else {
		m, err := r.GetResource().UnmarshalNew()
		if err != nil {
			p.t.Error(err)
			return
		}
		own := ""
		switch m := m.(type) {
		case *clusterv3.Cluster:
			own = m.GetName()
		case *endpointv3.ClusterLoadAssignment:
			own = m.GetClusterName()
		case *listenerv3.Listener:
			own = m.GetName()
		case *routev3.RouteConfiguration:
			own = m.GetName()
			g.Header = m.GetInternalOnlyHeaders()[0]
		case *runtimev3.Runtime:
			own = m.GetName()
			g.Layer = m.GetLayer()
		}
		if p.transport == Delta && canonical(own) != name {
			p.t.Errorf("resource %q carries %q", name, own)
		}
		name = own
		g.Names = append(g.Names, name)
	}
	g.Versions[name] = r.GetVersion()
	if r.GetTtl() != nil {
		g.TTL[name] = r.GetTtl().AsDuration()
	}
}

// subscribe adds names; in state of the world it repeats the others. None: the legacy wildcard.
func (p *peer) subscribe(t Type, names ...string) {
	p.t.Helper()
	p.request(t, names, nil, nil)
}

func (p *peer) unsubscribe(t Type, names ...string) {
	p.t.Helper()
	p.request(t, nil, names, nil)
}

func (p *peer) request(t Type, add, drop []string, initial map[string]string) {
	p.t.Helper()
	if p.transport == Delta {
		p.sendDelta(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: t.URL(), ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop, InitialResourceVersions: initial,
		})
		return
	}
	p.names[t] = slices.DeleteFunc(slices.Concat(p.names[t], add), func(n string) bool { return slices.Contains(drop, n) })
	p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: t.URL(), ResourceNames: p.names[t], ResponseNonce: p.nonces[t], VersionInfo: p.versions[t]})
}

func (p *peer) sendDelta(req *discoveryv3.DeltaDiscoveryRequest) {
	p.t.Helper()
	req.Node, p.node = p.node, nil
	_ = p.delta.Send(req) // an ended stream shows in Recv
}

func (p *peer) sendSotw(req *discoveryv3.DiscoveryRequest) {
	p.t.Helper()
	req.Node, p.node = p.node, nil
	_ = p.sotw.Send(req)
}

func (p *peer) ack(g got) { p.reply(g, nil) }

func (p *peer) nack(g got, text string) { p.reply(g, &rpcstatus.Status{Code: 3, Message: text}) }

func (p *peer) reply(g got, refusal *rpcstatus.Status) {
	if p.transport == Delta {
		p.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: g.Type.URL(), ResponseNonce: g.Nonce, ErrorDetail: refusal})
		return
	}
	p.nonces[g.Type] = g.Nonce
	if refusal == nil {
		p.versions[g.Type] = g.Version
	}
	p.sendSotw(&discoveryv3.DiscoveryRequest{
		TypeUrl: g.Type.URL(), ResourceNames: p.names[g.Type], ResponseNonce: g.Nonce, VersionInfo: p.versions[g.Type], ErrorDetail: refusal,
	})
}

// drain settles the bubble and takes what arrived.
func (p *peer) drain() []got {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.inbox
	p.inbox = nil
	return all
}

// expect settles the bubble and requires exactly these responses, in this order; it returns them.
func (p *peer) expect(want ...string) []got {
	p.t.Helper()
	all := p.drain()
	var texts []string
	for _, g := range all {
		texts = append(texts, g.String())
	}
	if !slices.Equal(texts, want) {
		p.t.Fatalf("%s: received\n\t%s\nwant\n\t%s", p.transport, strings.Join(texts, "\n\t"), strings.Join(want, "\n\t"))
	}
	return all
}

// accept expects and ACKs.
func (p *peer) accept(want ...string) []got {
	p.t.Helper()
	all := p.expect(want...)
	for _, g := range all {
		p.ack(g)
	}
	return all
}

// settle ACKs until nothing comes any more, and returns all that came.
func (p *peer) settle() []string {
	var texts []string
	for {
		all := p.drain()
		if len(all) == 0 {
			return texts
		}
		for _, g := range all {
			texts = append(texts, g.String())
			p.ack(g)
		}
	}
}

func (p *peer) ended() error {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// either is the expectation of the variant that the peer speaks.
func (p *peer) either(delta, sotw string) string {
	if p.transport == Delta {
		return delta
	}
	return sotw
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A resource is written "cds:name=variant"; the variant makes its content. Clusters get endpoints over ADS.
func res(spec string) *Resource {
	kind, rest, _ := strings.Cut(spec, ":")
	name, variant, _ := strings.Cut(rest, "=")
	var m proto.Message
	switch kind {
	case "cds":
		m = &clusterv3.Cluster{
			Name: name, AltStatName: variant, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{
				ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}},
		}
	case "static":
		m = &clusterv3.Cluster{Name: name, AltStatName: variant}
	case "eds":
		m = &endpointv3.ClusterLoadAssignment{ClusterName: name, Policy: &endpointv3.ClusterLoadAssignment_Policy{
			OverprovisioningFactor: wrapperspb.UInt32(100 + uint32(len(variant)))}}
	case "lds":
		m = &listenerv3.Listener{Name: name, StatPrefix: variant}
	case "rds":
		m = &routev3.RouteConfiguration{Name: name, InternalOnlyHeaders: []string{"x" + variant}}
	default:
		panic(spec)
	}
	return must(NewResource(name, m))
}

func snap(specs ...string) *Snapshot {
	var list []*Resource
	for _, s := range specs {
		list = append(list, res(s))
	}
	return must(NewSnapshot(list...))
}

func layerOf(ttl time.Duration, values map[string]any) Layer {
	return Layer{Name: "aviary", Values: must(structpb.NewStruct(values)), TTL: ttl}
}

func (r *rig) layer(l Layer) {
	r.t.Helper()
	if err := r.PublishLayer("v", l); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) status(proxy string) ProxyStatus {
	synctest.Wait()
	for _, p := range r.Proxies() {
		if p.Proxy == proxy {
			return p
		}
	}
	r.t.Fatalf("proxy %q is not connected", proxy)
	return ProxyStatus{}
}

func envoyOld(id string) *corev3.Node {
	return &corev3.Node{Id: id, UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 18, Patch: 2}}}}
}
