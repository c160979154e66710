package store

import "context"

// Compact forgets etcd's history before a revision, as its own compactor does after a while.
func Compact(ctx context.Context, s *Store, rev int64) error {
	_, err := s.client.Compact(ctx, rev)
	return err
}
