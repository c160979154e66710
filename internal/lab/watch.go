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
	mu          sync.Mutex
	rollouts    []string
	transitions []Transition
}

// follow adds rollouts to those that are watched.
func (w *watcher) follow(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if !slices.Contains(w.rollouts, name) {
			w.rollouts = append(w.rollouts, name)
		}
	}
}

func (w *watcher) seen() []Transition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.transitions)
}

// watch polls the rollouts and prints what changes, and the users every two seconds, until the returned function is
// called, which waits for its end.
func (r *run) watch(ctx context.Context, rollouts []string) (stop func()) {
	r.follow(rollouts)
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
		names := slices.Clone(r.rollouts)
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
				before := last[key]
				if before == now {
					continue
				}
				last[key] = now
				t := Transition{At: time.Since(r.begin), Rollout: name, Region: region, From: before, To: now}
				r.mu.Lock()
				r.transitions = append(r.transitions, t)
				r.mu.Unlock()
				r.out.transition(t)
			}
		}
	}
}

func (r *run) watchUsers(ctx context.Context) {
	last := r.world.report()
	for sleep(ctx, 2*time.Second) == nil {
		now := r.world.report()
		r.out.users(now.Sub(last), now.At.Sub(last.At))
		last = now
	}
}
