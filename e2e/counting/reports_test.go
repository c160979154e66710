package counting

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

const (
	goodTries = "aviary.tries{flags=-,grpc=,region=eu,service=cart,shadow=,status=200,version=v2}"
	goodTimes = "aviary.try_us{flags=-,grpc=,region=eu,service=cart,shadow=,status=200,version=v2}"
)

// goodSoFar waits until the newest flush has so many good tries of v2.
func (r *recorder) goodSoFar(n uint64) {
	r.t.Helper()
	wait(r.t, "flush with all tries", func() bool { return uint64(r.newest()[goodTries].GetCounter().GetValue()) >= n })
}

// times sums up the values in the histogram of good tries.
func times(flushes []flush) (n uint64) {
	for _, f := range flushes {
		n += f[goodTimes].GetHistogram().GetSampleCount()
	}
	return n
}

// TestCountersAreTotalsAndHistogramsOfOneFlush: what was ever used comes with each flush, counters with their total,
// histograms with what was new, and empty when nothing was.
func TestCountersAreTotalsAndHistogramsOfOneFlush(t *testing.T) {
	rec := record(t)
	m := newMesh(t, lab.HTTP, rec.join)
	first := m.send("v2", 20)
	rec.goodSoFar(first)
	rec.flushed(3)
	between := len(rec.all())
	second := m.send("v2", 20)
	rec.goodSoFar(first + second)
	rec.flushed(1) // a histogram may come after its counter
	idle := len(rec.all())
	rec.flushed(5)

	flushes := rec.all()
	if n := times(flushes[:between]); n != first {
		t.Errorf("%d times of the first %d tries", n, first)
	}
	if n := times(flushes[between:]); n != second {
		t.Errorf("%d times of the next %d tries", n, second)
	}
	total, used := 0.0, map[string]bool{}
	for i, f := range flushes {
		if n := f[goodTries].GetCounter().GetValue(); n < total {
			t.Errorf("flush %d: %v tries after %v", i, n, total)
		} else {
			total = n
		}
		for name := range used {
			if f[name] == nil {
				t.Errorf("flush %d is without %s", i, name)
			}
		}
		for name := range f {
			used[name] = true
		}
	}
	size := 0
	for _, metric := range flushes[len(flushes)-1] {
		size += proto.Size(metric)
	}
	for i, f := range flushes[idle:] {
		n, h := f[goodTries].GetCounter().GetValue(), f[goodTimes].GetHistogram()
		if uint64(n) != first+second || h == nil || h.GetSampleCount() != 0 {
			t.Errorf("idle flush %d: %v tries, want %d; histogram with %d values, want an empty one", i, n, first+second, h.GetSampleCount())
		}
	}
	if never := "cluster.upstream_rq_retry_overflow{envoy.cluster_name=cart/arm/v2}"; used[never] {
		t.Errorf("%s was sent and never used", never)
	}
	t.Logf("%d + %d tries in %d flushes; an idle one has %d series, %d bytes, of which an empty histogram %d",
		first, second, len(flushes), len(flushes[len(flushes)-1]), size, proto.Size(flushes[len(flushes)-1][goodTimes]))
}

// TestAnOutageLosesHistogramsAndNoCounts: what was flushed while the stream was down.
func TestAnOutageLosesHistogramsAndNoCounts(t *testing.T) {
	rec := record(t)
	m := newMesh(t, lab.HTTP, rec.join)
	before := m.send("v2", 20)
	rec.goodSoFar(before)
	rec.flushed(2)

	rec.stop()
	during := m.send("v2", 20)
	wait(t, "flush during the outage", func() bool { return tries(m.seen.arm("v2")) == before+during })
	m.seen.flushes(t, 3)
	rec.start()

	rec.goodSoFar(before + during) // the counters catch up by themselves
	after := m.send("v2", 20)
	rec.goodSoFar(before + during + after)
	rec.flushed(2)
	counted, timed := uint64(rec.newest()[goodTries].GetCounter().GetValue()), times(rec.all())
	if counted != before+during+after {
		t.Errorf("%d tries counted, want %d", counted, before+during+after)
	}
	if timed != before+after {
		t.Errorf("%d tries in histograms, want %d: %d were flushed during the outage", timed, before+after, during)
	}
	t.Logf("%d tries before, %d during, %d after the outage: %d counted, %d in histograms", before, during, after, counted, timed)
}

