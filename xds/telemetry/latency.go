package telemetry

import (
	"slices"

	dto "github.com/prometheus/client_model/go"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// histogram makes counts by bucket of Envoy's cumulative ones; unit is the microseconds in one of the proxy's.
// A proxy with other edges is read as if its bounds were the next of ours. Counts that fall, or exceed the total, add nothing.
func histogram(h *dto.Histogram, unit float64) signal.Histogram {
	total := h.GetSampleCount()
	if total == 0 {
		return nil
	}
	var out signal.Histogram
	before, last := uint64(0), 0
	for _, b := range h.GetBucket() {
		n := min(b.GetCumulativeCount(), total)
		if n <= before {
			continue
		}
		last = max(last, signal.EdgeOf(b.GetUpperBound()*unit))
		out = add(out, last, n-before)
		before = n
	}
	if total > before {
		out = add(out, signal.EdgeCount, total-before)
	}
	return out
}

// add counts n in a bucket that is not before the last one.
func add(h signal.Histogram, edge int, n uint64) signal.Histogram {
	if len(h) > 0 && h[len(h)-1].Edge == edge {
		h[len(h)-1].Count += n
		return h
	}
	return append(h, signal.Bucket{Edge: edge, Count: n})
}

// thin parts a histogram into n of its latencies, spread evenly over it, and the others. n at most its total.
func thin(h signal.Histogram, n uint64) (kept, rest signal.Histogram) {
	all := h.Total()
	if n >= all {
		return h, nil
	}
	var seen, taken uint64
	for _, b := range h {
		seen += b.Count
		// seen*n/all without overflow; both counts are far below 2^53.
		upTo := uint64(float64(seen) / float64(all) * float64(n))
		if seen == all {
			upTo = n
		}
		k := min(upTo-taken, b.Count)
		taken += k
		if k > 0 {
			kept = append(kept, signal.Bucket{Edge: b.Edge, Count: k})
		}
		if k < b.Count {
			rest = append(rest, signal.Bucket{Edge: b.Edge, Count: b.Count - k})
		}
	}
	return kept, rest
}

// slowest parts a histogram into its n slowest and the others.
func slowest(h signal.Histogram, n uint64) (slow, rest signal.Histogram) {
	for i := len(h) - 1; i >= 0; i-- {
		k := min(n, h[i].Count)
		n -= k
		if k > 0 {
			slow = append(slow, signal.Bucket{Edge: h[i].Edge, Count: k})
		}
		if k < h[i].Count {
			rest = append(rest, signal.Bucket{Edge: h[i].Edge, Count: h[i].Count - k})
		}
	}
	slices.Reverse(slow)
	slices.Reverse(rest)
	return slow, rest
}

// less is a histogram without the latencies of another that is part of it.
func less(h, part signal.Histogram) signal.Histogram {
	var out signal.Histogram
	for _, b := range h {
		for len(part) > 0 && part[0].Edge < b.Edge {
			part = part[1:]
		}
		if len(part) > 0 && part[0].Edge == b.Edge {
			b.Count -= min(b.Count, part[0].Count)
		}
		if b.Count > 0 {
			out = append(out, b)
		}
	}
	return out
}

// within is what two histograms have in common.
func within(a, b signal.Histogram) signal.Histogram {
	var out signal.Histogram
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Edge < b[0].Edge:
			a = a[1:]
		case b[0].Edge < a[0].Edge:
			b = b[1:]
		default:
			out = append(out, signal.Bucket{Edge: a[0].Edge, Count: min(a[0].Count, b[0].Count)})
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// merge is the sum of both; nil when there is none.
func merge(a, b signal.Histogram) signal.Histogram {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	return a.Merge(b)
}
