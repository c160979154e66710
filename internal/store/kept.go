package store

import (
	"context"
	"fmt"
)

// Keep replaces a record, of at most MaxHandover bytes, that the next process reads at its start. Unlike a hand-over it is
// there after a crash, and is read as often as one likes.
func (s *Store) Keep(ctx context.Context, name string, data []byte) error {
	return s.putRecord(ctx, "kept", name, data)
}

// Kept returns the record; ErrNotFound when there is none.
func (s *Store) Kept(ctx context.Context, name string) ([]byte, error) {
	path, err := key("kept", name)
	if err != nil {
		return nil, err
	}
	got, err := s.client.Get(ctx, path)
	if err != nil {
		return nil, s.wrap(err)
	}
	if len(got.Kvs) == 0 {
		return nil, fmt.Errorf("kept %s: %w", name, ErrNotFound)
	}
	return got.Kvs[0].Value, nil
}
