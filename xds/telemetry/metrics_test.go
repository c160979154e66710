package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

var ok200 = signal.Class{Status: 200, GRPC: -1}

func TestFirstFlushHasGaugesAlone(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	got := s.send(at(1, count200("v1", 100),
		gauge("cluster.upstream_rq_active", 3, "envoy.cluster_name", "cart/stable/v1"),
		counter("cluster.upstream_cx_connect_fail", 9, "envoy.cluster_name", "cart/stable/v1"))...)
	want := signal.Flush{Proxy: "p", Region: "eu", Service: "web", At: epoch,
		Arms: []signal.Arm{{Service: "cart", Version: "v1", InProgress: 3}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDifferences(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, count200("v1", 100))...)
	w.pass(time.Second)
	got := s.send(at(2, count200("v1", 107))...)
	if got.Span != time.Second || !got.At.Equal(epoch.Add(time.Second)) {
		t.Errorf("span %v at %v", got.Span, got.At)
	}
	if n := outcomes(got, "v1")[ok200]; n != 7 {
		t.Errorf("%d tries, want 7", n)
	}
	w.pass(time.Second)
	// A missing message loses nothing: the totals of the next have it.
	w.pass(time.Second)
	got = s.send(at(4, count200("v1", 130))...)
	if n := outcomes(got, "v1")[ok200]; n != 23 || got.Span != 2*time.Second {
		t.Errorf("%d tries in %v, want 23 in 2s", n, got.Span)
	}
	w.pass(time.Second)
	if got = s.send(at(5, count200("v1", 130))...); outcomes(got, "v1") != nil {
		t.Errorf("nothing happened, and yet %v", got.Arms)
	}
}

func TestNewSeriesCountsInFull(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	got := s.send(at(2, count200("v2", 5), counter("aviary.tries", 2, class("v2", "500", "", "-")...))...)
	want := map[signal.Class]uint64{ok200: 5, {Status: 500, GRPC: -1}: 2}
	if diff := cmp.Diff(want, outcomes(got, "v2")); diff != "" {
		t.Error(diff)
	}
}

// Envoy leaves idle counters out, and drops them when they stay idle.
func TestSeriesThatCameBack(t *testing.T) {
	for _, c := range []struct {
		name             string
		total, latencies float64
		idle             time.Duration
		want             uint64
	}{
		{"it goes on", 7, 2, time.Second, 2},
		{"from 0, with a lower total", 3, 3, time.Second, 3},
		{"from 0, with a higher total", 7, 7, time.Second, 7},
		{"after so long that it was dropped for sure", 7, 2, keepIdle + time.Second, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.open("p")
			s.send(at(1, count200("v1", 1), count200("v2", 5))...)
			s.send(at(2, count200("v1", 1))...)
			w.pass(c.idle)
			s.send(at(3, count200("v1", 1))...)
			came := latencies("aviary.try_us", class("v2", "200", "", "-"), make([]float64, int(c.latencies))...)
			got := outcomes(s.send(at(4, count200("v1", 1), count200("v2", c.total), came)...), "v2")[ok200]
			got += outcomes(s.send(at(5, count200("v1", 1), count200("v2", c.total), latencies("aviary.try_us", class("v2", "200", "", "-")))...), "v2")[ok200]
			if got != c.want {
				t.Errorf("%d tries, want %d", got, c.want)
			}
		})
	}
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, count200("v1", 8))...)
	if got := s.send(at(2, count200("v1", 3))...); outcomes(got, "v1")[ok200] != 3 {
		t.Errorf("a total that fell: %v, want 3 tries", got.Arms)
	}
}

// A control plane that comes up beside proxies that ran for long sees counters for the first time that are not new.
func TestSeriesThatWereLeftOutWhenWeBegan(t *testing.T) {
	for _, c := range []struct {
		name   string
		uptime float64
		later  time.Duration
		want   uint64
	}{
		{"a proxy that runs for long", 3600, time.Second, 2},
		{"a proxy that just started leaves none out", 5, time.Second, 5000},
		{"so much later that the old one is gone", 3600, keepIdle + time.Second, 5000},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.open("p")
			s.send(at(5000, gauge("server.uptime", c.uptime), count200("v1", 1))...)
			w.pass(c.later)
			came := latencies("aviary.try_us", class("v2", "200", "", "-"), 10, 20)
			none := latencies("aviary.try_us", class("v2", "200", "", "-"))
			got := outcomes(s.send(at(5001, gauge("server.uptime", c.uptime+1), count200("v1", 1), count200("v2", 5000), came)...), "v2")[ok200]
			got += outcomes(s.send(at(5002, gauge("server.uptime", c.uptime+2), count200("v1", 1), count200("v2", 5000), none)...), "v2")[ok200]
			if got != c.want {
				t.Errorf("%d tries, want %d", got, c.want)
			}
		})
	}
}

