package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// turnOf says why a region may not begin yet; "" is no reason. It is asked of a region that has neither copies nor a share of
// this trial and never had; a region that has begun goes on by itself.
func (t *turn) turnOf(d documents, region string) (Reason, string) {
	if by := heldBy(d, t.state); by != "" {
		return HeldByHalt, fmt.Sprintf("%s is halted: %s", by, t.state.Regions[by].Reason)
	}
	waves := wavesOf(d)
	for i, w := range waves {
		if slices.Contains(w.regions, region) {
			return t.place(w, i, len(waves))
		}
		if reason, message := t.done(d, w); reason != "" {
			return reason, fmt.Sprintf("wave %d of %d: %s", i+1, len(waves), message)
		}
	}
	return "", ""
}

// heldBy is the first halted region, where the policy lets no other one begin for it; "" is none.
func heldBy(d documents, state State) string {
	if d.policy.OnHalt == spec.HaltContinues {
		return ""
	}
	i := slices.IndexFunc(d.rollout.Regions, func(name string) bool { return state.Regions[name].Phase == Halted })
	if i < 0 {
		return ""
	}
	return d.rollout.Regions[i]
}

// Held reports whether no further region of a rollout may begin, as one is halted or the rollout is not declared. A caller
// that was a while in carrying out a beginning asks again.
func Held(set *spec.Set, state State) bool {
	d, missing := lookup(set, state.Rollout)
	return missing != "" || heldBy(d, state) != ""
}

// wave is one wave of a policy with the regions of one rollout.
type wave struct {
	spec.Wave
	regions []string // sorted
}

// wavesOf are the waves that have a region of the rollout. A policy without any has one of all.
func wavesOf(d documents) []wave {
	all := make([]wave, max(1, len(d.policy.Waves)))
	for i, w := range d.policy.Waves {
		all[i].Wave = w
	}
	for _, region := range d.rollout.Regions {
		i := 0
		if len(d.policy.Waves) > 0 {
			i = d.policy.WaveOf(region)
		}
		if i >= 0 { // the documents see to it that every region is in a wave
			all[i].regions = append(all[i].regions, region)
		}
	}
	return slices.DeleteFunc(all, func(w wave) bool { return len(w.regions) == 0 })
}

// WaveOf returns the number of a region's wave in a rollout, from 1, and how many waves there are; 0 for a region that is in
// none.
func WaveOf(set *spec.Set, rollout, region string) (number, of int) {
	d, missing := lookup(set, rollout)
	if missing != "" {
		return 0, 0
	}
	waves := wavesOf(d)
	return 1 + slices.IndexFunc(waves, func(w wave) bool { return slices.Contains(w.regions, region) }), len(waves)
}

// place says whether the wave has room for one more region.
func (t *turn) place(w wave, i, of int) (Reason, string) {
	if w.Parallel == 0 {
		return "", ""
	}
	n := 0
	for _, name := range w.regions {
		r := t.state.Regions[name]
		if r.Begun && slices.Contains([]Phase{Shadowing, Progressing, Paused, Retreated}, r.Phase) {
			n++
		}
	}
	if n < w.Parallel {
		return "", ""
	}
	return WaitingForTurn, fmt.Sprintf("wave %d of %d: %d of its regions are under way, the policy lets %d", i+1, of, n, w.Parallel)
}

// done says why the next wave may not begin after this one; "" is no reason.
func (t *turn) done(d documents, w wave) (Reason, string) {
	count, waits := 0, ""
	var promoted []Region
	for _, name := range w.regions {
		r := t.state.Regions[name]
		stopped := r.Phase == Halted || r.Phase == Aborted || r.Phase == RolledBack
		switch {
		case r.serves() && !stopped:
			promoted = append(promoted, r)
		case stopped && d.policy.OnHalt == spec.HaltContinues:
			continue
		case waits == "":
			waits = fmt.Sprintf("%s is %s at %s", name, r.Phase, r.Weight)
		}
		count++
	}
	require := cmp.Or(w.Require, spec.Whole)
	// Rounded up, and one at least: a wave of which nothing is left has shown nothing.
	need := max(1, (count*int(require)+int(spec.Whole)-1)/int(spec.Whole))
	if len(promoted) < need {
		if waits == "" {
			waits = "every region of it is stopped: retry one"
		}
		return WaitingForWave, fmt.Sprintf("%s; %d of %d regions serve the version, the wave needs %d", waits, len(promoted), count, need)
	}
	for _, r := range promoted {
		if gap := t.now.Sub(r.SeenAt); gap > d.policy.HoldAfter {
			return Baking, fmt.Sprintf("no fresh evidence of a promoted region for %v", gap.Truncate(time.Second))
		}
	}
	slices.SortFunc(promoted, func(a, b Region) int { return a.Since.Compare(b.Since) })
	from := promoted[need-1].Since
	for _, r := range promoted {
		if r.UnwellAt.After(from) {
			from = r.UnwellAt
		}
	}
	if baked := t.now.Sub(from); baked < w.Bake {
		return Baking, fmt.Sprintf("%v of %v", baked.Truncate(time.Second), w.Bake)
	}
	return "", ""
}

// stopAll halts every region that is not promoted when one was judged bad and the policy says so.
func (t *turn) stopAll(d documents) {
	if d.policy.OnHalt != spec.HaltStops {
		return
	}
	from := t.judgedBad(d.rollout.Regions)
	if from == "" {
		return
	}
	why := t.state.Regions[from].Reason
	for _, name := range d.rollout.Regions {
		r := t.state.Regions[name]
		switch r.Phase {
		case Halted, Promoted, Aborted, RolledBack:
			continue
		}
		t.halt(name, &r, HaltedElsewhere, fmt.Sprintf("%s is halted: %s", from, why))
		t.state.Regions[name] = r
	}
}

// judgedBad is the first of the regions that is halted on its own evidence; "" is none.
func (t *turn) judgedBad(regions []string) string {
	for _, name := range regions {
		if r := t.state.Regions[name]; r.Phase == Halted && r.Reason != HaltedElsewhere {
			return name
		}
	}
	return ""
}
