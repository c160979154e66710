package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// check waits for an expectation and records it.
func (r *run) check(ctx context.Context, step *Step) bool {
	e, begin := step.expectation, time.Now()
	poll := func(until func(bool) bool, limit time.Duration) (measured, error, bool) {
		for {
			m, err := r.measure(ctx, e, step.Since)
			holds := err == nil && e.holds(m)
			if until(holds) || time.Since(begin) >= limit || sleep(ctx, 10*time.Millisecond) != nil {
				return m, err, holds
			}
		}
	}
	m, err, ok := poll(func(holds bool) bool { return holds }, step.Within)
	took := time.Since(begin)
	if ok && step.For > 0 {
		m, err, ok = poll(func(holds bool) bool { return !holds }, took+step.For)
		took = time.Since(begin)
	}
	c := Check{Line: step.line, Text: e.text, OK: ok, Measured: m.String(), Took: took}
	if step.Since != "" {
		c.Text += " since " + step.Since
	}
	if step.Within > 0 {
		c.Text += " within " + step.Within.String()
	}
	if step.For > 0 {
		c.Text += " for " + step.For.String()
	}
	if err != nil {
		c.Measured = err.Error()
	}
	r.result.Checks = append(r.result.Checks, c)
	r.out.check(c)
	return ok
}

// measure reads the value of a measure now.
func (r *run) measure(ctx context.Context, e *expectation, since string) (measured, error) {
	before := r.marks[since]
	switch e.of {
	case "users":
		var all Report
		for name, group := range r.world.users {
			for _, c := range group {
				if (e.group == "" || e.group == name) && (e.place.region == "" || e.place.region == c.region) {
					all = all.plus(c.Report().Sub(before.users[name][c.region]))
				}
			}
		}
		return ofReport(e.path, all), nil
	case "service":
		return r.ofService(e, before)
	}
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	regions, err := r.cp.Rollout(limited, e.group)
	if err != nil {
		return measured{}, err
	}
	status, ok := regions[e.place.region]
	if !ok {
		return measured{}, fmt.Errorf("rollout %s has no region %s", e.group, e.place.region)
	}
	switch e.path[0] {
	case "phase":
		return measured{unit: word, text: status.Phase}, nil
	case "reason":
		return measured{unit: word, text: status.Reason}, nil
	case "shadow":
		return measured{unit: share, number: float64(status.Shadow) / 10_000}, nil
	}
	return measured{unit: share, number: float64(status.Weight) / 10_000}, nil
}

func (r *run) ofService(e *expectation, m mark) (measured, error) {
	now, then := sum(r.world.counts(), e.place), sum(m.services, e.place)
	c, before := now.requests, then.requests
	if e.copies {
		c, before = now.copies, then.copies
	}
	number := func(n, before uint64) (measured, error) { return measured{number: float64(n - before)}, nil }
	between := func(from time.Time) (measured, error) {
		return measured{unit: duration, number: max(c.LastReceived.Sub(from), 0).Seconds()}, nil
	}
	switch e.path[0] {
	case "received":
		return number(c.Received, before.Received)
	case "leaked":
		return number(c.Leaked, before.Leaked)
	case "good":
		return number(c.Good(), before.Good())
	case "bad":
		return number(c.Bad(), before.Bad())
	case "health":
		return number(c.Health, before.Health)
	case "outcome":
		return number(c.Outcomes[e.path[1]], before.Outcomes[e.path[1]])
	case "inflight":
		return measured{number: float64(c.InFlight)}, nil
	case "idle":
		return measured{unit: duration, number: time.Since(later(c.LastReceived, r.begin)).Seconds()}, nil
	case "outlived":
		var gone time.Time
		for region, at := range r.gone {
			if e.place.region == "" || e.place.region == region {
				gone = later(gone, at)
			}
		}
		if gone.IsZero() {
			return measured{}, errors.New("the control plane was never gone")
		}
		return between(gone)
	}
	from := c.FirstBad
	if from.IsZero() {
		from = r.setAt(e.place)
	}
	if from.IsZero() {
		return measured{}, errors.New("nothing was set, and nothing failed")
	}
	return between(from)
}

// setAt is when the behavior of a place was last set; zero: never.
func (r *run) setAt(of place) time.Time {
	var newest time.Time
	for p, at := range r.set {
		if p.in(of) {
			newest = later(newest, at)
		}
	}
	return newest
}
