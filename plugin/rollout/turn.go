package rollout

import (
	"fmt"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// turn is one call of Step, Act or Resume: the copy that it changes and the events that it makes.
type turn struct {
	state  State
	now    time.Time
	author string
	events []Event
}

func newTurn(state State, now time.Time) *turn {
	return &turn{state: state.clone(), now: now.UTC().Round(0)} // without a monotonic part: states survive JSON unchanged
}

// documents are those that one rollout is about.
type documents struct {
	rollout *spec.Rollout
	service *spec.Service
	policy  *spec.Policy
	version *spec.Version
}

// lookup returns the documents of a rollout, or what is missing.
func lookup(set *spec.Set, name string) (documents, string) {
	d := documents{rollout: set.Rollouts[name]}
	if d.rollout == nil {
		return d, fmt.Sprintf("rollout %q is not declared", name)
	}
	d.service, d.policy = set.Services[d.rollout.Service], set.Policies[d.rollout.Policy]
	switch {
	case d.service == nil:
		return d, fmt.Sprintf("service %q is not declared", d.rollout.Service)
	case d.policy == nil || len(d.policy.Steps) == 0:
		return d, fmt.Sprintf("policy %q with steps is not declared", d.rollout.Policy)
	}
	if d.version = d.service.Version(d.rollout.Version); d.version == nil {
		return d, fmt.Sprintf("version %q of service %q is not declared", d.rollout.Version, d.rollout.Service)
	}
	return d, ""
}

// move changes phase or weight, and ends copies.
func (t *turn) move(region string, r *Region, to Phase, weight spec.Share, reason Reason, message string) {
	t.give(region, r, to, weight, 0, reason, message)
}

// give changes phase, weight or shadow. A share that is new starts the clock anew.
func (t *turn) give(region string, r *Region, to Phase, weight, shadow spec.Share, reason Reason, message string) {
	from := r.Phase
	changed := weight != r.Weight || shadow != r.Shadow
	if changed {
		r.WeightAt = t.now
	}
	if changed || weight == 0 && shadow == 0 {
		r.Held, r.Tries = 0, 0
	}
	if weight == 0 {
		r.Step = 0
	}
	r.Phase, r.Weight, r.Shadow, r.Since = to, weight, shadow, t.now
	r.Reason, r.Message = reason, message
	t.event(region, *r, from, reason, message)
}

// note gives a new reason to stay. The reason that is there already is no event again; what it stands on is kept up to date.
func (t *turn) note(region string, r *Region, reason Reason, message string) {
	if r.Reason == reason {
		r.Message = message
		return
	}
	r.Reason, r.Message = reason, message
	t.event(region, *r, r.Phase, reason, message)
}

func (t *turn) event(region string, r Region, from Phase, reason Reason, message string) {
	t.events = append(t.events, Event{
		At: t.now, Rollout: t.state.Rollout, Region: region, Reason: reason, From: from, To: r.Phase, Weight: r.Weight,
		Message: message, Author: t.author,
	})
}

// retreat takes a region to zero for a reason that may pass. A paused region waits there for a person.
func (t *turn) retreat(region string, r *Region, reason Reason, message string) {
	if !r.on() && (r.Phase == Paused || r.Phase == Retreated || r.Phase == Pending) {
		r.Held = 0
		t.note(region, r, reason, message)
		return
	}
	to := Retreated
	if r.Phase == Paused {
		to = Paused
	}
	t.move(region, r, to, 0, reason, message)
}

// halt takes a region to zero for good.
func (t *turn) halt(region string, r *Region, reason Reason, message string) {
	trial := r.Trial()
	trial.Shadow = false
	r.learn(Halt{Rollout: t.state.Rollout, Region: region, Trial: trial, Reason: reason, At: t.now, Message: message})
	t.move(region, r, Halted, 0, reason, message)
}
