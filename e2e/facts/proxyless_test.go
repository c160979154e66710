package facts

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// proxyless is a server for proxyless clients.
func proxyless(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{view: resource.View{Service: "front", GRPC: true, Weights: resource.InRoutes}}
	if err := m.serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

// dialProxyless is a client of the service that is configured by the server itself.
func (s *shop) dialProxyless() *grpc.ClientConn {
	s.t.Helper()
	resolver, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "proxyless", "cluster": "front"}
	}`, s.m.addr))
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+s.in.Hosts[0], grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A proxyless client fails over within stable's cluster.
func TestAProxylessClientFailsOver(t *testing.T) {
	s := newShop(t, proxyless(t), traffic.GRPC)
	north := instance(t, s.in.Service, "v0", traffic.GRPC)
	s.in.Canary, s.in.NearestZone = nil, true
	s.in.Failover = &traffic.Failover{Admit: traffic.Whole, Localities: []traffic.Locality{at("eu-north", "a", north)}}
	s.at(0)
	conn := s.dialProxyless()
	answered := func() string {
		version, err := call(conn)
		if err != nil {
			return err.Error()
		}
		return version
	}
	s.until("its region answers", func() bool { return answered() == "v1" })
	s.set(s.v1, lab.Behavior{Refuse: true})
	s.until("the neighbour answers", func() bool { return answered() == "v0" })
	for range 100 {
		if got := answered(); got != "v0" {
			t.Fatalf("while its region is out: %s", got)
		}
	}
	s.set(s.v1, lab.Behavior{})
	s.until("its region is back", func() bool { return answered() == "v1" })
}

// A proxyless client has weights, testers and the time limit from its routes, and no net.
func TestWhatAProxylessClientFollows(t *testing.T) {
	s := newShop(t, proxyless(t), traffic.GRPC)
	s.in.TesterHeader, s.in.Testers, s.in.Timeout = "x-version-wanted", true, 500*time.Millisecond
	s.at(2500)
	conn := s.dialProxyless()
	calls := func(n int, wanted string) (v2, failed int, last error) {
		t.Helper()
		for range n {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if wanted != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, s.in.TesterHeader, wanted)
			}
			var header metadata.MD
			err := conn.Invoke(ctx, "/lab.Echo/Call", wrapperspb.Bytes([]byte("x")), &wrapperspb.BytesValue{}, grpc.Header(&header), grpc.WaitForReady(true))
			cancel()
			if v := header.Get("x-version"); len(v) > 0 && v[0] == "v2" {
				v2++
			}
			if err != nil {
				failed, last = failed+1, err
			}
		}
		return v2, failed, last
	}
	v2, failed, err := calls(1000, "")
	t.Logf("weight 2500: %d of 1000 calls on the canary, %d failed", v2, failed)
	if v2 < 180 || v2 > 320 || failed > 0 {
		t.Errorf("%d on the canary, %d failed: %v", v2, failed, err)
	}
	for version, want := range map[string]int{"v1": 0, "v2": 100} {
		if v2, failed, err := calls(100, version); v2 != want || failed > 0 {
			t.Errorf("testers of %s: %d of 100 on the canary, %d failed: %v", version, v2, failed, err)
		}
	}
	s.set(s.v2, lab.Failing(lab.FailHang, 1))
	_, failed, err = calls(4, "v2")
	t.Logf("a canary that hangs, at a limit of %v: %d of 4 calls failed: %v", s.in.Timeout, failed, err)
	if failed != 4 || status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%d of 4 failed: %v", failed, err)
	}
	s.in.Weight, s.in.Testers = 0, false
	s.publish()
	s.until("nothing is on the canary", func() bool { v2, failed, _ := calls(50, "v2"); return v2 == 0 && failed == 0 })
}
