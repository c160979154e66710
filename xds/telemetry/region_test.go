package telemetry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dto "github.com/prometheus/client_model/go"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// triedIn counts tries of v1 in a region.
func triedIn(region string, n float64, status, flags string) *dto.MetricFamily {
	return counter("aviary.tries", n, append(class("v1", status, "", flags), "region", region)...)
}

func named(cluster string) []string { return []string{"envoy.cluster_name", cluster} }

func TestRegionOfATry(t *testing.T) {
	w := newWorld(t)
	s := w.open("p") // of eu
	s.send(at(1, gauge("server.live", 1))...)
	got := s.send(at(2,
		triedIn("eu", 1, "200", "-"), triedIn("-", 2, "200", "-"), count200("v1", 12),
		triedIn("us", 16, "200", "-"), triedIn("us", 1, "500", "-"), triedIn("ap", 32, "200", "-"),
		triedIn(signal.Elsewhere, 64, "200", "-"), triedIn(strings.Repeat("r", 1000), 64, "200", "-"),
	)...)
	arm := func(region string, outcomes ...signal.Outcome) signal.Arm {
		return signal.Arm{Service: "cart", Version: "v1", Region: region, Outcomes: outcomes}
	}
	want := []signal.Arm{
		arm("", signal.Outcome{Class: ok200, Tries: 15}),
		arm("ap", signal.Outcome{Class: ok200, Tries: 32}),
		arm("us", signal.Outcome{Class: ok200, Tries: 16}, signal.Outcome{Class: signal.Class{Status: 500, GRPC: -1}, Tries: 1}),
	}
	if diff := cmp.Diff(want, got.Arms, cmpopts.IgnoreFields(signal.Outcome{}, "Latency")); diff != "" {
		t.Error(diff)
	}
}

// A proxy that learns to tag its logs keeps the old series for a while beside the new ones.
func TestSeriesWithoutARegionGo(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, count200("v1", 100))...)
	total := uint64(0)
	for i, f := range [][]*dto.MetricFamily{
		{count200("v1", 110)},
		{count200("v1", 110), triedIn("eu", 5, "200", "-")},
		{count200("v1", 110), triedIn("eu", 7, "200", "-")},
		{triedIn("eu", 9, "200", "-")},
		{triedIn("eu", 9, "200", "-")},
	} {
		total += outcomes(s.send(at(float64(2+i), f...)...), "v1")[ok200]
	}
	if total != 19 {
		t.Errorf("%d tries, want 19", total)
	}
}

func TestCutRequestsOfARegion(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	cut := func(region string, n float64) *dto.MetricFamily {
		return counter("aviary.cut_requests", n, "service", "cart", "version", "v1", "region", region, "flags", "UT")
	}
	got := s.send(at(2, triedIn("us", 3, "0", "-"), cut("us", 3), triedIn("eu", 2, "0", "-"), triedIn("eu", 7, "200", "-"))...)
	timedOut := signal.Class{GRPC: -1, Flags: "UT"}
	if len(got.Arms) != 2 || len(got.Arms[0].Outcomes) != 1 || got.Arms[0].Outcomes[0].Class != ok200 ||
		got.Arms[1].Region != "us" || len(got.Arms[1].Outcomes) != 1 || got.Arms[1].Outcomes[0].Class != timedOut || got.Arms[1].Outcomes[0].Tries != 3 {
		t.Errorf("%+v, want three time-outs in us, and two tries here that wait for an explanation", got.Arms)
	}
}

