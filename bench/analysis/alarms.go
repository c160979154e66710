package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// falseAlpha is the α of the false-alarm runs: large enough that a test which breaks it is seen.
const falseAlpha = 0.05

// alarm is a canary that is no worse than its stable, and how often that is not believed.
type alarm struct {
	name string
	runs int
	// once returns whether it was a false alarm.
	once func(*rand.Rand) bool
}

type alarmTable struct {
	title  string
	alarms []alarm
}

func (a alarm) count(runs int) (wrong int) {
	for i := range runs {
		if a.once(rand.New(rand.NewPCG(2, uint64(i)))) {
			wrong++
		}
	}
	return wrong
}

func (t alarmTable) print(w io.Writer, part int) {
	fmt.Fprintf(w, "\n### %s\n\n| case | runs | false alarms | 95 %% interval |\n|---|--:|--:|--:|\n", t.title)
	for _, a := range t.alarms {
		runs := max(1, a.runs/part)
		wrong := a.count(runs)
		low, high := interval(wrong, runs)
		fmt.Fprintf(w, "| %s | %d | %d | %.2f–%.2f %% |\n", a.name, runs, wrong, 100*low, 100*high)
	}
}

// interval is Wilson's, for k of n at 95 %.
func interval(k, n int) (low, high float64) {
	const z = 1.96
	p, m := float64(k)/float64(n), float64(n)
	center := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return max(0, center-half), min(1, center+half)
}

// buckets draws lognormal latencies by bucket, shifted up by whole edges.
type buckets struct {
	cdf   []float64
	shift int
}

func newBuckets(shift int) buckets {
	cdf := make([]float64, signal.EdgeCount)
	for i, micros := range signal.Edges {
		cdf[i] = 0.5 * math.Erfc(-math.Log(micros/100e3)/0.8/math.Sqrt2)
	}
	return buckets{cdf, shift}
}

func (b buckets) draw(r *rand.Rand, n int, errors uint64) signal.Sample {
	var counts [signal.EdgeCount + 1]uint64
	for range n {
		counts[min(signal.EdgeCount, sort.SearchFloat64s(b.cdf, r.Float64())+b.shift)]++
	}
	s := sample(counts[:])
	s.Errors = errors
	return s
}

// tripped runs some ticks and returns whether said so once.
func tripped(j *evidence.Judge, ticks int, tick func(int) (canary, stable signal.Sample), says func(evidence.Verdict) bool) bool {
	for t := range ticks {
		c, s := tick(t)
		if says(j.Tick(time.Second, c, s)) {
			return true
		}
	}
	return false
}

// alarms are the tables of false alarms in that many ticks of a second.
func alarms(ticks int) []alarmTable {
	reached := func(of func(evidence.Logs) float64) func(evidence.Verdict) bool {
		return func(v evidence.Verdict) bool { return of(v.Logs) >= -math.Log(falseAlpha) }
	}
	errors := reached(func(l evidence.Logs) float64 { return l.Errors })
	canary := reached(func(l evidence.Logs) float64 { return l.Canary })
	latency := reached(func(l evidence.Logs) float64 { return l.Latency })
	halted := func(v evidence.Verdict) bool { return v.Finding.Halts() || v.OverBudgetProven() }

	alone := alarmTable{title: fmt.Sprintf("False alarms of each process in %d s: 1/α reached, α = %v", ticks, falseAlpha)}
	for _, p := range []float64{0.001, 0.01, 0.1, 0.5} {
		for _, split := range [][2]int{{10, 990}, {10, 90}, {50, 50}} {
			c, s := newBinomial(split[0], p), newBinomial(split[1], p)
			alone.alarms = append(alone.alarms, alarm{
				fmt.Sprintf("errors, both at %s, %d:%d a tick", percent(p), split[0], split[1]), 1000,
				func(r *rand.Rand) bool {
					j := judge(config(0.001, time.Hour))
					return tripped(&j, ticks, func(int) (signal.Sample, signal.Sample) {
						return signal.Sample{Tries: uint64(split[0]), Errors: c.draw(r)},
							signal.Sample{Tries: uint64(split[1]), Errors: s.draw(r)}
					}, errors)
				},
			})
		}
	}
	drift := func(t int) float64 { return 0.02 * (1 + math.Sin(float64(t)/200)) }
	alone.alarms = append(alone.alarms,
		alarm{"errors, both drift from 0 to 4 % and back, split 1:99, 1:9, 1:1 in turn", 500, func(r *rand.Rand) bool {
			j := judge(config(0.001, time.Hour))
			return tripped(&j, ticks, func(t int) (signal.Sample, signal.Sample) {
				n := [...]int{1, 10, 50}[3*t/ticks]
				return bernoulli(r, n, drift(t)), bernoulli(r, 100-n, drift(t))
			}, errors)
		}},
		alarm{"canary at its budget of 1 %, 10 a tick", 1000, func(r *rand.Rand) bool {
			j := judge(config(0.01, time.Hour))
			return tripped(&j, ticks, func(int) (signal.Sample, signal.Sample) { return bernoulli(r, 10, 0.01), signal.Sample{} }, canary)
		}},
	)
	for _, split := range [][2]int{{1, 99}, {10, 90}, {50, 50}} {
		same, slower := newBuckets(0), newBuckets(signal.StepsPerFactor)
		alone.alarms = append(alone.alarms, alarm{
			fmt.Sprintf("latency, canary slower by just f, %d:%d a tick", split[0], split[1]), 500,
			func(r *rand.Rand) bool {
				j := judge(config(0.001, time.Hour))
				return tripped(&j, ticks, func(int) (signal.Sample, signal.Sample) {
					return slower.draw(r, split[0], 0), same.draw(r, split[1], 0)
				}, latency)
			},
		})
	}

	whole := alarmTable{title: fmt.Sprintf("Halts by the whole Judge of an A/A canary in %d s, α = %v, one region, b = 1.44 %%", ticks, falseAlpha)}
	for _, p := range []float64{0.001, 0.01, 0.1} {
		for _, split := range [][2]int{{1, 99}, {10, 90}, {50, 50}} {
			same := newBuckets(0)
			c, s := newBinomial(split[0], p), newBinomial(split[1], p)
			whole.alarms = append(whole.alarms, alarm{
				fmt.Sprintf("both at %s, %d:%d a tick", percent(p), split[0], split[1]), 500,
				func(r *rand.Rand) bool {
					j := judge(evidence.Config{
						Alpha: falseAlpha, Regions: 1, ToleratedRatio: 1, Budget: 0.0144, LatencyFactor: 1.25, Stage: time.Hour,
					})
					return tripped(&j, ticks, func(int) (signal.Sample, signal.Sample) {
						return same.draw(r, split[0], c.draw(r)), same.draw(r, split[1], s.draw(r))
					}, halted)
				},
			})
		}
	}
	return []alarmTable{alone, whole}
}

func bernoulli(r *rand.Rand, n int, p float64) signal.Sample {
	s := signal.Sample{Tries: uint64(n)}
	for i := gap(r, p); i < uint64(n); i += 1 + gap(r, p) {
		s.Errors++
	}
	return s
}
