package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/aviary-mesh/aviary/internal/store"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

var quiet = store.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), KeepEvents: 5, LeaderTTL: 2 * time.Second}

// backends opens each kind of store on an etcd of its own; compact forgets what etcd knows of older revisions.
var backends = map[string]func(t *testing.T) (s *store.Store, compact func(rev int64)){
	"embedded": func(t *testing.T) (*store.Store, func(int64)) {
		s, err := store.OpenEmbedded(t.Context(), t.TempDir(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closed(t, s) })
		return s, func(rev int64) {
			if err := store.Compact(t.Context(), s, rev); err != nil {
				t.Fatal(err)
			}
		}
	},
	"external": func(t *testing.T) (*store.Store, func(int64)) {
		endpoint := serveEtcd(t)
		s, err := store.OpenExternal(t.Context(), []string{endpoint}, nil, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closed(t, s) })
		return s, func(rev int64) {
			if err := store.Compact(t.Context(), s, rev); err != nil {
				t.Fatal(err)
			}
		}
	},
}

func closed(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// serveEtcd runs an etcd as an operator would, with its default limits.
func serveEtcd(t *testing.T) string {
	t.Helper()
	u := url.URL{Scheme: "unix", Path: shortDir(t) + "/etcd.sock"}
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{u}, []url.URL{u}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return u.String()
}

// each runs one case of the contract on every backend.
func each(t *testing.T, f func(t *testing.T, s *store.Store, compact func(int64))) {
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, compact := open(t)
			f(t, s, compact)
		})
	}
}

func region(name string, zones ...string) *aviaryv1.Document {
	return &aviaryv1.Document{
		Metadata: &aviaryv1.Metadata{Name: name},
		Spec:     &aviaryv1.Document_Region{Region: &aviaryv1.RegionSpec{Zones: zones}},
	}
}

func content(d *aviaryv1.Document) store.Content {
	return store.Content{Document: d, Hash: fmt.Sprint(d.GetRegion().GetZones())}
}

func apply(t *testing.T, s *store.Store, expected int64, docs ...*aviaryv1.Document) ([]store.Applied, int64) {
	t.Helper()
	b := store.Batch{Author: "ann", Reason: "because", Expected: expected}
	for _, d := range docs {
		b.Documents = append(b.Documents, content(d))
	}
	out, rev, err := s.Apply(t.Context(), b)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return out, rev
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatal("channel closed")
		}
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestAnApplyMakesImmutableRevisions(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		before := time.Now().Add(-time.Minute)
		out, rev := apply(t, s, 0, region("eu", "a"), region("us", "a"))
		if out[0].Outcome != store.Created || out[1].Number != 1 || out[0].Author != "ann" || out[0].At.Before(before) {
			t.Fatalf("first apply: %+v", out)
		}
		out, rev = apply(t, s, rev, region("us", "a"), region("eu", "a", "b"))
		if out[0].Outcome != store.Unchanged || out[0].Number != 1 || out[1].Outcome != store.Updated || out[1].Number != 2 {
			t.Fatalf("second apply: %+v", out)
		}
		docs, read, err := s.Documents(t.Context())
		if err != nil || len(docs) != 2 || read < rev {
			t.Fatalf("%+v at %d: %v", docs, read, err)
		}
		if diff := cmp.Diff(region("eu", "a", "b"), docs[0].Document, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		again, same := apply(t, s, rev, region("us", "a"), region("eu", "a", "b"))
		if again[0].Outcome != store.Unchanged || again[1].Outcome != store.Unchanged || same != rev {
			t.Fatalf("the same again: %+v at %d, want %d", again, same, rev)
		}
		eu := store.Key{Kind: store.Region, Name: "eu"}
		history, err := s.History(t.Context(), eu)
		if err != nil || len(history) != 2 || history[0].Number != 2 || history[1].Number != 1 {
			t.Fatalf("history %+v: %v", history, err)
		}
		old, err := s.Revision(t.Context(), eu, 1)
		if err != nil || !cmp.Equal(region("eu", "a"), old.Document, protocmp.Transform()) {
			t.Fatalf("revision 1: %+v: %v", old, err)
		}
		_, err = s.Revision(t.Context(), eu, 3)
		is(t, err, store.ErrNotFound)
	})
}

func TestADeletionIsARevisionAndHistoryGoesOnAfterIt(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		eu := store.Key{Kind: store.Region, Name: "eu"}
		_, rev := apply(t, s, 0, region("eu", "a"))
		gone, rev, err := s.Delete(t.Context(), eu, "bob", "moved", rev)
		if err != nil || gone.Outcome != store.Deleted || gone.Number != 2 || !gone.Deleted {
			t.Fatalf("%+v: %v", gone, err)
		}
		_, err = s.Get(t.Context(), eu)
		is(t, err, store.ErrNotFound)
		if docs, _, err := s.Documents(t.Context()); err != nil || len(docs) != 0 {
			t.Fatalf("%+v: %v", docs, err)
		}
		_, _, err = s.Delete(t.Context(), eu, "bob", "", rev)
		is(t, err, store.ErrNotFound)
		out, _ := apply(t, s, rev, region("eu", "a"))
		if out[0].Outcome != store.Created || out[0].Number != 3 {
			t.Fatalf("declared again: %+v", out)
		}
		history, err := s.History(t.Context(), eu)
		if err != nil || len(history) != 3 || !history[1].Deleted || history[1].Author != "bob" {
			t.Fatalf("%+v: %v", history, err)
		}
	})
}

