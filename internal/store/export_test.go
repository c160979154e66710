package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Compact forgets etcd's history before a revision, as its own compactor does after a while.
func Compact(ctx context.Context, s *Store, rev int64) error {
	_, err := s.client.Compact(ctx, rev)
	return err
}

// WaitForCandidates waits until n candidates are queued up.
func WaitForCandidates(ctx context.Context, s *Store, n int64) {
	for ctx.Err() == nil {
		got, err := s.client.Get(ctx, root+"election/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && got.Count == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// RevokeLeases ends every lease.
func RevokeLeases(ctx context.Context, s *Store) error {
	leases, err := s.client.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		if _, err := s.client.Revoke(ctx, l.ID); err != nil {
			return err
		}
	}
	return nil
}
