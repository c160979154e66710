package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// alpha of the figures that spend all of it on one process.
const alpha = 0.001

// config whose processes have the given b and stage and whose outage rule never acts, so that a process can be looked at
// alone.
func config(b float64, stage time.Duration) evidence.Config {
	return evidence.Config{
		Alpha: 1e-12, Regions: 1, ToleratedRatio: 1, Budget: b, LatencyFactor: 1.25, Stage: stage,
	}
}

func judge(c evidence.Config) evidence.Judge {
	j, err := evidence.New(c)
	if err != nil {
		panic(err) // the tables are constants
	}
	return j
}

// mean of some runs with its standard error.
type mean struct {
	Value, SE float64
	Runs      int
}

// average runs once per seed and averages what it returns.
func average(runs int, once func(*rand.Rand) float64) mean {
	var sum, squares float64
	for i := range runs {
		x := once(rand.New(rand.NewPCG(1, uint64(i))))
		sum += x
		squares += x * x
	}
	n := float64(runs)
	m := sum / n
	return mean{m, math.Sqrt(max(0, squares/n-m*m) / (n - 1)), runs}
}

func (m mean) String() string {
	if m.Value >= 1000 {
		return fmt.Sprintf("%.0f ± %.0f", m.Value, m.SE)
	}
	return fmt.Sprintf("%.3g ± %.2g", m.Value, m.SE)
}

// binomial draws how many of n tries are errors, exactly, out of a table.
type binomial struct{ cdf []float64 }

func newBinomial(n int, p float64) binomial {
	cdf := make([]float64, n+1)
	sum := 0.0
	for k := range cdf {
		lg := func(x int) float64 { l, _ := math.Lgamma(float64(x) + 1); return l }
		switch p {
		case 0:
			sum = 1
		case 1:
			if k == n {
				sum = 1
			}
		default:
			sum += math.Exp(lg(n) - lg(k) - lg(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		}
		cdf[k] = sum
	}
	return binomial{cdf}
}

func (b binomial) draw(r *rand.Rand) uint64 {
	u := r.Float64()
	return uint64(min(sort.SearchFloat64s(b.cdf, u), len(b.cdf)-1))
}

// gap draws how many trials pass before the first success.
func gap(r *rand.Rand, p float64) uint64 {
	if p >= 1 {
		return 0
	}
	return uint64(math.Log(1-r.Float64()) / math.Log1p(-p))
}

// until runs a canary with one try a tick beside `beside` stable tries until logE reaches ln 1/α, without cash, and
// returns how many canary tries that took. Ticks without an error are given as one: without cash and at one split that is the same.
func until(r *rand.Rand, pc, ps float64, beside uint64, logE func(evidence.Logs) float64) float64 {
	j := judge(config(0.001, 0))
	quiet := (1 - pc) * math.Pow(1-ps, float64(beside))
	stable := newBinomial(int(beside), ps)
	tries := uint64(0)
	for {
		if g := gap(r, 1-quiet); g > 0 {
			tries += g
			j.Tick(time.Second, signal.Sample{Tries: g}, signal.Sample{Tries: g * beside})
		}
		tries++
		c, s := signal.Sample{Tries: 1}, signal.Sample{Tries: beside}
		for c.Errors+s.Errors == 0 {
			if r.Float64() < pc {
				c.Errors = 1
			}
			s.Errors = stable.draw(r)
		}
		if logE(j.Tick(time.Second, c, s).Logs) >= -math.Log(alpha) {
			return float64(tries)
		}
	}
}

// late is how many seconds after the onset at 1,800 s a canary with 10 tries a second at 1:99 is found.
func late(r *rand.Rand, pc, ps float64, stage time.Duration) float64 {
	j := judge(config(0.001, stage))
	before, after, stable := newBinomial(10, ps), newBinomial(10, pc), newBinomial(990, ps)
	for t := 0; ; t++ {
		c := signal.Sample{Tries: 10, Errors: before.draw(r)}
		if t >= 1800 {
			c.Errors = after.draw(r)
		}
		s := signal.Sample{Tries: 990, Errors: stable.draw(r)}
		if j.Tick(time.Second, c, s).Logs.Errors < -math.Log(alpha) {
			continue
		}
		if t < 1800 { // a false alarm, as rare as α: begin again
			j, t = judge(config(0.001, stage)), -1
			continue
		}
		return float64(t - 1800 + 1)
	}
}

// latencies draws lognormal latencies of σ = .8 into buckets whose edges are first (in seconds) times the powers of
// 1.25^(1/steps); the median is 100 ms.
type latencies struct{ steps, first float64 }

// specified are the edges of the expected figures: powers of f^(1/2) from 1 ms, here from the one next to 100 µs on.
var specified = latencies{2, 1e-3 / math.Pow(1.25, 10)}

// ours are signal.Edges.
var ours = latencies{signal.StepsPerFactor, 100e-6}

func (l latencies) bucket(seconds float64) int {
	return max(0, min(signal.EdgeCount, int(math.Ceil(math.Log(seconds/l.first)/math.Log(1.25)*l.steps))))
}

func (l latencies) draw(r *rand.Rand) float64 { return 0.1 * math.Exp(0.8*r.NormFloat64()) }

// slower is how many canary tries show that its latencies (slow of a healthy one) are above stable's, one beside 99.
func (l latencies) slower(r *rand.Rand, slow func(*rand.Rand, float64) float64) float64 {
	c := config(0.001, 0)
	c.LatencyFactor = math.Pow(1.25, l.steps/signal.StepsPerFactor) // the same factor, in edges of the Judge
	j := judge(c)
	stable := func(n int) signal.Sample {
		var counts [signal.EdgeCount + 1]uint64
		for range n {
			counts[l.bucket(l.draw(r))]++
		}
		return sample(counts[:])
	}
	for range 100 {
		j.Tick(time.Second, signal.Sample{}, stable(99))
	}
	for tries := 1; ; tries++ {
		canary := signal.Sample{Tries: 1, Latency: signal.Histogram{{Edge: l.bucket(slow(r, l.draw(r))), Count: 1}}}
		if j.Tick(time.Second, canary, stable(99)).Logs.Latency >= -math.Log(alpha) {
			return float64(tries)
		}
	}
}

func sample(counts []uint64) signal.Sample {
	var s signal.Sample
	for edge, n := range counts {
		if n > 0 {
			s.Latency = append(s.Latency, signal.Bucket{Edge: edge, Count: n})
			s.Tries += n
		}
	}
	return s
}

// wald is the least mean number of tries that any test of level α can do with when the baseline is known.
func wald(pc, pb float64) float64 {
	kl := pc * math.Log(pc/pb)
	if pc < 1 {
		kl += (1 - pc) * math.Log((1-pc)/(1-pb))
	}
	return -math.Log(alpha) / kl
}
