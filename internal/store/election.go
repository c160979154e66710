package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Leadership is one term of having been elected. Writes that stand on it are refused once it is over.
type Leadership struct {
	client   *clientv3.Client
	session  *concurrency.Session
	key      string
	revision int64
}

// Campaign waits until this candidate is the leader of the named election, or until ctx ends. The leadership lasts until
// Resign, or Options.LeaderTTL after the last sign of life of this process. Candidates lead in the order in which they
// came.
func (s *Store) Campaign(ctx context.Context, election, candidate string) (*Leadership, error) {
	prefix, err := key("election", election)
	if err != nil {
		return nil, err
	}
	lease, err := s.client.Grant(ctx, int64(s.opts.LeaderTTL.Seconds()))
	if err != nil {
		return nil, fmt.Errorf("election %s: %w", election, s.wrap(err))
	}
	// The session outlives ctx, which bounds only the campaign; it ends with the store.
	session, err := concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithContext(s.ctx))
	if err != nil {
		return nil, fmt.Errorf("election %s: %w", election, s.wrap(err))
	}
	l := &Leadership{client: s.client, session: session, key: prefix + "/" + strconv.FormatInt(int64(lease.ID), 16)}
	if err := s.elect(ctx, l, prefix, candidate); err != nil {
		// Whoever waits behind need not wait for the lease; when the etcd is away, it has to.
		last, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		_ = l.Resign(last)
		return nil, fmt.Errorf("election %s: %w", election, s.wrap(err))
	}
	return l, nil
}

var errExpired = errors.New("the candidate's lease expired while it waited")

// elect queues up and waits until nobody is before us.
func (s *Store) elect(ctx context.Context, l *Leadership, prefix, candidate string) error {
	// A candidate whose lease expires has lost its place: end the wait instead of waiting for ever.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.session.Ctx(), func() { cancel(errExpired) })()
	put, err := s.client.Put(ctx, l.key, candidate, clientv3.WithLease(l.session.Lease()))
	if err != nil {
		return because(ctx, err)
	}
	l.revision = put.Header.Revision
	for {
		before, err := s.client.Get(ctx, prefix+"/", append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(l.revision-1))...)
		if err != nil {
			return because(ctx, err)
		}
		if len(before.Kvs) == 0 {
			return nil
		}
		if err := s.gone(ctx, string(before.Kvs[0].Key), before.Header.Revision+1); err != nil {
			return because(ctx, err)
		}
	}
}

// gone waits until a key is deleted, or for anything that makes it worth while to look again.
func (s *Store) gone(ctx context.Context, key string, from int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, ok := <-s.client.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithRev(from))
	switch err := w.Err(); {
	case !ok:
		return ctx.Err()
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil
	default:
		return err
	}
}

// because says why a context ended, when that is what err is about.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Leader returns the candidate that leads the named election now. ErrNotFound when nobody does.
func (s *Store) Leader(ctx context.Context, election string) (string, error) {
	prefix, err := key("election", election)
	if err != nil {
		return "", err
	}
	got, err := s.client.Get(ctx, prefix+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return "", s.wrap(err)
	}
	if len(got.Kvs) == 0 {
		return "", fmt.Errorf("leader of %s: %w", election, ErrNotFound)
	}
	return string(got.Kvs[0].Value), nil
}

// Done is closed when this process can no longer count on leading: its lease ended or could not be renewed in time, or
// it resigned.
func (l *Leadership) Done() <-chan struct{} { return l.session.Done() }

// Resign gives the leadership up at once; the next candidate need not wait for the lease. With an error it does.
func (l *Leadership) Resign(ctx context.Context) error {
	l.session.Orphan()
	_, err := l.client.Revoke(ctx, l.session.Lease())
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// held is the fence: the election key is the one that was created for this term.
func (l *Leadership) held() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision)
}
