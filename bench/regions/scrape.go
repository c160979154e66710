package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scraped is what the control plane says of itself.
type scraped struct {
	ticks, cpu, rss float64
	tickBuckets     []bucket
	ackBuckets      []bucket
}

type bucket struct {
	below float64 // seconds
	n     uint64  // cumulative
}

func (w *world) scrape(ctx context.Context) (scraped, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.plane.HTTPAddress()+"/metrics", nil)
	if err != nil {
		return scraped{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return scraped{}, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return scraped{}, err
	}
	one := func(name string) (*dto.Metric, error) {
		if f := families[name]; f != nil && len(f.Metric) == 1 {
			return f.Metric[0], nil
		}
		return nil, fmt.Errorf("/metrics has no single %s", name)
	}
	var s scraped
	tick, err := one("aviary_tick_seconds")
	if err != nil {
		return s, err
	}
	ack, err := one("aviary_xds_weight_ack_seconds")
	if err != nil {
		return s, err
	}
	cpu, err := one("process_cpu_seconds_total")
	if err != nil {
		return s, err
	}
	rss, err := one("process_resident_memory_bytes")
	if err != nil {
		return s, err
	}
	s.ticks, s.cpu, s.rss = float64(tick.GetHistogram().GetSampleCount()), cpu.GetCounter().GetValue(), rss.GetGauge().GetValue()
	s.tickBuckets, s.ackBuckets = buckets(tick), buckets(ack)
	return s, nil
}

func buckets(m *dto.Metric) []bucket {
	var out []bucket
	for _, b := range m.GetHistogram().GetBucket() {
		out = append(out, bucket{b.GetUpperBound(), b.GetCumulativeCount()})
	}
	return out
}

// tick and ack are quantiles of what came since an earlier scrape, as the upper edge of their bucket.
func (s scraped) tick(before scraped, q float64) float64 {
	return quantile(s.tickBuckets, before.tickBuckets, q)
}

func (s scraped) ack(before scraped, q float64) float64 {
	return quantile(s.ackBuckets, before.ackBuckets, q)
}

func quantile(now, before []bucket, q float64) float64 {
	earlier := func(below float64) uint64 {
		var n uint64
		for _, b := range before { // buckets that nothing fell into are left out
			if b.below <= below {
				n = b.n
			}
		}
		return n
	}
	if len(now) == 0 {
		return math.NaN()
	}
	last := now[len(now)-1]
	total := last.n - earlier(last.below)
	for _, b := range now {
		if float64(b.n-earlier(b.below)) >= q*float64(total) {
			return b.below
		}
	}
	return last.below
}

// table is Markdown.
type table struct{ out io.Writer }

func (t table) row(cells ...string) { fmt.Fprintf(t.out, "| %s |\n", strings.Join(cells, " | ")) }

func micro(s float64) string { return fmt.Sprintf("≤ %.3g ms", 1000*s) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func milli(all []time.Duration, q float64) string {
	sorted := slices.Sorted(slices.Values(all))
	return fmt.Sprintf("%.0f ms", 1000*sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Seconds())
}
