package control

import (
	"time"

	"github.com/aviary-mesh/aviary/plugin/budget"
	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/policy"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// watch gathers the evidence about one rollout in one region. Its JSON is handed over at a planned restart.
type watch struct {
	Trial   rollout.Trial    `json:"trial"`
	Judge   evidence.Judge   `json:"judge"`
	Judged  bool             `json:"judged"`
	Verdict evidence.Verdict `json:"verdict"`
	Rate    rate             `json:"rate"`
	At      time.Time        `json:"at"` // of the last tick
	// Region is the budget of the service in the region, Canary what the canary may spend of it.
	Region budget.Region `json:"region"`
	Canary budget.Canary `json:"canary"`

	policy  *spec.Policy // that isError was made for
	isError func(signal.Class) bool
	input   rollout.Input // since the last take
}

// take returns what was seen since the last take.
func (w *watch) take() rollout.Input {
	in := w.input
	w.input = rollout.Input{}
	return in
}

// observe judges the flushes of one region that arrived together.
func (w *watch) observe(set *spec.Set, here rollout.Region, r *spec.Rollout, flushes []signal.Flush, now time.Time) {
	p := set.Policies[r.Policy]
	if w.policy != p {
		w.policy, w.isError = p, policy.Classifier(p.Errors)
	}
	if trial := here.Trial(); !w.Judged || w.Trial != trial {
		w.begin(trial, p, len(r.Regions))
	}
	longest := set.Services[r.Service].Timeout
	var canary, stable signal.Sample
	var all, spent budget.Count
	for _, f := range flushes {
		// What began before the last change of weights is not held against either arm, but it is paid for.
		since := f.At.Add(-f.Span).Sub(here.WeightAt)
		c, s := armOf(f, r.Service, here.Version), armOf(f, r.Service, here.Stable.Version)
		canary = canary.Add(c.Sample(w.isError, since, longest))
		stable = stable.Add(s.Sample(w.isError, since, longest))
		spent = w.count(spent, c)
		for _, a := range f.Arms {
			if a.Service == r.Service && !a.Shadow {
				all = w.count(all, a)
			}
		}
		if c.Endpoints > 0 && c.Healthy == 0 && s.Healthy > 0 {
			w.input.Ejected = true
		}
	}
	w.Rate.add(all.Requests, now)
	var length time.Duration
	if !w.At.IsZero() {
		length = now.Sub(w.At)
	}
	w.At = now
	rate := w.Rate.perSecond(now)
	w.spend(p, all, spent, rate, length, now)

	v := w.Judge.Tick(length, canary, stable)
	if v.Finding == evidence.Collecting {
		if _, fast := w.Canary.Burning(now, length, v.OverBudgetProven()); fast {
			v.Finding, v.Metric = evidence.OverBudget, "burn"
		}
	}
	w.Verdict = v
	// What ticks counted is added up until the engine looks; the finding is the latest.
	before := w.input.Verdict
	w.input.Verdict = v
	w.input.Verdict.CanaryTries += before.CanaryTries
	w.input.Verdict.CanaryErrors += before.CanaryErrors
	w.input.Verdict.StableTries += before.StableTries
	w.input.Verdict.StableErrors += before.StableErrors
	w.input.Trial, w.input.Fresh, w.input.Rate = w.Trial, true, rate
	w.input.AllotmentSpent = w.Canary.Spent()
}

// spend counts what region and canary used of the budget. The rate that the canary is allowed follows what was seen
// before this tick.
func (w *watch) spend(p *spec.Policy, all, spent budget.Count, rate float64, length time.Duration, now time.Time) {
	if o := (budget.Objective{Target: p.Target, Window: p.Window}); w.Region.Objective != o {
		w.Region = budget.NewRegion(o)
	}
	var planned float64
	if rate > 0 {
		for _, s := range p.Steps {
			planned += rate * s.Hold.Seconds() * float64(s.Share) / float64(spec.Whole)
		}
	}
	if err := w.Judge.SetBudget(w.Canary.Rate(planned)); err != nil {
		panic(err) // budget.Canary keeps it within what the tests take
	}
	w.Region.Tick(now, length, all)
	w.Canary.Allot(w.Region.At(now), p.BudgetShare)
	w.Canary.Tick(now, spent)
}

func (w *watch) count(c budget.Count, a signal.Arm) budget.Count {
	s := a.Sample(w.isError, signal.Always, 0)
	c.Requests += s.Tries
	c.Errors += s.Errors
	return c
}

// begin starts the evidence anew: another build, or another attempt.
func (w *watch) begin(trial rollout.Trial, p *spec.Policy, regions int) {
	var stage time.Duration
	for _, s := range p.Steps {
		stage += s.Hold
	}
	judge, err := evidence.New(evidence.Config{
		Alpha: p.Analysis.Alpha, Regions: regions,
		ToleratedRatio: p.Analysis.ToleratedRatio, ToleratedDifference: p.Analysis.ToleratedDifference,
		Budget: 1 - p.Target, LatencyFactor: p.Analysis.LatencyFactor, Stage: stage,
	})
	if err != nil {
		panic(err) // a validated policy has no value that the tests refuse
	}
	w.Trial, w.Judge, w.Judged, w.input = trial, judge, true, rollout.Input{}
	w.Canary = budget.NewCanary(budget.Objective{Target: p.Target, Window: p.Window})
}

func armOf(f signal.Flush, service, version string) signal.Arm {
	for _, a := range f.Arms {
		if a.Service == service && a.Version == version && a.Region == "" && !a.Shadow {
			return a
		}
	}
	return signal.Arm{}
}
