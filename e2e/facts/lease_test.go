package facts

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestALeaseThatNobodyRenewsEnds(t *testing.T) {
	for name, o := range map[string]meshOptions{"delta": {}, "state of the world": {sotw: true}} {
		t.Run(name, func(t *testing.T) { leaseEnds(t, o) })
	}
}

func leaseEnds(t *testing.T, o meshOptions) {
	const ttl = time.Second
	m := newMesh(t, o)
	s := newShop(t, m, traffic.HTTP)
	s.in.Lease = ttl
	mirror := "aviary." + s.in.Service + ".mirror"
	s.change = func(g *given) {
		for _, r := range g.all() {
			r.GetRoute().RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{
				Cluster:         s.canary(),
				RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{}, RuntimeKey: mirror},
			}}
		}
		g.values.Fields[mirror] = structpb.NewStructValue(values(t, map[string]any{"numerator": 5000, "denominator": "TEN_THOUSAND"}))
	}
	s.at(5000)
	// spread asks 1,000 times: how many requests were on the canary, and how many were mirrored to it.
	spread := func() (canary, mirrored int) {
		t.Helper()
		before := s.v2.Counts().Received
		all := s.ask(ask{n: 1000, users: 10})
		if all.failed() > 0 {
			t.Errorf("%v", all)
		}
		var seen uint64
		for still := 0; still < 20; still++ { // copies may be under way
			if now := s.v2.Counts().Received - before; now != seen {
				seen, still = now, 0
			}
			time.Sleep(5 * time.Millisecond)
		}
		return all.of("v2"), int(seen) - all.of("v2")
	}
	live := func() {
		t.Helper()
		if canary, mirrored := spread(); canary < 400 || canary > 600 || mirrored < 400 || mirrored > 600 {
			t.Errorf("under the lease: %d of 1000 on the canary, %d mirrored", canary, mirrored)
		}
	}
	lapsed := func(why string, since time.Time) {
		t.Helper()
		// The last heartbeat is older than the last renewal: the server may give the layer once more for what is left of it.
		s.until("the layer is gone", func() bool { return time.Since(since) >= ttl && m.runtime(t, mirror) == "" })
		gone := time.Since(since)
		canary, mirrored := spread()
		t.Logf("%s: the layer went %v later (TTL %v); then %d of 1000 on the canary, %d mirrored",
			why, gone.Round(time.Millisecond), ttl, canary, mirrored)
		if canary+mirrored > 0 {
			t.Errorf("%s: %d of 1000 on the canary, %d mirrored", why, canary, mirrored)
		}
	}
	for held := time.Now(); time.Since(held) < ttl+ttl/2; {
		live()
	}
	m.keep.Store(false)
	lapsed("the last renewal", time.Now())
	m.keep.Store(true)
	s.until("the layer is back", func() bool { return m.runtime(t, mirror) != "" })
	live()
	m.unserve() // with its connections
	lapsed("the end of the server", time.Now())
}

// beats serves one runtime layer over delta, by hand.
type beats struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	say     chan *discoveryv3.DeltaDiscoveryResponse
	answers chan *discoveryv3.DeltaDiscoveryRequest
	drop    chan struct{}
	nonce   int
}

func (b *beats) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	go func() {
		for {
			req, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case b.answers <- req:
			case <-s.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case <-s.Context().Done():
			return nil
		case <-b.drop:
			return nil
		case resp := <-b.say:
			if err := s.Send(resp); err != nil {
				return err
			}
		}
	}
}

const runtimeType = "type.googleapis.com/envoy.service.runtime.v3.Runtime"

