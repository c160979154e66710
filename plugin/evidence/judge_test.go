package evidence

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/signal"
	"pgregory.net/rapid"
)

var usual = Config{
	Alpha: 0.001, Regions: 1, ToleratedRatio: 1, ToleratedDifference: 0.0001, Budget: 0.01, LatencyFactor: 1.25, Stage: time.Hour,
}

func made(t testing.TB, c Config) Judge {
	t.Helper()
	j, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// at returns n tries of which k are errors, all of them in one bucket.
func at(n, k uint64, edge int) signal.Sample {
	s := signal.Sample{Tries: n, Errors: k}
	if n > 0 {
		s.Latency = signal.Histogram{{Edge: edge, Count: n}}
	}
	return s
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*(1+math.Abs(a)) }

func samples() *rapid.Generator[signal.Sample] {
	return rapid.Custom(func(t *rapid.T) signal.Sample {
		n := rapid.Uint64Range(0, 2000).Draw(t, "tries")
		return at(n, rapid.Uint64Range(0, n).Draw(t, "errors"), rapid.IntRange(0, signal.EdgeCount).Draw(t, "edge"))
	})
}

func TestEmptyTicksOnlyMoveCash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, err := New(usual)
		if err != nil {
			t.Fatal(err)
		}
		var before Verdict
		for range rapid.IntRange(1, 5).Draw(t, "ticks") {
			before = j.Tick(time.Second, samples().Draw(t, "canary"), samples().Draw(t, "stable"))
		}
		cash, errs := j.s.Errors.Cash, j.s.Errors.logE()
		for range rapid.IntRange(1, 50).Draw(t, "empty") {
			v := j.Tick(time.Second, signal.Sample{}, signal.Sample{})
			if v.Finding != before.Finding || !near(v.LogE, before.LogE) {
				t.Fatalf("an empty tick made %+v of %+v", v, before)
			}
		}
		if !near(j.s.Errors.logE(), errs) || j.s.Errors.Cash >= cash {
			t.Fatal("cash does not move, or is not worth what it was")
		}
	})
}

func TestOneEmptyArmComparesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, err := New(usual)
		if err != nil {
			t.Fatal(err)
		}
		j.Tick(time.Second, samples().Draw(t, "canary"), samples().Draw(t, "stable"))
		errs, latency := j.s.Errors.logE(), j.s.Latency[1].logE()
		one := samples().Draw(t, "one")
		var v Verdict
		if rapid.Bool().Draw(t, "canary alone") {
			v = j.Tick(time.Second, one, signal.Sample{})
		} else {
			v = j.Tick(time.Second, signal.Sample{}, one)
		}
		if !near(v.Logs.Errors, errs) || !near(j.s.Latency[1].logE(), latency) {
			t.Fatal("one arm was compared with nothing")
		}
	})
}

// At one split and without cash, a tick may be cut in parts or parts be merged.
func TestMergedTicks(t *testing.T) {
	c := usual
	c.Stage = 0
	rapid.Check(t, func(t *rapid.T) {
		parts, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		whole := parts
		per := rapid.Uint64Range(1, 40).Draw(t, "stable tries per canary try")
		var canary, stable signal.Sample
		for range rapid.IntRange(1, 8).Draw(t, "parts") {
			n := rapid.Uint64Range(1, 100).Draw(t, "tries")
			kc := rapid.Uint64Range(0, n).Draw(t, "canary errors")
			ks := rapid.Uint64Range(0, min(n, 3)).Draw(t, "stable errors")
			parts.s.Errors.compare(float64(n), float64(kc), float64(n*per), float64(ks), 1.5, 0.001)
			parts.s.Canary.against(float64(n), float64(kc), c.Budget)
			canary, stable = canary.Add(at(n, kc, 0)), stable.Add(at(n*per, ks, 0))
		}
		whole.s.Errors.compare(float64(canary.Tries), float64(canary.Errors), float64(stable.Tries), float64(stable.Errors), 1.5, 0.001)
		whole.s.Canary.against(float64(canary.Tries), float64(canary.Errors), c.Budget)
		if !near(parts.s.Errors.logE(), whole.s.Errors.logE()) || !near(parts.s.Canary.logE(), whole.s.Canary.logE()) {
			t.Fatalf("parts %v, %v; whole %v, %v", parts.s.Errors.logE(), parts.s.Canary.logE(), whole.s.Errors.logE(), whole.s.Canary.logE())
		}
	})
}

