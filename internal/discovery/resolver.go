package discovery

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxLookups is how many names are looked up at the same time.
const maxLookups = 64

// Config of a Resolver. Sink is needed, the rest has defaults.
type Config struct {
	// Lookup finds the addresses of a name; default Machine.
	Lookup Lookup
	// Every is the pause between two lookups of a name, default 5s; Timeout ends one lookup, default 2s.
	Every, Timeout time.Duration
	// Sink is given the addresses of every name that has any, sorted, whenever that changed; not two calls at a time. The
	// value is the sink's.
	Sink func(map[string][]netip.Addr)
	Log  *slog.Logger
	// Now is the clock of Resolved.At; default time.Now.
	Now func() time.Time
}

// Resolved is what is known of a name.
type Resolved struct {
	Name string
	// Addresses are sorted, and confirmed last at At.
	Addresses []netip.Addr
	At        time.Time
	// Err is why the last lookup did not confirm them; nil when it did, and before the first one.
	Err error
}

// errEmpty is an answer without an address.
var errEmpty = errors.New("no addresses")

// Resolver keeps the addresses of names. Its methods are safe for concurrent use.
type Resolver struct {
	cfg   Config
	slots chan struct{}

	woken chan struct{} // of capacity 1

	mu            sync.Mutex       // guards what follows
	names         map[string]*name // those that are watched
	changes, told uint64           // counts: of changes, and how many of them the sink knows
	turned        chan struct{}    // closed and replaced when Run has done what there was
}

// name is one name while it is watched.
type name struct {
	Resolved
	tried  bool
	cancel context.CancelFunc // nil: nobody looks it up yet
}

// New makes a Resolver; Run runs it.
func New(cfg Config) *Resolver {
	if cfg.Lookup == nil {
		cfg.Lookup = Machine()
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Second
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Resolver{
		cfg: cfg, slots: make(chan struct{}, maxLookups),
		names: map[string]*name{}, woken: make(chan struct{}, 1), turned: make(chan struct{}),
	}
}

// Watch makes these the names that are looked up. It never blocks. A name that is not among them is forgotten.
func (r *Resolver) Watch(names []string) {
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[n] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, known := range r.names {
		if !wanted[n] {
			if known.cancel != nil {
				known.cancel()
			}
			if len(known.Addresses) > 0 {
				r.changes++
			}
			delete(r.names, n)
		}
	}
	for _, n := range names {
		if r.names[n] == nil {
			r.names[n] = &name{Resolved: Resolved{Name: n}}
		}
	}
	r.wake()
}

// Status is what is known of every watched name, sorted by name. The caller does not change it.
func (r *Resolver) Status() []Resolved {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Resolved
	for _, n := range slices.Sorted(maps.Keys(r.names)) {
		all = append(all, r.names[n].Resolved)
	}
	return all
}

// Settle waits until every watched name was looked up at least once and the sink knows, or ctx ends. Run must run.
func (r *Resolver) Settle(ctx context.Context) {
	for {
		r.mu.Lock()
		settled, turned := r.changes == r.told, r.turned
		for _, n := range r.names {
			settled = settled && n.tried
		}
		r.mu.Unlock()
		if settled {
			return
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Resolver) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// Run looks names up until ctx ends, and returns when no lookup is under way any more.
func (r *Resolver) Run(ctx context.Context) {
	var lookups sync.WaitGroup
	defer lookups.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		}
		r.mu.Lock()
		for _, n := range r.names {
			if n.cancel == nil {
				var watched context.Context
				watched, n.cancel = context.WithCancel(ctx)
				lookups.Go(func() { r.follow(watched, n) })
			}
		}
		changes := r.changes
		var all map[string][]netip.Addr
		if changes != r.told {
			all = r.addresses()
		}
		r.mu.Unlock()
		if all != nil {
			r.cfg.Sink(all)
		}
		r.mu.Lock()
		r.told = changes
		close(r.turned)
		r.turned = make(chan struct{})
		r.mu.Unlock()
	}
}

// addresses are those of every name that has any; r.mu is held.
func (r *Resolver) addresses() map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, n := range r.names {
		if len(n.Addresses) > 0 {
			all[n.Name] = slices.Clone(n.Addresses)
		}
	}
	return all
}

// follow looks one name up again and again, until ctx ends.
func (r *Resolver) follow(ctx context.Context, n *name) {
	defer n.cancel()
	for {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		found, err := r.find(ctx, n.Name)
		<-r.slots
		if ctx.Err() != nil {
			return
		}
		r.settle(n, found, err)
		select {
		case <-time.After(r.cfg.Every):
		case <-ctx.Done():
			return
		}
	}
}

// find looks a name up once. Without an error there is at least one address.
func (r *Resolver) find(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	found, err := r.cfg.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errEmpty
	}
	all := make([]netip.Addr, len(found))
	for i, a := range found {
		all[i] = a.Unmap()
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), nil
}

// settle notes how a lookup ended, and tells the log what is new about it.
func (r *Resolver) settle(n *name, found []netip.Addr, err error) {
	r.mu.Lock()
	failed, changed := n.Err, err == nil && !slices.Equal(found, n.Addresses)
	n.tried, n.Err = true, err
	if err == nil {
		n.At = r.cfg.Now()
	}
	if changed {
		n.Addresses = found
		if r.names[n.Name] == n { // else it is watched no longer
			r.changes++
		}
	}
	last := n.Addresses
	r.wake()
	r.mu.Unlock()
	switch {
	case err != nil && failed == nil:
		r.cfg.Log.Warn("a name does not resolve; the last addresses stay", "name", n.Name, "addresses", last, "error", err)
	case err == nil && (changed || failed != nil):
		r.cfg.Log.Info("a name resolves", "name", n.Name, "addresses", last)
	}
}
