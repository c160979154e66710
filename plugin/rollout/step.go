package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Step looks at one rollout: once a tick with what is known of each region, and at every change of documents, then
// possibly with no Input at all. It returns the new state and what was decided, sorted by region. Advancing is the last
// thing that it considers, so that whatever speaks against a canary in the very tick of a step wins; and it raises a share
// only on evidence that is fresh in this call.
//
// A rollout that is missing, or that names what is missing, goes to zero.
func Step(set *spec.Set, name string, state State, in map[string]Input, now time.Time) (State, []Event) {
	t := newTurn(state, now)
	t.state.Rollout = name
	d, missing := lookup(set, name)
	if missing != "" {
		for _, region := range t.state.names() {
			r := t.state.Regions[region]
			t.leave(region, &r, RolloutDeleted, missing)
			if service := set.Services[t.state.Service]; service != nil && r.Phase != "" {
				t.followStable(service, region, &r)
			}
			t.state.Regions[region] = r
		}
		t.state.Started, t.state.Deleted = false, true
		return t.state, t.events
	}
	t.declare(d)
	for _, region := range t.state.names() {
		r := t.state.Regions[region]
		if !slices.Contains(d.rollout.Regions, region) {
			t.leave(region, &r, RegionRemoved, "the rollout does not name the region any more")
			if r.Phase != "" {
				t.followStable(d.service, region, &r)
			}
		} else {
			t.region(d, region, &r, in[region])
		}
		t.state.Regions[region] = r
	}
	return t.state, t.events
}

// declare makes the regions that the rollout names. A rollout that was pointed at another service starts over; halts stay.
func (t *turn) declare(d documents) {
	if t.state.Service != d.rollout.Service {
		for name, r := range t.state.Regions {
			t.state.Regions[name] = Region{Halts: r.Halts, Retries: r.Retries}
		}
		t.state.Started = false
	}
	t.state.Service, t.state.Deleted = d.rollout.Service, false
	for _, region := range d.rollout.Regions {
		r := t.state.Regions[region]
		switch {
		case r.Phase == "":
			r.Version, r.Digest = d.version.Name, d.version.Digest
			r.Stable = declared(d.service)
			t.move(region, &r, Pending, 0, NotStarted, "")
			t.stayHalted(region, &r)
		case r.Reason == RolloutDeleted || r.Reason == RegionRemoved:
			t.note(region, &r, NotStarted, "declared again")
		}
		t.state.Regions[region] = r
	}
}

// leave takes a region out of a rollout: zero, and whatever comes back has to be started. What was judged or promoted stays.
func (t *turn) leave(region string, r *Region, reason Reason, message string) {
	r.Started = false
	if r.Phase == "" || r.Phase == Halted || r.Phase == Promoted || r.Reason == reason {
		return
	}
	t.move(region, r, Pending, 0, reason, message)
}

// region decides for one region: documents first, then what speaks against the canary, then time.
func (t *turn) region(d documents, region string, r *Region, in Input) {
	t.followStable(d.service, region, r)
	t.followVersion(d, region, r)
	t.stayHalted(region, r)
	t.followSteps(d, region, r)

	if in.Trial != (Trial{}) && in.Trial != r.Trial() {
		in = Input{}
	}
	gap := t.see(r, in)
	switch r.Phase {
	case Halted, Aborted, RolledBack:
		return
	case Promoted:
		switch {
		case r.Stable.Version == r.Version:
			if r.Reason == Superseded {
				t.note(region, r, StableAgain, "what superseded it was rolled back")
			}
		case r.StableSince.IsZero():
			r.Started = false
			t.move(region, r, Pending, 0, StableEdited, "what was promoted is not declared here any more; the documents' "+r.Stable.String()+" serves")
		default:
			t.note(region, r, Superseded, r.Stable.String()+" was promoted after it")
		}
		return
	case Pending:
		if !r.Started {
			return
		}
	}

	if r.Version == r.Stable.Version {
		t.retreat(region, r, AlreadyStable, r.Version+" serves as stable")
		return
	}
	if !placed(d.version, region) {
		t.retreat(region, r, NoCanaryEndpoints, r.Version+" has no endpoint here")
		return
	}
	if reason := judged(in.Verdict.Finding); reason != "" {
		t.halt(region, r, reason, told(in.Verdict))
		return
	}
	objection, message := objects(in)
	switch {
	case r.Weight == 0 && r.Phase != Paused:
		t.climb(d, region, r, in, gap, objection, message)
	case r.Weight == 0:
	case objection == RegionOutage || objection == CanarySuspected:
		t.retreat(region, r, objection, message)
	case objection != "":
		t.halt(region, r, objection, message)
	default:
		t.hold(d, region, r, in, gap)
	}
}

