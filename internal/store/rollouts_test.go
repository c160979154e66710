package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/internal/store"
)

func state(rollout, region, digest, data string) store.State {
	return store.State{Rollout: rollout, Region: region, Digest: digest, Data: json.RawMessage(data)}
}

func TestAStaleAdvanceNeverBeatsAHalt(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		ctx := t.Context()
		l, err := s.Campaign(ctx, "coordinator", "me")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SaveState(ctx, l, state("web", "eu", "sha256:a", `{"step":1}`)); err != nil {
			t.Fatal(err)
		}
		h := store.Halt{Rollout: "web", Region: "eu", Digest: "sha256:a", Reason: "Worse", At: time.Now().UTC()}
		if stands, err := s.Halt(ctx, h); err != nil || !cmp.Equal(stands, h) {
			t.Fatalf("%+v: %v", stands, err)
		}
		later := h
		later.Reason = "OverBudget"
		if stands, err := s.Halt(ctx, later); err != nil || stands.Reason != "Worse" {
			t.Fatalf("the first halt stands: %+v: %v", stands, err)
		}
		is(t, s.SaveState(ctx, l, state("web", "eu", "sha256:a", `{"step":2}`)), store.ErrHalted)
		for name, st := range map[string]store.State{
			"another region":  state("web", "us", "sha256:a", `{}`),
			"another digest":  state("web", "ap", "sha256:b", `{}`),
			"another rollout": state("api", "eu", "sha256:a", `{}`),
			"down":            {Rollout: "web", Region: "eu", Digest: "sha256:a", Down: true, Data: json.RawMessage(`{"phase":"Halted"}`)},
		} {
			if err := s.SaveState(ctx, l, st); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		is(t, s.SaveState(ctx, l, state("web", "eu", "", `{}`)), store.ErrInvalid)
		all, err := s.Rollouts(ctx)
		if err != nil || len(all.States) != 4 || len(all.Halts) != 1 || string(all.States[2].Data) != `{"phase":"Halted"}` {
			t.Fatalf("%+v: %v", all, err)
		}
		big := state("web", "eu", "sha256:a", string(make([]byte, store.MaxState+1)))
		is(t, s.SaveState(ctx, l, big), store.ErrTooLarge)
	})
}

func TestOnlyTheLeaderWritesAndOnlyWhileItLeads(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		ctx := t.Context()
		old, err := s.Campaign(ctx, "coordinator", "old")
		if err != nil {
			t.Fatal(err)
		}
		if who, err := s.Leader(ctx, "coordinator"); err != nil || who != "old" {
			t.Fatalf("%q: %v", who, err)
		}
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err = s.Campaign(short, "coordinator", "impatient")
		is(t, err, context.DeadlineExceeded)

		elected := make(chan *store.Leadership)
		go func() {
			l, err := s.Campaign(ctx, "coordinator", "new")
			if err != nil {
				t.Error(err)
			}
			elected <- l
		}()
		if err := old.Resign(ctx); err != nil {
			t.Fatal(err)
		}
		<-old.Done()
		l := next(t, elected)
		is(t, s.SaveState(ctx, old, state("web", "eu", "sha256:a", `{}`)), store.ErrFenced)
		if err := s.SaveState(ctx, l, state("web", "eu", "sha256:a", `{}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Halt(ctx, store.Halt{Rollout: "web", Region: "eu", Digest: "sha256:a"}); err != nil {
			t.Fatal(err)
		}
		if err := l.Resign(ctx); err != nil {
			t.Fatal(err)
		}
		_, err = s.Leader(ctx, "coordinator")
		is(t, err, store.ErrNotFound)
	})
}

func TestEventsAreNumberedBoundedAndWatched(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, compact func(int64)) {
		ctx := t.Context()
		live, err := s.WatchEvents(ctx, "web", 0)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 2 {
					if _, err := s.Append(ctx, "web", store.Event{Type: "a", At: at.Add(time.Duration(i))}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		last, err := s.Append(ctx, "web", store.Event{Type: "b", At: at}, store.Event{Type: "c", At: at, Data: json.RawMessage(`{"x":1}`)})
		if err != nil || last != 10 {
			t.Fatalf("%d: %v", last, err)
		}
		kept, err := s.Events(ctx, "web", 0)
		if err != nil || len(kept) != quiet.KeepEvents || kept[0].Number != 6 || kept[4].Type != "c" || string(kept[4].Data) != `{"x":1}` {
			t.Fatalf("%+v: %v", kept, err)
		}
		for n := int64(1); n <= 10; n++ {
			if e := next(t, live); e.Number != n || e.Rollout != "web" {
				t.Fatalf("event %d: %+v", n, e)
			}
		}
		if _, err := s.Append(ctx, "api", store.Event{Type: "z", At: at.Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
		every, err := s.Events(ctx, "", 0)
		if err != nil || len(every) != 6 || every[0].Rollout != "api" {
			t.Fatalf("%+v: %v", every, err)
		}
		if some, err := s.Events(ctx, "web", 9); err != nil || len(some) != 1 || some[0].Number != 10 {
			t.Fatalf("%+v: %v", some, err)
		}
		resumed, err := s.WatchEvents(ctx, "", 9)
		if err != nil {
			t.Fatal(err)
		}
		if e := next(t, resumed); e.Number != 10 {
			t.Fatalf("%+v", e)
		}
	})
}

func TestAHandoverIsTakenOnce(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		ctx := t.Context()
		_, err := s.TakeHandover(ctx, "eu")
		is(t, err, store.ErrNotFound)
		for _, v := range []string{"one", "two"} {
			if err := s.PutHandover(ctx, "eu", []byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		taken := make(chan string, 8)
		for range 8 {
			wg.Go(func() {
				if b, err := s.TakeHandover(ctx, "eu"); err == nil {
					taken <- string(b)
				} else if !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(taken) != 1 || <-taken != "two" {
			t.Fatalf("taken %d times", len(taken)+1)
		}
		is(t, s.PutHandover(ctx, "eu", make([]byte, store.MaxHandover+1)), store.ErrTooLarge)
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store, _ func(int64)) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := s.Documents(ctx)
		is(t, err, context.Canceled)
		_, _, err = s.Apply(ctx, store.Batch{Documents: []store.Content{content(region("eu", "a"))}})
		is(t, err, context.Canceled)
		_, err = s.Campaign(ctx, "coordinator", "me")
		is(t, err, context.Canceled)
	})
}