// Roles of clusters: whose their gauges and counters are.
func TestRoles(t *testing.T) {
	for _, c := range []struct {
		role string
		want signal.Arm // of each statistic once
	}{
		{"stable", signal.Arm{InProgress: 1, Pending: 2, Endpoints: 9, Healthy: 8, Ejected: 7, Overflows: 3, Ejections: 4}},
		{"canary", signal.Arm{InProgress: 1, Pending: 2, Endpoints: 9, Healthy: 8, Ejected: 7, Overflows: 3, Ejections: 4}},
		// Aggregates have the endpoints of others.
		{"arm", signal.Arm{InProgress: 1, Pending: 2, Overflows: 3, Ejections: 4}},
		{"everywhere", signal.Arm{InProgress: 1, Pending: 2, Overflows: 3, Ejections: 4}},
		{"shed", signal.Arm{InProgress: 1, Pending: 2, Overflows: 3, Ejections: 4}},
		{"remote", signal.Arm{Region: signal.Elsewhere, InProgress: 1, Pending: 2, Endpoints: 9, Healthy: 8, Ejected: 7, Overflows: 3, Ejections: 4}},
		{"shadow", signal.Arm{Shadow: true, InProgress: 1, Pending: 2, Endpoints: 9, Healthy: 8, Ejected: 7, Overflows: 3, Ejections: 4}},
	} {
		t.Run(c.role, func(t *testing.T) {
			w := newWorld(t)
			s := w.open("p")
			s.send(at(1, gauge("server.live", 1))...)
			cluster := named("cart/" + c.role + "/v1")
			stats := []*dto.MetricFamily{
				gauge("cluster.upstream_rq_active", 1, cluster...), gauge("cluster.upstream_rq_pending_active", 2, cluster...),
				gauge("cluster.membership_total", 9, cluster...), gauge("cluster.membership_healthy", 8, cluster...),
				gauge("cluster.outlier_detection.ejections_active", 7, cluster...),
				counter("cluster.upstream_rq_pending_overflow", 3, cluster...),
				counter("cluster.outlier_detection.ejections_enforced_total", 4, cluster...),
				counter("cluster.upstream_cx_connect_fail", 5, cluster...),
			}
			c.want.Service, c.want.Version = "cart", "v1"
			if diff := cmp.Diff([]signal.Arm{c.want}, s.send(at(2, stats...)...).Arms); diff != "" {
				t.Error(diff)
			}
			// A connection that failed and took no try with it is known a flush later; of other regions it is not.
			c.want.Overflows, c.want.Ejections, c.want.ConnectFailures = 0, 0, 5
			if c.role == "remote" {
				c.want.ConnectFailures = 0
			}
			if diff := cmp.Diff([]signal.Arm{c.want}, s.send(at(3, stats...)...).Arms); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Connections to other regions: their tries with the flag UF stand for them, and have nothing to do with those here.
func TestConnectionsElsewhere(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	f := []*dto.MetricFamily{
		counter("cluster.upstream_cx_connect_fail", 5, named("cart/remote/v1")...), triedIn("us", 5, "0", "UF"),
		counter("cluster.upstream_cx_connect_fail", 4, named("cart/stable/v1")...), triedIn("eu", 1, "0", "UF"),
		counter("cluster.upstream_rq_max_duration_reached", 2, named("cart/remote/v1")...),
	}
	tries, failures := uint64(0), uint64(0)
	for i := range 4 {
		for _, a := range s.send(at(float64(2+i), f...)...).Arms {
			failures += a.ConnectFailures
			for _, o := range a.Outcomes {
				tries += o.Tries
			}
		}
	}
	if tries != 6 || failures != 3 {
		t.Errorf("%d tries and %d connect failures, want 6 and the 3 here that no try tells of", tries, failures)
	}
}

// A copy of a request is a try with a mark. It has no log of its request: its cluster says how many were timed out.
func TestCopies(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	copied := func(status, grpc, flags, mark string) []string {
		return append(class("v2", status, grpc, flags), "region", "eu", "shadow", mark)
	}
	gone := copied("0", "", "-", "true")
	got := s.send(at(2,
		counter("aviary.tries", 10, copied("200", "0", "-", "true")...),
		counter("aviary.tries", 5, copied("200", "13", "-", "true")...),
		counter("aviary.tries", 6, gone...), latencies("aviary.cut_ms", gone, 500, 500, 500, 500, 900, 900),
		counter("aviary.tries", 7, copied("200", "0", "-", "-")...),
		counter("aviary.tries", 8, copied("200", "0", "-", "false")...),
		counter("aviary.tries", 1, copied("0", "", "-", "-")...),
		counter("cluster.upstream_rq_max_duration_reached", 4, named("cart/shadow/v2")...),
		counter("cluster.upstream_rq_timeout", 2, named("cart/shadow/v2")...),
		counter("cluster.upstream_rq_timeout", 1, named("cart/canary/v2")...),
		gauge("cluster.upstream_rq_active", 3, named("cart/shadow/v2")...),
	)...)
	of := func(status, grpc int, flags string, tries uint64) signal.Outcome {
		return signal.Outcome{Class: signal.Class{Status: status, GRPC: grpc, Flags: flags}, Tries: tries}
	}
	want := []signal.Arm{
		{Service: "cart", Version: "v2", Outcomes: []signal.Outcome{of(200, 0, "", 15)}},
		{Service: "cart", Version: "v2", Shadow: true, InProgress: 3, Outcomes: []signal.Outcome{
			of(0, -1, "UMSDR", 4), of(0, -1, "UT", 2), of(200, 0, "", 10), of(200, 13, "", 5)}},
	}
	if diff := cmp.Diff(want, got.Arms, cmpopts.IgnoreFields(signal.Outcome{}, "Latency")); diff != "" {
		t.Error(diff)
	}
	if h := got.Arms[1].Outcomes[1].Latency; len(h) != 1 || h[0].Edge != signal.EdgeOf(900_000) {
		t.Errorf("the slowest are those that the request's limit cut, not %v", h)
	}
	// What nothing explains a flush later ended with the request that it copied. A live try is no such thing.
	live := copied("0", "", "-", "-")
	more := []*dto.MetricFamily{
		counter("aviary.tries", 9, gone...), latencies("aviary.cut_ms", gone, 500, 500, 500),
		counter("aviary.tries", 2, live...), latencies("aviary.cut_ms", live, 500),
		counter("cluster.upstream_rq_timeout", 3, named("cart/shadow/v2")...),
	}
	s.send(at(3, more...)...)
	got = s.send(at(4, more...)...)
	want = []signal.Arm{
		{Service: "cart", Version: "v2", Outcomes: []signal.Outcome{of(0, -1, "", 1)}},
		{Service: "cart", Version: "v2", Shadow: true, Outcomes: []signal.Outcome{of(0, -1, "DR", 2)}},
	}
	if diff := cmp.Diff(want, got.Arms, cmpopts.IgnoreFields(signal.Outcome{}, "Latency")); diff != "" {
		t.Error(diff)
	}
}
