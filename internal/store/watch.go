package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Change is what one apply changed.
type Change struct {
	// StoreRevision is the one after the change.
	StoreRevision int64
	Revisions     []Revision
	// Resync says that changes were missed (Revisions is empty): read Documents again.
	Resync bool
}

// Watch tells of every change of documents after the store revision from, one message per apply, in order. A watcher
// that lags so far that history is gone gets a Resync and goes on from there. The channel closes when ctx ends or the
// store closes.
func (s *Store) Watch(ctx context.Context, from int64) <-chan Change {
	return watch(s, ctx, root+"doc/", from, func(rev int64, events []*clientv3.Event) (Change, bool) {
		if len(events) == 0 {
			return Change{StoreRevision: rev, Resync: true}, true
		}
		c := Change{StoreRevision: rev}
		for _, e := range events {
			r, err := decodeRevision(e.Kv.Value)
			if err != nil {
				return Change{StoreRevision: rev, Resync: true}, true
			}
			c.Revisions = append(c.Revisions, r)
		}
		return c, true
	})
}

// watch sends what decode makes of the events of each store revision after from. decode gets no events when some were
// missed.
func watch[T any](s *Store, ctx context.Context, prefix string, from int64, decode func(rev int64, events []*clientv3.Event) (T, bool)) <-chan T {
	out := make(chan T)
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		close(out)
		return out
	}
	s.watches.Add(1)
	stop := context.AfterFunc(s.ctx, cancel)
	go func() {
		defer s.watches.Done()
		defer close(out)
		defer stop()
		defer cancel()
		for ctx.Err() == nil {
			from = watchOnce(s, ctx, prefix, from, func(rev int64, events []*clientv3.Event) bool {
				v, ok := decode(rev, events)
				if !ok {
					return true
				}
				select {
				case out <- v:
					return true
				case <-ctx.Done():
					return false
				}
			})
			// The etcd lost its leader or the watch: the client's own reconnects do not come here.
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// watchOnce watches until the watch breaks and returns the revision up to which everything was told.
func watchOnce(s *Store, ctx context.Context, prefix string, from int64, tell func(int64, []*clientv3.Event) bool) int64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := range s.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1)) {
		if w.CompactRevision > 0 || errors.Is(w.Err(), rpctypes.ErrCompacted) {
			got, err := s.client.Get(ctx, root+"generation", clientv3.WithCountOnly())
			if err != nil {
				return from
			}
			tell(got.Header.Revision, nil)
			return got.Header.Revision
		}
		if w.Err() != nil {
			return from
		}
		// One response may hold several revisions, never a part of one.
		for events := w.Events; len(events) > 0; {
			rev, n := events[0].Kv.ModRevision, 1
			for n < len(events) && events[n].Kv.ModRevision == rev {
				n++
			}
			if !tell(rev, events[:n]) {
				return from
			}
			from, events = rev, events[n:]
		}
	}
	return from
}

func deleted(e *clientv3.Event) bool { return e.Type == mvccpb.Event_DELETE }
