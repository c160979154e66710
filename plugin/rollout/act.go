package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Verb is what a person may ask of a rollout.
type Verb string

// The verbs.
const (
	// Start lets a pending region climb.
	Start Verb = "start"
	// Pause stops the clock of a progressing or shadowing region; its share, or its copies, stay.
	Pause Verb = "pause"
	// Continue lets the clock of a paused region run on; one that had to retreat meanwhile climbs from the first step.
	Continue Verb = "resume"
	// Abort takes the canary to zero, whatever the documents and the evidence say.
	Abort Verb = "abort"
	// Promote skips the remaining steps.
	Promote Verb = "promote"
	// Rollback takes a canary to zero, or a promoted region back to the version before; asked again of a region by its name,
	// it goes on to the next of the rollout's fallbacks.
	Rollback Verb = "rollback"
	// Retry starts a halted, aborted or rolled-back region again, from the first step, as a new trial.
	Retry Verb = "retry"
)

// Action is what a person asks for.
type Action struct {
	Verb Verb `json:"verb"`
	// Regions to act on; none means every region where the verb has something to do.
	Regions []string `json:"regions,omitempty"`
	// Author is the person, Reason what they said it is for.
	Author string `json:"author"`
	Reason string `json:"reason,omitempty"`
}

var (
	// ErrUnknown is wrapped by Act's errors when the rollout, the region or the verb does not exist.
	ErrUnknown = errors.New("unknown")
	// ErrRefused is wrapped by Act's errors when the region is not where the verb can be done, or a guard says no.
	ErrRefused = errors.New("refused")
)

// refusal says why one region refuses, and what would work.
type refusal struct {
	text string
	// elsewhere: the verb has nothing to do in the region's phase; passed over when no region was named.
	elsewhere bool
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return ErrRefused }

// Act does what a person asks for, and never raises a share: Step does, on fresh evidence. Abort and Rollback act in
// every region that they can and report the others, so an error may come with a changed state. The other verbs act in
// all regions that they should or in none.
//
// Of in the guards of a promotion read what is known of a region beside the evidence: Saturated and the numbers of endpoints.
func Act(set *spec.Set, state State, a Action, in map[string]Input, now time.Time) (State, []Event, error) {
	t := newTurn(state, now)
	d, missing := lookup(set, state.Rollout)
	if missing == "" {
		t.declare(d)
	} else if a.Verb != Abort {
		return state, nil, fmt.Errorf("%s: %w rollout: %s", a.Verb, ErrUnknown, missing)
	}
	t.author = a.Author
	regions := t.state.names()
	if missing == "" && a.Verb != Abort {
		regions = slices.Sorted(slices.Values(d.rollout.Regions))
	}
	targets := regions
	if len(a.Regions) > 0 {
		targets = slices.Compact(slices.Sorted(slices.Values(a.Regions)))
	}
	do := t.verb(d, a, in, targets)
	if do == nil {
		return state, nil, fmt.Errorf("%w verb %q: it is one of start, pause, resume, abort, promote, rollback, retry", ErrUnknown, a.Verb)
	}
	var refused, passed []error
	done := 0
	for _, name := range targets {
		if !slices.Contains(regions, name) {
			refused = append(refused, fmt.Errorf("%s %s: %w region: the rollout has %s", a.Verb, name, ErrUnknown, strings.Join(regions, ", ")))
			continue
		}
		r := t.state.Regions[name]
		if err := do(name, &r); err != nil {
			var no *refusal
			if err = fmt.Errorf("%s %s: %w", a.Verb, name, err); errors.As(err, &no) && no.elsewhere && len(a.Regions) == 0 {
				passed = append(passed, err)
			} else {
				refused = append(refused, err)
			}
			continue
		}
		t.state.Regions[name] = r
		done++
	}
	if done == 0 {
		refused = append(refused, passed...)
	}
	err := errors.Join(refused...)
	if err != nil && (done == 0 || a.Verb != Abort && a.Verb != Rollback) {
		return state, nil, err
	}
	return t.state, t.events, err
}

// verb returns what a verb does in one of the target regions, nil when there is no such verb.
func (t *turn) verb(d documents, a Action, in map[string]Input, targets []string) func(string, *Region) error {
	switch a.Verb {
	case Start:
		return func(name string, r *Region) error { return t.start(name, r, a.Reason) }
	case Pause:
		return func(name string, r *Region) error { return t.pause(name, r, a.Reason) }
	case Continue:
		return func(name string, r *Region) error { return t.resume(name, r, a.Reason) }
	case Abort:
		return func(name string, r *Region) error { return t.abort(name, r, a.Reason) }
	case Promote:
		return func(name string, r *Region) error { return t.promoteByHand(d, name, r, in[name], a.Reason) }
	case Rollback:
		return func(name string, r *Region) error { return t.rollback(d, name, r, a.Reason, len(a.Regions) > 0) }
	case Retry:
		return func(name string, r *Region) error { return t.retry(d, name, r, a.Reason, targets) }
	}
	return nil
}

