package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Delivery is where plans go. Neither method blocks.
type Delivery interface {
	// Publish makes the plan what the region's proxies are given. weights says that nothing but weights and testers
	// differs from the plan before, and that it must not wait for anything.
	Publish(plan traffic.Plan, weights bool)
	// Renew says that a flush of each of these proxies arrived and was judged.
	Renew(proxies []string)
}

// Config of a Controller. Store and Delivery are needed, the rest has defaults.
type Config struct {
	Store    *store.Store
	Delivery Delivery
	// Effect tells what proxies acknowledged, for the status and the clock of a step; nil: nobody knows, and a share counts
	// as set when it is published. It must not call the Controller.
	Effect func(region, service, version string, weight uint32) Effect
	// Leases tells which proxies hold a lease, for the hand-over; nil: none.
	Leases func() []Lease
	// Discover is told the names of endpoints whenever their set changes. It must not block.
	Discover func(names []string)
	// Name of this process in elections; default "aviary".
	Name string
	// Now is the clock; default time.Now.
	Now func() time.Time
	Log *slog.Logger
	// Tick is how often time alone is looked at (missing data, ends of retreats); default 250ms.
	Tick time.Duration
}

// Lease is a proxy's right to a canary's share.
type Lease struct {
	Proxy string `json:"proxy"`
	// Renewed is when its evidence was judged last; Until is when the proxy gives the share back by itself.
	Renewed time.Time `json:"renewed"`
	Until   time.Time `json:"until"`
}

// ErrStopped is returned by calls to a Controller that is not running.
var ErrStopped = fmt.Errorf("%w: the control loop is not running", store.ErrUnavailable)

// place is a rollout in a region.
type place struct{ rollout, region string }

// Controller decides. Its exported methods are safe for concurrent use while Run runs.
type Controller struct {
	cfg     Config
	writer  *writer
	flushes chan signal.Flush
	calls   chan func()
	ready   chan struct{} // closed when documents and state were read
	stopped chan struct{}
	dropped atomic.Uint64

	// Owned by the loop.
	set     *spec.Set
	leases  []Lease       // of the hand-over; set before ready is closed
	at      int64         // the store revision of the documents in force
	newer   chan struct{} // closed and replaced whenever at changes
	states  map[string]rollout.State
	watches map[place]*watch
	plans   map[string]traffic.Plan
	// rising holds what was proposed to the store and may be adopted once it is written.
	rising map[place]proposal
	// unseen holds the shares that no proxy has acknowledged yet: an intended share is not one that was held.
	unseen  map[place]uint32
	number  uint64        // of the last proposal
	moved   bool          // whether a weight, an arm or a stable version may differ from the plans
	changed chan struct{} // closed and replaced at every change of a state
}

// New makes a Controller; Run runs it.
func New(cfg Config) *Controller {
	if cfg.Name == "" {
		cfg.Name = "aviary"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Tick == 0 {
		cfg.Tick = 250 * time.Millisecond
	}
	return &Controller{
		cfg:     cfg,
		writer:  newWriter(cfg.Store, cfg.Name, cfg.Log),
		flushes: make(chan signal.Flush, 4096),
		calls:   make(chan func()),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
		set:     &spec.Set{},
		states:  map[string]rollout.State{},
		watches: map[place]*watch{},
		plans:   map[string]traffic.Plan{},
		rising:  map[place]proposal{},
		unseen:  map[place]uint32{},
		changed: make(chan struct{}),
		newer:   make(chan struct{}),
	}
}

// Observe takes a flush. It never blocks: when the loop is that far behind, the flush is dropped, counted, and renews no
// lease.
func (c *Controller) Observe(f signal.Flush) {
	select {
	case c.flushes <- f:
	default:
		c.dropped.Add(1)
	}
}

// Dropped is how many flushes came faster than they could be judged.
func (c *Controller) Dropped() uint64 { return c.dropped.Load() }

// Leading reports whether this process is the elected coordinator: without one nothing advances.
func (c *Controller) Leading() bool { return c.writer.leading() }

// HandedOver are the leases that a process which stopped in good order left to this one; none when none did, or too long
// ago. They are known once Ready is closed.
func (c *Controller) HandedOver() []Lease { return c.leases }

// Ready is closed when documents and state were read and the first plans published.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run decides until ctx ends, then writes what is not written yet and a hand-over for the next process, within grace.
// It returns an error when documents or state cannot be read.
func (c *Controller) Run(ctx context.Context, grace time.Duration) error {
	defer close(c.stopped)
	handover, err := c.load(ctx)
	if err != nil {
		return err
	}
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.writer.run(writing)
	}()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		c.handOver(last)
		stopWriting()
		<-written
		c.writer.resign(last)
	}()

	documents := make(chan declared)
	go c.follow(ctx, c.at, documents)
	c.decide(c.all())
	c.shareHalts()
	c.publish(false)
	c.cfg.Log.Info("control loop started", "rollouts", len(c.states), "handover", handover)
	close(c.ready)

	ticker := time.NewTicker(c.cfg.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-c.flushes:
			c.judge(f)
		case call := <-c.calls:
			call()
		case s := <-c.writer.saved:
			c.settleSaved(s)
		case d, ok := <-documents:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("documents can no longer be watched: %w", store.ErrClosed)
			}
			c.adopt(d)
		case <-ticker.C:
			c.decide(c.all())
			c.publish(true)
		}
	}
}