// Arms whose observed rates are equal in every tick never are evidence, whatever the rates and splits do.
func TestEqualArms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, err := New(usual)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 20).Draw(t, "ticks") {
			n := rapid.Uint64Range(1, 50).Draw(t, "n")
			k := rapid.Uint64Range(0, n).Draw(t, "k")
			edge := rapid.IntRange(0, signal.EdgeCount).Draw(t, "edge")
			c, s := rapid.Uint64Range(1, 30).Draw(t, "canary"), rapid.Uint64Range(1, 30).Draw(t, "stable")
			v := j.Tick(time.Second, at(c*n, c*k, edge), at(s*n, s*k, edge))
			if v.Logs.Errors > 1e-9 || v.Logs.Latency > 1e-9 || v.Finding == Worse || v.Finding == Slower {
				t.Fatalf("equal arms: %+v", v)
			}
		}
	})
}

func TestStateGoesThroughJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, err := New(usual)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			j.Tick(time.Second, samples().Draw(t, "canary"), samples().Draw(t, "stable"))
		}
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		var k Judge
		if err := json.Unmarshal(text, &k); err != nil {
			t.Fatal(err)
		}
		if k != j {
			t.Fatalf("%+v became %+v", j, k)
		}
	})
}

func TestStateOfAnotherVersion(t *testing.T) {
	for name, text := range map[string]string{
		"empty": `{}`, "another layout": `{"layout":99}`, "no config": `{"layout":1}`, "not a state": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			var j Judge
			if err := json.Unmarshal([]byte(text), &j); !errors.Is(err, ErrLayout) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestConfigOutOfRange(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"alpha": func(c *Config) { c.Alpha = 0 }, "regions": func(c *Config) { c.Regions = 0 },
		"ratio": func(c *Config) { c.ToleratedRatio = math.NaN() }, "difference": func(c *Config) { c.ToleratedDifference = -1 },
		"budget": func(c *Config) { c.Budget = 1 }, "factor": func(c *Config) { c.LatencyFactor = 1 },
		"stage": func(c *Config) { c.Stage = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := usual
			change(&c)
			if _, err := New(c); !errors.Is(err, ErrConfig) {
				t.Errorf("got %v", err)
			}
		})
	}
	j := made(t, usual)
	if err := j.SetBudget(0); !errors.Is(err, ErrConfig) || j.Config().Budget != usual.Budget {
		t.Errorf("a budget of 0: %v", err)
	}
	if err := j.SetBudget(0.5); err != nil || j.Config().Budget != 0.5 {
		t.Errorf("a budget of .5: %v", err)
	}
}

func TestFindings(t *testing.T) {
	fast, slow := 60, 75
	for _, c := range []struct {
		name           string
		canary, stable signal.Sample
		want           Finding
		metric         string
		within         int
	}{
		{"a fully failing canary", at(2, 2, fast), at(198, 0, fast), Worse, "errors", 2},
		{"a failing canary beside some stable", at(3, 3, fast), at(27, 0, fast), OverBudget, "budget", 1},
		{"a failing canary beside too little stable", at(4, 4, fast), at(4, 0, fast), Suspected, "budget", 1},
		{"a failing canary that is alone", at(20, 20, fast), signal.Sample{}, Suspected, "budget", 1},
		{"a slow canary", at(10, 0, slow), at(990, 0, fast), Slower, "latency", 10},
		{"a canary just within the factor", at(10, 0, fast+3), at(990, 0, fast), Collecting, "", 2000},
		{"a shared outage", at(10, 9, fast), at(990, 900, fast), Outage, "recovery", 1},
		{"a stable that fails alone", at(10, 0, fast), at(990, 900, fast), Outage, "recovery", 1},
		{"healthy arms", at(10, 0, fast), at(990, 0, fast), Collecting, "", 2000},
		{"nothing", signal.Sample{}, signal.Sample{}, Collecting, "", 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := made(t, usual)
			var v Verdict
			ticks := 0
			for ticks < c.within && v.Finding == Collecting {
				v = j.Tick(time.Second, c.canary, c.stable)
				ticks++
			}
			if v.Finding != c.want || c.metric != "" && v.Metric != c.metric {
				t.Errorf("after %d ticks %+v", ticks, v)
			}
			if v.CanaryTries != c.canary.Tries || v.StableErrors != c.stable.Errors {
				t.Errorf("the counts are not in %+v", v)
			}
			if (v.LogE >= v.LogThreshold) != (v.Finding.Halts() || v.Metric == "budget") {
				t.Errorf("the figures do not fit the finding: %+v", v)
			}
		})
	}
}

