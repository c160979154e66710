package telemetry

import (
	"math"
	"testing"
	"time"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// FuzzMetrics gives a proxy any three messages: no flush may have more latencies than tries, or anything unsorted.
func FuzzMetrics(f *testing.F) {
	encode := func(families ...*dto.MetricFamily) []byte {
		b, err := proto.Marshal(&metricsv3.StreamMetricsMessage{EnvoyMetrics: families})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	c := class("v1", "200", "", "-")
	short := latencies("aviary.try_us", c, 1, 2e9)
	short.Metric[0].Histogram.Bucket = short.Metric[0].Histogram.Bucket[:2] // small seeds fuzz faster
	f.Add(encode(at(1, count200("v1", 1))...), encode(at(2, count200("v1", 5), short)...),
		encode(at(3, count200("v1", 2), counter("aviary.cut_requests", 9, "service", "cart", "version", "v1", "flags", "UT"))...))
	f.Add(encode(counter("aviary.tries", math.NaN(), c...)), encode(gauge("server.uptime", math.Inf(1))),
		encode(gauge("cluster.upstream_rq_active", -1, "envoy.cluster_name", "a/arm/b/c")))
	shadow, away := append(class("v2", "0", "", "-"), "shadow", "true"), append(class("v1", "0", "", "UF"), "region", "us")
	f.Add(encode(at(1, counter("aviary.tries", 1, shadow...), counter("aviary.tries", 1, away...))...),
		encode(at(2, counter("aviary.tries", 3, shadow...), counter("aviary.tries", 4, away...),
			counter("cluster.upstream_rq_timeout", 1, "envoy.cluster_name", "cart/shadow/v2"))...),
		encode(at(3, counter("cluster.upstream_cx_connect_fail", 1, "envoy.cluster_name", "cart/remote/v1"))...))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		s := New(Config{Sink: func(f signal.Flush) { check(t, f) }, Now: func() time.Time { return epoch }})
		p := &proxy{who: Proxy{ID: "p", Region: "eu"}}
		for i, raw := range [][]byte{a, b, c} {
			var m metricsv3.StreamMetricsMessage
			if proto.Unmarshal(raw, &m) != nil {
				return
			}
			if err := p.flush(s, uint64(1+i/2), m.EnvoyMetrics); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func check(t *testing.T, f signal.Flush) {
	for i, a := range f.Arms {
		if i > 0 && f.Arms[i-1].Compare(a) >= 0 {
			t.Errorf("arms are not sorted: %v", f.Arms)
		}
		if a.Region == f.Region || a.Region == signal.Elsewhere && len(a.Outcomes) > 0 {
			t.Errorf("the region of %v, of a proxy in %s", a, f.Region)
		}
		if f.Span == 0 && (len(a.Outcomes) > 0 || a.Overflows+a.ConnectFailures+a.Ejections > 0) {
			t.Errorf("a first flush with differences: %v", a)
		}
		for j, o := range a.Outcomes {
			if o.Tries == 0 || o.Latency.Total() > o.Tries {
				t.Errorf("%d tries with %d latencies", o.Tries, o.Latency.Total())
			}
			if j > 0 && a.Outcomes[j-1].Class.Compare(o.Class) >= 0 {
				t.Errorf("outcomes are not sorted: %v", a.Outcomes)
			}
			for n, b := range o.Latency {
				if b.Count == 0 || b.Edge < 0 || b.Edge > signal.EdgeCount || n > 0 && o.Latency[n-1].Edge >= b.Edge {
					t.Errorf("histogram %v", o.Latency)
				}
			}
		}
	}
}