func (t *turn) start(name string, r *Region, why string) error {
	switch {
	case r.Phase != Pending || r.Started:
		return elsewhere(r)
	case r.serves():
		return &refusal{text: r.Version + " serves as stable already; name another version in the rollout, or the other regions alone"}
	}
	r.Started, t.state.Started = true, true
	t.move(name, r, Pending, 0, Started, why)
	return nil
}

func (t *turn) pause(name string, r *Region, why string) error {
	if r.Phase != Progressing && r.Phase != Shadowing {
		return elsewhere(r)
	}
	t.give(name, r, Paused, r.Weight, r.Shadow, PausedByHand, why)
	return nil
}

func (t *turn) resume(name string, r *Region, why string) error {
	if r.Phase != Paused {
		return elsewhere(r)
	}
	to := Retreated
	switch {
	case r.Weight > 0:
		to = Progressing
	case r.Shadow > 0:
		to = Shadowing
	}
	t.give(name, r, to, r.Weight, r.Shadow, ResumedByHand, why)
	return nil
}

func (t *turn) abort(name string, r *Region, why string) error {
	switch r.Phase {
	case Promoted:
		return &refusal{text: r.Version + " is promoted, it has no canary to abort; `rollback` takes the region back to " + known(r.Previous), elsewhere: true}
	case Aborted:
		return nil
	}
	t.move(name, r, Aborted, 0, AbortedByHand, why)
	return nil
}

func (t *turn) promoteByHand(d documents, name string, r *Region, in Input, why string) error {
	if r.Phase != Progressing && (r.Phase != Paused || r.Weight == 0) {
		return elsewhere(r)
	}
	if age := t.now.Sub(r.SeenAt); age > d.policy.HoldAfter {
		return &refusal{text: fmt.Sprintf("no fresh evidence for %v; it can be promoted when the region is watched again", age)}
	}
	if in.Saturated {
		return &refusal{text: "the region cannot keep up with what it has; it can be promoted when it does"}
	}
	if reason, message := alone(d, name, r, in); reason != "" {
		return &refusal{text: fmt.Sprintf("%s cannot take everything (%s): %s", r.Version, reason, message)}
	}
	t.promote(name, r, PromotedByHand, why)
	return nil
}

func (t *turn) retry(d documents, name string, r *Region, why string, targets []string) error {
	if r.Phase != Halted && r.Phase != Aborted && r.Phase != RolledBack {
		return elsewhere(r)
	}
	if d.policy.OnHalt == spec.HaltStops {
		others := slices.DeleteFunc(slices.Clone(d.rollout.Regions), func(other string) bool { return slices.Contains(targets, other) })
		if bad := t.judgedBad(others); bad != "" {
			return &refusal{text: fmt.Sprintf("%s is halted (%s), and the policy stops every region for it; retry it with this one", bad, t.state.Regions[bad].Reason)}
		}
	}
	if r.Retries == nil {
		r.Retries = map[string]int{}
	}
	r.Retries[r.Digest]++
	if i := slices.IndexFunc(r.Halts, func(h Halt) bool { return h.Digest == r.Digest }); i >= 0 {
		r.Halts = slices.Delete(r.Halts, i, i+1)
	}
	if len(r.Halts) == 0 {
		r.Halts = nil
	}
	r.Started, t.state.Started = true, true
	r.Begun, r.Shadowed = false, false
	t.move(name, r, Pending, 0, Retried, why)
	return nil
}

// elsewhere says where a region is that a verb was not made for, and which verb is.
func elsewhere(r *Region) error {
	because := string(r.Reason)
	if r.Message != "" {
		because += " (" + r.Message + ")"
	}
	var text string
	switch r.Phase {
	case Pending:
		text = "not started; `start` does"
		if r.Started && (r.Reason == Started || r.Reason == Retried) {
			text = "started already, waits for fresh evidence"
		} else if r.Started {
			text = "started already, waits because " + because
		}
	case Progressing:
		text = "progressing at " + r.Weight.String() + "; `pause`, `abort`, `promote` or `rollback` can be done"
	case Shadowing:
		text = r.Shadow.String() + " of the requests are copied to it; `pause`, `abort` or `rollback` can be done"
	case Paused:
		text = "paused at " + r.Weight.String() + "; `resume` goes on"
	case Retreated:
		text = "at zero because " + because + "; it climbs again by itself, and `abort` keeps it at zero"
	case Halted:
		text = "halted because " + because + "; `retry` starts it again"
	case Aborted:
		text = "aborted; `retry` starts it again"
	case Promoted:
		text = "promoted; `rollback` takes it back to " + known(r.Previous)
	case RolledBack:
		text = "rolled back; `retry` starts it again"
	}
	return &refusal{text: text, elsewhere: true}
}

func known(k Known) string {
	if k == (Known{}) {
		return "the version before"
	}
	return k.String()
}