func TestRestartedSidecar(t *testing.T) {
	for _, c := range []struct {
		name   string
		uptime bool
		total  float64
	}{
		{"its totals are lower", false, 4},
		{"its totals are higher but it is younger", true, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			old := w.open("p")
			first := at(100, count200("v1", 10))
			second := at(105, count200("v1", c.total))
			third := at(106, count200("v1", c.total+2))
			if c.uptime {
				first = append(first, at(100, gauge("server.uptime", 50))...)
				second = append(second, at(105, gauge("server.uptime", 3))...)
				third = append(third, at(106, gauge("server.uptime", 4))...)
			}
			old.send(first...)
			w.pass(5 * time.Second)
			fresh := w.open("p")
			if got := fresh.send(second...); got.Span != 0 || outcomes(got, "v1") != nil {
				t.Errorf("the new process's first flush: span %v, %v; want nothing to compare with", got.Span, got.Arms)
			}
			w.pass(time.Second)
			if got := fresh.send(third...); got.Span != time.Second || outcomes(got, "v1")[ok200] != 2 {
				t.Errorf("its second: span %v, %v; want 2 tries in 1s", got.Span, got.Arms)
			}
			// What the old process still had on the way is over.
			old.raw(at(101, count200("v1", 11))...)
			if _, err := old.grpc.CloseAndRecv(); status.Code(err) != codes.Aborted {
				t.Errorf("the old stream ended with %v", err)
			}
			w.quiet()
		})
	}
}

func TestReconnectCatchesUp(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	c := class("v1", "200", "", "-")
	s.send(at(1, count200("v1", 10), gauge("server.uptime", 10))...)
	s.cancel()
	w.pass(10 * time.Second)
	s = w.open("p")
	got := s.send(at(11, count200("v1", 60), gauge("server.uptime", 20), latencies("aviary.try_us", c, 100, 100))...)
	o := outcome(got, "v1", ok200)
	if got.Span != 10*time.Second || o.Tries != 50 || o.Latency.Total() != 2 {
		t.Errorf("span %v, %+v; want 50 tries in 10s, 2 latencies", got.Span, o)
	}
	s.cancel()
	w.pass(catchUpLimit + time.Second)
	s = w.open("p")
	if got := s.send(at(72, count200("v1", 99))...); got.Span != 0 || outcomes(got, "v1") != nil {
		t.Errorf("after a long silence: span %v, %v", got.Span, got.Arms)
	}
}

func TestDuplicatesAndLateMessages(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	c := class("v1", "200", "", "-")
	s.send(at(1, count200("v1", 10))...)
	second := at(2, count200("v1", 12), latencies("aviary.try_us", c, 100, 200))
	s.send(second...)
	if got := s.send(second...); outcomes(got, "v1") != nil {
		t.Errorf("a message twice: %v", got.Arms)
	}
	s.send(at(3, count200("v1", 15))...)
	s.raw(second...) // older than what came before it: dropped
	got := s.send(at(4, count200("v1", 16))...)
	if n := outcomes(got, "v1")[ok200]; n != 1 {
		t.Errorf("%d tries after a late message, want 1", n)
	}
	// A clock that was set back is no late message.
	if got := s.send(at(2, count200("v1", 18))...); outcomes(got, "v1")[ok200] != 2 {
		t.Errorf("after the clock went back: %v, want 2 tries", got.Arms)
	}
	w.quiet()
}

