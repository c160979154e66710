package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// shared is what a failure of both arms alike, after a healthy minute, came to.
type shared struct {
	// Seconds from the onset until the canary was taken to zero.
	zero float64
	// first is whether the canary was found over its budget before stable was.
	first  bool
	halted bool
	// ended is how many seconds after both were well again the outage was over.
	ended float64
}

// outage runs one: both arms fail at rate p for a minute, the canary is at zero as soon as a verdict says so.
func outage(r *rand.Rand, p float64, split [2]int, b float64) (o shared) {
	j := judge(evidence.Config{
		Alpha: alpha, Regions: 1, ToleratedRatio: 1, ToleratedDifference: 0.0001, Budget: b, LatencyFactor: 1.25, Stage: time.Hour,
	})
	all := split[0] + split[1]
	var v evidence.Verdict
	for t := -60; ; t++ {
		rate := 0.0
		if t >= 0 && t < 60 {
			rate = p
		}
		if v.Finding == evidence.Collecting {
			v = j.Tick(time.Second, bernoulli(r, split[0], rate), bernoulli(r, split[1], rate))
			o.zero, o.first = float64(t+1), v.Metric == "budget"
		} else {
			v = j.Tick(time.Second, signal.Sample{}, bernoulli(r, all, rate))
		}
		switch {
		case v.Finding.Halts():
			o.halted = true
			return o
		case t >= 60 && v.Finding == evidence.Collecting:
			o.ended = float64(t - 60 + 1)
			return o
		}
	}
}

func printOutages(w io.Writer, runs int) {
	const b = 0.0144
	fmt.Fprintf(w, "\n### A minute in which both arms fail alike, α = %v, b = 1.44 %%, %d runs each\n\n", alpha, max(1, runs))
	fmt.Fprint(w, "| both at | tries a second | canary at zero after | found over its budget before stable | halted | over, after both are well |\n|--:|--:|--:|--:|--:|--:|\n")
	for _, p := range []float64{0.05, 0.2, 0.5, 1} {
		for _, split := range [][2]int{{1, 99}, {10, 90}, {50, 50}, {90, 10}} {
			var sum shared
			first, halted, over := 0, 0, 0
			for i := range max(1, runs) {
				o := outage(rand.New(rand.NewPCG(3, uint64(i))), p, split, b)
				sum.zero += o.zero
				if o.first {
					first++
				}
				if o.halted {
					halted++
				} else {
					sum.ended += o.ended
					over++
				}
			}
			n := float64(max(1, runs))
			fmt.Fprintf(w, "| %s | %d + %d | %.3g s | %.3g %% | %d | %.3g s |\n", percent(p), split[0], split[1],
				sum.zero/n, 100*float64(first)/n, halted, sum.ended/float64(max(1, over)))
		}
	}
}
