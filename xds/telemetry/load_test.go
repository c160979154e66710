package telemetry

import (
	"context"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

type loadStream struct {
	w    *world
	grpc grpc.BidiStreamingClient[loadv3.LoadStatsRequest, loadv3.LoadStatsResponse]
}

// openLoad starts an LRS stream and returns what the server asks for.
func (w *world) openLoad(node *corev3.Node) (*loadStream, *loadv3.LoadStatsResponse) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	s, err := loadv3.NewLoadReportingServiceClient(w.client).StreamLoadStats(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Send(&loadv3.LoadStatsRequest{Node: node}); err != nil {
		w.t.Fatal(err)
	}
	answer, err := s.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return &loadStream{w, s}, answer
}

func (s *loadStream) raw(stats ...*endpointv3.ClusterStats) {
	s.w.t.Helper()
	if err := s.grpc.Send(&loadv3.LoadStatsRequest{ClusterStats: stats}); err != nil {
		s.w.t.Fatal(err)
	}
}

func (s *loadStream) send(stats ...*endpointv3.ClusterStats) signal.Flush {
	s.w.t.Helper()
	s.raw(stats...)
	return s.w.next()
}

func clusterLoad(cluster string, good, bad, issued, under uint64) *endpointv3.ClusterStats {
	return &endpointv3.ClusterStats{ClusterName: cluster, UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{
		{TotalSuccessfulRequests: good, TotalIssuedRequests: issued},
		{TotalErrorRequests: bad, TotalRequestsInProgress: under},
	}}
}

func TestLoad(t *testing.T) {
	w := newWorld(t)
	s, answer := w.openLoad(&corev3.Node{Id: "grpc"})
	if !answer.SendAllClusters || answer.LoadReportingInterval.AsDuration() != time.Second {
		t.Errorf("asked for %v", answer)
	}
	w.pass(time.Second)
	got := s.send(clusterLoad("cart/stable/v1", 10, 2, 15, 3), clusterLoad("cart/canary/v2", 0, 0, 1, 1), clusterLoad("other", 5, 5, 10, 0))
	want := signal.Flush{Proxy: "grpc", Region: "eu", Service: "web", At: epoch.Add(time.Second), Span: time.Second, Arms: []signal.Arm{
		{Service: "cart", Version: "v1", InProgress: 3, Outcomes: []signal.Outcome{{Class: LoadOK, Tries: 10}, {Class: LoadError, Tries: 2}}},
		{Service: "cart", Version: "v2", InProgress: 1},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Four calls failed of which only one was issued; another ended that was under way before.
	dropped := clusterLoad("cart/stable/v1", 1, 4, 2, 3)
	dropped.TotalDroppedRequests = 6
	got = s.send(dropped)
	arm := signal.Arm{Service: "cart", Version: "v1", InProgress: 3, Overflows: 6, Outcomes: []signal.Outcome{
		{Class: LoadRefused, Tries: 3}, {Class: LoadOK, Tries: 1}, {Class: LoadError, Tries: 1}}}
	if diff := cmp.Diff([]signal.Arm{arm}, got.Arms); diff != "" {
		t.Error(diff)
	}
	if got = s.send(); len(got.Arms) != 0 || got.Proxy != "grpc" {
		t.Errorf("a report without clusters says that the proxy is watched, not %v", got)
	}
}

func TestSidecarIsNotCountedTwice(t *testing.T) {
	w := newWorld(t)
	ours, err := structpb.NewStruct(map[string]any{"aviary": map[string]any{"lease": true}})
	if err != nil {
		t.Fatal(err)
	}
	s, answer := w.openLoad(&corev3.Node{Id: "sidecar", Metadata: ours})
	if answer.SendAllClusters || len(answer.Clusters) != 0 {
		t.Errorf("a sidecar with our bootstrap was asked for %v", answer)
	}
	s.raw(clusterLoad("cart/stable/v1", 10, 0, 10, 0))

	// Nor is one that does not say so, once its access logs came.
	m := w.open("half")
	l, _ := w.openLoad(&corev3.Node{Id: "half"})
	m.send(at(1, gauge("server.live", 1))...)
	if got := l.send(clusterLoad("cart/stable/v1", 1, 0, 1, 0)); outcomes(got, "v1")[LoadOK] != 1 {
		t.Errorf("without access logs LRS counts, not %v", got.Arms)
	}
	if got := m.send(at(2, count200("v1", 7))...); outcomes(got, "v1")[ok200] != 7 {
		t.Errorf("got %v", got.Arms)
	}
	l.raw(clusterLoad("cart/stable/v1", 7, 0, 7, 0))
	if err := l.grpc.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.grpc.Recv(); err == nil {
		t.Fatal("the stream goes on")
	}
	w.quiet()
}

// A client that has endpoints of several regions in one cluster reports them by locality.
func TestLoadByRegion(t *testing.T) {
	w := newWorld(t)
	s, _ := w.openLoad(&corev3.Node{Id: "grpc"})
	in := func(region string, good, bad, issued, under uint64) *endpointv3.UpstreamLocalityStats {
		return &endpointv3.UpstreamLocalityStats{Locality: &corev3.Locality{Region: region},
			TotalSuccessfulRequests: good, TotalErrorRequests: bad, TotalIssuedRequests: issued, TotalRequestsInProgress: under}
	}
	of := func(cluster string, dropped uint64, localities ...*endpointv3.UpstreamLocalityStats) *endpointv3.ClusterStats {
		return &endpointv3.ClusterStats{ClusterName: cluster, UpstreamLocalityStats: localities, TotalDroppedRequests: dropped}
	}
	ok := func(n uint64) []signal.Outcome { return []signal.Outcome{{Class: LoadOK, Tries: n}} }
	s.send(of("cart/stable/v1", 0, in("us", 0, 0, 1, 1)))
	got := s.send(
		of("cart/stable/v1", 2, in("eu", 5, 0, 5, 1), in("us", 3, 4, 3, 0), in("", 1, 0, 1, 0)),
		of("cart/remote/v1", 7, in("us", 10, 0, 10, 2), in("", 100, 0, 100, 0), in("eu", 100, 0, 100, 0), in(signal.Elsewhere, 100, 0, 100, 0)),
		of("cart/everywhere/v1", 0, in("eu", 1, 0, 1, 0)),
		of("cart/shadow/v2", 0, in("eu", 6, 0, 6, 0)))
	want := []signal.Arm{
		{Service: "cart", Version: "v1", InProgress: 1, Overflows: 2, Outcomes: ok(7)},
		{Service: "cart", Version: "v1", Region: signal.Elsewhere, Overflows: 7},
		// Seven ended, of which one was under way before and three were issued now: three never were.
		{Service: "cart", Version: "v1", Region: "us", InProgress: 2, Outcomes: []signal.Outcome{
			{Class: LoadRefused, Tries: 3}, {Class: LoadOK, Tries: 13}, {Class: LoadError, Tries: 1}}},
		{Service: "cart", Version: "v2", Shadow: true, Outcomes: ok(6)},
	}
	if diff := cmp.Diff(want, got.Arms); diff != "" {
		t.Error(diff)
	}
}
