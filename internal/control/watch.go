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
	// Alone is whether the version serves alone, as stable: then nothing is compared, and stable is held against the
	// objective itself, for those that wait for the region to be well.
	Alone bool      `json:"alone,omitempty"`
	At    time.Time `json:"at"` // of the last tick
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

// observe judges the flushes of one region that arrived together. rate is what the region's callers make of the service.
func (w *watch) observe(set *spec.Set, here rollout.Region, r *spec.Rollout, region string, flushes []*signal.Flush, rate float64, now time.Time) {
	p := set.Policies[r.Policy]
	if w.policy != p {
		w.policy, w.isError = p, policy.Classifier(p.Errors)
	}
	trial, alone := here.Trial(), here.Version == here.Stable.Version
	if !w.Judged || w.Trial != trial || w.Alone != alone {
		w.begin(trial, alone, p, r, region)
	}
	longest := set.Services[r.Service].Timeout
	var canary, stable signal.Sample
	var all, spent budget.Count
	for _, f := range flushes {
		// What began before the last change of weights is not held against either arm, but it is paid for.
		since := f.At.Add(-f.Span).Sub(here.WeightAt)
		arms := armsOf(f.Arms, r.Service)
		s := armOf(arms, here.Stable.Version, false)
		stable = stable.Add(s.Sample(w.isError, since, longest))
		if !alone {
			c := armOf(arms, here.Version, trial.Shadow)
			canary = canary.Add(c.Sample(w.isError, since, longest))
			// Copies answer nobody: they spend nothing, and nothing is ejected for them.
			if !trial.Shadow {
				spent = w.count(spent, c)
				w.input.Ejected = w.input.Ejected || c.Endpoints > 0 && c.Healthy == 0 && s.Healthy > 0
			}
		}
		for _, a := range arms {
			if !a.Shadow {
				all = w.count(all, a)
			}
		}
	}
	var length time.Duration
	if !w.At.IsZero() {
		length = now.Sub(w.At)
	}
	w.At = now
	w.spend(p, all, spent, w.planned(p, region)*max(0, rate), length, now)

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
	// Stable's own process says it, as it needs no window and no least number of tries to be right. Beside a canary it holds
	// stable against what the canary may spend, alone against the objective; either way it ends when stable is shown to be
	// well.
	w.input.Unwell = v.Finding == evidence.Outage
}

// planned is how many seconds of all of the region's requests the trial is to have.
func (w *watch) planned(p *spec.Policy, region string) (seconds float64) {
	switch {
	case w.Alone:
	case w.Trial.Shadow && p.Shadow != nil:
		seconds = p.Shadow.Hold.Seconds() * float64(p.Shadow.Share) / float64(spec.Whole)
	default:
		for _, s := range p.StepsIn(region) {
			seconds += s.Hold.Seconds() * float64(s.Share) / float64(spec.Whole)
		}
	}
	return seconds
}

// spend counts what region and canary used of the budget. The rate that the canary is allowed follows what was seen
// before this tick.
func (w *watch) spend(p *spec.Policy, all, spent budget.Count, planned float64, length time.Duration, now time.Time) {
	if o := (budget.Objective{Target: p.Target, Window: p.Window}); w.Region.Objective != o {
		w.Region = budget.NewRegion(o)
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

// begin starts the evidence anew: another build, another attempt, copies or requests, or another stable version. A policy
// with a shadow stage has two sets of tests, which share the chance of a false alarm.
func (w *watch) begin(trial rollout.Trial, alone bool, p *spec.Policy, r *spec.Rollout, region string) {
	var stage time.Duration
	for _, s := range p.StepsIn(region) {
		stage += s.Hold
	}
	alpha := p.Analysis.Alpha
	if p.Shadow != nil {
		alpha /= 2
		if trial.Shadow {
			stage = p.Shadow.Hold
		}
	}
	judge, err := evidence.New(evidence.Config{
		Alpha: alpha, Regions: len(r.Regions),
		ToleratedRatio: p.Analysis.ToleratedRatio, ToleratedDifference: p.Analysis.ToleratedDifference,
		Budget: 1 - p.Target, LatencyFactor: p.Analysis.LatencyFactor, Stage: stage,
	})
	if err != nil {
		panic(err) // a validated policy has no value that the tests refuse
	}
	w.Trial, w.Alone, w.Judge, w.Judged, w.input = trial, alone, judge, true, rollout.Input{}
	w.Canary = budget.NewCanary(budget.Objective{Target: p.Target, Window: p.Window})
}

// armOf is a version with its endpoints in the proxy's own region, or the copies that it gets there; of the arms of one
// service. What other regions answered says nothing about it.
func armOf(arms []signal.Arm, version string, shadow bool) signal.Arm {
	for _, a := range arms {
		if a.Version == version && a.Region == "" && a.Shadow == shadow {
			return a
		}
	}
	return signal.Arm{}
}
