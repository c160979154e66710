package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Leadership is one term of having been elected. Writes that stand on it are refused once it is over.
type Leadership struct {
	session  *concurrency.Session
	election *concurrency.Election
	key      string
	revision int64
}

// Campaign waits until this candidate is the leader of the named election, or until ctx ends. The leadership lasts until
// Resign, or Options.LeaderTTL after the last sign of life of this process.
func (s *Store) Campaign(ctx context.Context, election, candidate string) (*Leadership, error) {
	prefix, err := key("election", election)
	if err != nil {
		return nil, err
	}
	// The session lives longer than ctx, which bounds only the campaign; it ends with the store.
	session, err := s.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("election %s: %w", election, s.wrap(err))
	}
	e := concurrency.NewElection(session, prefix)
	// A session that expires while it waits has lost its place in the queue: end the wait instead of waiting for ever.
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(session.Ctx(), func() { cancel(errors.New("the candidate's lease expired")) })
	defer stop()
	if err := e.Campaign(wait, candidate); err != nil {
		_ = session.Close()
		if wait.Err() != nil {
			err = context.Cause(wait)
		}
		return nil, fmt.Errorf("election %s: %w", election, s.wrap(err))
	}
	return &Leadership{session: session, election: e, key: e.Key(), revision: e.Rev()}, nil
}

// session grants a lease and keeps it alive until it is closed or the store is.
func (s *Store) session(ctx context.Context) (*concurrency.Session, error) {
	lease, err := s.client.Grant(ctx, int64(s.opts.LeaderTTL.Seconds()))
	if err != nil {
		return nil, err
	}
	return concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithContext(s.ctx))
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

// Resign gives the leadership up at once; the next candidate need not wait for the lease.
func (l *Leadership) Resign(ctx context.Context) error {
	return errors.Join(l.election.Resign(ctx), l.session.Close())
}

func (l *Leadership) held() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.key), "=", l.revision)
}
