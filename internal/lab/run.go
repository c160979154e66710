package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Run plays a scenario against a control plane, which it starts and, in the end, stops, and prints on out what a person
// would want to follow. The error is about the lab itself or the control plane's commands; whether expectations held and
// limits were kept is in the result, which is valid as far as the run came. When Run returns, nothing that it started is
// left.
func Run(ctx context.Context, s *Scenario, cp ControlPlane, out io.Writer) (result Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{
		s: s, cp: cp, out: &printer{w: out}, world: new(world), marks: map[string]mark{}, set: map[place]time.Time{},
		gone: map[string]time.Time{}, down: map[string]bool{}, watcher: newWatcher(), result: Result{Scenario: s.Name},
	}
	defer func() {
		r.world.close()
		err = errors.Join(err, cp.Stop())
	}()
	if s.About != "" {
		r.out.block(s.About)
	}
	if err := r.world.startServices(s); err != nil {
		return r.result, err
	}
	documents, err := r.documents(s.Documents)
	if err != nil {
		return r.result, err
	}
	if err := cp.Start(ctx); err != nil {
		return r.result, fmt.Errorf("lab: start the control plane: %w", err)
	}
	if err := cp.Apply(ctx, documents); err != nil {
		return r.result, fmt.Errorf("lab: apply the documents: %w", err)
	}
	if err := r.world.startSidecars(ctx, s, cp); err != nil {
		return r.result, err
	}
	r.begin = time.Now()
	r.out.begin(r.begin)
	if err := r.world.startUsers(ctx, s); err != nil {
		return r.result, err
	}
	r.marks[""] = mark{at: r.begin}
	for _, p := range r.world.places {
		if b := s.Services[p.service].Versions[p.version].Behavior; b.fails() {
			r.ask(demand{at: r.begin, place: p, text: p.String() + ": " + describe(b)})
		}
	}
	r.out.line("%d sidecars of %s are ready; users begin", len(r.world.sidecars), cp.Address())

	stopWatching := r.watch(ctx)
	err = r.timeline(ctx)
	for _, c := range r.world.sidecars {
		if !c.envoy.Running() && ctx.Err() == nil {
			err = errors.Join(err, fmt.Errorf("lab: sidecar %s is gone: %w", c.ID, c.envoy.Err()))
		}
	}
	r.world.stopUsers()
	stopWatching()
	r.finish()
	r.out.summary(r.result)
	return r.result, err
}

type run struct {
	s      *Scenario
	cp     ControlPlane
	out    *printer
	world  *world
	begin  time.Time
	marks  map[string]mark
	set    map[place]time.Time // when a behavior was last set
	order  []place             // of set
	result Result
	watcher

	// By region, when it was last without its control plane, and whether it still is.
	gone map[string]time.Time
	down map[string]bool
}

// mark is what had been counted at a moment.
type mark struct {
	at       time.Time
	users    map[string]map[string]Report // by group and region
	services map[place]counts
}

func (r *run) mark() mark {
	m := mark{at: time.Now(), users: map[string]map[string]Report{}, services: r.world.counts()}
	for name, group := range r.world.users {
		m.users[name] = map[string]Report{}
		for _, c := range group {
			m.users[name][c.region] = c.Report()
		}
	}
	return m
}

func (r *run) timeline(ctx context.Context) error {
	for n := range r.s.Timeline {
		step := &r.s.Timeline[n]
		if err := sleep(ctx, time.Until(r.begin.Add(step.At))); err != nil {
			return err
		}
		if err := r.step(ctx, step); err != nil {
			if errors.Is(err, errUntil) {
				r.out.line("the timeline ends here: what follows stands on that")
				return nil
			}
			return fmt.Errorf("lab: %s, line %d: %w", r.s.Name, step.line, err)
		}
	}
	return nil
}

var errUntil = errors.New("what the timeline waited for did not come")

// sleep waits for d, or until ctx ends, which is its error.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
