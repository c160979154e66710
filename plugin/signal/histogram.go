package signal

import (
	"math"
	"time"
)

// Histogram counts latencies by bucket: sorted by Edge, no zero counts. It is a value: nothing here changes one that was
// made.
type Histogram []Bucket

// Bucket counts the latencies in (Edges[Edge-1], Edges[Edge]]; Edge == len(Edges) holds what is longer than the last.
type Bucket struct {
	Edge  int
	Count uint64
}

// Add returns the histogram with count more latencies in the bucket.
func (h Histogram) Add(edge int, count uint64) Histogram {
	return h.Merge(Histogram{{edge, count}})
}

// Merge returns the sum of both.
func (h Histogram) Merge(o Histogram) Histogram {
	sum := make(Histogram, 0, len(h)+len(o))
	for len(h) > 0 || len(o) > 0 {
		var next Bucket
		switch {
		case len(o) == 0 || len(h) > 0 && h[0].Edge < o[0].Edge:
			next, h = h[0], h[1:]
		case len(h) == 0 || o[0].Edge < h[0].Edge:
			next, o = o[0], o[1:]
		default:
			next, h, o = Bucket{h[0].Edge, h[0].Count + o[0].Count}, h[1:], o[1:]
		}
		if next.Count > 0 {
			sum = append(sum, next)
		}
	}
	return sum
}

// Total is the number of latencies.
func (h Histogram) Total() uint64 {
	var n uint64
	for _, b := range h {
		n += b.Count
	}
	return n
}

// Above is the number of latencies longer than the edge.
func (h Histogram) Above(edge int) uint64 {
	var n uint64
	for _, b := range h {
		if b.Edge > edge {
			n += b.Count
		}
	}
	return n
}

// Quantile returns the first edge that at least q of the latencies do not exceed; false when there are none.
func (h Histogram) Quantile(q float64) (edge int, ok bool) {
	total := h.Total()
	if total == 0 {
		return 0, false
	}
	need := uint64(math.Ceil(q*float64(total) - 1e-9))
	var n uint64
	for _, b := range h {
		n += b.Count
		if edge = b.Edge; n >= need {
			break
		}
	}
	return edge, true
}

// Within returns what surely did not last longer than d: the buckets whose upper edge is at or below d. The last bucket
// has no upper edge and is never within.
func (h Histogram) Within(d time.Duration) Histogram {
	micros := float64(d) / float64(time.Microsecond)
	n := 0
	for n < len(h) && h[n].Edge < EdgeCount && Edges[h[n].Edge] <= micros {
		n++
	}
	return h[:n:n]
}
