package lab

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// subBits is how many bits of a latency are kept below its highest one: buckets are at most 1/32 wide.
const subBits = 5

// Histogram counts latencies in microseconds, exact below 64 µs and within 3.2 % above, up to an hour. It is a value:
// copies do not share.
type Histogram struct {
	counts [(32 - subBits + 1) << subBits]uint64
	n, sum uint64
}

func bucketOf(us uint64) int {
	us = min(us, 1<<32-1)
	shift := max(bits.Len64(us)-subBits-1, 0)
	return shift<<subBits + int(us>>shift)
}

// upper is the largest latency in µs that falls into a bucket.
func upper(bucket int) uint64 {
	shift := max(bucket>>subBits-1, 0)
	return uint64(bucket-shift<<subBits+1)<<shift - 1
}

// Add counts one latency.
func (h *Histogram) Add(d time.Duration) {
	us := uint64(max(d, 0) / time.Microsecond)
	h.counts[bucketOf(us)]++
	h.n++
	h.sum += us
}

// Count is how many latencies were added.
func (h *Histogram) Count() uint64 { return h.n }

// Mean of the latencies; 0 when there are none.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return time.Duration(h.sum/h.n) * time.Microsecond
}

// Quantile returns the upper edge of the bucket that holds the q-quantile, q in [0,1]; Quantile(1) is the largest. 0 when
// there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank, seen := max(uint64(math.Ceil(q*float64(h.n))), 1), uint64(0)
	for bucket, k := range &h.counts {
		if seen += k; k > 0 && seen >= rank {
			return time.Duration(upper(bucket)) * time.Microsecond
		}
	}
	return 0
}

// Sub is what was added since an earlier copy.
func (h Histogram) Sub(before Histogram) Histogram {
	for bucket := range h.counts {
		h.counts[bucket] -= before.counts[bucket]
	}
	h.n -= before.n
	h.sum -= before.sum
	return h
}

// String is count, median, 99th percentile and largest.
func (h Histogram) String() string {
	return fmt.Sprintf("n=%d p50=%v p99=%v max=%v", h.n, h.Quantile(.5), h.Quantile(.99), h.Quantile(1))
}