// call runs f on the loop and waits for it.
func (c *Controller) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case c.calls <- func() { defer close(done); f() }:
	case <-c.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// judge takes a flush with all that arrived meanwhile, and lets the rollouts that they speak of decide.
func (c *Controller) judge(first signal.Flush) {
	batch := []signal.Flush{first}
	for more := true; more && len(batch) < cap(c.flushes); {
		select {
		case f := <-c.flushes:
			batch = append(batch, f)
		default:
			more = false
		}
	}
	now := c.cfg.Now()
	byRegion := map[string][]signal.Flush{}
	proxies := make([]string, 0, len(batch))
	for _, f := range batch {
		byRegion[f.Region] = append(byRegion[f.Region], f)
		proxies = append(proxies, f.Proxy)
	}
	touched := map[string]bool{}
	for region, flushes := range byRegion {
		for name, r := range c.set.Rollouts {
			if !slices.Contains(r.Regions, region) {
				continue
			}
			// A proxy that does not route to the service is no evidence about it, however fresh its flushes are.
			if of := routing(c.set, r.Service, flushes); len(of) > 0 {
				c.watch(place{name, region}).observe(c.set, c.states[name].Regions[region], r, of, now)
				touched[name] = true
			}
		}
	}
	c.decide(slices.Sorted(maps.Keys(touched)))
	c.publish(true)
	// After what was judged went out: a lease is never renewed for a weight that this very flush spoke against.
	c.cfg.Delivery.Renew(proxies)
}

// routing are the flushes of proxies that route to a service: callers that declare it, and gateways, which know it by its
// clusters.
func routing(set *spec.Set, service string, flushes []signal.Flush) []signal.Flush {
	var of []signal.Flush
	for _, f := range flushes {
		caller := set.Services[f.Service]
		if caller != nil && slices.Contains(caller.Calls, service) ||
			slices.ContainsFunc(f.Arms, func(a signal.Arm) bool { return a.Service == service }) {
			of = append(of, f)
		}
	}
	return of
}

func (c *Controller) watch(p place) *watch {
	w := c.watches[p]
	if w == nil {
		w = &watch{}
		c.watches[p] = w
	}
	return w
}

// spent reports whether a rollout is deleted and stands for nothing any more: no halt, no promotion, no share.
func spent(s rollout.State) bool {
	for _, r := range s.Regions {
		if r.Phase != rollout.Pending || len(r.Halts) > 0 || !r.StableSince.IsZero() {
			return false
		}
	}
	return s.Deleted
}

// all names every rollout that is declared, or was and still stands for something.
func (c *Controller) all() []string {
	names := map[string]bool{}
	for name := range c.set.Rollouts {
		names[name] = true
	}
	for name, state := range c.states {
		if !spent(state) {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// publish makes plans of what is in force and hands over those that changed. weights: no document changed, so that only
// weights, arms and testers can differ.
func (c *Controller) publish(weights bool) {
	if weights && !c.moved {
		return
	}
	c.moved = false
	states := slices.Collect(maps.Values(c.states))
	for region := range c.set.Regions {
		plan := planRegion(c.set, region, states)
		before, known := c.plans[region]
		switch same := known && sameArms(before, plan); {
		case known && weights && same && sameWeights(before, plan):
			continue
		case weights && same:
			c.cfg.Delivery.Publish(plan, true)
		default:
			c.cfg.Delivery.Publish(plan, false)
		}
		c.plans[region] = plan
	}
	for region := range c.plans {
		if c.set.Regions[region] == nil {
			delete(c.plans, region)
			c.cfg.Delivery.Publish(traffic.Plan{Region: region}, false)
		}
	}
}
