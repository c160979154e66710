package lab

import (
	"context"
	"slices"
	"strings"
	"time"
)

func (r *run) step(ctx context.Context, step *Step) error {
	switch {
	case step.Say != "":
		r.out.heading(step.Say)
	case step.Wait != 0:
		return sleep(ctx, step.Wait)
	case step.Set != nil:
		return r.setBehavior(step.Set)
	case step.Act != "":
		return r.act(ctx, step)
	case step.Apply != "":
		documents, err := r.documents(step.Apply)
		if err != nil {
			return err
		}
		r.out.line("apply documents")
		return r.cp.Apply(ctx, documents)
	case step.ControlPlane != "":
		return r.controlPlane(ctx, step.ControlPlane)
	case step.Network != nil:
		return r.network(step.Network)
	case step.Rate != nil:
		for name, rate := range step.Rate {
			r.out.line("users %s: %g requests a second", name, rate)
			for _, c := range r.world.users[name] {
				c.SetRate(c.part * rate)
			}
		}
	case step.Mark != "":
		r.marks[step.Mark] = r.mark()
	default:
		if ok := r.check(ctx, step); !ok && step.Until != "" {
			return errUntil
		}
	}
	return ctx.Err()
}

// documents fills and prepares documents, which are then declared for what is watched.
func (r *run) documents(text string) ([]byte, error) {
	filled, err := r.world.fill(text)
	if err != nil {
		return nil, err
	}
	documents, err := r.s.prepare(filled)
	if err != nil {
		return nil, err
	}
	r.declare(documents)
	return documents, nil
}

func (r *run) setBehavior(set *SetStep) error {
	where := place{set.Service, set.Version, set.Region}
	what := describe(set.Behavior)
	r.out.line("%s: %s", where, what)
	now := time.Now()
	for _, p := range r.world.places {
		direct := p.in(where)
		if !direct && !(r.s.needs(p, where) && (set.Region == "" || set.Region == p.region)) {
			continue
		}
		for _, i := range r.world.instances[p] {
			i.tally.firstBad.Store(0)
			i.copies.firstBad.Store(0)
			if !direct {
				continue
			}
			if err := i.Set(set.Behavior); err != nil {
				return err
			}
		}
		if direct {
			r.set[p] = now
			r.order = append(r.order, p)
		}
		if set.Behavior.fails() {
			r.ask(demand{at: now, place: p, text: where.String() + ": " + what})
		} else {
			r.heal(p)
		}
	}
	return nil
}

// needs says whether a version needs, in the end, the service of another place.
func (s *Scenario) needs(p, of place) bool {
	needed := s.Services[p.service].Versions[p.version].Needs
	return needed != "" && s.reaches(needed, of.service, map[string]bool{})
}

// fails says whether a behavior is worse than none.
func (b Behavior) fails() bool {
	return b.Refuse || b.Unhealthy || b.Latency.Multiplier > 1 || slices.ContainsFunc(b.Failures, func(f Failure) bool { return f.Rate > 0 })
}

// stopping are the acts that ask for zero.
var stopping = []string{"abort", "rollback"}

func (r *run) act(ctx context.Context, step *Step) error {
	what := strings.TrimSpace(step.Act + " " + step.Rollout + " " + strings.Join(step.Regions, " "))
	r.out.line("%s", what)
	now := time.Now()
	regions := step.Regions
	if len(regions) == 0 {
		regions = r.s.regions()
	}
	for _, region := range regions {
		if slices.Contains(stopping, step.Act) {
			r.ask(demand{at: now, rollout: step.Rollout, place: place{region: region}, text: what})
		}
		if step.Act == "promote" {
			r.hurry(step.Rollout, region, now)
		}
	}
	return r.cp.Act(ctx, step.Act, step.Rollout, step.Regions)
}

func (r *run) controlPlane(ctx context.Context, what string) error {
	r.out.line("%s the control plane", what)
	if what == "start" || what == "continue" {
		for _, region := range r.s.regions() {
			r.back(region)
		}
	} else {
		for _, region := range r.s.regions() {
			r.leave(region)
		}
	}
	switch what {
	case "start":
		return r.cp.Start(ctx)
	case "continue":
		return r.cp.Continue()
	case "stop":
		return r.cp.Stop()
	case "kill":
		return r.cp.Kill()
	}
	return r.cp.Pause()
}

func (r *run) network(step *NetworkStep) error {
	n, err := step.network()
	if err != nil {
		return err
	}
	r.out.line("between %s and the control plane: %s", step.Region, n)
	wire := r.world.wires[step.Region]
	if wire == nil {
		return nil // a region without sidecars
	}
	if n.Cut || n.Blackhole {
		r.leave(step.Region)
	} else {
		r.back(step.Region)
	}
	return wire.Set(n)
}

// leave notes that a region is without its control plane from now on.
func (r *run) leave(region string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone[region], r.down[region] = time.Now(), true
}

// back notes which versions went quiet in a region that was without its control plane, and is no more.
func (r *run) back(region string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.down[region] {
		return
	}
	r.down[region] = false
	all := r.world.counts()
	var newest time.Time
	for p, c := range all {
		if p.region == region {
			newest = later(newest, c.last())
		}
	}
	gone := r.gone[region]
	for _, p := range r.world.places {
		last := all[p].last()
		if p.region != region || !last.After(gone) || newest.Sub(last) <= quiet {
			continue
		}
		if limits, ok := r.declared.of(p.service, p.version); ok {
			r.result.Lapses = append(r.result.Lapses, Lapse{
				Service: p.service, Version: p.version, Region: region, Took: last.Sub(gone), Lease: limits.lease(),
			})
		}
	}
}

// last is when the newest request or copy arrived.
func (c counts) last() time.Time { return later(c.requests.LastReceived, c.copies.LastReceived) }

// quiet is how long others must have got requests when a version got none, for it to count as taken out.
const quiet = 500 * time.Millisecond
