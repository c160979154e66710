package facts

import (
	"net"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestHealthChecksOfEachKind(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol traffic.Protocol
		path     string
		sick     lab.Behavior
	}{
		{"http", traffic.HTTP, lab.HealthPath, lab.Behavior{Unhealthy: true}},
		{"http2", traffic.HTTP2, lab.HealthPath, lab.Behavior{Unhealthy: true}},
		{"grpc", traffic.GRPC, "", lab.Behavior{Unhealthy: true}},
		{"tcp", traffic.HTTP, "", lab.Behavior{Refuse: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShop(t, theMesh(t), c.protocol)
			s.in.Health = &traffic.Health{Path: c.path, Interval: 50 * time.Millisecond, Timeout: time.Second, UnhealthyAfter: 2, HealthyAfter: 1}
			s.at(traffic.Whole)
			one := func() string {
				if c.protocol == traffic.GRPC {
					v, err := call(s.dial())
					if err != nil {
						t.Fatal(err)
					}
					return v
				}
				all := s.ask(ask{})
				if all.failed() > 0 {
					t.Fatalf("%v", all)
				}
				return all[0].version
			}
			healthy := func() uint64 { return s.m.stat(t, "cluster."+s.canary()+".membership_healthy") }
			s.until("the canary is healthy", func() bool { return healthy() == 1 })
			if v := one(); v != "v2" {
				t.Fatalf("a healthy canary: %s answered", v)
			}
			s.set(s.v2, c.sick)
			s.until("the canary is out", func() bool { return healthy() == 0 })
			if v := one(); v != "v1" {
				t.Errorf("a sick canary: %s answered", v)
			}
			s.set(s.v2, lab.Behavior{})
			s.until("the canary is back", func() bool { return healthy() == 1 })
			s.until("the canary answers", func() bool { return one() == "v2" })
			t.Logf("checks: %d, of which failed: %d", s.m.stat(t, "cluster."+s.canary()+".health_check.attempt"),
				s.m.stat(t, "cluster."+s.canary()+".health_check.failure"))
		})
	}
}

// An endpoint that is no longer declared is given nothing more, though it would pass its health check.
func TestAnEndpointThatIsNotDeclaredIsGone(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Health = &traffic.Health{Path: lab.HealthPath, Interval: 50 * time.Millisecond, Timeout: time.Second, UnhealthyAfter: 3, HealthyAfter: 1}
	other := instance(t, s.in.Service, "v1", traffic.HTTP)
	s.in.Stable = arm("v1", s.v1, other)
	s.at(0)
	s.until("both are healthy", func() bool { return s.m.stat(t, "cluster."+s.stable()+".membership_healthy") == 2 })
	if all := s.ask(ask{n: 100, users: 5}); all.failed() > 0 || other.Counts().Received < 30 {
		t.Fatalf("%v, %d at the second endpoint", all, other.Counts().Received)
	}
	s.in.Stable = arm("v1", s.v1)
	s.publish()
	s.until("it is gone", func() bool { return s.m.stat(t, "cluster."+s.stable()+".membership_total") == 1 })
	before := other.Counts().Received
	all := s.ask(ask{n: 100, users: 5})
	t.Logf("%d of 100 requests at an endpoint that passes its health check and is not declared", other.Counts().Received-before)
	if all.failed() > 0 || other.Counts().Received != before {
		t.Errorf("%v, %d", all, other.Counts().Received-before)
	}
}

// A promotion names a new cluster, whose first health checks take their time. Until it is warm the routes stay as they are,
// and without the canary's keys in the layer they name the stable version of before.
func TestAPromotionFailsNobodyWhileItsClusterWarms(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Health = &traffic.Health{Path: lab.HealthPath, Interval: time.Second, Timeout: 500 * time.Millisecond, UnhealthyAfter: 3, HealthyAfter: 1}
	// An endpoint that takes connections and says nothing: its first check lasts until it times out.
	promoted := arm("v2", s.v2)
	promoted.Localities[0].Endpoints = append(promoted.Localities[0].Endpoints, silent(t))
	s.in.Canary = &promoted
	s.at(traffic.Whole)
	end := s.background(10)
	s.until("requests on the canary", func() bool { return s.v2.Counts().Received > 200 })
	old := s.v1.Counts().Received
	s.in.Stable, s.in.Canary, s.in.Weight = promoted, nil, 0
	s.publish()
	before := s.v2.Counts().Received
	s.until("requests on the promoted version", func() bool { return s.v2.Counts().Received > before+200 })
	all := end()
	t.Logf("%d of %d requests failed; %d of them were back on the version of before while the cluster warmed", all.failed(), len(all), s.v1.Counts().Received-old)
	if all.failed() > 0 {
		t.Errorf("%v", all)
	}
	if after := s.ask(ask{n: 100, users: 5}); after.of("v2") != 100 {
		t.Errorf("after the promotion: %v", after)
	}
}

// Half of stable's endpoints may be ejected for being down, the only one never.
func TestAStableEndpointThatIsDownIsLeftOut(t *testing.T) {
	for _, c := range []struct{ endpoints, least, most int }{{1, 300, 300}, {2, 5, 30}, {3, 5, 30}} {
		s := newShop(t, theMesh(t), traffic.HTTP)
		down := instance(t, s.in.Service, "v1", traffic.HTTP)
		s.set(down, lab.Behavior{Refuse: true})
		declared := []*lab.Instance{down, s.v1, instance(t, s.in.Service, "v1", traffic.HTTP)}[:c.endpoints]
		s.in.Stable = arm("v1", declared...)
		s.at(0)
		all := s.ask(ask{n: 300, users: 10})
		t.Logf("%d endpoints of which one refuses: %d of 300 requests failed", c.endpoints, all.failed())
		if n := all.failed(); n < c.least || n > c.most {
			t.Errorf("%d endpoints: %v", c.endpoints, all)
		}
	}
}

// silent is an endpoint that accepts connections and never answers.
func silent(t *testing.T) traffic.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return traffic.Endpoint{Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port)}
}