// see notes fresh evidence and returns the time since the evidence before it.
func (t *turn) see(r *Region, in Input) time.Duration {
	for _, at := range []*time.Time{&r.SeenAt, &r.Since, &r.WeightAt} {
		if at.After(t.now) { // the clock was set back; an old promise of freshness must not outlive it
			*at = t.now
		}
	}
	gap := t.now.Sub(r.SeenAt)
	if !in.Fresh {
		return gap
	}
	r.SeenAt, r.Rate = t.now, in.Rate
	if math.IsNaN(in.Rate) || math.IsInf(in.Rate, 0) || in.Rate < 0 {
		r.Rate = -1
	}
	return gap
}

// judged is the reason to halt that a finding gives, "" for none.
func judged(f evidence.Finding) Reason {
	switch f {
	case evidence.Worse:
		return CanaryWorse
	case evidence.Slower:
		return CanarySlower
	case evidence.OverBudget:
		return OverBudget
	}
	return ""
}

// objects is what else speaks against a share. An outage comes first: what a canary spends or loses in one is not its fault.
func objects(in Input) (Reason, string) {
	switch {
	case in.Verdict.Finding == evidence.Outage:
		return RegionOutage, told(in.Verdict)
	case in.Verdict.Finding == evidence.Suspected:
		return CanarySuspected, told(in.Verdict)
	case in.AllotmentSpent:
		return AllotmentSpent, "the canary spent its part of the region's error budget"
	case in.Ejected:
		return CanaryEjected, "every canary endpoint is out while stable has some"
	}
	return "", ""
}

func told(v evidence.Verdict) string {
	return fmt.Sprintf("%s: canary %d of %d tries, stable %d of %d", v.Metric, v.CanaryErrors, v.CanaryTries, v.StableErrors, v.StableTries)
}

// climb takes a region at zero to the first step when nothing speaks against it: from Pending on the first fresh
// evidence, from Retreated once the evidence was fresh, and the reason gone, for HoldAfter.
func (t *turn) climb(d documents, region string, r *Region, in Input, gap time.Duration, objection Reason, message string) {
	if objection != "" {
		t.retreat(region, r, objection, message)
		return
	}
	if gap > d.policy.HoldAfter {
		r.Held = 0
		if r.Phase == Pending && !in.Fresh {
			t.note(region, r, NoData, "no fresh evidence")
		}
	} else if in.Fresh && r.Phase == Retreated {
		r.Held += min(gap, t.now.Sub(r.Since)) // none in the very call that took it to zero
	}
	if !in.Fresh || r.Phase == Retreated && r.Held < d.policy.HoldAfter || !t.stableCarries(d, region, r) {
		return
	}
	reason := StepReached
	if r.Phase == Retreated {
		reason = ClimbingAgain
	}
	t.enter(d, region, r, 0, reason)
}

