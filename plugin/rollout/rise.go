package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// doubt is the logarithm of the evidence at which a share does not rise.
var doubt = math.Log(10)

// rise lets time do its work in a region against whose canary nothing speaks.
func (t *turn) rise(d documents, region string, r *Region, in Input, gap time.Duration) {
	if !r.on() {
		t.climb(d, region, r, in, gap)
		return
	}
	if !in.Fresh || r.Phase == Paused {
		return
	}
	if r.Reason == NoData {
		t.note(region, r, EvidenceBack, "the step's clock runs on")
	}
	since := t.now.Sub(r.Since)
	if since <= 0 { // an edit changed the share in this very call
		return
	}
	r.Held += min(gap, since, d.policy.HoldAfter)
	r.Tries += in.Verdict.CanaryTries
	if !t.held(d, region, r, in) {
		return
	}
	steps, next := d.policy.StepsIn(region), r.Step+1
	if r.Shadow > 0 || r.Weight < steps[r.Step].Share { // the first step, or an edit left it below its step
		next = r.Step
	}
	switch {
	case next < len(steps):
		if t.mayRise(d, region, r, in) {
			t.enter(d, region, r, next, StepReached)
		}
	case t.mayServeAlone(d, region, r, in):
		t.promote(region, r, StepsDone, "every step was held")
	}
}

// climb takes a region at zero to its shadow stage or its first step: from Pending on the first fresh evidence, when it is
// the region's turn; from Retreated once the evidence was fresh, and the reason gone, for HoldAfter.
func (t *turn) climb(d documents, region string, r *Region, in Input, gap time.Duration) {
	if gap > d.policy.HoldAfter {
		r.Held = 0
		if r.Phase == Pending && !in.Fresh {
			t.note(region, r, NoData, "no fresh evidence")
		}
	} else if in.Fresh && r.Phase == Retreated {
		r.Held += min(gap, t.now.Sub(r.Since)) // none in the very call that took it to zero
	}
	if !in.Fresh || r.Phase == Retreated && r.Held < d.policy.HoldAfter {
		return
	}
	if !r.Begun {
		if reason, message := t.turnOf(d, region); reason != "" {
			t.note(region, r, reason, message)
			return
		}
	}
	reason := StepReached
	if r.Phase == Retreated {
		reason = ClimbingAgain
	}
	if s := d.policy.Shadow; s != nil && !r.Shadowed {
		if t.keepsUp(region, r, in) {
			r.Begun = true
			t.give(region, r, Shadowing, 0, s.Share, ShadowReached, fmt.Sprintf("%s of the requests are copied for %v", s.Share, s.Hold))
		}
	} else if t.mayRise(d, region, r, in) {
		t.enter(d, region, r, 0, reason)
	}
}

// held reports whether the stage that the region is at had its time and its tries, without a doubt.
func (t *turn) held(d documents, region string, r *Region, in Input) bool {
	var hold time.Duration
	var tries uint64
	if s := d.policy.Shadow; r.Shadow > 0 {
		hold, tries = s.Hold, s.MinTries
	} else {
		step := d.policy.StepsIn(region)[r.Step]
		hold, tries = step.Hold, step.MinTries
	}
	if r.Held < hold {
		return false
	}
	if over := t.now.Sub(r.Since) - hold; r.Tries == 0 && over >= d.policy.RetreatAfter {
		// Flushes came, and nothing in them was about the canary: that is no evidence either.
		t.retreat(region, r, NoData, fmt.Sprintf("no canary try in the whole step and %v after it", over.Round(time.Second)))
		return false
	}
	if r.Tries < tries {
		t.note(region, r, HoldingForEvidence, fmt.Sprintf("%d of %d canary tries", r.Tries, tries))
		return false
	}
	if in.Verdict.LogE >= doubt {
		t.note(region, r, HoldingOnDoubt, fmt.Sprintf("evidence against the canary is %.0f to 1 (%s)", math.Exp(in.Verdict.LogE), in.Verdict.Metric))
		return false
	}
	return true
}

func (t *turn) enter(d documents, region string, r *Region, step int, reason Reason) {
	steps := d.policy.StepsIn(region)
	s := steps[step]
	r.Step, r.Begun, r.Shadowed = step, true, true
	t.move(region, r, Progressing, s.Share, reason, fmt.Sprintf("step %d of %d: %s for %v", step+1, len(steps), s.Share, s.Hold))
}

func (t *turn) promote(region string, r *Region, reason Reason, message string) {
	r.leaveStable(Known{Version: r.Version, Digest: r.Digest}, t.now)
	r.UnwellAt = time.Time{}
	t.move(region, r, Promoted, 0, reason, message)
}

// followShadow ends a shadow stage that the policy asks for no more, and lets its part fall, never rise, with an edit.
func (t *turn) followShadow(d documents, region string, r *Region) {
	if r.Shadow == 0 {
		return
	}
	var share spec.Share
	if s := d.policy.Shadow; s != nil {
		share = min(r.Shadow, s.Share)
	}
	switch share {
	case r.Shadow:
	case 0:
		t.retreat(region, r, StepsEdited, "the policy has no shadow stage any more")
	default:
		t.give(region, r, r.Phase, 0, share, StepsEdited, fmt.Sprintf("%s of the requests are copied now", share))
	}
}
