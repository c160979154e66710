package relief

import (
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Sample is what the proxies of a region count for a service.
type Sample struct {
	// Pending requests wait for a connection, InProgress are under way.
	Pending, InProgress uint64
	// Overflows are requests a second that a limit refused.
	Overflows float64
}

// State is where a service stands in a region. The zero State is one that keeps up.
type State struct {
	// Saturated is whether a sign is there now.
	Saturated bool
	// Active is whether there is relief.
	Active bool
	// Since is when the signs began that are there without a pause; zero when there is none. Last is when there was one last.
	Since, Last time.Time
	// Cut is when limits were cut last, until what they refused is counted no more; zero then.
	Cut time.Time
}

// Holds reports whether no share may rise: a sign is there, or is not there because of the relief.
func (s State) Holds() bool { return s.Saturated || s.Active || !s.Cut.IsZero() }

// settles is how long after the end of relief there may be requests that the cut limits refused: until proxies have the
// declared ones, and what they counted before is past.
const settles = 5 * time.Second

// Step takes in a sample. Relief begins when signs were there for the rule's After, and ends when none was for its Until.
// Without a rule there is none.
func Step(rule *spec.Relief, s State, x Sample, now time.Time) State {
	if rule == nil {
		return State{}
	}
	for _, at := range []*time.Time{&s.Since, &s.Last, &s.Cut} {
		if at.After(now) { // the clock was set back
			*at = now
		}
	}
	switch {
	case s.Active && Tightens(rule):
		s.Cut = now
	case now.Sub(s.Cut) >= settles:
		s.Cut = time.Time{}
	}
	if !s.Cut.IsZero() {
		x.Overflows = 0
	}
	if s.Saturated = saturated(rule, x); !s.Saturated {
		s.Since = time.Time{}
		s.Active = s.Active && now.Sub(s.Last) < rule.Until
		return s
	}
	if s.Since.IsZero() {
		s.Since = now
	}
	s.Last = now
	s.Active = s.Active || now.Sub(s.Since) >= rule.After
	return s
}

func saturated(rule *spec.Relief, x Sample) bool {
	return rule.Pending > 0 && x.Pending >= rule.Pending ||
		rule.InProgress > 0 && x.InProgress >= rule.InProgress ||
		rule.Overflows > 0 && x.Overflows >= rule.Overflows
}

// envoyDefault is what an Envoy takes for a limit that is not declared.
const envoyDefault = 1024

// Tightens is whether a rule cuts limits at all.
func Tightens(rule *spec.Relief) bool { return rule.Tighten < spec.Whole }

// Tighten cuts limits to what the rule says, each to at least 1.
func Tighten(rule *spec.Relief, l spec.Limits) spec.Limits {
	if !Tightens(rule) {
		return l
	}
	for _, limit := range []*uint32{&l.Connections, &l.Pending, &l.Requests, &l.Retries} {
		if *limit == 0 {
			*limit = envoyDefault
		}
		*limit = max(1, uint32(uint64(*limit)*uint64(rule.Tighten)/uint64(spec.Whole)))
	}
	return l
}
