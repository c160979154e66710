package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
)

// Act does what a person asks of a rollout and returns when it is persisted. What takes traffic from a canary is in force
// before that. Errors: store.ErrNotFound, rollout.ErrUnknown, rollout.ErrRefused (an error may come with a part that was
// done: the regions that could), ErrStopped, and the context's when it ends before the store answered.
func (c *Controller) Act(ctx context.Context, name string, a rollout.Action) error {
	var refused error
	var waits int
	var done chan error
	err := c.call(ctx, func() {
		state, ok := c.states[name]
		if !ok {
			refused = fmt.Errorf("rollout %q: %w", name, store.ErrNotFound)
			return
		}
		var next rollout.State
		var events []rollout.Event
		in := map[string]rollout.Input{}
		for region := range state.Regions {
			in[region] = c.known(name, region, rollout.Input{})
		}
		next, events, refused = rollout.Act(c.set, state, a, in, c.cfg.Now())
		if len(events) == 0 {
			return
		}
		done = make(chan error, len(next.Regions))
		waits = c.settle(next, events, nil, done)
		c.adoptStable()
		c.publish()
	})
	if err != nil {
		return err
	}
	for range waits {
		select {
		case err := <-done:
			if err != nil {
				refused = errors.Join(refused, fmt.Errorf("%s %s: %w", a.Verb, name, err))
			}
		case <-ctx.Done():
			return errors.Join(refused, fmt.Errorf("%s %s is in force where it takes traffic from the canary, but not yet persisted: %w", a.Verb, name, ctx.Err()))
		case <-c.stopped:
			return errors.Join(refused, ErrStopped)
		}
	}
	return refused
}
