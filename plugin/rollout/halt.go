package rollout

import (
	"cmp"
	"slices"
	"time"
)

// Halt is the fact that a trial was judged bad in a region. It is never taken back: a retry makes a new trial.
type Halt struct {
	Rollout string `json:"rollout"`
	Region  string `json:"region"`
	Trial
	Reason  Reason    `json:"reason"`
	At      time.Time `json:"at"`
	Message string    `json:"message,omitempty"`
}

// Halts returns the halts in force, sorted by region and digest, to be persisted beside the state.
func Halts(state State) []Halt {
	var halts []Halt
	for _, name := range state.names() {
		halts = append(halts, state.Regions[name].Halts...)
	}
	return halts
}

// Join lets halts that were judged elsewhere, or before, beat whatever the state says of the same trial, an advance or a
// promotion included. Halts of other rollouts, and of trials that a person retried since, change nothing. The order and
// number of times in which halts are joined make no difference.
func Join(state State, halts []Halt) State {
	state = state.clone()
	for _, h := range halts {
		if h.Rollout != state.Rollout {
			continue
		}
		r := state.Regions[h.Region]
		if !r.learn(h) {
			continue
		}
		if i := r.halted(h.Digest); r.Digest == h.Digest && i >= 0 {
			r.halt(r.Halts[i])
		}
		state.Regions[h.Region] = r
	}
	return state
}

// learn keeps a halt and reports whether it is in force.
func (r *Region) learn(h Halt) bool {
	attempt := r.Retries[h.Digest]
	if h.Attempt < attempt {
		return false
	}
	if h.Attempt > attempt { // the retries were lost with a state; the halt remembers them
		if r.Retries == nil {
			r.Retries = map[string]int{}
		}
		r.Retries[h.Digest] = h.Attempt
	}
	i, found := slices.BinarySearchFunc(r.Halts, h.Digest, func(a Halt, digest string) int { return cmp.Compare(a.Digest, digest) })
	switch {
	case !found:
		r.Halts = slices.Insert(r.Halts, i, h)
	case before(h, r.Halts[i]):
		r.Halts[i] = h
	}
	return true
}

// before says which of two halts of one digest is kept: the newest attempt's, and of that the first.
func before(a, b Halt) bool {
	return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), a.At.Compare(b.At), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message)) < 0
}

// halted returns the index of the halt in force for a digest, or -1.
func (r *Region) halted(digest string) int {
	return slices.IndexFunc(r.Halts, func(h Halt) bool { return h.Digest == digest && h.Attempt >= r.Retries[digest] })
}

// halt puts the region where the halt says. A region that a person took to zero stays so: it is left by the same door.
func (r *Region) halt(h Halt) {
	switch r.Phase {
	case Aborted, RolledBack:
		return
	case Promoted:
		if r.Stable.Digest == h.Digest && r.Previous != (Known{}) {
			r.leaveStable(r.Previous, r.StableSince)
		}
	}
	r.Phase, r.Reason, r.Message, r.Since = Halted, h.Reason, h.Message, h.At
	r.Weight, r.Shadow, r.Step, r.Held, r.Tries = 0, 0, 0, 0, 0
}

// Resume takes up a state after a restart. With a hand-over the leases were kept and every region goes on; without one
// the sidecars went, or will go, back to stable, so every region with a share goes to zero (LeaseLapsed) and climbs again
// from the first step on fresh evidence.
func Resume(state State, now time.Time, handover bool) (State, []Event) {
	t := newTurn(state, now)
	if handover {
		return t.state, nil
	}
	for _, name := range t.state.names() {
		r := t.state.Regions[name]
		if r.on() {
			t.retreat(name, &r, LeaseLapsed, "restarted without a hand-over")
			t.state.Regions[name] = r
		}
	}
	return t.state, t.events
}
