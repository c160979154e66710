package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Effect is what the proxies of a region acknowledged for a service's canary.
type Effect struct {
	// Min and Max are the least and the most share that a proxy has, of 10,000.
	Min, Max uint32
	// Acked of Proxies have the intended share.
	Acked, Proxies int
}

// Status returns where a rollout stands. ErrNotFound when it is neither declared nor kept.
func (c *Controller) Status(ctx context.Context, name string) (*aviaryv1.RolloutStatus, error) {
	var out *aviaryv1.RolloutStatus
	if err := c.call(ctx, func() { out = c.status(name) }); err != nil {
		return nil, err
	}
	if out == nil {
		return nil, fmt.Errorf("rollout %q: %w", name, store.ErrNotFound)
	}
	c.effect(out)
	return out, nil
}

// List returns the status of every rollout that is declared or still stands for something, sorted by name.
func (c *Controller) List(ctx context.Context) ([]*aviaryv1.RolloutStatus, error) {
	var out []*aviaryv1.RolloutStatus
	if err := c.call(ctx, func() {
		for _, name := range c.all() {
			if s := c.status(name); s != nil {
				out = append(out, s)
			}
		}
	}); err != nil {
		return nil, err
	}
	for _, s := range out {
		c.effect(s)
	}
	return out, nil
}

// Watch sends the status now and whenever it changed, and once a second while proxies or evidence move it, until ctx or
// the controller ends; a reader that lags misses all but the newest.
func (c *Controller) Watch(ctx context.Context, name string) (<-chan *aviaryv1.RolloutStatus, error) {
	first, err := c.Status(ctx, name)
	if err != nil {
		return nil, err
	}
	out := make(chan *aviaryv1.RolloutStatus)
	go func() {
		defer close(out)
		every := time.NewTicker(time.Second)
		defer every.Stop()
		for now := first; ; {
			var changed <-chan struct{}
			if c.call(ctx, func() { changed = c.changed }) != nil {
				return
			}
			select {
			case out <- now:
			case <-ctx.Done():
				return
			}
			for again := true; again; {
				select {
				case <-changed:
				case <-every.C:
				case <-ctx.Done():
					return
				case <-c.stopped:
					return
				}
				next, err := c.Status(ctx, name)
				if err != nil {
					return
				}
				if again = proto.Equal(now, next); again && c.call(ctx, func() { changed = c.changed }) != nil {
					return
				}
				now = next
			}
		}
	}()
	return out, nil
}

func (c *Controller) effect(s *aviaryv1.RolloutStatus) {
	if c.cfg.Effect == nil {
		return
	}
	for _, r := range s.Regions {
		e := c.cfg.Effect(r.Region, s.Service, s.Version, r.Weight, r.Shadow)
		r.EffectiveMin, r.EffectiveMax = e.Min, e.Max
		r.ProxiesAcked, r.Proxies = uint32(e.Acked), uint32(e.Proxies)
	}
}

// status runs on the loop.
func (c *Controller) status(name string) *aviaryv1.RolloutStatus {
	state, ok := c.states[name]
	if !ok {
		return nil
	}
	out := &aviaryv1.RolloutStatus{Name: name, Service: state.Service}
	var policy *spec.Policy
	regions := slices.Sorted(maps.Keys(state.Regions))
	if r := c.set.Rollouts[name]; r != nil {
		out.Policy, out.Version = r.Policy, r.Version
		policy = c.set.Policies[r.Policy]
		// What is remembered of a region that the rollout does not name any more is not where it stands.
		regions = slices.DeleteFunc(regions, func(region string) bool { return !slices.Contains(r.Regions, region) })
	}
	for _, region := range regions {
		here := state.Regions[region]
		out.Version, out.Digest = cmp.Or(out.Version, here.Version), here.Digest
		r := &aviaryv1.RegionStatus{
			Region: region, Phase: phases[here.Phase], Reason: string(here.Reason), Message: here.Message,
			Weight: uint32(here.Weight), Shadow: uint32(here.Shadow), Overdue: c.falls[place{name, region}].late, Tries: here.Tries, Held: durationpb.New(here.Held),
			Stable: here.Stable.Version, Previous: here.Previous.Version,
		}
		if !here.Since.IsZero() {
			r.Since = timestamppb.New(here.Since)
		}
		if !here.SeenAt.IsZero() {
			r.Seen = timestamppb.New(here.SeenAt)
		}
		if policy != nil {
			steps := policy.StepsIn(region)
			r.Steps = uint32(len(steps))
			wave, waves := rollout.WaveOf(c.set, name, region)
			r.Wave, r.Waves = uint32(wave), uint32(waves)
			switch {
			case here.Weight > 0 && here.Step < len(steps):
				step := steps[here.Step]
				r.Step = uint32(here.Step) + 1
				r.Hold, r.MinTries = durationpb.New(step.Hold), step.MinTries
			case here.Shadow > 0 && policy.Shadow != nil:
				r.Hold, r.MinTries = durationpb.New(policy.Shadow.Hold), policy.Shadow.MinTries
			}
		}
		if w := c.watches[place{name, region}]; w != nil && w.Judged {
			v := w.Verdict
			r.Evidence = &aviaryv1.Evidence{
				Metric: v.Metric, LogE: v.LogE, LogThreshold: v.LogThreshold,
				CanaryTries: v.CanaryTries, CanaryErrors: v.CanaryErrors, StableTries: v.StableTries, StableErrors: v.StableErrors,
			}
		}
		out.Regions = append(out.Regions, r)
	}
	out.Phase = overall(out.Regions)
	return out
}

var phases = map[rollout.Phase]aviaryv1.Phase{
	rollout.Pending:     aviaryv1.Phase_PHASE_PENDING,
	rollout.Progressing: aviaryv1.Phase_PHASE_PROGRESSING,
	rollout.Paused:      aviaryv1.Phase_PHASE_PAUSED,
	rollout.Retreated:   aviaryv1.Phase_PHASE_RETREATED,
	rollout.Halted:      aviaryv1.Phase_PHASE_HALTED,
	rollout.Aborted:     aviaryv1.Phase_PHASE_ABORTED,
	rollout.Promoted:    aviaryv1.Phase_PHASE_PROMOTED,
	rollout.RolledBack:  aviaryv1.Phase_PHASE_ROLLED_BACK,
	rollout.Shadowing:   aviaryv1.Phase_PHASE_SHADOWING,
}

// attention is the order in which phases call for it.
var attention = []aviaryv1.Phase{
	aviaryv1.Phase_PHASE_HALTED, aviaryv1.Phase_PHASE_RETREATED, aviaryv1.Phase_PHASE_ABORTED, aviaryv1.Phase_PHASE_ROLLED_BACK,
	aviaryv1.Phase_PHASE_PAUSED, aviaryv1.Phase_PHASE_PROGRESSING, aviaryv1.Phase_PHASE_SHADOWING, aviaryv1.Phase_PHASE_PENDING, aviaryv1.Phase_PHASE_PROMOTED,
}

func overall(regions []*aviaryv1.RegionStatus) aviaryv1.Phase {
	for _, p := range attention {
		if slices.ContainsFunc(regions, func(r *aviaryv1.RegionStatus) bool { return r.Phase == p }) {
			return p
		}
	}
	return aviaryv1.Phase_PHASE_UNSPECIFIED
}