// plain starts a sidecar that has our bootstrap and no control plane.
func plain(t *testing.T, change func(*bootstrapv3.Bootstrap)) error {
	t.Helper()
	raw, err := bootstrap.Render(bootstrap.Options{
		ID: "p", Service: "caller", Region: "eu", Servers: []string{"127.0.0.1:1"}, Flush: flushEvery, Edges: signal.Edges,
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	b.DynamicResources, b.LayeredRuntime, b.StatsEviction = nil, nil, nil
	change(&b)
	if raw, err = protojson.Marshal(&b); err != nil {
		t.Fatal(err)
	}
	e, err := lab.StartEnvoy(t.Context(), lab.Options{Bootstrap: raw, LogLevel: "off"})
	if err == nil {
		t.Cleanup(e.Kill)
	}
	return err
}

// TestFlushInterval: a tenth of a second is what we use; Envoy takes a millisecond, and no less.
func TestFlushInterval(t *testing.T) {
	for _, every := range []time.Duration{100 * time.Millisecond, time.Millisecond} {
		rec := record(t)
		if err := plain(t, func(b *bootstrapv3.Bootstrap) {
			rec.join(b)
			b.StatsFlushInterval = durationpb.New(every)
		}); err != nil {
			t.Fatal(err)
		}
		rec.flushed(2)
		begin := time.Now()
		const n = 20
		rec.flushed(n)
		t.Logf("flush every %v: one came in %v", every, (time.Since(begin) / n).Round(10*time.Microsecond))
	}
	err := plain(t, func(b *bootstrapv3.Bootstrap) { b.StatsFlushInterval = durationpb.New(time.Millisecond - 1) })
	if err == nil {
		t.Error("a flush interval below a millisecond was taken")
	} else if text := err.Error(); !strings.Contains(text, "StatsFlushInterval") {
		t.Error(err)
	} else {
		t.Log("below:", text[strings.LastIndex(text, "\n")+1:])
	}
}

// TestNames: what characters of a cluster's name come through, and what becomes of its tag.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		name, series string
		ours         bool
	}{
		{"shop/a|b", "cluster.membership_total{envoy.cluster_name=shop/a|b}", false},
		{"shop/a:b", "cluster.membership_total{envoy.cluster_name=shop/a_b}", false},
		{"shop/v1.2", "cluster.2.membership_total{envoy.cluster_name=shop/v1}", false},
		{"shop/v1.2", "cluster.membership_total{envoy.cluster_name=shop/v1.2}", true}, // our bootstrap's own rule
	} {
		rec := record(t)
		if err := plain(t, func(b *bootstrapv3.Bootstrap) {
			rec.join(b)
			if !c.ours {
				b.StatsConfig = nil
			}
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, &clusterv3.Cluster{
				Name: c.name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				LoadAssignment: named(b, "recorder").LoadAssignment,
			})
		}); err != nil {
			t.Fatal(err)
		}
		rec.flushed(2)
		var got []string
		for name := range rec.newest() {
			if strings.Contains(name, "membership_total") && strings.Contains(name, "shop") {
				got = append(got, name)
			}
		}
		t.Logf("%s: %v (our tags: %v)", c.name, got, c.ours)
		if len(got) != 1 || got[0] != c.series {
			t.Errorf("%s: %v, want %s", c.name, got, c.series)
		}
	}
}

