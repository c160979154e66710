package counting

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/internal/lab"
)

const (
	canary = "cluster.cart/canary/v2."
	arm    = "cluster.cart/arm/v2."
	stable = "cluster.cart/stable/v1."
)

// everything has Envoy keep the statistics too that our bootstrap leaves out.
func everything(b *bootstrapv3.Bootstrap) { b.StatsConfig.StatsMatcher = nil }

// routes changes those of the listener: the first is to v2, the last to stable.
func routes(b *bootstrapv3.Bootstrap, change func(*routev3.VirtualHost)) {
	filter := b.StaticResources.Listeners[0].FilterChains[0].Filters[0]
	var manager hcmv3.HttpConnectionManager
	if err := filter.GetTypedConfig().UnmarshalTo(&manager); err != nil {
		panic(err)
	}
	change(manager.GetRouteConfig().VirtualHosts[0])
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(&manager)}
}

func named(b *bootstrapv3.Bootstrap, cluster string) *clusterv3.Cluster {
	for _, c := range b.StaticResources.Clusters {
		if c.Name == cluster {
			return c
		}
	}
	panic("no cluster " + cluster)
}

// point has a cluster use a server of the test's own.
func point(b *bootstrapv3.Bootstrap, cluster string, at net.Addr) {
	endpoint := named(b, cluster).LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint()
	endpoint.Address = socket("127.0.0.1", uint32(at.(*net.TCPAddr).Port))
}

// counters are Envoy's own of the service's clusters.
func (m *mesh) counters() map[string]uint64 {
	m.t.Helper()
	c, err := m.envoy.Stats(`^cluster\.cart/`)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// grown sends at least 20 requests to v2 and says by how much each counter grew meanwhile.
func (m *mesh) grown() (by map[string]uint64, n uint64) {
	m.t.Helper()
	before := m.counters()
	n = m.send("v2", 20)
	wait(m.t, "end of all requests", func() bool {
		c := m.counters()
		return c[arm+"upstream_rq_active"]+c[canary+"upstream_rq_active"]+c[stable+"upstream_rq_active"] == 0
	})
	by = m.counters()
	for name, now := range by {
		by[name] = now - min(now, before[name]) // a gauge may fall
	}
	return by, n
}

// fail has v2 do something else; when that is to refuse, Envoy first sees the connections go that it has.
func (m *mesh) fail(b lab.Behavior) {
	m.t.Helper()
	m.set("v2", b)
	if b.Refuse {
		wait(m.t, "end of the connections", func() bool { return m.counters()[canary+"upstream_cx_active"] == 0 })
	}
}

// send makes at least so many requests to a version and returns how many it made.
func (m *mesh) send(version string, n uint64) uint64 {
	m.t.Helper()
	users := m.users(version, 100)
	wait(m.t, "requests", func() bool { return users.Report().Done >= n })
	return users.Stop().Done
}

// TestClusterCountersMislead: the table of what the counters of clusters say of a canary that fails.
func TestClusterCountersMislead(t *testing.T) {
	for _, c := range []struct {
		name           string
		protocol       lab.Protocol
		behavior       lab.Behavior
		tried, retried bool   // as far as canary.upstream_rq_total and arm.retry.upstream_rq_5xx know
		seen           string // a counter that has every failure
		unseen         string // one that has none
	}{
		{"500", lab.HTTP, status(500)(lab.HTTP), true, true, arm + "retry.upstream_rq_5xx", ""},
		{"hang", lab.HTTP, failing(lab.FailHang)(lab.HTTP), true, false, canary + "upstream_rq_max_duration_reached", arm + "upstream_rq_per_try_timeout"},
		// One connection that fails may take several waiting requests with it: upstream_cx_connect_fail may be below them.
		{"refused", lab.HTTP, lab.Behavior{Refuse: true}, false, false, canary + "upstream_rq_pending_failure_eject", ""},
		{"broken mid-body", lab.HTTP, failing(lab.FailBreak)(lab.HTTP), true, false, canary + "upstream_cx_destroy_remote_with_active_rq", arm + "upstream_rq_5xx"},
		{"500", lab.GRPC, status(500)(lab.GRPC), true, true, arm + "retry.upstream_rq_5xx", ""},
		{"hang", lab.GRPC, failing(lab.FailHang)(lab.GRPC), true, false, canary + "upstream_rq_max_duration_reached", ""},
		{"refused", lab.GRPC, lab.Behavior{Refuse: true}, false, false, canary + "upstream_rq_pending_failure_eject", ""},
		// A stream that breaks leaves its connection whole.
		{"broken mid-body", lab.GRPC, failing(lab.FailBreak)(lab.GRPC), true, false, canary + "upstream_rq_rx_reset", canary + "upstream_cx_destroy_remote_with_active_rq"},
		{"status 13 in headers", lab.GRPC, lab.GRPCErrors(1, codes.Internal), true, false, arm + "retry.upstream_rq_2xx", arm + "upstream_rq_5xx"},
		{"status 13 in trailers", lab.GRPC, failing(lab.FailTrailer)(lab.GRPC), true, false, arm + "upstream_rq_2xx", arm + "upstream_rq_5xx"},
	} {
		t.Run(fmt.Sprintf("%s %s", c.protocol, c.name), func(t *testing.T) {
			m := newMesh(t, c.protocol, everything)
			m.send("v2", 1) // with a connection of before
			m.fail(c.behavior)
			by, n := m.grown()
			for counter, all := range map[string]bool{
				canary + "upstream_rq_total": c.tried, arm + "retry.upstream_rq_5xx": c.retried, c.seen: true, c.unseen: false,
			} {
				want := uint64(0)
				if all {
					want = n
				}
				if by[counter] != want {
					t.Errorf("%s grew by %d, want %d", counter, by[counter], want)
				}
			}
			if failed := by[canary+"upstream_cx_connect_fail"]; (failed > 0) != c.behavior.Refuse {
				t.Errorf("%d connections failed", failed)
			}
			t.Logf("%d requests: canary.upstream_rq_total %d, arm.retry.upstream_rq_5xx %d, %s %d, connect_fail %d, arm.upstream_rq_2xx %d", n,
				by[canary+"upstream_rq_total"], by[arm+"retry.upstream_rq_5xx"], c.seen, by[c.seen], by[canary+"upstream_cx_connect_fail"], by[arm+"upstream_rq_2xx"])
		})
	}
}

// TestATryTimeoutIsCountedOnTheArm: a hang that the route's limit of a try ends, not the canary's own.
func TestATryTimeoutIsCountedOnTheArm(t *testing.T) {
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		everything(b)
		routes(b, func(h *routev3.VirtualHost) {
			h.Routes[0].GetRoute().RetryPolicy.PerTryTimeout = durationpb.New(hangLimit / 2)
		})
	})
	m.set("v2", lab.Failing(lab.FailHang, 1))
	by, n := m.grown()
	t.Logf("%d requests: canary.upstream_rq_total %d, arm.upstream_rq_per_try_timeout %d, canary.upstream_rq_per_try_timeout %d, arm.retry.upstream_rq_5xx %d", n,
		by[canary+"upstream_rq_total"], by[arm+"upstream_rq_per_try_timeout"], by[canary+"upstream_rq_per_try_timeout"], by[arm+"retry.upstream_rq_5xx"])
	if by[canary+"upstream_rq_total"] != n || by[arm+"upstream_rq_per_try_timeout"] != n || by[canary+"upstream_rq_per_try_timeout"] > 0 || by[arm+"retry.upstream_rq_5xx"] > 0 {
		t.Error("want all tries on the canary, all timeouts on the arm, and nothing else")
	}
}