func TestWorseWhateverStableDoes(t *testing.T) {
	j := made(t, usual)
	v := j.Tick(time.Second, at(10, 2, 60), at(990, 198, 60))
	if v.Finding != Outage {
		t.Fatalf("both at a fifth: %+v", v)
	}
	for range 20 {
		v = j.Tick(time.Second, at(10, 9, 60), at(990, 198, 60))
	}
	if v.Finding != Worse || v.Metric != "errors" {
		t.Errorf("the canary at nine tenths and stable at a fifth: %+v", v)
	}
}

// A canary that is over its budget where stable has too few tries is taken to zero at once; whose failure it is, stable
// tells when it has the traffic.
func TestStableTellsWhoseFailureItWas(t *testing.T) {
	for _, c := range []struct {
		name  string
		after signal.Sample
		want  Finding
		logs  func(Logs) bool
	}{
		{"stable is well", at(50, 0, 60), OverBudget, func(l Logs) bool { return l.Canary > 10 }},
		{"stable fails too, and recovers", at(50, 25, 60), Collecting, func(l Logs) bool { return l.Canary < 1e-9 && l.Stable < 1e-9 }},
		{"nobody calls", signal.Sample{}, Suspected, func(l Logs) bool { return l.Canary > 10 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := made(t, usual)
			v := j.Tick(time.Second, at(9, 9, 60), signal.Sample{})
			if v.Finding != Suspected || v.Metric != "budget" {
				t.Fatalf("at once: %+v", v)
			}
			for range 3 {
				v = j.Tick(time.Second, signal.Sample{}, c.after)
				if v.Finding != Suspected && (c.name != "stable fails too, and recovers" || v.Finding != Outage) {
					t.Fatalf("before anything is known of stable: %+v", v)
				}
			}
			for range 12 {
				next := c.after
				next.Errors = 0
				v = j.Tick(time.Second, signal.Sample{}, next)
			}
			if v.Finding != c.want || !c.logs(v.Logs) {
				t.Errorf("at last: %+v", v)
			}
		})
	}
}

func TestAHaltIsFinal(t *testing.T) {
	j := made(t, usual)
	var v Verdict
	for !v.Finding.Halts() {
		v = j.Tick(time.Second, at(20, 20, 60), at(20, 0, 60))
	}
	was := v
	for range 1000 {
		v = j.Tick(time.Second, at(1000, 0, 60), at(1000, 500, 60))
	}
	if v.Finding != was.Finding || v.Metric != was.Metric || v.LogE != was.LogE {
		t.Errorf("%+v became %+v", was, v)
	}
}

// An outage lasts while stable fails, silence does not end it, and what it did to the canary's budget is forgotten.
func TestOutageEnds(t *testing.T) {
	c := usual
	c.Budget = 0.001
	j := made(t, c)
	r := rand.New(rand.NewPCG(1, 2))
	fails := func(n uint64, p float64) (k uint64) {
		for range n {
			if r.Float64() < p {
				k++
			}
		}
		return k
	}
	for range 60 {
		if v := j.Tick(time.Second, at(100, 0, 60), at(100, 0, 60)); v.Finding != Collecting {
			t.Fatalf("before: %+v", v)
		}
	}
	var v Verdict
	for range 30 { // both fail; the canary is soon at zero
		v = j.Tick(time.Second, at(100, fails(100, 0.3), 60), at(100, fails(100, 0.3), 60))
	}
	if v.Finding != Outage || v.Logs.Canary < v.Logs.Errors {
		t.Fatalf("both fail: %+v", v)
	}
	for range 600 { // nobody calls
		v = j.Tick(time.Second, signal.Sample{}, signal.Sample{})
	}
	for range 600 { // better, but not well
		v = j.Tick(time.Second, signal.Sample{}, at(200, fails(200, 0.01), 60))
	}
	if v.Finding != Outage {
		t.Fatalf("stable is not well: %+v", v)
	}
	ticks := 0
	for v.Finding == Outage && ticks < 100 {
		v = j.Tick(time.Second, signal.Sample{}, at(200, 0, 60))
		ticks++
	}
	if v.Finding != Collecting || ticks < 9 || ticks > 15 { // 2/b = 2,000 tries
		t.Fatalf("after %d well ticks %+v", ticks, v)
	}
	for range 600 {
		if v = j.Tick(time.Second, at(100, 0, 60), at(100, 0, 60)); v.Finding != Collecting {
			t.Fatalf("afterwards: %+v", v)
		}
	}
	for range 3 {
		v = j.Tick(time.Second, at(100, 100, 60), at(100, 0, 60))
	}
	if !v.Finding.Halts() {
		t.Errorf("the canary alone fails: %+v", v)
	}
}