// hold watches a region with a share: too long without evidence ends it, fresh evidence lets the step's clock run, and a
// step that was held leads to the next.
func (t *turn) hold(d documents, region string, r *Region, in Input, gap time.Duration) {
	p := d.policy
	switch {
	case p.LeaseTTL > 0 && gap >= p.LeaseTTL && p.LeaseTTL < p.RetreatAfter:
		// Evidence that comes back in this very tick does not help: the sidecars went back to stable in the gap.
		t.retreat(region, r, LeaseLapsed, fmt.Sprintf("no fresh evidence for %v, the lease is %v", gap, p.LeaseTTL))
		return
	case gap >= p.RetreatAfter:
		t.retreat(region, r, NoData, fmt.Sprintf("no fresh evidence for %v", gap))
		return
	case !in.Fresh:
		if gap >= p.HoldAfter && r.Phase == Progressing {
			t.note(region, r, NoData, fmt.Sprintf("no fresh evidence for %v; the step's clock stands", gap))
		}
		return
	case r.Phase == Paused:
		return
	case r.Reason == NoData:
		t.note(region, r, EvidenceBack, "the step's clock runs on")
	}
	since := t.now.Sub(r.Since)
	if since <= 0 { // an edit changed the share in this very call
		return
	}
	r.Held += min(gap, since, p.HoldAfter)
	r.Tries += in.Verdict.CanaryTries

	step := p.Steps[r.Step]
	if r.Held < step.Hold {
		return
	}
	if over := t.now.Sub(r.Since) - step.Hold; r.Tries == 0 && over >= p.RetreatAfter {
		// Flushes came, and nothing in them was about the canary: that is no evidence either.
		t.retreat(region, r, NoData, fmt.Sprintf("no canary try in the whole step and %v after it", over.Round(time.Second)))
		return
	}
	if r.Tries < step.MinTries {
		t.note(region, r, HoldingForEvidence, fmt.Sprintf("%d of %d canary tries", r.Tries, step.MinTries))
		return
	}
	if in.Verdict.LogE >= doubt {
		t.note(region, r, HoldingOnDoubt, fmt.Sprintf("evidence against the canary is %.0f to 1 (%s)", math.Exp(in.Verdict.LogE), in.Verdict.Metric))
		return
	}
	next := r.Step + 1
	if r.Weight < step.Share { // an edit left it below its step
		next = r.Step
	}
	switch {
	case next < len(p.Steps):
		if t.stableCarries(d, region, r) {
			t.enter(d, region, r, next, StepReached)
		}
	case t.canaryCarries(d, region, r):
		t.promote(region, r, StepsDone, "every step was held")
	}
}

// doubt is the logarithm of the evidence at which a share does not rise.
var doubt = math.Log(10)

func (t *turn) enter(d documents, region string, r *Region, step int, reason Reason) {
	s := d.policy.Steps[step]
	r.Step = step
	t.move(region, r, Progressing, s.Share, reason, fmt.Sprintf("step %d of %d: %s for %v", step+1, len(d.policy.Steps), s.Share, s.Hold))
}

func (t *turn) promote(region string, r *Region, reason Reason, message string) {
	r.leaveStable(Known{Version: r.Version, Digest: r.Digest}, t.now)
	t.move(region, r, Promoted, 0, reason, message)
}

// stableCarries is the guard before every step up: stable must be able to take everything back at once.
func (t *turn) stableCarries(d documents, region string, r *Region) bool {
	reason, message := carries(capacity(d.service, r.Stable.Version, region), r.Rate, StableCapacityUnproved, StableCapacityTooLow)
	if reason != "" {
		t.note(region, r, reason, "stable "+r.Stable.Version+": "+message)
	}
	return reason == ""
}

// canaryCarries is the guard before a promotion: the version must be able to serve alone.
func (t *turn) canaryCarries(d documents, region string, r *Region) bool {
	reason, message := carries(capacity(d.service, r.Version, region), r.Rate, CanaryCapacityUnproved, CanaryCapacityTooLow)
	if reason != "" {
		t.note(region, r, reason, "canary "+r.Version+": "+message)
	}
	return reason == ""
}

func carries(capacity, rate float64, unproved, tooLow Reason) (Reason, string) {
	switch {
	case rate < 0:
		return unproved, "the region's rate was not measured"
	case !(capacity > 0):
		return unproved, "declares no capacity here"
	case capacity < rate:
		return tooLow, "carries " + perSecond(capacity) + ", the region has " + perSecond(rate)
	}
	return "", ""
}