// TestLatencyIsOnTheArm: upstream_rq_time, with the tries before a rescue in it, and in whole milliseconds. The clusters
// inside the arm have none.
func TestLatencyIsOnTheArm(t *testing.T) {
	// Edges a quarter of a millisecond from the next whole one: between each two of them lie either whole ones or none.
	edges := []float64{0.25}
	for ms := range 9 {
		edges = append(edges, float64(ms)+0.75, float64(ms)+1.25)
	}
	edges = append(edges, float64(hangLimit.Milliseconds())*0.9, 1e5)
	rec := record(t)
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		everything(b)
		rec.join(b)
		b.StatsConfig.HistogramBucketSettings = append(b.StatsConfig.HistogramBucketSettings, &metricsv3.HistogramBucketSettings{
			Match: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: "upstream_rq_time"}}, Buckets: edges,
		})
	})
	// under is how many of the times on the arm lie at or under each edge.
	under := func(n uint64) map[float64]uint64 {
		var sum map[float64]uint64
		wait(t, "flush of all times", func() bool {
			sum = map[float64]uint64{}
			for _, f := range rec.all() {
				for _, bucket := range f[arm+"upstream_rq_time{}"].GetHistogram().GetBucket() {
					sum[bucket.GetUpperBound()] += bucket.GetCumulativeCount()
				}
			}
			return sum[edges[len(edges)-1]] >= n
		})
		return sum
	}
	m.set("v2", lab.Behavior{Latency: lab.Latency{Median: 2 * time.Millisecond, Sigma: 0.5}})
	good := m.send("v2", 100)
	sum := under(good)
	whole, between := sum[edges[0]], uint64(0)
	for i := 1; i < len(edges)-2; i += 2 {
		between += sum[edges[i]] - sum[edges[i-1]]
		whole += sum[edges[i+1]] - sum[edges[i]]
	}
	if whole == 0 || between > 0 {
		t.Errorf("%d times are whole milliseconds below 10, %d are not", whole, between)
	}
	m.set("v2", lab.Failing(lab.FailHang, 1))
	rescued := m.send("v2", 5)
	slow := edges[len(edges)-2]
	before, after := sum[slow], under(good + rescued)[slow]
	if got := after - before; got != 0 {
		t.Errorf("%d of %d rescued requests took less than the hang that they were rescued from", got, rescued)
	}
	for name := range rec.newest() {
		if strings.Contains(name, "upstream_rq_time") && !strings.HasPrefix(name, arm) {
			t.Errorf("there is a %s too", name)
		}
	}
	t.Logf("%d good requests: %d took a whole number of milliseconds below 10, %d another time; %d rescued ones: all over %v ms",
		good, whole, between, rescued, slow)
}

