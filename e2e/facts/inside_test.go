package facts

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
)

// oftenChecked is a health check that passes or fails within a moment.
func oftenChecked() *traffic.Health {
	return &traffic.Health{Path: lab.HealthPath, Interval: 50 * time.Millisecond, Timeout: time.Second, UnhealthyAfter: 1, HealthyAfter: 1}
}

// A canary may fail its users and pass its health checks. By default Envoy takes it back with the next check that passes.
func TestAnEjectedCanaryStaysOutThoughItsHealthChecksPass(t *testing.T) {
	failedAfter := func(t *testing.T, change func(*given, *shop)) int {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.in.Health = oftenChecked()
		s.change = func(g *given) { change(g, s) }
		s.at(traffic.Whole)
		s.until("the canary is healthy", func() bool { return s.m.stat(t, "cluster."+s.canary()+".membership_healthy") == 1 })
		s.set(s.v2, lab.Errors(1, 500))
		s.until("the canary was ejected", func() bool {
			s.ask(ask{n: 10, method: http.MethodPost})
			return s.m.stat(t, "cluster."+s.canary()+".outlier_detection.ejections_enforced_total") > 0
		})
		checks := s.v2.Counts().Health
		// What is back is given requests with the next interval of the outlier detection, which is a second.
		s.until("more checks pass", func() bool { return s.v2.Counts().Health >= checks+40 })
		return s.ask(ask{n: 300, users: 10, method: http.MethodPost}).failed()
	}
	ours := failedAfter(t, func(*given, *shop) {})
	usual := failedAfter(t, func(g *given, s *shop) {
		g.cluster(s.canary()).OutlierDetection.SuccessfulActiveHealthCheckUnejectHost = nil
	})
	t.Logf("after an ejection and forty health checks that passed %d of 300 POSTs failed; with Envoy's default %d", ours, usual)
	if ours > 0 {
		t.Error("health checks bring an ejected canary back")
	}
	if usual == 0 {
		t.Error("it stays out by default: the field is not needed?")
	}
}

// Envoy's default is the cluster's name, which is no host: over HTTP/1 Go's server answers 400 to it.
func TestHealthChecksAskForAHost(t *testing.T) {
	for name, p := range map[string]traffic.Protocol{"http": traffic.HTTP, "http2": traffic.HTTP2} {
		t.Run(name, func(t *testing.T) {
			failures := func(host func(string) string) (passed, failed uint64) {
				s := newShop(t, theMesh(t), p)
				s.in.Health = oftenChecked()
				s.change = func(g *given) {
					check := g.cluster(s.canary()).HealthChecks[0].GetHttpHealthCheck()
					check.Host = host(check.Host)
				}
				s.at(0)
				s.until("checks", func() bool {
					passed = s.m.stat(t, "cluster."+s.canary()+".health_check.success")
					failed = s.m.stat(t, "cluster."+s.canary()+".health_check.failure")
					return passed+failed >= 5
				})
				return passed, failed
			}
			passed, failed := failures(func(ours string) string { return ours })
			usualPassed, usualFailed := failures(func(string) string { return "" })
			t.Logf("checks of a healthy canary: %d passed, %d failed; with the cluster's name as host %d passed, %d failed",
				passed, failed, usualPassed, usualFailed)
			if failed > 0 {
				t.Error("they do not ask for a host that the service knows")
			}
			if usualFailed == 0 && p == traffic.HTTP {
				t.Error("the cluster's name will do: the field is not needed?")
			}
		})
	}
}