func TestFlushInSeveralMessages(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, count200("v1", 10))...)
	s.send(at(1, count200("v2", 20))...)
	w.pass(time.Second)
	one := s.send(at(2, count200("v1", 11))...)
	two := s.send(at(2, count200("v2", 22))...)
	if outcomes(one, "v1")[ok200] != 1 || outcomes(two, "v2")[ok200] != 2 {
		t.Errorf("got %v and %v", one.Arms, two.Arms)
	}
	if one.Span != time.Second || two.Span != 1 {
		t.Errorf("spans %v and %v; want them to sum up to the time that passed", one.Span, two.Span)
	}
	// An empty message is no sign that every series is gone.
	s.send()
	if got := s.send(at(3, count200("v1", 11), count200("v2", 22))...); outcomes(got, "v1") != nil {
		t.Errorf("after an empty message: %v", got.Arms)
	}
}

func TestLatencyIsJointWithTries(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	good, bad := class("v1", "200", "", "-"), class("v1", "0", "", "UC")
	s.send(at(1, count200("v1", 0), counter("aviary.tries", 0, bad...))...)
	got := s.send(at(2, count200("v1", 4), counter("aviary.tries", 2, bad...),
		latencies("aviary.try_us", good, 90, 1000, 1000, 2e8),
		latencies("aviary.cut_ms", bad, 0, 250))...)
	want := signal.Histogram{{Edge: 0, Count: 1}, {Edge: signal.EdgeOf(1000), Count: 2}, {Edge: signal.EdgeCount, Count: 1}}
	if diff := cmp.Diff(want, outcome(got, "v1", ok200).Latency); diff != "" {
		t.Errorf("answers: %s", diff)
	}
	// 0 ms is below the first edge of a whole millisecond.
	want = signal.Histogram{{Edge: signal.EdgeOf(1000), Count: 1}, {Edge: signal.EdgeOf(250_000), Count: 1}}
	if diff := cmp.Diff(want, outcome(got, "v1", signal.Class{GRPC: -1, Flags: "UC"}).Latency); diff != "" {
		t.Errorf("cut tries: %s", diff)
	}
}

// Envoy takes histograms a moment before counters: a try in between has its latency in the next flush, and waits for it.
func TestTriesWaitForTheirLatency(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	c := class("v1", "200", "", "-")
	s.send(at(1, count200("v1", 0))...)
	n := 0.0
	for i, f := range []struct {
		name                     string
		tries, latencies         int
		wantTries, wantLatencies uint64
	}{
		{"one latency is not there yet", 5, 4, 4, 4},
		{"it is now", 5, 6, 6, 6},
		{"all come late", 3, 0, 0, 0},
		{"now too", 0, 3, 3, 3},
		{"lost for good", 2, 0, 0, 0},
		{"so be it", 0, 0, 2, 0},
		{"some lost and some late", 4, 1, 1, 1},
		{"the lost go first", 4, 5, 5, 5},
		{"the rest", 0, 1, 2, 1},
		{"of tries from before the first flush", 1, 3, 1, 1},
		{"nothing", 0, 0, 0, 0},
	} {
		n += float64(f.tries)
		values := make([]float64, f.latencies)
		for j := range values {
			values[j] = 100
		}
		o := outcome(s.send(at(float64(2+i), count200("v1", n), latencies("aviary.try_us", c, values...))...), "v1", ok200)
		if o.Tries != f.wantTries || o.Latency.Total() != f.wantLatencies {
			t.Errorf("%s: %d tries with %d latencies, want %d with %d", f.name, o.Tries, o.Latency.Total(), f.wantTries, f.wantLatencies)
		}
	}
}

