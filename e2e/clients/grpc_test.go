package clients

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// dial is a proxyless client of the service, configured by the control plane alone.
func dial(t *testing.T, r *rig.Rig) *grpc.ClientConn {
	t.Helper()
	resolver, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "proxyless-1", "cluster": "front", "locality": {"region": %q}}
	}`, r.Plane.Address(), rig.Region))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///shop.example", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call returns the version that answered.
func call(conn *grpc.ClientConn) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var header metadata.MD
	err = conn.Invoke(ctx, "/lab.Echo/Call", wrapperspb.Bytes([]byte("x")), &wrapperspb.BytesValue{}, grpc.Header(&header), grpc.WaitForReady(true))
	if v := header.Get("x-version"); len(v) > 0 {
		version = v[0]
	}
	return version, err
}

func TestAProxylessGRPCClientFollowsTheWeights(t *testing.T) {
	r := rig.New(t, rig.Options{
		Protocol: lab.GRPC, Sidecars: 1, Service: "timeout: 2s",
		Policy: `steps: [{share: "50%", hold: 10m}]`,
	})
	conn := dial(t, r)
	for range 50 {
		if v, err := call(conn); err != nil || v != "v1" {
			t.Fatalf("before the start: %q, %v", v, err)
		}
	}
	// Calls go on, so that its load reports, and the sidecar's statistics, are evidence.
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_, _ = call(conn)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	defer func() { stop(); <-ended }()
	r.Act("start")
	r.UntilWeight(5000, 20*time.Second)
	share := func() (v2 int) {
		for range 400 {
			v, err := call(conn)
			if err != nil {
				t.Fatal(err)
			}
			if v == "v2" {
				v2++
			}
		}
		return v2
	}
	if v2 := share(); v2 < 150 || v2 > 250 {
		t.Errorf("%d of 400 calls reached the canary at 50 %%", v2)
	} else {
		t.Logf("%d of 400 calls reached the canary at 50 %%", v2)
	}
	proxies, err := r.Plane.API().ListProxies(t.Context(), &aviaryv1.ListProxiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range proxies.Proxies {
		if p.Name == "proxyless-1" && len(p.Lacks) != 3 {
			t.Errorf("a proxyless client lacks %v", p.Lacks)
		}
	}
	r.Set("v2", lab.GRPCErrors(1, codes.Internal))
	r.UntilPhase(aviaryv1.Phase_PHASE_HALTED, 20*time.Second)
	r.UntilWeight(0, 5*time.Second)
	if v2 := share(); v2 != 0 {
		t.Errorf("%d of 400 calls reached a halted canary", v2)
	}
}