// An endpoint that is not declared any more would keep its traffic for as long as it passes its health check.
func TestAnUndeclaredEndpointIsKeptByItsHealthByDefault(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Health = oftenChecked()
	s.change = func(g *given) { g.cluster(s.stable()).IgnoreHealthOnHostRemoval = false }
	other := instance(t, s.in.Service, "v1", traffic.HTTP)
	s.in.Stable = arm("v1", s.v1, other)
	s.at(0)
	s.until("both are healthy", func() bool { return s.m.stat(t, "cluster."+s.stable()+".membership_healthy") == 2 })
	s.in.Stable = arm("v1", s.v1)
	s.publish()
	before := other.Counts().Received
	s.ask(ask{n: 200, users: 5})
	t.Logf("by default %d of 200 requests go to an endpoint that is not declared any more", other.Counts().Received-before)
	if other.Counts().Received == before {
		t.Error("it gets nothing by default: ignore_health_on_host_removal is not needed?")
	}
}

func TestHashPoliciesReachInsideTheArm(t *testing.T) {
	const people, visits = 40, 5
	s := newShop(t, theMesh(t), traffic.HTTP)
	other := instance(t, s.in.Service, "v2b", traffic.HTTP)
	s.in.Canary = ptr(arm("v2", s.v2, other))
	s.change = func(g *given) {
		g.cluster(s.canary()).LbPolicy = clusterv3.Cluster_RING_HASH
		g.all()[0].GetRoute().HashPolicy = []*routev3.RouteAction_HashPolicy{{
			PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: "x-user"}},
		}}
	}
	s.at(traffic.Whole)
	all := s.ask(ask{n: people * visits, users: 10, header: func(i int) http.Header { return http.Header{"X-User": {strconv.Itoa(i % people)}} }})
	switched := 0
	for i := people; i < len(all); i++ {
		if all[i].version != all[i%people].version {
			switched++
		}
	}
	t.Logf("%v; %d times a user met another endpoint of the canary", all, switched)
	if all.failed() > 0 || switched > 0 || all.of("v2") == 0 || all.of("v2b") == 0 {
		t.Error("a ring hash inside the arm does not hold")
	}
}

func TestPrioritiesHoldInsideTheArm(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Health = oftenChecked()
	other := instance(t, s.in.Service, "v2b", traffic.HTTP)
	next := arm("v2", other).Localities[0]
	next.Priority = 1
	s.in.Canary.Localities = append(s.in.Canary.Localities, next)
	s.at(traffic.Whole)
	healthy := func(n uint64) func() bool {
		return func() bool { return s.m.stat(t, "cluster."+s.canary()+".membership_healthy") == n }
	}
	s.until("both are healthy", healthy(2))
	if all := s.ask(ask{n: 100, users: 5}); all.of("v2") != 100 {
		t.Errorf("with both in order: %v", all)
	}
	s.set(s.v2, lab.Behavior{Unhealthy: true})
	s.until("the first is out", healthy(1))
	all := s.ask(ask{n: 100, users: 5, method: http.MethodPost})
	t.Logf("with the first priority out: %v", all)
	if all.of("v2b") != 100 {
		t.Errorf("with the first priority out: %v", all)
	}
}

// What a rescue costs is printed and not asserted: it is a time.
func TestABackOffOfAMillisecond(t *testing.T) {
	median := func(change func(*given)) time.Duration {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.change = func(g *given) { s.unejected(g); change(g) }
		s.set(s.v2, lab.Errors(1, 500))
		s.at(traffic.Whole)
		var took []time.Duration
		for range 10 {
			const n = 20
			began := time.Now()
			if all := s.ask(ask{n: n}); all.failed() > 0 {
				t.Fatalf("%v", all)
			}
			took = append(took, time.Since(began)/n)
		}
		slices.Sort(took)
		return took[len(took)/2].Round(10 * time.Microsecond)
	}
	ours := median(func(*given) {})
	usual := median(func(g *given) { g.all()[0].GetRoute().RetryPolicy.RetryBackOff = nil })
	t.Logf("a GET that was rescued takes %v; with Envoy's back-off %v", ours, usual)
}