// TestTheMarkOfACanary: endpoints with envoy.lb canary have the arm count what they answered apart, latency included. A
// request that was rescued is not among it: it ended on stable.
func TestTheMarkOfACanary(t *testing.T) {
	rec := record(t)
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		everything(b)
		rec.join(b)
		endpoint := named(b, "cart/canary/v2").LoadAssignment.Endpoints[0].LbEndpoints[0]
		endpoint.Metadata.FilterMetadata["envoy.lb"] = &structpb.Struct{Fields: map[string]*structpb.Value{"canary": structpb.NewBoolValue(true)}}
	})
	m.set("v2", lab.Errors(0.5, 500))
	by, n := m.grown()
	counts := m.instances["v2"].Counts()
	good := counts.Good()
	for counter, want := range map[string]uint64{
		arm + "upstream_rq_2xx": n, arm + "canary.upstream_rq_2xx": good, arm + "canary.upstream_rq_completed": good,
		arm + "canary.upstream_rq_5xx": 0, arm + "retry.upstream_rq_5xx": n - good,
	} {
		if by[counter] != want {
			t.Errorf("%s grew by %d, want %d", counter, by[counter], want)
		}
	}
	var timed, all uint64
	wait(t, "flush of all times", func() bool {
		timed, all = 0, 0
		for _, f := range rec.all() {
			timed += f[arm+"canary.upstream_rq_time{}"].GetHistogram().GetSampleCount()
			all += f[arm+"upstream_rq_time{}"].GetHistogram().GetSampleCount()
		}
		return all >= n
	})
	if timed != good {
		t.Errorf("%d times of the canary, want %d", timed, good)
	}
	t.Logf("%d requests, %d answered by the canary: arm.canary.upstream_rq_2xx %d, arm.canary.upstream_rq_time %d values; of the %d that it failed arm.canary knows %d",
		n, good, by[arm+"canary.upstream_rq_2xx"], timed, counts.Bad(), by[arm+"canary.upstream_rq_5xx"])
}

// TestMirrorsCopyEverything: the method, the body and the credentials; only the host tells a copy from what it copies.
func TestMirrorsCopyEverything(t *testing.T) {
	type request struct{ method, host, authorization, cookie, body string }
	var mu sync.Mutex
	var live, copied []request
	serve := func(into *[]request) net.Addr {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			*into = append(*into, request{r.Method, r.Host, r.Header.Get("Authorization"), r.Header.Get("Cookie"), string(body)})
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr()
	}
	stableAt, shadowAt := serve(&live), serve(&copied)
	m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
		point(b, "cart/stable/v1", stableAt)
		point(b, "cart/canary/v2", shadowAt)
		routes(b, func(h *routev3.VirtualHost) {
			h.Routes[len(h.Routes)-1].GetRoute().RequestMirrorPolicies = []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: "cart/canary/v2"}}
		})
	})
	body := strings.Repeat("secret ", 3000)
	const n = 5
	for range n {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			sent := ""
			if method == http.MethodPost {
				sent = body
			}
			if status := ask(t, m, method, sent, http.Header{"Authorization": {"Bearer mine"}, "Cookie": {"user=7"}}); status != http.StatusOK {
				t.Fatalf("%s: status %d", method, status)
			}
		}
	}
	wait(t, "copies", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(copied) >= 2*n
	})
	mu.Lock()
	defer mu.Unlock()
	count := func(of []request) map[request]int {
		c := map[request]int{}
		for _, r := range of {
			c[r]++
		}
		return c
	}
	originals, copies := count(live), count(copied)
	posts := 0
	for r, times := range originals {
		shadow := r
		name, port, _ := net.SplitHostPort(r.host)
		shadow.host = name + "-shadow:" + port
		if copies[shadow] != times {
			t.Errorf("%d copies of %s with %d bytes for %s, want %d", copies[shadow], r.method, len(r.body), r.host, times)
		}
		if r.method == http.MethodPost {
			posts += copies[shadow]
		}
	}
	t.Logf("%d requests, %d copies, %d of them POSTs with %d bytes, Authorization %q, Cookie %q, for host %s",
		len(live), len(copied), posts, len(copied[len(copied)-1].body), copied[0].authorization, copied[0].cookie, copied[0].host)
}