// newBeats is a server of one layer and a sidecar that asks it for nothing else.
func newBeats(t *testing.T) (*beats, *mesh) {
	t.Helper()
	b := &beats{
		say: make(chan *discoveryv3.DeltaDiscoveryResponse), answers: make(chan *discoveryv3.DeltaDiscoveryRequest, 100),
		drop: make(chan struct{}),
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, b)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(lis) }()
	t.Cleanup(func() { g.Stop(); <-served })
	text, err := render(lis.Addr().String(), 1, func(bootstrap map[string]any) {
		dynamic := bootstrap["dynamic_resources"].(map[string]any)
		delete(dynamic, "cds_config")
		delete(dynamic, "lds_config")
	})
	if err != nil {
		t.Fatal(err)
	}
	envoy, err := lab.StartEnvoy(context.Background(), lab.Options{Name: proxyID, Bootstrap: text})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(envoy.Kill)
	return b, &mesh{envoy: envoy}
}

// send pushes the layer, or a heartbeat without its body, and returns what the sidecar says to it; "" is an ACK.
func (b *beats) send(t *testing.T, version string, ttl time.Duration, body *anypb.Any) string {
	t.Helper()
	b.nonce++
	nonce := strconv.Itoa(b.nonce)
	within(t, "the stream takes a push", func() {
		b.say <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: runtimeType, Nonce: nonce, Resources: []*discoveryv3.Resource{
			{Name: "aviary", Version: version, Ttl: durationpb.New(ttl), Resource: body},
		}}
	})
	for {
		select {
		case req := <-b.answers:
			if req.ResponseNonce == nonce {
				return req.GetErrorDetail().GetMessage()
			}
		case <-time.After(patience):
			t.Fatal("no answer to a push")
		}
	}
}

func TestAHeartbeatAfterTheEndIsRefused(t *testing.T) {
	b, m := newBeats(t)
	const ttl = 300 * time.Millisecond
	body, err := anypb.New(&runtimev3.Runtime{Name: "aviary", Layer: values(t, map[string]any{"a.b": 5})})
	if err != nil {
		t.Fatal(err)
	}
	has := func() bool { return m.runtime(t, "a.b") != "" }

	if nack := b.send(t, "1", ttl, body); nack != "" {
		t.Fatal(nack)
	}
	for began := time.Now(); time.Since(began) < 3*ttl; time.Sleep(ttl / 6) {
		if nack := b.send(t, "1", ttl, nil); nack != "" || !has() {
			t.Fatalf("a heartbeat in time: %q", nack)
		}
	}
	until(t, "the layer is gone", func() bool { return !has() })
	nack := b.send(t, "1", ttl, nil)
	t.Logf("a heartbeat without a body, after the end: %s", line(nack))
	if !strings.Contains(nack, "type URL") || has() {
		t.Errorf("a heartbeat after the end: %q; the layer is there: %v", nack, has())
	}
	if nack := b.send(t, "2", ttl, body); nack != "" || !has() {
		t.Errorf("a whole push after the end: %q; the layer is there: %v", nack, has())
	}
}

// Older Envoys have open reports of crashes at the end of a TTL.
func TestManyEndsOfALease(t *testing.T) {
	if os.Getenv("AVIARY_LONG") == "" {
		t.Skip("AVIARY_LONG is not set")
	}
	const ends, perStream = 7000, 200
	b, m := newBeats(t)
	const ttl = 20 * time.Millisecond
	for n := range ends {
		key := "end." + strconv.Itoa(n)
		body, err := anypb.New(&runtimev3.Runtime{Name: "aviary", Layer: values(t, map[string]any{key: 5})})
		if err != nil {
			t.Fatal(err)
		}
		if nack := b.send(t, strconv.Itoa(n), ttl, body); nack != "" {
			t.Fatal(nack)
		}
		if n%perStream == perStream-1 { // the stream drops under a lease
			within(t, "the stream ends", func() { b.drop <- struct{}{} })
		}
		until(t, "the layer is gone", func() bool { return m.runtime(t, key) == "" })
	}
	t.Logf("%d ends, %d streams dropped: the sidecar runs: %v", ends, ends/perStream, m.envoy.Running())
	if !m.envoy.Running() {
		t.Error(m.envoy.Err())
	}
}
