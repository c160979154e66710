package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/internal/admin"
	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// plane is a control plane that decides nothing: documents are real, rollouts and proxies are what a script says.
type plane struct {
	address string
	store   *store.Store
	server  *admin.Server

	mu       sync.Mutex
	statuses map[string]*aviaryv1.RolloutStatus
	proxies  []*aviaryv1.ProxyStatus
	regions  []*aviaryv1.RegionState
	refusal  string
	changed  chan struct{} // closed and replaced by every change
	stopped  bool
}

func servePlane(dir string, opts ...grpc.ServerOption) (*plane, error) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.OpenEmbedded(context.Background(), dir, store.Options{Logger: quiet})
	if err != nil {
		return nil, err
	}
	p := &plane{store: s, statuses: map[string]*aviaryv1.RolloutStatus{}, changed: make(chan struct{})}
	if p.server, err = admin.New(admin.Config{Store: s, Rollouts: p, Proxies: p.listProxies, Regions: p, Version: "v0-test", Log: quiet}, opts...); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.address = l.Addr().String()
	go p.server.Serve(l)
	return p, nil
}

func (p *plane) stop() {
	p.mu.Lock()
	again := p.stopped
	p.stopped = true
	p.mu.Unlock()
	if again {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p.server.Stop(ctx)
	_ = p.store.Close()
}

// change runs f under the lock and wakes watchers.
func (p *plane) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plane) listProxies() []*aviaryv1.ProxyStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proxies
}

func (p *plane) Regions(context.Context) ([]*aviaryv1.RegionState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.regions, nil
}

// Act shows what was asked in the status that comes back.
func (p *plane) Act(_ context.Context, name string, a rollout.Action) error {
	p.mu.Lock()
	st, refusal := p.statuses[name], p.refusal
	p.mu.Unlock()
	if st == nil {
		return fmt.Errorf("%s: %w rollout %s", a.Verb, rollout.ErrUnknown, name)
	}
	if refusal != "" {
		return fmt.Errorf("%s %w: %s", a.Verb, rollout.ErrRefused, refusal)
	}
	p.change(func() {
		st = proto.CloneOf(st)
		for _, r := range st.Regions {
			if len(a.Regions) == 0 || slices.Contains(a.Regions, r.Region) {
				r.Reason, r.Message = "Asked", fmt.Sprintf("%s by %s: %s", a.Verb, a.Author, a.Reason)
			}
		}
		p.statuses[name] = st
	})
	return nil
}

func (p *plane) Status(_ context.Context, name string) (*aviaryv1.RolloutStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st, ok := p.statuses[name]
	if !ok {
		return nil, fmt.Errorf("%w rollout %s", rollout.ErrUnknown, name)
	}
	return st, nil
}

func (p *plane) List(context.Context) ([]*aviaryv1.RolloutStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*aviaryv1.RolloutStatus
	for _, st := range p.statuses {
		all = append(all, st)
	}
	return all, nil
}

func (p *plane) Watch(ctx context.Context, name string) (<-chan *aviaryv1.RolloutStatus, error) {
	if _, err := p.Status(ctx, name); err != nil {
		return nil, err
	}
	out := make(chan *aviaryv1.RolloutStatus)
	go func() {
		defer close(out)
		for {
			p.mu.Lock()
			st, changed := p.statuses[name], p.changed
			p.mu.Unlock()
			select {
			case out <- st:
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}