func TestATesterIsSavedAsAnybodyAndGoesWithTheWeight(t *testing.T) {
	const n = 200
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.TesterHeader, s.in.Testers = "x-version-wanted", true
	s.at(0)
	wants := func(version string) answers {
		return s.ask(ask{n: n, users: 10, header: func(int) http.Header { return http.Header{"X-Version-Wanted": {version}} }})
	}
	if all := wants("v2"); all.of("v2") != n {
		t.Errorf("testers of a canary without a share: %v", all)
	}
	s.set(s.v2, lab.Errors(1, 500))
	if all := wants("v2"); all.failed() > 0 || s.v2.Counts().Bad() == 0 {
		t.Errorf("testers of a canary that fails: %v; it failed %d tries", all, s.v2.Counts().Bad())
	}
	s.set(s.v2, lab.Behavior{})
	s.at(traffic.Whole)
	if all := wants("v1"); all.of("v1") != n {
		t.Errorf("testers of stable beside a canary with everything: %v", all)
	}
	loads := s.m.stat(t, "http.egress.rds.egress.config_reload")
	s.in.Testers = false
	s.at(0)
	all := wants("v2")
	t.Logf("testers of a halted canary: %v", all)
	if all.of("v1") != n {
		t.Errorf("testers of a halted canary: %v", all)
	}
	if now := s.m.stat(t, "http.egress.rds.egress.config_reload"); now != loads {
		t.Errorf("a halt reloaded the routes %d times", now-loads)
	}
}

// Leases that end while streams are dropped crashed older Envoys.
func TestEnvoyOutlivesLapsesAndDroppedStreams(t *testing.T) {
	const ttl = 100 * time.Millisecond
	for name, sotw := range map[string]bool{"delta": false, "state of the world": true} {
		t.Run(name, func(t *testing.T) {
			var r relay
			m := newMesh(t, meshOptions{sotw: sotw, bootstrap: func(b map[string]any) { r.between(t, b) }})
			s := newShop(t, m, traffic.HTTP)
			s.in.Lease = ttl
			s.at(5000)
			for round := range 12 {
				m.keep.Store(false)
				s.until("the lease ends", func() bool { return m.runtime(t, s.key(s.arm())) == "" })
				if round%4 == 3 {
					r.drop()
				}
				m.keep.Store(true)
				s.until("the share is back", func() bool { return m.runtime(t, s.key(s.arm())) == "5000" })
			}
			stats := m.srv.Stats()
			t.Logf("%d leases ended, %d heartbeats, %d streams, %d refusals", stats.Lapses, stats.Heartbeats, stats.Opened, stats.Nacks[ads.Runtime])
			if !m.envoy.Running() {
				t.Fatal(m.envoy.Err())
			}
			if all := s.ask(ask{n: 200, users: 10}); all.failed() > 0 || stats.Opened < 4 {
				t.Errorf("%v, %d streams", all, stats.Opened)
			}
		})
	}
}

// relay stands between a sidecar and its control plane, to drop their connections.
type relay struct {
	mu    sync.Mutex
	conns []net.Conn
}

// between has a bootstrap name the relay in place of the control plane.
func (r *relay) between(t *testing.T, bootstrap map[string]any) {
	t.Helper()
	address := findAddress(bootstrap["static_resources"])
	if address == nil {
		t.Fatal("no address of a control plane in the bootstrap")
	}
	to := fmt.Sprintf("%v:%v", address["address"], address["port_value"])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address["port_value"] = listener.Addr().(*net.TCPAddr).Port
	var running sync.WaitGroup
	running.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			on, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, from, on)
			r.mu.Unlock()
			running.Go(func() { pipe(from, on) })
			running.Go(func() { pipe(on, from) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.drop()
		running.Wait()
	})
}

func pipe(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// findAddress returns the first socket address in a part of a bootstrap.
func findAddress(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		if a, ok := v["socket_address"].(map[string]any); ok {
			return a
		}
		for _, inner := range v {
			if a := findAddress(inner); a != nil {
				return a
			}
		}
	case []any:
		for _, inner := range v {
			if a := findAddress(inner); a != nil {
				return a
			}
		}
	}
	return nil
}
