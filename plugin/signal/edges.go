package signal

import (
	"math"
	"sort"
)

// EdgeCount is len(Edges).
const EdgeCount = 190

// StepsPerFactor edges make a factor of 1.25: each is 7.7 % above the one before.
const StepsPerFactor = 3

// Edges are the upper edges of the latency buckets in microseconds, rising: 100 µs times the powers of 1.25^(1/3), rounded
// to whole microseconds, to 127 s. It is never written to. Proxies are configured with the same edges, so that a bucket is
// exact.
var Edges = edges()

func edges() []float64 {
	all := make([]float64, EdgeCount)
	for i := range all {
		all[i] = math.Round(100 * math.Pow(1.25, float64(i)/StepsPerFactor))
	}
	return all
}

// EdgeOf returns the bucket of a latency in microseconds: the first edge that is not below it, or EdgeCount when it is
// longer than the last. A hair above an edge is still in it, so that an edge which went through text, or through another
// unit, finds itself.
func EdgeOf(micros float64) int {
	return sort.Search(EdgeCount, func(i int) bool { return micros <= Edges[i]*(1+1e-6) })
}

// StepsFor returns how many edges above τ the first edge at or above factor·τ is (factor > 1). The rounding of Edges to whole
// microseconds is not seen by it.
func StepsFor(factor float64) int {
	return max(1, int(math.Ceil(StepsPerFactor*math.Log(factor)/math.Log(1.25)-1e-9)))
}