// TestLoadReports: they come every 100 ms and say of every try, under its version's own cluster, how it ended, gRPC
// statuses included, and what is under way. A refused one is an error that was never issued. An answer that breaks in its
// body is a success, unless it is gRPC.
func TestLoadReports(t *testing.T) {
	for _, protocol := range []lab.Protocol{lab.HTTP, lab.HTTP2, lab.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			rec := record(t)
			m := newMesh(t, protocol, func(b *bootstrapv3.Bootstrap) {
				everything(b)
				rec.join(b)
			})
			start, before := time.Now(), rec.count()
			for _, f := range faults {
				if _, possible := f.class[protocol]; !possible || f.version != "v2" || f.name == "503" {
					continue
				}
				if protocol == lab.HTTP2 && f.name != "broken mid-body" {
					continue // as HTTP
				}
				m.fail(f.behavior(protocol))
				m.instances["v1"].ResetCounts()
				rec.reset()
				n := m.send("v2", 20)
				canary := func() load { return rec.load("cart/canary/v2") }
				wait(t, "report of all tries", func() bool { l := canary(); return l.ok+l.bad >= n && l.inProgress == 0 })
				rec.more(2) // more must not come
				want := load{bad: n, issued: n}
				switch {
				case f.good, f.name == "broken mid-body" && protocol != lab.GRPC:
					want = load{ok: n, issued: n}
				case f.unseen:
					want = load{bad: n}
				}
				got, rescued := canary(), m.instances["v1"].Counts().Received
				t.Logf("%s: %d requests: canary %d good, %d bad, %d issued, at most %d in progress; stable %d good",
					f.name, n, got.ok, got.bad, got.issued, got.most, rec.load("cart/stable/v1").ok)
				if got.ok != want.ok || got.bad != want.bad || got.issued != want.issued {
					t.Errorf("%s: %+v, want %+v", f.name, got, want)
				}
				if f.name == "hang" && got.most == 0 {
					t.Error("hang: nothing was in progress")
				}
				if l := rec.load("cart/stable/v1"); l.ok != rescued || l.bad > 0 {
					t.Errorf("%s: stable %+v, and it answered %d", f.name, l, rescued)
				}
				if l := rec.load("cart/arm/v2"); l.ok+l.bad+l.issued+l.most > 0 {
					t.Errorf("%s: the arm has a load of its own: %+v", f.name, l)
				}
			}
			n := rec.count() - before
			t.Logf("%d reports, one in %v (asked for %v)", n, (time.Since(start) / time.Duration(n)).Round(time.Millisecond), rec.interval)
		})
	}
}

// TestOrca: the metrics that endpoints send with their answers are taken by the cluster that the route names, and reported
// under the one that the try went to. So what the arm asks for is reported of the canary, and of stable only when the
// request went there by itself and stable asks too: never after a rescue.
func TestOrca(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("endpoint-load-metrics", "TEXT "+orcaMetric+"=3")
		if r.Header.Get("x-arm") == "v2" && r.Header.Get("x-fail") != "" && r.Header.Get("x-envoy-attempt-count") == "1" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(endpoint.Close)
	const n = 10
	for _, c := range []struct {
		on             string // the cluster that asks for the metrics
		canary, stable uint64 // answers with them, of n that the canary gave, n that it failed and n that went to stable
	}{
		{on: "cart/arm/v2", canary: 2 * n},
		{on: "cart/canary/v2"},
		{on: "cart/stable/v1", stable: n},
	} {
		rec := record(t)
		m := newMesh(t, lab.HTTP, func(b *bootstrapv3.Bootstrap) {
			rec.join(b)
			routes(b, func(h *routev3.VirtualHost) { h.IncludeRequestAttemptCount = true })
			for _, name := range []string{"cart/stable/v1", "cart/canary/v2"} {
				point(b, name, endpoint.Listener.Addr())
			}
			named(b, c.on).LrsReportEndpointMetrics = []string{orcaMetric}
		})
		for _, header := range []http.Header{{"X-Arm": {"v2"}}, {"X-Arm": {"v2"}, "X-Fail": {"1"}}, {}} {
			for range n {
				if status := ask(t, m, http.MethodGet, "", header); status != http.StatusOK {
					t.Fatalf("%v: status %d", header, status)
				}
			}
		}
		wait(t, "report of all tries", func() bool {
			return rec.load("cart/canary/v2").issued >= 2*n && rec.load("cart/stable/v1").issued >= 2*n
		})
		rec.more(3) // more must not come
		canary, stable, arm := rec.load("cart/canary/v2"), rec.load("cart/stable/v1"), rec.load("cart/arm/v2")
		t.Logf("%s asks: %d of %d answers of the canary, %d of %d of stable (%d of them rescues)",
			c.on, canary.orca, canary.ok+canary.bad, stable.orca, stable.ok+stable.bad, n)
		if canary.bad != n || canary.orca != c.canary || stable.orca != c.stable || arm.orca > 0 {
			t.Errorf("%s asks: canary %+v, stable %+v, arm %+v", c.on, canary, stable, arm)
		}
	}
}

// ask sends one request through the sidecar on a connection of its own and returns the status.
func ask(t *testing.T, m *mesh, method, body string, header http.Header) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.address+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header, request.Close = header.Clone(), true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}
