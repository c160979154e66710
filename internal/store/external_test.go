package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
)

func TestAnEtcdThatDoesNotAnswerIsNamed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := store.OpenExternal(ctx, []string{"127.0.0.1:1"}, nil, quiet)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 does not answer") {
		t.Fatalf("%v", err)
	}
}

func TestTwoProcessesShareAnExternalEtcd(t *testing.T) {
	endpoint := serveEtcd(t)
	var both [2]*store.Store
	for i := range both {
		s, err := store.OpenExternal(t.Context(), []string{endpoint}, nil, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, s)
		both[i] = s
	}
	changes := both[1].Watch(t.Context(), 0)
	_, rev := apply(t, both[0], 0, region("eu", "a"))
	if c := next(t, changes); c.StoreRevision != rev {
		t.Fatalf("%+v", c)
	}
	// The leader's process goes without a word: the other one leads once its lease is over, and is the only one who writes.
	old, err := both[0].Campaign(t.Context(), "coordinator", "old")
	if err != nil {
		t.Fatal(err)
	}
	if err := both[0].Close(); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := both[1].Campaign(ctx, "coordinator", "new")
	if err != nil {
		t.Fatal(err)
	}
	is(t, both[1].SaveState(t.Context(), old, state("web", "eu", "sha256:a", `{}`)), store.ErrFenced)
	if err := both[1].SaveState(t.Context(), l, state("web", "eu", "sha256:a", `{}`)); err != nil {
		t.Fatal(err)
	}
}

func TestABatchOverTheLimitsOfAnEtcdSaysWhichOnes(t *testing.T) {
	s, err := store.OpenExternal(t.Context(), []string{serveEtcd(t)}, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	var b store.Batch
	for i := range 100 {
		b.Documents = append(b.Documents, content(region(fmt.Sprintf("r%d", i), "a")))
	}
	_, _, err = s.Apply(t.Context(), b)
	is(t, err, store.ErrTooLarge)
	if !strings.Contains(err.Error(), "--max-txn-ops") {
		t.Errorf("%v", err)
	}
	b.Documents = b.Documents[:60]
	if _, _, err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestABigBatchIsOneTransactionInTheEmbeddedOne(t *testing.T) {
	s, err := store.OpenEmbedded(t.Context(), t.TempDir(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	changes := s.Watch(t.Context(), 0)
	var b store.Batch
	for i := range 2000 {
		b.Documents = append(b.Documents, content(region(fmt.Sprintf("r%d", i), strings.Repeat("a", 500))))
	}
	if _, _, err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if c := next(t, changes); len(c.Revisions) != 2000 {
		t.Fatalf("%d", len(c.Revisions))
	}
}

func TestALeaderWhoseLeaseIsOverIsToldAndFenced(t *testing.T) {
	s, err := store.OpenExternal(t.Context(), []string{serveEtcd(t)}, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	l, err := s.Campaign(t.Context(), "coordinator", "me")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Campaign(t.Context(), "coordinator", "next")
		waiting <- err
	}()
	// Both lose their leases, as after a pause that was longer than those.
	store.WaitForCandidates(t.Context(), s, 2)
	if err := store.RevokeLeases(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	next(t, waiting) // elected or expired, whichever lease went first; but not for ever waiting
	select {
	case <-l.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the leader was not told")
	}
	is(t, s.SaveState(t.Context(), l, state("web", "eu", "sha256:a", `{}`)), store.ErrFenced)
}
