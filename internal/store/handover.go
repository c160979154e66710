package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// PutHandover leaves a record, of at most MaxHandover bytes, for the next process of that name; it replaces an older one.
func (s *Store) PutHandover(ctx context.Context, name string, data []byte) error {
	return s.putRecord(ctx, "handover", name, data)
}

// putRecord replaces a record of a kind.
func (s *Store) putRecord(ctx context.Context, kind, name string, data []byte) error {
	path, err := key(kind, name)
	if err != nil {
		return err
	}
	if len(data) > MaxHandover {
		return fmt.Errorf("%s %s: %w: %d bytes, of at most %d", kind, name, ErrTooLarge, len(data), MaxHandover)
	}
	_, err = s.client.Put(ctx, path, string(data))
	return s.wrap(err)
}

// TakeHandover returns the record and removes it in the same act: it is taken once. ErrNotFound when there is none.
func (s *Store) TakeHandover(ctx context.Context, name string) ([]byte, error) {
	path, err := key("handover", name)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Delete(ctx, path, clientv3.WithPrevKV())
	if err != nil {
		return nil, s.wrap(err)
	}
	if len(resp.PrevKvs) == 0 {
		return nil, fmt.Errorf("handover %s: %w", name, ErrNotFound)
	}
	return resp.PrevKvs[0].Value, nil
}
