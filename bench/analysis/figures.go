package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
)

// figure is one mean with what it is expected to be.
type figure struct {
	name string
	// expected, from the specification of the tests, which gives its own standard error as 1-3 %; 0 is none.
	expected float64
	runs     int
	once     func(*rand.Rand) float64
	// bound that no test can be below on average; 0 is none.
	bound float64
}

type table struct {
	title, unit string
	figures     []figure
}

// deviation is in standard errors of both together.
func (f figure) deviation(m mean) float64 {
	if f.expected == m.Value {
		return 0
	}
	return (m.Value - f.expected) / math.Hypot(m.SE, 0.02*f.expected)
}

func (t table) print(w io.Writer, part int) {
	fmt.Fprintf(w, "\n### %s\n\n| case | runs | %s | expected | deviation | Wald's bound |\n|---|--:|--:|--:|--:|--:|\n", t.title, t.unit)
	for _, f := range t.figures {
		m := average(max(2, f.runs/part), f.once)
		expected, deviation, bound := "–", "–", "–"
		if f.expected > 0 {
			expected, deviation = fmt.Sprint(f.expected), fmt.Sprintf("%+.1f", f.deviation(m))
		}
		if f.bound > 0 {
			bound = fmt.Sprintf("%.5g", f.bound)
		}
		fmt.Fprintf(w, "| %s | %d | %v | %s | %s | %s |\n", f.name, m.Runs, m, expected, deviation, bound)
	}
}

func percent(p float64) string { return fmt.Sprintf("%.4g %%", 100*p) }

// figures are the tables of tries and times.
func figures() []table {
	const ps = 0.001
	splits := []uint64{99, 9, 1}
	errors := func(l evidence.Logs) float64 { return l.Errors }
	budget := func(l evidence.Logs) float64 { return l.Budget }

	compared := table{title: "Canary tries until errors against stable trip, no cash", unit: "canary tries"}
	for _, row := range []struct {
		pc       float64
		expected [3]float64
		runs     int
	}{
		{0.002, [3]float64{24_000, 26_200, 52_000}, 4000},
		{0.01, [3]float64{675, 820, 1790}, 10_000},
		{0.05, [3]float64{68, 96, 248}, 10_000},
		{0.5, [3]float64{4.7, 8.1, 22}, 10_000},
	} {
		for i, beside := range splits {
			compared.figures = append(compared.figures, figure{
				name: fmt.Sprintf("canary at %s, 1:%d", percent(row.pc), beside), expected: row.expected[i], runs: row.runs,
				once:  func(r *rand.Rand) float64 { return until(r, row.pc, ps, beside, errors) },
				bound: wald(row.pc, ps),
			})
		}
	}

	averaged := table{title: "The same, averaged with the budget process, b = .1 %", unit: "canary tries"}
	for _, row := range []struct {
		pc       float64
		expected [3]float64
	}{
		{0.05, [3]float64{65, 70, 70}},
		{0.5, [3]float64{4, 4, 4}},
		{1, [3]float64{2, 2, 2}},
	} {
		for i, beside := range splits {
			averaged.figures = append(averaged.figures, figure{
				name: fmt.Sprintf("canary at %s, 1:%d", percent(row.pc), beside), expected: row.expected[i], runs: 10_000,
				once:  func(r *rand.Rand) float64 { return until(r, row.pc, ps, beside, budget) },
				bound: wald(row.pc, ps),
			})
		}
	}

	onset := table{title: "Onset after half an hour at .1 %, ten canary tries a second at 1:99", unit: "seconds after the onset"}
	for _, row := range []struct{ pc, cash, without float64 }{{0.01, 110, 251}, {0.05, 13, 45}, {0.5, 1.3, 4.8}} {
		onset.figures = append(onset.figures,
			figure{
				name: percent(row.pc) + ", cash over an hour", expected: row.cash, runs: 2000,
				once: func(r *rand.Rand) float64 { return late(r, row.pc, ps, time.Hour) },
			},
			figure{
				name: percent(row.pc) + ", no cash", expected: row.without, runs: 2000,
				once: func(r *rand.Rand) float64 { return late(r, row.pc, ps, 0) },
			})
	}

	latency := table{title: "Canary tries until latency trips at 1:99, f = 1.25, lognormal σ = .8, median 100 ms, no cash", unit: "canary tries"}
	for _, l := range []latencies{specified, ours} {
		add := func(name string, expected float64, runs int, slow func(*rand.Rand, float64) float64) {
			f := figure{name: name + ", edges as specified", expected: expected, runs: runs}
			if l == ours {
				f.name, f.expected = name+", our edges", 0
			}
			f.once = func(r *rand.Rand) float64 { return l.slower(r, slow) }
			latency.figures = append(latency.figures, f)
		}
		times := func(f float64) func(*rand.Rand, float64) float64 {
			return func(_ *rand.Rand, seconds float64) float64 { return seconds * f }
		}
		add("×1.5", 1680, 2000, times(1.5))
		add("×2", 156, 4000, times(2))
		add("×3", 39, 4000, times(3))
		add("a fifth 1 s slower", 25, 4000, func(r *rand.Rand, seconds float64) float64 {
			if r.Float64() < 0.2 {
				seconds++
			}
			return seconds
		})
	}
	return []table{compared, averaged, onset, latency}
}
