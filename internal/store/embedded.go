package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const (
	// A batch of this many documents is one transaction of at most twice as many writes and one more.
	maxBatch   = 5_000
	maxRequest = 32 << 20
	quota      = 4 << 30
	// A member that is not ready by then never will be: its directory is not whole.
	readyWithin = time.Minute
	// Watches that lag by more than this start over with a resync; nothing else needs etcd's own history.
	compactAfter = "10m"
)

// OpenEmbedded runs an etcd of one member in dir (made if missing), with fsync and without any open port: only this
// process reaches it. A second process on the same dir gets ErrLocked at once.
func OpenEmbedded(ctx context.Context, dir string, o Options) (_ *Store, err error) {
	o = o.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unlock()
		}
	}()

	cfg := embed.NewConfig()
	cfg.Name = "aviary"
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertiseClientUrls = nil
	// A member has to be called something; nobody listens there.
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// Alone, it has nobody to wait for before it elects itself.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.EnableGRPCGateway = false
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = compactAfter
	cfg.QuotaBackendBytes = quota
	cfg.MaxTxnOps = 2*maxBatch + 1
	cfg.MaxRequestBytes = maxRequest
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(o.Logger))

	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("embedded etcd in %s: %w", cfg.Dir, err)
	case <-ctx.Done():
		e.Close()
		return nil, fmt.Errorf("embedded etcd in %s did not become ready: %w; if the directory is not whole, put a backup in its place", cfg.Dir, ctx.Err())
	}
	c := v3client.New(e.Server)
	s := newStore(c, o, func() error {
		err := c.Close()
		e.Close()
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, unlock())
	})
	// Whoever led here before is gone, since the directory is ours: nobody has to wait until its lease ends.
	if err := s.endLeaderships(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("embedded etcd in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func (s *Store) endLeaderships(ctx context.Context) error {
	got, err := s.client.Get(ctx, root+"election/", clientv3.WithPrefix())
	if err != nil {
		return s.wrap(err)
	}
	for _, kv := range got.Kvs {
		if _, err := s.client.Delete(ctx, string(kv.Key)); err != nil {
			return s.wrap(err)
		}
	}
	return nil
}
