package budget

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	month = Objective{Target: 0.999, Window: 30 * 24 * time.Hour}
)

func near(got, want, part float64) bool { return math.Abs(got-want) <= part*math.Abs(want)+1e-9 }

func TestRegionBudget(t *testing.T) {
	for _, c := range []struct {
		name          string
		rate          uint64
		errors        uint64
		ticks         int
		every         time.Duration
		allowed, left float64
	}{
		{"two minutes of a rate of one", 1, 0, 120, time.Second, 2592, 2592},
		{"ten seconds of a high rate", 100_000, 50, 10, time.Second, 2.592e8, 2.592e8 - 500},
		{"an hour", 100, 1, 360, 10 * time.Second, 259_200, 258_840},
		{"a whole window", 1, 0, 30 * 24, time.Hour, 0.72, 0.72},
		{"more than a window: what is older is forgotten", 3600, 3, 90 * 24, time.Hour, 2592, 2592 - 3*30*24},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRegion(month)
			now := start
			for range c.ticks {
				now = now.Add(c.every)
				n := c.rate
				if c.name == "an hour" {
					n *= 10
				}
				r.Tick(now, c.every, Count{n, c.errors})
			}
			b := r.At(now)
			if !b.Known || !near(b.Allowed, c.allowed, 0.02) || !near(b.Left, c.left, 0.02) {
				t.Errorf("got %+v, want %v allowed and %v left", b, c.allowed, c.left)
			}
		})
	}
}

func TestRegionKnowsNothingBeforeItSaw(t *testing.T) {
	r := NewRegion(month)
	if b := r.At(start); b.Known {
		t.Errorf("nothing was seen: %+v", b)
	}
	r.Tick(start, time.Second, Count{})
	if b := r.At(start); b.Known {
		t.Errorf("nobody called: %+v", b)
	}
	r.Tick(start, time.Second, Count{99, 0})
	if b := r.At(start); b.Known {
		t.Errorf("a few called: %+v", b)
	}
	r.Tick(start.Add(time.Second), time.Second, Count{1, 0})
	if b := r.At(start.Add(time.Second)); !b.Known || !near(b.Allowed, 50*0.001*month.Window.Seconds(), 1e-6) {
		t.Errorf("a hundred in two seconds: %+v", b)
	}
	r = NewRegion(month)
	r.Tick(start, 0, Count{1_000_000, 5})
	r.Tick(start.Add(time.Second), time.Second, Count{100, 0})
	if b := r.At(start.Add(time.Second)); b.Requests != 100 || b.Errors != 0 {
		t.Errorf("what came before the first length: %+v", b)
	}
}

func TestRegionForgetsInSilence(t *testing.T) {
	o := Objective{Target: 0.99, Window: 2 * time.Hour}
	r := NewRegion(o)
	r.Tick(start, time.Minute, Count{1000, 10})
	if b := r.At(start.Add(time.Hour)); b.Errors != 10 || !near(b.Allowed, 1000*0.01*2, 0.05) {
		t.Errorf("after an hour %+v", b)
	}
	if b := r.At(start.Add(3 * time.Hour)); b.Known {
		t.Errorf("after a window %+v", b)
	}
	r.Tick(start.Add(-time.Hour), time.Minute, Count{5, 1}) // a clock that goes back
	if b := r.At(start); b.Errors != 11 {
		t.Errorf("a late count is lost: %+v", b)
	}
}

func TestRegionAgainstAList(t *testing.T) {
	o := Objective{Target: 0.99, Window: regionParts * time.Second} // slots of a second
	rapid.Check(t, func(t *rapid.T) {
		r := NewRegion(o)
		type seen struct {
			at int64
			Count
		}
		var list []seen
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "ticks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
			c := Count{rapid.Uint64Range(0, 99).Draw(t, "requests"), rapid.Uint64Range(0, 3).Draw(t, "errors")}
			r.Tick(now, time.Second, c)
			list = append(list, seen{now.Unix(), c})
			var want Count
			for _, s := range list {
				if s.at > now.Unix()-regionSlots {
					want.add(s.Count)
				}
			}
			if got := r.At(now); got.Known != (want.Requests >= knownFrom) || got.Known && got.Count != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		}
	})
}

func TestAllotment(t *testing.T) {
	known := func(left float64) Budget { return Budget{Known: true, Left: left} }
	for _, c := range []struct {
		name     string
		budget   Budget
		share    float64
		errors   uint64
		allotted float64
		spent    bool
	}{
		{"not known", Budget{}, 0.1, 1_000_000, 0, false},
		{"within", known(1000), 0.1, 100, 100, false},
		{"one over", known(1000), 0.1, 101, 100, true},
		{"one error at low traffic", known(0.3), 0.1, 1, 1, false},
		{"two errors at low traffic", known(0.3), 0.1, 2, 1, true},
		{"nothing left, one error", known(-50), 0.1, 1, 1, false},
		{"nothing left, two errors", known(-50), 0.1, 2, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewCanary(month)
			a.Allot(c.budget, c.share)
			a.Tick(start, Count{c.errors, c.errors})
			if a.Allotted != c.allotted || a.Spent() != c.spent || a.Left() < 0 {
				t.Errorf("got %v allotted, spent %v", a.Allotted, a.Spent())
			}
			a.Allot(known(1e9), 1)
			if c.budget.Known && a.Allotted != c.allotted {
				t.Errorf("allotted again: %v", a.Allotted)
			}
		})
	}
}

