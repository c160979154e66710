package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is something that happened to a rollout and is told afterwards. The store does not read it.
type Event struct {
	Rollout string `json:"rollout"`
	// Number counts the events of a rollout from 1; the store gives it.
	Number  int64     `json:"number"`
	Region  string    `json:"region,omitempty"`
	At      time.Time `json:"at"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	// By is the person who acted, "" when Aviary did.
	By string `json:"by,omitempty"`
	// Data is what the decision read.
	Data json.RawMessage `json:"data,omitempty"`
}

// Append writes events of one rollout in their order and forgets the oldest beyond Options.KeepEvents. It returns the
// number of the last one.
func (s *Store) Append(ctx context.Context, rollout string, events ...Event) (int64, error) {
	counter, err := key("eventseq", rollout)
	if err != nil {
		return 0, err
	}
	if len(events) > 100 {
		return 0, fmt.Errorf("events of %s: %w: %d at once, of at most 100", rollout, ErrTooLarge, len(events))
	}
	for {
		last, mod, err := s.lastEvent(ctx, counter)
		if err != nil {
			return 0, err
		}
		if len(events) == 0 {
			return last, nil
		}
		var ops []clientv3.Op
		for _, e := range events {
			last++
			e.Rollout, e.Number = rollout, last
			value, err := json.Marshal(e)
			if err != nil {
				return 0, fmt.Errorf("event of %s: %w", rollout, err)
			}
			if len(value) > MaxEvent {
				return 0, fmt.Errorf("event of %s: %w: %d bytes, of at most %d", rollout, ErrTooLarge, len(value), MaxEvent)
			}
			ops = append(ops, clientv3.OpPut(eventKey(rollout, last), string(value)))
		}
		ops = append(ops, clientv3.OpPut(counter, strconv.FormatInt(last, 10)))
		if oldest := last - int64(s.opts.KeepEvents) + 1; oldest > 1 {
			ops = append(ops, clientv3.OpDelete(eventKey(rollout, 0), clientv3.WithRange(eventKey(rollout, oldest))))
		}
		resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(counter), "=", mod)).Then(ops...).Commit()
		if err != nil {
			return 0, s.wrap(err)
		}
		if resp.Succeeded {
			return last, nil
		}
		// Another writer took the numbers: one of us always gets on.
	}
}

func (s *Store) lastEvent(ctx context.Context, counter string) (last, mod int64, err error) {
	got, err := s.client.Get(ctx, counter)
	if err != nil {
		return 0, 0, s.wrap(err)
	}
	if len(got.Kvs) == 0 {
		return 0, 0, nil
	}
	last, err = strconv.ParseInt(string(got.Kvs[0].Value), 10, 64)
	return last, got.Kvs[0].ModRevision, err
}

// Events returns the kept events of a rollout with numbers above after, in order. With rollout "", those of every
// rollout in the order of their time; after applies to each.
func (s *Store) Events(ctx context.Context, rollout string, after int64) ([]Event, error) {
	out, _, err := s.events(ctx, rollout, after)
	return out, err
}

func (s *Store) events(ctx context.Context, rollout string, after int64) ([]Event, int64, error) {
	from, end, err := eventRange(rollout, after)
	if err != nil {
		return nil, 0, err
	}
	got, err := s.client.Get(ctx, from, clientv3.WithRange(end))
	if err != nil {
		return nil, 0, s.wrap(err)
	}
	var out []Event
	for _, kv := range got.Kvs {
		var e Event
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return nil, 0, fmt.Errorf("%s: stored event: %w", kv.Key, err)
		}
		if e.Number > after {
			out = append(out, e)
		}
	}
	if rollout == "" {
		slices.SortStableFunc(out, func(a, b Event) int {
			return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Rollout, b.Rollout), cmp.Compare(a.Number, b.Number))
		})
	}
	return out, got.Header.Revision, nil
}

// WatchEvents sends the kept events with numbers above after, as Events returns them, and then every new one. A watcher
// that lags skips what is no longer kept. The channel closes when ctx ends or the store closes.
func (s *Store) WatchEvents(ctx context.Context, rollout string, after int64) (<-chan Event, error) {
	kept, rev, err := s.events(ctx, rollout, after)
	if err != nil {
		return nil, err
	}
	prefix := root + "event/"
	if rollout != "" {
		prefix += rollout + "/"
	}
	ctx, cancel := context.WithCancel(ctx)
	changes := watch(s, ctx, prefix, rev, func(_ int64, events []*clientv3.Event) ([]*clientv3.Event, bool) {
		return events, true
	})
	out := make(chan Event)
	go func() {
		defer close(out)
		defer cancel()
		told := map[string]int64{}
		tell := func(e Event) bool {
			if e.Number <= max(told[e.Rollout], after) {
				return true
			}
			select {
			case out <- e:
				told[e.Rollout] = e.Number
				return true
			case <-ctx.Done():
				return false
			case <-s.ctx.Done():
				return false
			}
		}
		for _, e := range kept {
			if !tell(e) {
				return
			}
		}
		for events := range changes {
			if events == nil { // missed some: the kept ones are all there is
				if kept, _, err = s.events(ctx, rollout, after); err != nil {
					return
				}
				for _, e := range kept {
					if !tell(e) {
						return
					}
				}
			}
			for _, ev := range events {
				var e Event
				if deleted(ev) || json.Unmarshal(ev.Kv.Value, &e) != nil {
					continue
				}
				if !tell(e) {
					return
				}
			}
		}
	}()
	return out, nil
}

func eventRange(rollout string, after int64) (from, end string, err error) {
	if rollout == "" {
		return root + "event/", clientv3.GetPrefixRangeEnd(root + "event/"), nil
	}
	path, err := key("event", rollout)
	if err != nil {
		return "", "", err
	}
	return eventKey(rollout, after+1), clientv3.GetPrefixRangeEnd(path + "/"), nil
}

func eventKey(rollout string, number int64) string {
	return root + "event/" + rollout + "/" + numeral(number)
}
