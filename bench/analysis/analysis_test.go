package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Quick runs, at fixed seeds: within three standard errors (ours and those of the expected figures, 2 %).
func TestFigures(t *testing.T) {
	for _, table := range figures() {
		t.Run(table.title, func(t *testing.T) {
			for _, f := range table.figures {
				m := average(max(30, f.runs/200), f.once)
				if d := f.deviation(m); f.expected > 0 && math.Abs(d) > 3 {
					t.Errorf("%s: %v in %d runs, expected %v: %+.1f standard errors", f.name, m, m.Runs, f.expected, d)
				}
				if f.bound > 0 && m.Value < f.bound-3*m.SE {
					t.Errorf("%s: %v is below what is possible, %v", f.name, m, f.bound)
				}
			}
		})
	}
}

func TestWaldsBound(t *testing.T) {
	for pc, want := range map[float64]float64{0.002: 17_859, 0.01: 491, 0.05: 46.7, 0.5: 2.5} {
		if got := wald(pc, 0.001); math.Abs(got/want-1) > 0.001 {
			t.Errorf("%v: %v, want %v", pc, got, want)
		}
	}
}

func TestFalseAlarms(t *testing.T) {
	const runs = 40
	for _, table := range alarms(300) {
		t.Run(table.title, func(t *testing.T) {
			for _, a := range table.alarms {
				if low, _ := interval(a.count(runs), runs); low > falseAlpha {
					t.Errorf("%s: more than %v", a.name, falseAlpha)
				}
			}
		})
	}
}

func TestAShrinkingCanaryIsNotBlamedForItsPast(t *testing.T) {
	table := shrinks()
	if wrong := table.alarms[0].count(20); wrong < 5 {
		t.Errorf("%s: %d of 20; the run shows nothing", table.alarms[0].name, wrong)
	}
	if wrong := table.alarms[1].count(100); wrong > 0 {
		t.Errorf("%s: %d of 100", table.alarms[1].name, wrong)
	}
}

func TestASharedOutageIsNotAVerdict(t *testing.T) {
	for _, split := range [][2]int{{1, 99}, {10, 90}, {50, 50}, {90, 10}} {
		for i := range 50 {
			o := outage(rand.New(rand.NewPCG(4, uint64(i))), 0.5, split, 0.0144)
			if o.halted || o.zero < 1 || o.zero > 30 || o.ended > 10 {
				t.Errorf("split %v, seed %d: %+v", split, i, o)
			}
		}
	}
}
