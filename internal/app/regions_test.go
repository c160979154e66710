package app

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/discovery"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
	"github.com/aviary-mesh/aviary/xds/ads"
)

type declared struct {
	regions []*aviaryv1.RegionState
	err     error
}

func (d declared) RegionStates(context.Context) ([]*aviaryv1.RegionState, error) {
	return d.regions, d.err
}

type names []discovery.Resolved

func (n names) Status() []discovery.Resolved { return n }

// A proxy connects, is given its region's clusters, and is counted there, beside what the other rooms know of the region.
func TestRegionsArePutTogether(t *testing.T) {
	r := deliver(t)
	server := ads.New(ads.Config{Identify: r.identify})
	defer server.Close()
	r.ads, r.to = server, server
	r.Publish(within("eu", "10.0.1.1", 1000), false)
	connect(t, server)
	r.settle("eu")
	r.Publish(beyond("eu", 1000), false)
	r.settle("eu")

	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r.region("eu").mu.Lock()
	r.region("eu").published, r.region("eu").refusal.at, r.region("eu").refusal.text = at, at.Add(time.Second), "too far"
	r.region("eu").mu.Unlock()
	of := regions{
		declared: declared{regions: []*aviaryv1.RegionState{
			{Name: "eu", Jurisdiction: "EU", Services: []*aviaryv1.ServiceState{
				{Service: "cart"}, {Service: "shop", Rate: 3, Names: []*aviaryv1.Resolved{
					{Name: "bad.internal", Addresses: []string{"10.0.1.2"}, Error: "too far"}, {Name: "new.internal"},
					{Name: "shop.internal", Addresses: []string{"10.0.1.1"}},
				}},
			}},
			{Name: "us"},
		}},
		delivery: r.delivery,
		names:    names{{Name: "bad.internal", At: at}, {Name: "shop.internal", Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.1")}, At: at, Err: errors.New("no answer")}},
	}
	got, err := of.Regions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []*aviaryv1.RegionState{
		{Name: "eu", Jurisdiction: "EU", Proxies: 1, Published: timestamppb.New(at), Refused: "too far", RefusedAt: timestamppb.New(at.Add(time.Second)),
			Services: []*aviaryv1.ServiceState{{Service: "cart"}, {Service: "shop", Rate: 3, Names: []*aviaryv1.Resolved{
				{Name: "bad.internal", Addresses: []string{"10.0.1.2"}, Error: "too far"}, {Name: "new.internal"}, {Name: "shop.internal", Addresses: []string{"10.0.1.1"}, At: timestamppb.New(at), Error: "no answer"},
			}}}},
		{Name: "us"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	of.declared = declared{err: context.Canceled}
	if _, err := of.Regions(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

// dial opens a stream.
func dial(t *testing.T, server *ads.Server) grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse] {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(server.Options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, server)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///xds",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// connect opens a stream as a proxy of caller front in eu, and waits for its clusters.
func connect(t *testing.T, server *ads.Server) {
	t.Helper()
	stream := dial(t, server)
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		Node:    &corev3.Node{Id: "front-1", Cluster: "front", Locality: &corev3.Locality{Region: "eu", Zone: "a"}},
		TypeUrl: ads.Cluster.URL(), ResourceNamesSubscribe: []string{"*"},
	}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || len(resp.GetResources()) != 3 {
		t.Fatalf("%d clusters: %v", len(resp.GetResources()), err)
	}
}
