package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// handoverName is the key of the record that one process leaves to the next.
const handoverName = "control"

// handover is what a process leaves that stops in good order, for one that starts before the leases end.
type handover struct {
	Leases []Lease `json:"leases"`
	// Watches by rollout and region.
	Watches map[string]map[string]*watch `json:"watches"`
	// Rates by region and service.
	Rates map[string]map[string]float64 `json:"rates,omitempty"`
}

// load reads documents and state at the start and reports whether another process handed over in time.
func (c *Controller) load(ctx context.Context) (handedOver bool, err error) {
	first, err := c.read(ctx)
	if err != nil {
		return false, err
	}
	c.began = c.cfg.Now()
	if err := c.recall(ctx); err != nil {
		return false, err
	}
	c.use(first)
	kept, err := c.cfg.Store.Rollouts(ctx)
	if err != nil {
		return false, fmt.Errorf("rollout state: %w", err)
	}
	left, handedOver, err := c.takeOver(ctx)
	if err != nil {
		return false, err
	}
	states := map[string]rollout.State{}
	for _, s := range kept.States {
		var r record
		if err := json.Unmarshal(s.Data, &r); err != nil {
			return false, fmt.Errorf("stored state of %s in %s: %w", s.Rollout, s.Region, err)
		}
		state, ok := states[s.Rollout]
		if !ok {
			state = rollout.State{Rollout: s.Rollout, Service: r.Service, Regions: map[string]rollout.Region{}}
		}
		state.Started = state.Started || r.Region.Started
		state.Regions[s.Region] = r.Region
		states[s.Rollout] = state
	}
	now := c.cfg.Now()
	for name, state := range states {
		resumed, events := rollout.Resume(rollout.Join(state, halts(kept.Halts)), now, handedOver)
		c.states[name] = state
		c.settle(resumed, events, nil, nil)
	}
	for name, regions := range left.Watches {
		for region, w := range regions {
			c.watches[place{name, region}] = w
		}
	}
	c.meter.resume(left.Rates, now)
	c.adoptStable()
	return handedOver, nil
}

func (c *Controller) takeOver(ctx context.Context) (handover, bool, error) {
	data, err := c.cfg.Store.TakeHandover(ctx, handoverName)
	if errors.Is(err, store.ErrNotFound) {
		return handover{}, false, nil
	}
	if err != nil {
		return handover{}, false, fmt.Errorf("hand-over: %w", err)
	}
	var h handover
	if err := json.Unmarshal(data, &h); err != nil {
		c.cfg.Log.Warn("the hand-over is not readable: every canary climbs again", "error", err)
		return handover{}, false, nil
	}
	// As long as one proxy still has its share there was no lapse to climb again from.
	if now := c.cfg.Now(); !slices.ContainsFunc(h.Leases, func(l Lease) bool { return now.Before(l.Until) }) {
		c.cfg.Log.Info("the hand-over came too late: every canary climbs again")
		return handover{}, false, nil
	}
	c.leases = h.Leases
	return h, true, nil
}

// handOver writes what is not written, and the record for the next process. The loop has ended.
func (c *Controller) handOver(ctx context.Context) {
	drained := make(chan struct{})
	defer close(drained)
	go func() {
		for {
			select {
			case <-c.writer.saved: // a rise that was not adopted did not happen
			case <-drained:
				return
			}
		}
	}()
	h := handover{Watches: map[string]map[string]*watch{}, Rates: c.meter.rates(c.cfg.Now())}
	if c.cfg.Leases != nil {
		h.Leases = c.cfg.Leases()
	}
	for name, state := range c.states {
		for region, here := range state.Regions {
			// Held and tries of the step are kept from here on; while running they are not worth a write a tick.
			c.writer.put(job{place: place{name, region}, service: state.Service, region: here})
			if here.Weight == 0 && here.Shadow == 0 {
				continue
			}
			if w := c.watches[place{name, region}]; w != nil && w.Judged {
				if h.Watches[name] == nil {
					h.Watches[name] = map[string]*watch{}
				}
				h.Watches[name][region] = w
			}
		}
	}
	if err := c.writer.flush(ctx); err != nil {
		return // the next process must not go on from a state that was not written
	}
	if len(h.Leases) == 0 {
		return
	}
	data, err := json.Marshal(h)
	if err == nil {
		err = c.cfg.Store.PutHandover(ctx, handoverName, data)
	}
	if err != nil {
		c.cfg.Log.Error("no hand-over: canaries will climb again", "error", err)
	}
}

// declared is a validated set of documents as it was at a store revision.
type declared struct {
	set *spec.Set
	at  int64
}

func (c *Controller) read(ctx context.Context) (declared, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	revisions, at, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return declared{}, err
	}
	docs := make([]*aviaryv1.Document, len(revisions))
	for i, r := range revisions {
		docs[i] = r.Document
	}
	set, err := spec.Build(docs, nil)
	if err != nil {
		return declared{}, fmt.Errorf("stored documents: %w", err)
	}
	return declared{set, at}, nil
}

// follow reads the documents beside the loop, whenever they changed after a store revision, until ctx ends or the store
// closes. What cannot be read, or does not fit together, leaves the last good set in force.
func (c *Controller) follow(ctx context.Context, after int64, to chan<- declared) {
	defer close(to)
	for range c.cfg.Store.Watch(ctx, after) {
		d, err := c.read(ctx)
		for pause := 50 * time.Millisecond; err != nil; pause = min(2*pause, 5*time.Second) {
			if ctx.Err() != nil {
				return
			}
			c.cfg.Log.Error("documents could not be read; the last good ones stay in force", "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			d, err = c.read(ctx)
		}
		select {
		case to <- d:
		case <-ctx.Done():
			return
		}
	}
}

// adopt puts documents in force.
func (c *Controller) adopt(d declared) {
	c.use(d)
	maps.DeleteFunc(c.watches, func(p place, _ *watch) bool { return d.set.Rollouts[p.rollout] == nil })
	c.begin()
	close(c.newer)
	c.newer = make(chan struct{})
}

// begin decides and publishes all that is new in the documents in force.
func (c *Controller) begin() {
	c.decide(c.all())
	c.shareHalts()
	c.publish() // what falls goes first
	c.admit(c.cfg.Now())
	c.publish()
}

// inForceWithin bounds how long an apply waits for the loop.
const inForceWithin = 5 * time.Second

// InForce waits until the documents of a store revision, or later ones, are what the loop decides from. It gives up after
// a while, when ctx ends, and when the loop has ended.
func (c *Controller) InForce(ctx context.Context, storeRevision int64) {
	ctx, cancel := context.WithTimeout(ctx, inForceWithin)
	defer cancel()
	for {
		var at int64
		var newer <-chan struct{}
		if c.call(ctx, func() { at, newer = c.at, c.newer }) != nil || at >= storeRevision {
			return
		}
		select {
		case <-newer:
		case <-ctx.Done():
		}
	}
}
