package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Step looks at one rollout: once a tick with what is known of each region, and at every change of documents, then
// possibly with no Input at all. It returns the new state and what was decided, sorted by region. First everything falls
// that has to, in every region; advancing is the last thing that it considers, so that whatever speaks against a canary in
// the very tick of a step wins, and a halt is known wherever another region would begin. It raises a share only on evidence
// that is fresh in this call.
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
	gaps := map[string]time.Duration{} // of the regions where nothing speaks against a share
	for _, region := range t.state.names() {
		r := t.state.Regions[region]
		if !slices.Contains(d.rollout.Regions, region) {
			t.leave(region, &r, RegionRemoved, "the rollout does not name the region any more")
			if r.Phase != "" {
				t.followStable(d.service, region, &r)
			}
		} else if gap, open := t.fall(d, region, &r, in[region]); open {
			gaps[region] = gap
		}
		t.state.Regions[region] = r
	}
	t.stopAll(d)
	for _, region := range t.state.names() {
		r := t.state.Regions[region]
		if gap, open := gaps[region]; open && r.Phase != Halted {
			t.rise(d, region, &r, in[region].about(r), gap)
			t.state.Regions[region] = r
		}
	}
	slices.SortStableFunc(t.events, func(a, b Event) int { return cmp.Compare(a.Region, b.Region) })
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
	r.Started, r.Begun, r.Shadowed = false, false, false
	if r.Phase == "" || r.Phase == Halted || r.Phase == Promoted || r.Reason == reason {
		return
	}
	t.move(region, r, Pending, 0, reason, message)
}

// about is the input, or none when it is about another trial than the region's.
func (in Input) about(r Region) Input {
	if in.Trial != (Trial{}) && in.Trial != r.Trial() {
		return Input{}
	}
	return in
}

// fall takes from one region what has to go: documents first, then what speaks against the canary, then missing evidence.
// open says that nothing does; gap is the time since the evidence before this call's.
func (t *turn) fall(d documents, region string, r *Region, in Input) (gap time.Duration, open bool) {
	t.followStable(d.service, region, r)
	t.followVersion(d, region, r)
	t.stayHalted(region, r)
	t.followSteps(d, region, r)
	t.followShadow(d, region, r)

	in = in.about(*r)
	gap = t.see(r, in)
	switch r.Phase {
	case Halted, Aborted, RolledBack:
		return gap, false
	case Promoted:
		t.promoted(d, region, r, in, gap)
		return gap, false
	case Pending:
		if !r.Started {
			return gap, false
		}
	}

	if r.serves() {
		t.retreat(region, r, AlreadyStable, r.Version+" serves as stable")
		return gap, false
	}
	if !placed(d.version, region) || in.CanaryEndpoints < 0 {
		t.retreat(region, r, NoCanaryEndpoints, r.Version+" has no endpoint here")
		return gap, false
	}
	if reason := judged(in.Verdict.Finding); reason != "" {
		t.halt(region, r, reason, told(in.Verdict))
		return gap, false
	}
	objection, message := objects(in)
	waits := !r.on() && r.Phase == Paused
	switch {
	case waits:
		return gap, false
	case objection == "":
		return gap, !r.on() || !t.lapsed(d, region, r, in, gap)
	case !r.on() || objection == RegionOutage || objection == CanarySuspected:
		t.retreat(region, r, objection, message)
	default:
		t.halt(region, r, objection, message)
	}
	return gap, false
}

// promoted looks after a region whose version was promoted.
func (t *turn) promoted(d documents, region string, r *Region, in Input, gap time.Duration) {
	outage := in.Verdict.Finding == evidence.Outage || in.Verdict.Finding == evidence.Suspected
	if in.Unwell || outage || gap >= d.policy.RetreatAfter {
		r.UnwellAt = t.now
	}
	switch {
	case r.serves():
		if r.Reason == Superseded {
			t.note(region, r, StableAgain, "what superseded it was rolled back")
		}
	case r.StableSince.IsZero():
		r.Started = false
		t.move(region, r, Pending, 0, StableEdited, "what was promoted is not declared here any more; the documents' "+r.Stable.String()+" serves")
	default:
		t.note(region, r, Superseded, r.Stable.String()+" was promoted after it")
	}
}

// see notes fresh evidence and returns the time since the evidence before it.
func (t *turn) see(r *Region, in Input) time.Duration {
	for _, at := range []*time.Time{&r.SeenAt, &r.Since, &r.WeightAt, &r.UnwellAt} {
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
	return fmt.Sprintf("%s: canary %d of %d tries, stable %d of %d in the last flush", v.Metric, v.CanaryErrors, v.CanaryTries, v.StableErrors, v.StableTries)
}

// lapsed ends a share, or copies, that went too long without evidence.
func (t *turn) lapsed(d documents, region string, r *Region, in Input, gap time.Duration) bool {
	p := d.policy
	switch {
	case p.LeaseTTL > 0 && gap >= p.LeaseTTL && p.LeaseTTL < p.RetreatAfter:
		// Evidence that comes back in this very tick does not help: the sidecars went back to stable in the gap.
		t.retreat(region, r, LeaseLapsed, fmt.Sprintf("no fresh evidence for %v, the lease is %v", gap, p.LeaseTTL))
	case gap >= p.RetreatAfter:
		t.retreat(region, r, NoData, fmt.Sprintf("no fresh evidence for %v", gap))
	case !in.Fresh:
		if gap >= p.HoldAfter && r.Phase != Paused {
			t.note(region, r, NoData, fmt.Sprintf("no fresh evidence for %v; the step's clock stands", gap))
		}
		return false
	default:
		return false
	}
	return true
}