func TestRate(t *testing.T) {
	// 1 %, 10 % and 50 %, ten minutes each.
	const quick = (0.01 + 0.1 + 0.5) * 600
	for _, c := range []struct {
		name      string
		objective Objective
		rps       float64
		left      float64 // part of the region's budget
		seconds   float64 // planned, at the whole of the traffic
		want      float64
	}{
		{"a quick rollout at 1 a second", month, 1, 1, quick, 0.0144},
		{"the same at 100,000 a second", month, 100_000, 1, quick, 0.0144},
		{"a day at a half", month, 100_000, 1, 43_200, 0.006},
		{"the same at 1 a second", month, 1, 1, 43_200, 0.006},
		{"a week at a half", month, 1000, 1, 302_400, 0.001},
		{"little left", month, 1000, 0.005, quick, 0.00354},
		{"nothing left", month, 1000, 0, quick, 0.001},
		{"no plan", month, 1000, 1, 0, 0.001},
		{"a loose objective", Objective{0.95, month.Window}, 1000, 1, quick, 0.5},
		{"one that is looser still", Objective{0.4, month.Window}, 1000, 1, quick, 0.6},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewCanary(c.objective)
			allowed := c.objective.ErrorRate() * c.rps * c.objective.Window.Seconds()
			a.Allot(Budget{Known: true, Left: c.left * allowed}, 0.1)
			if got := a.Rate(c.seconds * c.rps); !near(got, c.want, 0.01) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		o := Objective{rapid.Float64Range(0.001, 0.99999).Draw(t, "target"), month.Window}
		a := NewCanary(o)
		a.Allot(Budget{Known: true, Left: rapid.Float64Range(-1e9, 1e12).Draw(t, "left")}, rapid.Float64Range(0.001, 1).Draw(t, "share"))
		if b := a.Rate(rapid.Float64Range(0, 1e12).Draw(t, "planned")); b < o.ErrorRate() || b >= 1 || b > max(0.5, o.ErrorRate()) {
			t.Fatalf("b is %v for %v", b, o.Target)
		}
	})
}

func TestBurning(t *testing.T) {
	type phase struct {
		seconds int
		Count   // a second
	}
	for _, c := range []struct {
		name   string
		phases []phase
		proven bool
		want   time.Duration
	}{
		{"one error at low traffic", []phase{{20, Count{}}, {1, Count{1, 1}}}, false, 0},
		{"healthy", []phase{{300, Count{1000, 1}}}, true, 0},
		{"a burst", []phase{{300, Count{100, 0}}, {10, Count{100, 5}}}, true, 10 * time.Second},
		{"not proven", []phase{{300, Count{100, 0}}, {10, Count{100, 5}}}, false, 0},
		{"a burst that ended", []phase{{300, Count{100, 0}}, {9, Count{100, 5}}, {26, Count{100, 0}}}, true, 0},
		{"a minute", []phase{{300, Count{1000, 0}}, {60, Count{1000, 24}}}, true, time.Minute},
		{"five minutes", []phase{{300, Count{1000, 18}}}, true, 5 * time.Minute},
		{"silence after a burst", []phase{{10, Count{100, 50}}, {400, Count{}}}, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewCanary(month)
			now := start
			for _, p := range c.phases {
				for range p.seconds {
					now = now.Add(time.Second)
					a.Tick(now, p.Count)
				}
			}
			got, burning := a.Burning(now, time.Second, c.proven)
			if burning != (c.want > 0) || got.Window != c.want {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestBurningFitsTheObjective(t *testing.T) {
	for name, o := range map[string]Objective{"loose": {0.9, month.Window}, "short window": {0.999, time.Hour}} {
		t.Run(name, func(t *testing.T) {
			bad, good := NewCanary(o), NewCanary(o)
			bad.Tick(start, Count{100, 60})
			good.Tick(start, Count{10_000, uint64(10_000 * o.ErrorRate() / 2)})
			if _, burning := bad.Burning(start, time.Second, true); !burning {
				t.Error("a canary that fails more than half is not seen")
			}
			if b, burning := good.Burning(start, time.Second, true); burning {
				t.Errorf("a canary within its objective burns: %+v", b)
			}
		})
	}
}

func TestValuesGoThroughJSON(t *testing.T) {
	r, a := NewRegion(month), NewCanary(month)
	for i := range 500 {
		now := start.Add(time.Duration(i) * time.Second)
		r.Tick(now, time.Second, Count{10, 1})
		a.Tick(now, Count{3, 1})
	}
	a.Allot(r.At(start.Add(500*time.Second)), 0.1)
	var r2 Region
	var a2 Canary
	for from, to := range map[any]any{&r: &r2, &a: &a2} {
		text, err := json.Marshal(from)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 8000 {
			t.Errorf("%d bytes", len(text))
		}
		if err := json.Unmarshal(text, to); err != nil {
			t.Fatal(err)
		}
	}
	if r2 != r || a2 != a {
		t.Error("a value changed on its way")
	}
}
