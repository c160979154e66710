package control

import (
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// watched is a watch of shop-v2 in eu under a policy with a shadow stage, with where the region stands.
type watched struct {
	watch
	set  *spec.Set
	here rollout.Region
	at   time.Time
}

func newWatched() *watched {
	set := newSet([]string{"eu", ""})
	set.Policies["careful"].Shadow = &spec.Shadow{Share: 5000, Hold: time.Minute, MinTries: 1}
	add(set, "shop", "eu")
	return &watched{set: set, here: rollOut(set, "shop", "eu").Regions["eu"], at: now}
}

// second lets a second pass in which the proxy reports stable's 1000 good tries and these arms.
func (w *watched) second(arms ...signal.Arm) rollout.Input {
	w.at = w.at.Add(time.Second)
	f := signal.Flush{Region: "eu", At: w.at, Span: 900 * time.Millisecond, Arms: append([]signal.Arm{
		{Service: "shop", Version: "v1", Outcomes: []signal.Outcome{outcome(200, 1000)}, Endpoints: 2, Healthy: 2},
	}, arms...)}
	w.observe(w.set, w.here, w.set.Rollouts["shop-v2"], "eu", []*signal.Flush{&f}, 1000, w.at)
	return w.take()
}

func canary(shadow bool, good, bad uint64) signal.Arm {
	return signal.Arm{
		Service: "shop", Version: "v2", Shadow: shadow, Endpoints: 2, Healthy: 2,
		Outcomes: []signal.Outcome{outcome(200, good), outcome(500, bad)},
	}
}

func TestCopiesAreTheEvidenceOfTheShadowStage(t *testing.T) {
	w := newWatched()
	shadowing(5000)(&w.here)
	out := canary(true, 0, 50)
	out.Healthy = 0
	var found rollout.Input
	for range 20 {
		in := w.second(canary(false, 100, 0), out)
		if in.Ejected || in.AllotmentSpent || w.Canary.Total.Requests != 0 || w.Region.At(w.at).Errors != 0 {
			t.Fatalf("copies eject, or are paid for: %+v", in)
		}
		if in.Verdict.CanaryTries != 50 || in.Verdict.CanaryErrors != 50 || in.Verdict.StableTries != 1000 || !in.Trial.Shadow {
			t.Fatalf("compared %+v", in.Verdict)
		}
		if found = in; in.Verdict.Finding.Halts() {
			break
		}
	}
	if !found.Verdict.Finding.Halts() {
		t.Errorf("copies that fail are no worse: %+v", found.Verdict)
	}
}

func TestCopiesAreNoEvidenceAfterTheShadowStage(t *testing.T) {
	w := newWatched()
	shadowing(5000)(&w.here)
	for range 20 {
		w.second(canary(true, 0, 50))
	}
	if !w.Verdict.Finding.Halts() {
		t.Fatalf("copies that fail are no worse: %+v", w.Verdict)
	}
	progressing(500)(&w.here)
	for range 20 {
		in := w.second(canary(false, 50, 0), canary(true, 0, 50))
		if in.Verdict.Finding != evidence.Collecting || in.Verdict.CanaryTries != 50 || in.Trial.Shadow {
			t.Fatalf("judged by copies: %+v", in)
		}
	}
	if w.Canary.Total.Requests != 20*50 || w.Canary.Total.Errors != 0 {
		t.Errorf("the canary spent %+v", w.Canary.Total)
	}
}

// Both stages together keep to the policy's chance of a false alarm.
func TestStagesShareAlpha(t *testing.T) {
	w := newWatched()
	for _, c := range []struct {
		name   string
		shadow *spec.Shadow
		at     func(*rollout.Region)
		alpha  float64
		stage  time.Duration
	}{
		{"copies", &spec.Shadow{Share: 5000, Hold: time.Minute}, shadowing(5000), 0.0005, time.Minute},
		{"requests after copies", &spec.Shadow{Share: 5000, Hold: time.Minute}, progressing(500), 0.0005, 20 * time.Second},
		{"requests alone", nil, progressing(500), 0.001, 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.set.Policies["careful"].Shadow = c.shadow
			c.at(&w.here)
			w.Judged = false
			w.second()
			if got := w.Judge.Config(); got.Alpha != c.alpha || got.Stage != c.stage {
				t.Errorf("got α %v over %v", got.Alpha, got.Stage)
			}
		})
	}
}

// A canary is judged over the steps of its region.
func TestARegionsOwnPace(t *testing.T) {
	w := newWatched()
	w.set.Policies["careful"].Paces = map[string][]spec.Step{"eu": {{Share: 100, Hold: time.Hour}}}
	progressing(100)(&w.here)
	w.second()
	if got := w.Judge.Config().Stage; got != time.Hour {
		t.Errorf("over %v", got)
	}
	if got := w.planned(w.set.Policies["careful"], "eu"); got != 36 {
		t.Errorf("planned %v seconds of everything", got)
	}
	shadowing(5000)(&w.here)
	w.second()
	if got := w.planned(w.set.Policies["careful"], "eu"); got != 30 {
		t.Errorf("planned %v seconds of copies", got)
	}
}

func TestAnEjectedCanaryIsTold(t *testing.T) {
	w := newWatched()
	progressing(500)(&w.here)
	out := canary(false, 0, 0)
	out.Healthy = 0
	if in := w.second(out); !in.Ejected {
		t.Error("not told")
	}
	promoted(&w.here) // v2 is stable, and there is nothing beside it
	if in := w.second(out); in.Ejected || !w.Alone {
		t.Error("told of what serves alone")
	}
}
