package store

import (
	"context"
	"fmt"
)

// Keep replaces a record, of at most MaxHandover bytes, that the next process reads at its start. Unlike a hand-over it is
// there after a crash, and is read as often as one likes.
func (s *Store) Keep(ctx context.Context, name string, data []byte) error {
	path, err := key("kept", name)
	if err != nil {
		return err
	}
	if len(data) > MaxHandover {
		return fmt.Errorf("record %s: %w: %d bytes, of at most %d", name, ErrTooLarge, len(data), MaxHandover)
	}
	_, err = s.client.Put(ctx, path, string(data))
	return s.wrap(err)
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
		return nil, fmt.Errorf("record %s: %w", name, ErrNotFound)
	}
	return got.Kvs[0].Value, nil
}