// The log of a try does not say why it has no answer; that of its request does.
func TestCutRequests(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	gone, okay := class("v1", "0", "", "-"), class("v1", "200", "", "-")
	cut := func(flags string, n float64) *dto.MetricFamily {
		return counter("aviary.cut_requests", n, "service", "cart", "version", "v1", "flags", flags)
	}
	timedOut, left := signal.Class{GRPC: -1, Flags: "UT"}, signal.Class{GRPC: -1, Flags: "DC"}
	steady := func(tries, timeouts, callers float64, more ...*dto.MetricFamily) []*dto.MetricFamily {
		return append(more, counter("aviary.tries", tries, gone...), counter("aviary.tries", 5, okay...),
			cut("UT", timeouts), cut("DC", callers))
	}
	s.send(at(1, gauge("server.live", 1))...)

	got := s.send(at(3, steady(3, 3, 0, latencies("aviary.cut_ms", gone, 20, 500, 500),
		latencies("aviary.try_us", okay, 100, 100, 100, 100), latencies("aviary.cut_ms", okay, 500))...)...)
	want := map[signal.Class]uint64{ok200: 5, timedOut: 3}
	if diff := cmp.Diff(want, outcomes(got, "v1")); diff != "" {
		t.Errorf("those without an answer go first: %s", diff)
	}
	got = s.send(at(4, steady(5, 4, 1, latencies("aviary.cut_ms", gone, 20, 500))...)...)
	want = map[signal.Class]uint64{left: 1, timedOut: 1}
	if diff := cmp.Diff(want, outcomes(got, "v1")); diff != "" {
		t.Error(diff)
	}
	if h := outcome(got, "v1", timedOut).Latency; len(h) != 1 || h[0].Edge != signal.EdgeOf(500_000) {
		t.Errorf("the slowest is the one that timed out, not %v", h)
	}

	// The log of the request may come a flush before that of its try,
	s.send(at(5, steady(5, 5, 1)...)...)
	got = s.send(at(6, steady(6, 5, 1)...)...)
	if n := outcomes(got, "v1")[timedOut]; n != 1 {
		t.Errorf("%v, want the try that timed out", got.Arms)
	}
	// or a flush after it: the try waits that long,
	if got = s.send(at(7, steady(7, 5, 1, latencies("aviary.cut_ms", gone, 300))...)...); outcomes(got, "v1") != nil {
		t.Errorf("%v, want nothing yet", got.Arms)
	}
	got = s.send(at(8, steady(7, 5, 2)...)...)
	if o := outcome(got, "v1", left); o.Tries != 1 || o.Latency.Total() != 1 {
		t.Errorf("%v, want the try whose caller left", got.Arms)
	}
	// but no longer, and what nothing explains is given as it is.
	s.send(at(9, steady(8, 5, 2)...)...)
	got = s.send(at(10, steady(8, 5, 2)...)...)
	if n := outcomes(got, "v1")[signal.Class{GRPC: -1}]; n != 1 {
		t.Errorf("%v, want one try that nothing explains", got.Arms)
	}
	if got = s.send(at(11, steady(8, 5, 2)...)...); outcomes(got, "v1") != nil {
		t.Errorf("%v, want nothing more", got.Arms)
	}
}

func TestGaugesAndClusters(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	named := func(name string) []string { return []string{"envoy.cluster_name", name} }
	s.send(at(1, gauge("server.live", 1))...)
	got := s.send(at(2,
		gauge("cluster.upstream_rq_active", 2, named("cart/stable/v1.2")...),
		gauge("cluster.upstream_rq_active", 1, named("cart/canary/v1.2")...),
		gauge("cluster.membership_total", 4, named("cart/stable/v1.2")...),
		gauge("cluster.membership_total", 4, named("cart/canary/v1.2")...),
		gauge("cluster.membership_total", 8, named("cart/arm/v1.2")...),
		gauge("cluster.membership_healthy", 3, named("cart/stable/v1.2")...),
		gauge("cluster.outlier_detection.ejections_active", 1, named("cart/stable/v1.2")...),
		counter("cluster.outlier_detection.ejections_enforced_total", 1, named("cart/stable/v1.2")...),
		counter("cluster.upstream_rq_pending_overflow", 5, named("cart/stable/v1.2")...),
		counter("aviary.tries", 3, class("v1.2", "0", "", "UO")...),
		counter("cluster.upstream_cx_connect_fail", 2, named("cart/stable/v1.2")...),
		counter("aviary.tries", 7, class("v1.2", "0", "", "UF,URX")...),
		gauge("cluster.membership_total", 1, named("aviary")...),
		gauge("cluster.membership_total", 1, named("cart/other/v1")...),
	)...)
	want := signal.Arm{Service: "cart", Version: "v1.2", InProgress: 3, Endpoints: 4, Healthy: 3, Ejected: 1, Ejections: 1,
		Overflows: 5, Outcomes: []signal.Outcome{
			{Class: signal.Class{GRPC: -1, Flags: "UF,URX"}, Tries: 7}, {Class: signal.Class{GRPC: -1, Flags: "UO"}, Tries: 3}}}
	if diff := cmp.Diff([]signal.Arm{want}, got.Arms, cmpopts.IgnoreFields(signal.Outcome{}, "Latency")); diff != "" {
		t.Error(diff)
	}
	// Connections that failed without a try are given a flush later.
	s.send(at(2.5, counter("cluster.upstream_cx_connect_fail", 12, named("cart/stable/v1.2")...),
		counter("aviary.tries", 7, class("v1.2", "0", "", "UF,URX")...))...)
	if got := s.send(at(2.6, counter("cluster.upstream_cx_connect_fail", 12, named("cart/stable/v1.2")...),
		counter("aviary.tries", 8, class("v1.2", "0", "", "UF,URX")...))...); armOf(got, "v1.2").ConnectFailures != 4 {
		t.Errorf("%+v, want 4 connect failures: ten, less a try of the flush after and five of the flush before", got.Arms)
	}
	// A version that is gone is no arm any more, and nothing is kept of it.
	if got := s.send(at(3, gauge("server.live", 1))...); len(got.Arms) != 0 {
		t.Errorf("arms %v", got.Arms)
	}
	w.pass(keepIdle + time.Second)
	s.send(at(4, gauge("server.live", 1))...)
	p := w.server.proxies[Proxy{ID: "p", Region: "eu", Service: "web"}]
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.series) != 0 {
		t.Errorf("%d series are kept", len(p.series))
	}
}

