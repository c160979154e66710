package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Delivery is where plans go. Neither method blocks.
type Delivery interface {
	// Publish makes the plan what the region's proxies are given. weights says that nothing but weights, shadows, what is
	// shed, and testers differ from the plan before, and that it must not wait for anything.
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
	Effect func(region, service, version string, weight, shadow uint32) Effect
	// Leases tells which proxies hold a lease, for the hand-over; nil: none.
	Leases func() []Lease
	// Discover is told the names of endpoints, sorted, whenever the documents name others than before. It must not block,
	// and what it finds comes back by Resolve; nil: names have no address.
	Discover func(names []string)
	// Ticked is told how long it took from flushes to all that followed from them being handed over; nil: nobody.
	Ticked func(time.Duration)
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
	found   chan map[string][]netip.Addr // of capacity 1: the newest addresses of names
	calls   chan func()
	ready   chan struct{} // closed when documents and state were read
	stopped chan struct{}
	dropped atomic.Uint64

	// Owned by the loop.
	*index
	leases  []Lease       // of the hand-over; set before ready is closed
	at      int64         // the store revision of the documents in force
	newer   chan struct{} // closed and replaced whenever at changes
	states  map[string]rollout.State
	watches map[place]*watch
	plans   map[string]traffic.Plan
	// rising holds what was proposed to the store and may be adopted once it is written.
	rising map[place]proposal
	// unseen holds the shares that no proxy has acknowledged yet: an intended share is not one that was held.
	unseen map[place]uint32
	// falls are those that proxies have not all followed yet, as far as is known.
	falls   map[place]fall
	number  uint64        // of the last proposal
	changed chan struct{} // closed and replaced at every material change of a state
	// stale are the regions whose plan may differ from the one in force, restabled is whether a stable version may.
	stale     map[string]bool
	restabled bool

	meter     *meter
	addresses map[string][]netip.Addr
	// answers is what names resolved to last, and refused why some of it is not in force.
	answers  map[string][]netip.Addr
	refused  map[string]string
	room     map[site]uint32
	began    time.Time // when this process did
	relief   map[site]relief.State
	surveyed time.Time // when room, gauges and falls were looked at last
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
		found:   make(chan map[string][]netip.Addr, 1),
		calls:   make(chan func()),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
		index:   indexOf(&spec.Set{}),
		states:  map[string]rollout.State{},
		watches: map[place]*watch{},
		plans:   map[string]traffic.Plan{},
		rising:  map[place]proposal{},
		unseen:  map[place]uint32{},
		falls:   map[place]fall{},
		changed: make(chan struct{}),
		newer:   make(chan struct{}),
		stale:   map[string]bool{},
		meter:   newMeter(),
		room:    map[site]uint32{},
		relief:  map[site]relief.State{},
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
	c.begin()
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
			select {
			case addresses := <-c.found: // who asks after it was told sees it in force
				c.resolved(addresses)
			default:
			}
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
		case addresses := <-c.found:
			c.resolved(addresses)
		case <-ticker.C:
			c.decide(c.all())
			c.publish() // what evidence and time say goes first
			c.survey()
			c.publish()
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