func TestAnApplyAgainstAnOldReadIsRefusedWhole(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		_, rev := apply(t, s, 0, region("eu", "a"))
		apply(t, s, rev, region("us", "a"))
		for _, docs := range [][]store.Content{
			{content(region("eu", "b")), content(region("ap", "a"))},
			{content(region("eu", "a"))}, // unchanged, but validated against a set that is no more
		} {
			_, _, err := s.Apply(t.Context(), store.Batch{Documents: docs, Expected: rev})
			is(t, err, store.ErrConflict)
		}
		docs, _, err := s.Documents(t.Context())
		if err != nil || len(docs) != 2 || docs[0].Number != 1 {
			t.Fatalf("%+v: %v", docs, err)
		}
	})
}

func TestOfConcurrentAppliesOnTheSameReadOneWins(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				_, _, errs[i] = s.Apply(t.Context(), store.Batch{Documents: []store.Content{content(region(fmt.Sprintf("r%d", i), "a"))}})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				is(t, err, store.ErrConflict)
			}
		}
		if won != 1 {
			t.Fatalf("%d won: %v", won, errs)
		}
	})
}

func TestABatchThatCannotBeIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		big := region("eu", string(make([]byte, store.MaxDocument)))
		for name, c := range map[string]struct {
			batch store.Batch
			want  error
		}{
			"twice":       {store.Batch{Documents: []store.Content{content(region("eu", "a")), content(region("eu", "b"))}}, store.ErrInvalid},
			"no kind":     {store.Batch{Documents: []store.Content{{Document: &aviaryv1.Document{}, Hash: "x"}}}, store.ErrInvalid},
			"slash":       {store.Batch{Documents: []store.Content{content(region("e/u", "b"))}}, store.ErrInvalid},
			"no hash":     {store.Batch{Documents: []store.Content{{Document: region("eu", "a")}}}, store.ErrInvalid},
			"huge":        {store.Batch{Documents: []store.Content{content(big)}}, store.ErrTooLarge},
			"not there":   {store.Batch{Deletes: []store.Key{{Kind: store.Region, Name: "eu"}}}, store.ErrNotFound},
			"a good part": {store.Batch{Documents: []store.Content{content(region("us", "a"))}, Deletes: []store.Key{{Kind: store.Region, Name: "eu"}}}, store.ErrNotFound},
		} {
			_, _, err := s.Apply(t.Context(), c.batch)
			if !errors.Is(err, c.want) {
				t.Errorf("%s: error %v, want %v", name, err, c.want)
			}
		}
		if docs, _, err := s.Documents(t.Context()); err != nil || len(docs) != 0 {
			t.Fatalf("%+v: %v", docs, err)
		}
	})
}

func TestAWatchTellsEveryApplyInOrder(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		_, rev := apply(t, s, 0, region("eu", "a"))
		changes := s.Watch(t.Context(), rev)
		_, second := apply(t, s, rev, region("eu", "b"), region("us", "a"))
		if _, _, err := s.Delete(t.Context(), store.Key{Kind: store.Region, Name: "us"}, "", "", second); err != nil {
			t.Fatal(err)
		}
		if c := next(t, changes); c.StoreRevision != second || len(c.Revisions) != 2 || c.Revisions[0].Number != 2 {
			t.Fatalf("%+v", c)
		}
		if c := next(t, changes); len(c.Revisions) != 1 || !c.Revisions[0].Deleted || c.Revisions[0].Name != "us" {
			t.Fatalf("%+v", c)
		}
	})
}

func TestAWatchFromACompactedRevisionResyncsAndGoesOn(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, compact func(int64)) {
		_, rev := apply(t, s, 0, region("eu", "a"))
		_, rev2 := apply(t, s, rev, region("eu", "b"))
		_, rev3 := apply(t, s, rev2, region("eu", "c"))
		compact(rev3)
		changes := s.Watch(t.Context(), rev)
		c := next(t, changes)
		if !c.Resync || c.StoreRevision < rev3 {
			t.Fatalf("%+v", c)
		}
		apply(t, s, c.StoreRevision, region("eu", "d"))
		if c := next(t, changes); c.Resync || c.Revisions[0].Hash != "[d]" {
			t.Fatalf("%+v", c)
		}
	})
}

func TestAWatchEndsWithItsContextAndWithTheStore(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		ctx, cancel := context.WithCancel(t.Context())
		one, two := s.Watch(ctx, 0), s.Watch(t.Context(), 0)
		events, err := s.WatchEvents(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		for range one {
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for range two {
		}
		for range events {
		}
		for range s.Watch(t.Context(), 0) {
		}
		_, _, err = s.Documents(t.Context())
		is(t, err, store.ErrClosed)
	})
}
