package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// State is what is kept of a rollout in one region. The store does not read Data.
type State struct {
	Rollout, Region string
	// Digest is what the state is about. It names the halt that would refuse the write, so that only one that is Down may go
	// without. It is not stored.
	Digest string
	// Down says that the state leaves the canary no share and no way up by itself (halted, aborted, rolled back). Such a
	// state is written beside a halt; any other is refused. It is not stored.
	Down bool
	// Data is JSON of at most MaxState bytes.
	Data json.RawMessage
}

// Halt is the fact that one build is not to be served as a canary in one region.
type Halt struct {
	Rollout string    `json:"rollout"`
	Region  string    `json:"region"`
	Digest  string    `json:"digest"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at"`
}

// Rollouts is everything that is kept of rollouts, as it was at one store revision.
type Rollouts struct {
	States        []State
	Halts         []Halt
	StoreRevision int64
}

// Rollouts reads states and halts together, so that no state is seen without the halts that it was written beside.
func (s *Store) Rollouts(ctx context.Context) (Rollouts, error) {
	resp, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(root+"state/", clientv3.WithPrefix()),
		clientv3.OpGet(root+"halt/", clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return Rollouts{}, s.wrap(err)
	}
	out := Rollouts{StoreRevision: resp.Header.Revision}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		out.States = append(out.States, decodeState(kv.Key, kv.Value))
	}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		h, err := decodeHalt(kv.Key, kv.Value)
		if err != nil {
			return Rollouts{}, err
		}
		out.Halts = append(out.Halts, h)
	}
	return out, nil
}

// SaveState writes a state if l is still held and no halt stands against it, in one transaction: ErrFenced, ErrHalted
// (also when both). After an error of the context or the connection it may have been written or not.
func (s *Store) SaveState(ctx context.Context, l *Leadership, st State) error {
	path, err := key("state", st.Rollout, st.Region)
	if err != nil {
		return err
	}
	if len(st.Data) > MaxState {
		return fmt.Errorf("state of %s in %s: %w: %d bytes, of at most %d", st.Rollout, st.Region, ErrTooLarge, len(st.Data), MaxState)
	}
	conditions := []clientv3.Cmp{l.held()}
	var otherwise []clientv3.Op
	if !st.Down {
		halt, err := haltKey(st.Rollout, st.Region, st.Digest)
		if err != nil {
			return err
		}
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(halt), "=", 0))
		otherwise = append(otherwise, clientv3.OpGet(halt))
	}
	resp, err := s.client.Txn(ctx).If(conditions...).Then(clientv3.OpPut(path, string(st.Data))).Else(otherwise...).Commit()
	if err != nil {
		return s.wrap(err)
	}
	if resp.Succeeded {
		return nil
	}
	if len(otherwise) > 0 {
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			h, err := decodeHalt(kvs[0].Key, kvs[0].Value)
			if err != nil {
				return errors.Join(ErrHalted, err)
			}
			return fmt.Errorf("state of %s in %s: %w since %s: %s", st.Rollout, st.Region, ErrHalted, h.At.Format(time.RFC3339), h.Reason)
		}
	}
	return fmt.Errorf("state of %s in %s: %w", st.Rollout, st.Region, ErrFenced)
}

// Halt records a halt, by anyone, at any time, and returns the one that stands: the first of this rollout, region and
// digest. Repeating it changes nothing.
func (s *Store) Halt(ctx context.Context, h Halt) (Halt, error) {
	path, err := haltKey(h.Rollout, h.Region, h.Digest)
	if err != nil {
		return Halt{}, err
	}
	value, err := json.Marshal(h)
	if err != nil {
		return Halt{}, err
	}
	if len(value) > MaxEvent {
		return Halt{}, fmt.Errorf("halt of %s in %s: %w: %d bytes, of at most %d", h.Rollout, h.Region, ErrTooLarge, len(value), MaxEvent)
	}
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(path), "=", 0)).
		Then(clientv3.OpPut(path, string(value))).
		Else(clientv3.OpGet(path)).
		Commit()
	if err != nil {
		return Halt{}, s.wrap(err)
	}
	if resp.Succeeded {
		return h, nil
	}
	kv := resp.Responses[0].GetResponseRange().Kvs[0]
	return decodeHalt(kv.Key, kv.Value)
}

func haltKey(rollout, region, digest string) (string, error) {
	return key("halt", rollout, region, digest)
}

func decodeState(path, value []byte) State {
	rollout, region, _ := strings.Cut(strings.TrimPrefix(string(path), root+"state/"), "/")
	st := State{Rollout: rollout, Region: region}
	if len(value) > 0 {
		st.Data = value
	}
	return st
}

func decodeHalt(path, value []byte) (Halt, error) {
	var h Halt
	if err := json.Unmarshal(value, &h); err != nil {
		return Halt{}, fmt.Errorf("%s: stored halt: %w", path, err)
	}
	return h, nil
}