func TestClassesAndNames(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	got := s.send(at(2,
		counter("aviary.tries", 1, class("v/1.2|x:y", "200", "13", "-")...),
		counter("aviary.tries", 2, class("v/1.2|x:y", "200", "-", "UPE")...),
		counter("aviary.tries", 4, class("v1", "many", "", "-")...),
		counter("aviary.tries", 4, class("v1", "200", "-7", "-")...),
		counter("aviary.tries", 4, class("-", "200", "", "-")...),
		counter("aviary.tries", 4, class("", "200", "", "-")...),
		counter("aviary.tries", 4, class(strings.Repeat("v", 1000), "200", "", "-")...),
		counter("aviary.tries", -4, class("v3", "200", "", "-")...),
		counter("aviary.tries", 1e300, class("v4", "200", "", "-")...),
	)...)
	want := []signal.Arm{{Service: "cart", Version: "v/1.2|x:y", Outcomes: []signal.Outcome{
		{Class: signal.Class{Status: 200, GRPC: -1, Flags: "UPE"}, Tries: 2},
		{Class: signal.Class{Status: 200, GRPC: 13}, Tries: 1},
	}}}
	if diff := cmp.Diff(want, got.Arms, cmpopts.IgnoreFields(signal.Outcome{}, "Latency")); diff != "" {
		t.Error(diff)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, id string
		want     codes.Code
	}{{"no node", "", codes.InvalidArgument}, {"a stranger", "stranger", codes.PermissionDenied}} {
		s := w.open(c.id)
		s.raw(count200("v1", 1))
		if _, err := s.grpc.CloseAndRecv(); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	s := w.open("p")
	s.send(count200("v1", 1))
	other := w.open("q")
	if err := s.grpc.Send(&metricsv3.StreamMetricsMessage{Identifier: &metricsv3.StreamMetricsMessage_Identifier{Node: other.node}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.grpc.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a second name on one stream: %v", err)
	}
	w.quiet()
}

func TestProxiesAreForgotten(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		s := w.open(fmt.Sprint("p", i))
		s.send(count200("v1", 1))
		if _, err := s.grpc.CloseAndRecv(); err == nil {
			t.Fatal("the stream was answered")
		}
	}
	w.pass(forgetAfter + time.Minute)
	w.open("last").send(count200("v1", 1))
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if n := len(w.server.proxies); n != 1 {
		t.Errorf("%d proxies are kept, want the last", n)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.open("p")
	s.send(at(1, gauge("server.live", 1))...)
	f := at(2, count200("v", 1))
	for i := range maxSeries + 100 {
		f[0].Metric = append(f[0].Metric, count200(fmt.Sprint("v", i), 1).Metric[0])
	}
	if got := s.send(f...); len(got.Arms) != maxSeries {
		t.Errorf("%d arms, want %d", len(got.Arms), maxSeries)
	}
}
