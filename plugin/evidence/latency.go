package evidence

import (
	"math"
	"time"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// quantiles at which latency is compared.
var quantiles = [...]float64{0.5, 0.95, 0.99}

// memory is after how long a past latency of stable counts half.
const memory = 10 * time.Minute

// past is what stable's latencies were in earlier ticks, by bucket; newer ones weigh more.
type past [signal.EdgeCount + 1]float64

// thresholds returns τ for each quantile as an edge, or EdgeCount where there is none: nothing was seen yet, or τ is beyond the
// last edge.
func (p *past) thresholds() (tau [len(quantiles)]int) {
	total := 0.0
	for _, n := range p {
		total += n
	}
	sum, q := 0.0, 0
	for i, n := range p {
		sum += n
		for q < len(quantiles) && total > 0 && sum >= quantiles[q]*total*(1-1e-12) {
			tau[q] = i
			q++
		}
	}
	for ; q < len(quantiles); q++ {
		tau[q] = signal.EdgeCount
	}
	return tau
}

// take adds a tick of the given length.
func (p *past) take(length time.Duration, h signal.Histogram) {
	if length > 0 {
		keep := math.Exp2(-float64(length) / float64(memory))
		for i := range p {
			p[i] *= keep
		}
	}
	for _, b := range h {
		if b.Edge >= 0 && b.Edge < len(p) {
			p[b.Edge] += float64(b.Count)
		}
	}
}