func TestSecondOutage(t *testing.T) {
	j := made(t, usual)
	for round := range 3 {
		v := j.Tick(time.Second, at(10, 5, 60), at(990, 500, 60))
		if v.Finding != Outage {
			t.Fatalf("round %d: %+v", round, v)
		}
		for range 10 {
			v = j.Tick(time.Second, signal.Sample{}, at(1000, 0, 60))
		}
		if v.Finding != Collecting {
			t.Fatalf("round %d: %+v", round, v)
		}
	}
}

// τ is of earlier ticks: the first tick compares no latency, and a stable that turns slow in a tick does not hide a
// canary in it.
func TestTauIsOfThePast(t *testing.T) {
	j := made(t, usual)
	if v := j.Tick(time.Second, at(100, 0, 90), at(100, 0, 60)); !near(v.Logs.Latency, 0) {
		t.Fatalf("compared with nothing: %+v", v)
	}
	if got := j.s.Past.thresholds(); got != [len(quantiles)]int{60, 60, 60} {
		t.Fatalf("τ is %v", got)
	}
	j.Tick(time.Second, signal.Sample{}, signal.Sample{Tries: 100, Latency: signal.Histogram{{Edge: 50, Count: 80}, {Edge: 100, Count: 20}}})
	if got := j.s.Past.thresholds(); got != [len(quantiles)]int{60, 100, 100} {
		t.Fatalf("τ is %v", got)
	}
	// What is beyond the last edge has no τ.
	j = made(t, usual)
	j.Tick(time.Second, signal.Sample{}, at(100, 0, signal.EdgeCount))
	if v := j.Tick(time.Second, at(100, 0, signal.EdgeCount), at(100, 0, signal.EdgeCount)); !near(v.Logs.Latency, 0) {
		t.Errorf("compared beyond the last edge: %+v", v)
	}
}

func TestOverBudgetProven(t *testing.T) {
	for _, c := range []struct {
		name           string
		canary, stable signal.Sample
		want           bool
	}{
		{"the canary alone", at(3, 3, 60), at(27, 0, 60), true},
		{"one error", at(1, 1, 60), at(99, 0, 60), false},
		{"not told apart", at(4, 4, 60), at(4, 0, 60), false},
		{"both", at(10, 9, 60), at(990, 900, 60), false},
		{"nothing", signal.Sample{}, signal.Sample{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := made(t, usual)
			if v := j.Tick(time.Second, c.canary, c.stable); v.OverBudgetProven() != c.want {
				t.Errorf("%+v", v)
			}
		})
	}
	if (Verdict{}).OverBudgetProven() {
		t.Error("a verdict that nobody gave")
	}
}

func TestErrorsAboveTriesAreTries(t *testing.T) {
	j := made(t, usual)
	v := j.Tick(time.Second, at(1, 5, 60), at(100, 0, 60))
	k := made(t, usual)
	if w := k.Tick(time.Second, at(1, 1, 60), at(100, 0, 60)); v.Logs != w.Logs {
		t.Errorf("%+v, not %+v", v.Logs, w.Logs)
	}
}

func BenchmarkTick(b *testing.B) {
	j := made(b, usual)
	var canary, stable signal.Sample
	for i := range 40 {
		canary = canary.Add(at(1, 0, 40+i))
		stable = stable.Add(at(99, 0, 40+i))
	}
	stable.Errors = 4
	b.ReportAllocs()
	for b.Loop() {
		j.Tick(time.Second, canary, stable)
	}
}
