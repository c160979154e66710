package app

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/aviary-mesh/aviary/internal/control"
	"github.com/aviary-mesh/aviary/xds/ads"
)

// web serves /metrics, /healthz (the process lives) and /readyz (it serves).
func (a *App) web(server *ads.Server, loop *control.Controller, d *delivery, ticks prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		d.builds,
		ticks,
		&metrics{ads: server, loop: loop, delivery: d},
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-a.ready:
			_, _ = w.Write([]byte("ok\n"))
		default:
			http.Error(w, "starting", http.StatusServiceUnavailable)
		}
	})
	return mux
}

func newTicks() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "aviary_tick_seconds", Help: "From flushes of telemetry to all that followed from them being handed over.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16),
	})
}

// metrics reads what the rooms count at the time of a scrape.
type metrics struct {
	ads      *ads.Server
	loop     *control.Controller
	delivery *delivery
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("aviary_"+name, help, labels, nil)
}

var (
	streams    = desc("xds_streams", "Open ADS streams.")
	leased     = desc("xds_leased_proxies", "Proxies that hold a lease on canary weights.")
	pending    = desc("xds_kill_pending_streams", "Streams that have not acknowledged the newest weights.")
	pushes     = desc("xds_pushes_total", "Responses sent, by type.", "type")
	acks       = desc("xds_acks_total", "Responses that proxies acknowledged, by type.", "type")
	nacks      = desc("xds_nacks_total", "Responses that proxies refused, by type.", "type")
	refused    = desc("xds_refused_streams_total", "Streams refused for who they are.")
	closed     = desc("xds_unresponsive_streams_total", "Streams closed because the proxy did not answer in time.")
	heartbeats = desc("xds_lease_heartbeats_total", "Renewals of leases sent.")
	lapses     = desc("xds_lease_lapses_total", "Leases that lapsed because nothing fresh was judged.")
	kill       = desc("xds_weight_ack_seconds", "From the publish of weights to a proxy's acknowledgement.")
	weight     = desc("rollout_weight_ratio", "Intended share of the canary.", "rollout", "region")
	phase      = desc("rollout_phase", "1 for the phase that a rollout is in.", "rollout", "region", "phase")
	leading    = desc("coordinator", "1 when this process is the elected coordinator.")
	accepted   = desc("plans_published_total", "Plans that were built, checked and published, by region.", "region")
	rejected   = desc("plans_refused_total", "Plans that were refused, or services of them, by region; the last good ones stay.", "region")
	dropped    = desc("telemetry_dropped_total", "Flushes that came faster than they could be judged.")
)

// Describe names the metrics.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{streams, leased, pending, pushes, acks, nacks, refused, closed, heartbeats, lapses, kill, weight, phase, leading, accepted, rejected, dropped} {
		out <- d
	}
}

// Collect reads them.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := m.ads.Stats()
	gauge(streams, float64(s.Streams))
	gauge(leased, float64(s.Leased))
	gauge(pending, float64(s.KillPending))
	for _, t := range ads.Types() {
		counter(pushes, s.Pushes[t], t.String())
		counter(acks, s.Acks[t], t.String())
		counter(nacks, s.Nacks[t], t.String())
	}
	counter(refused, s.Refused)
	counter(closed, s.Closed)
	counter(heartbeats, s.Heartbeats)
	counter(lapses, s.Lapses)
	buckets := map[float64]uint64{}
	var sum uint64
	for _, b := range s.Kill.Buckets {
		sum += b.Count
		buckets[b.Bound.Seconds()] = sum
	}
	out <- prometheus.MustNewConstHistogram(kill, s.Kill.Count, s.Kill.Sum.Seconds(), buckets)
	counter(dropped, m.loop.Dropped())
	for region, s := range m.delivery.states() {
		counter(accepted, s.accepted, region)
		counter(rejected, s.refused, region)
	}
	lead := 0.0
	if m.loop.Leading() {
		lead = 1
	}
	gauge(leading, lead)
	for name, regions := range m.loop.Regions() {
		for region, r := range regions {
			gauge(weight, float64(r.Weight)/10_000, name, region)
			gauge(phase, 1, name, region, string(r.Phase))
		}
	}
}
