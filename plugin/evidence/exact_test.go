package evidence

import (
	"fmt"
	"math"
	"testing"
)

// outcomes calls do with every number of errors of n tries at rate p and its probability.
func outcomes(n int, p float64, do func(k, probability float64)) {
	for k := range n + 1 {
		ways := 1.0
		for i := range k {
			ways *= float64(n-i) / float64(i+1)
		}
		do(float64(k), ways*math.Pow(p, float64(k))*math.Pow(1-p, float64(n-k)))
	}
}

// The means below are sums over every outcome, not samples: a null's process must not grow, at all.
const rounding = 1e-12

func TestCompareNeverGrowsUnderItsNull(t *testing.T) {
	for _, ratio := range []float64{1, 1.5, 0.8} {
		for _, difference := range []float64{0, 0.001, 0.05} {
			for _, split := range [][2]int{{1, 1}, {1, 12}, {3, 9}, {12, 1}, {7, 7}} {
				for _, ps := range []float64{0, 0.001, 0.02, 0.3, 0.6} {
					pc := ratio*ps + difference
					if pc > 1 {
						continue
					}
					var each [points]float64
					outcomes(split[0], pc, func(kc, u float64) {
						outcomes(split[1], ps, func(ks, v float64) {
							var w wealth
							w.compare(float64(split[0]), kc, float64(split[1]), ks, ratio, difference)
							for i, s := range w.Bets {
								each[i] += u * v * math.Exp(s)
							}
						})
					})
					for i, e := range each {
						if e > 1+rounding {
							t.Errorf("ψ0 %v, δ %v, split %v, stable at %v: alternative %v grows to %v",
								ratio, difference, split, ps, ratios[i], e)
						}
					}
				}
			}
		}
	}
}

func TestAgainstIsAMartingaleAtTheBudget(t *testing.T) {
	for _, b := range []float64{1e-5, 0.001, 0.0144, 0.3, 0.6, 0.97} {
		for _, n := range []int{1, 2, 9} {
			for _, part := range []float64{0, 0.5, 1} {
				var each [points]float64
				outcomes(n, b*part, func(k, u float64) {
					var w wealth
					w.against(float64(n), k, b)
					for i, s := range w.Bets {
						each[i] += u * math.Exp(s)
					}
				})
				for i, e := range each {
					if e > 1+rounding || part == 1 && e < 1-rounding {
						t.Errorf("b %v, rate %v·b, %d tries: alternative %v has mean %v", b, part, n, excesses[i], e)
					}
				}
			}
		}
	}
}

func TestRecoveryIsAMartingaleAtTwiceTheBudget(t *testing.T) {
	for _, b := range []float64{0.001, 0.02, 0.4, 0.9} {
		p := min(2*b, (1+b)/2)
		e := 0.0
		outcomes(7, p, func(k, u float64) { e += u * math.Exp(likelihood(7, k, b/2, p)) })
		if math.Abs(e-1) > rounding {
			t.Errorf("b %v: mean %v", b, e)
		}
	}
}

// Splits, budgets and the cash of a tick may follow all that was seen before it.
func TestThreeTicksThatFollowThePast(t *testing.T) {
	const ps, pc = 0.2, 0.2
	for _, stage := range []float64{0, 4} {
		var errors, canary float64
		h := 0.0
		if stage > 0 {
			h = 1 / stage
		}
		var walk func(tick int, probability float64, w, v wealth, seen float64)
		walk = func(tick int, probability float64, w, v wealth, seen float64) {
			if tick == 3 {
				errors += probability * math.Exp(w.logE())
				canary += probability * math.Exp(v.logE())
				return
			}
			// More canary tries and a wider budget after errors: as hostile as a plan can be.
			nc, ns, b := 1+int(seen), 4-int(seen)/2, 0.2+0.1*seen
			outcomes(nc, pc, func(kc, x float64) {
				outcomes(max(0, ns), ps, func(ks, y float64) {
					w, v := w, v
					w.move(h)
					v.move(h)
					w.compare(float64(nc), kc, float64(max(0, ns)), ks, 1, 0)
					v.against(float64(nc), kc, b)
					walk(tick+1, probability*x*y, w, v, seen+kc)
				})
			})
		}
		walk(0, 1, fresh(stage > 0), fresh(stage > 0), 0)
		if errors > 1+rounding || canary > 1+rounding {
			t.Errorf("stage %v ticks: mean of errors %v, of canary %v", stage, errors, canary)
		}
	}
}

func TestFactorsAreAsWritten(t *testing.T) {
	var w wealth
	w.compare(10, 2, 990, 1, 1.5, 0.001)
	for i, r := range ratios {
		psi := 1.5 * r
		d := 10*psi + 990
		a, b := psi*(10*1.5+990)/(1.5*d), (10*1.5+990)/d
		if want := 2*math.Log(a) + math.Log(b) - 10*0.001*(a-1); math.Abs(w.Bets[i]-want) > 1e-12 {
			t.Errorf("ψ %v: %v, want %v", psi, w.Bets[i], want)
		}
	}
	w = wealth{}
	w.against(5, 2, 0.001)
	for i, r := range excesses {
		q := r * 0.001
		if want := 2*math.Log(q/0.001) + 3*math.Log((1-q)/0.999); math.Abs(w.Bets[i]-want) > 1e-12 {
			t.Errorf("q %v: %v, want %v", q, w.Bets[i], want)
		}
	}
}

func TestThreshold(t *testing.T) {
	for _, c := range []struct {
		regions int
		want    float64
	}{{1, 8000}, {8, 64000}} {
		if got := math.Exp(Config{Alpha: 0.001, Regions: c.regions}.logThreshold()); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%d regions trip at %v, want %v", c.regions, got, c.want)
		}
	}
}

func ExampleFinding() {
	fmt.Println(Worse, Worse.Halts(), Outage, Outage.Halts())
	// Output: Worse true Outage false
}
