package lab

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// watcher follows rollouts and users while the timeline runs.
type watcher struct {
	mu          sync.Mutex // guards what follows, and the maps of the run that say whose control plane is gone
	declared    declared
	transitions []Transition
	demands     []demand
	open        []*fall
	falls       []Fall
	// By rollout and region: what was declared at the last transition, when the version last began to have traffic, and
	// when a person last promoted it.
	versions      map[[2]string]rolloutOf
	rose, hurried map[[2]string]time.Time
}

func newWatcher() watcher {
	return watcher{
		declared: newDeclared(), versions: map[[2]string]rolloutOf{}, rose: map[[2]string]time.Time{},
		hurried: map[[2]string]time.Time{},
	}
}

// Transition is a change of a rollout in a region, seen within about 50 ms.
type Transition struct {
	// At is after the users began: when the control plane says that it entered the phase or step, else when it was seen.
	At time.Duration
	// Version and Policy are what the rollout named then.
	Rollout, Region, Version, Policy string
	From, To                         RegionStatus
}

// declare adds documents to what is watched.
func (w *watcher) declare(documents []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.declared.read(documents)
}

// hurry notes that a person promotes a rollout.
func (w *watcher) hurry(rollout, region string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurried[[2]string{rollout, region}] = at
}

// watch polls the rollouts and prints what changes, and the users every two seconds, until the returned function is
// called, which waits for its end.
func (r *run) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { r.watchRollouts(ctx) })
	both.Go(func() { r.watchUsers(ctx) })
	return func() {
		cancel()
		both.Wait()
	}
}

func (r *run) watchRollouts(ctx context.Context) {
	last := map[[2]string]RegionStatus{}
	answers := true
	for sleep(ctx, 40*time.Millisecond) == nil {
		r.mu.Lock()
		names := slices.Sorted(maps.Keys(r.declared.rollouts))
		r.mu.Unlock()
		for _, name := range names {
			limited, cancel := context.WithTimeout(ctx, time.Second)
			regions, err := r.cp.Rollout(limited, name)
			cancel()
			if ctx.Err() != nil {
				return
			}
			if (err == nil) != answers {
				answers = err == nil
				if answers {
					r.out.line("the control plane answers again")
				} else {
					r.out.line("the control plane does not answer")
				}
			}
			if err != nil {
				break
			}
			for _, region := range slices.Sorted(maps.Keys(regions)) {
				key, now := [2]string{name, region}, regions[region]
				if before := last[key]; before != now {
					last[key] = now
					r.changed(name, region, before, now)
				}
			}
		}
		r.settle(last)
	}
}

// changed takes a change of a status; one of its time alone is none.
func (r *run) changed(rollout, region string, before, now RegionStatus) {
	seen := time.Now()
	at := seen
	if now.Since.After(before.Since) && now.Since.After(r.begin) && now.Since.Before(seen) {
		at = now.Since
	}
	before.Since, now.Since = time.Time{}, time.Time{}
	if before == now {
		return
	}
	r.mu.Lock()
	named := r.declared.rollouts[rollout]
	r.mu.Unlock()
	t := Transition{
		At: at.Sub(r.begin), Rollout: rollout, Region: region, Version: named.Version, Policy: named.Policy, From: before, To: now,
	}
	r.note(t, at)
	r.out.transition(t)
}

func (r *run) watchUsers(ctx context.Context) {
	last := r.world.report("")
	for sleep(ctx, 2*time.Second) == nil {
		now := r.world.report("")
		r.out.users(now.Sub(last), now.At.Sub(last.At))
		last = now
	}
}
