package store_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/aviary-mesh/aviary/internal/store"
)

const childDir = "AVIARY_STORE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// writeUntilKilled applies batches of two, saves states, halts and appends events, and tells what was acknowledged.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	s, err := store.OpenEmbedded(ctx, dir, quiet)
	if err != nil {
		return err
	}
	l, err := s.Campaign(ctx, "coordinator", "child")
	if err != nil {
		return err
	}
	docs, rev, err := s.Documents(ctx)
	if err != nil {
		return err
	}
	n := int64(0)
	if len(docs) > 0 {
		n = docs[0].Number
	}
	fmt.Println("ready")
	for {
		n++
		zone := strconv.FormatInt(n, 10)
		b := store.Batch{Expected: rev, Documents: []store.Content{content(region("eu", zone)), content(region("us", zone))}}
		if _, rev, err = s.Apply(ctx, b); err != nil {
			return err
		}
		if _, err := s.Halt(ctx, store.Halt{Rollout: "web", Region: "eu", Digest: "sha256:" + zone}); err != nil {
			return err
		}
		if err := s.SaveState(ctx, l, store.State{Rollout: "web", Region: "us", Digest: "x", Data: json.RawMessage(zone)}); err != nil {
			return err
		}
		if _, err := s.Append(ctx, "web", store.Event{Type: zone}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func TestNothingAcknowledgedIsLostWhenTheProcessIsKilled(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[int64]bool{}
	for round := range 4 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("child: %q", lines.Text())
		}
		if round == 0 {
			refusedWhileHeldBy(t, dir, child.Process.Pid)
		}
		for i := range 10 + 7*round {
			if !lines.Scan() {
				t.Fatalf("child ended after %d", i)
			}
			acknowledged[number(t, lines.Text())] = true
		}
		if err := child.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// What it said between our last look and its death counts too.
		for lines.Scan() {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				acknowledged[n] = true
			}
		}
		_, _ = io.Copy(io.Discard, out)
		var died *exec.ExitError
		if err := child.Wait(); !errors.As(err, &died) || died.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child: %v", err)
		}
		everythingIn(t, dir, acknowledged)
	}
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func refusedWhileHeldBy(t *testing.T, dir string, pid int) {
	t.Helper()
	began := time.Now()
	_, err := store.OpenEmbedded(t.Context(), dir, quiet)
	is(t, err, store.ErrLocked)
	if !strings.Contains(err.Error(), fmt.Sprintf("process %d", pid)) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%q does not name process %d and %s", err, pid, dir)
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("refused after %v", waited)
	}
}

// everythingIn opens the directory as the next process would and looks for each acknowledged write.
func everythingIn(t *testing.T, dir string, acknowledged map[int64]bool) {
	t.Helper()
	n := slices.Max(slices.Collect(maps.Keys(acknowledged)))
	ctx := t.Context()
	s, err := store.OpenEmbedded(ctx, dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	docs, _, err := s.Documents(ctx)
	if err != nil || len(docs) != 2 {
		t.Fatalf("%+v: %v", docs, err)
	}
	if docs[0].Number < n || docs[0].Number > n+1 || docs[0].Number != docs[1].Number {
		t.Fatalf("revisions %d and %d after %d was acknowledged", docs[0].Number, docs[1].Number, n)
	}
	for _, d := range docs {
		history, err := s.History(ctx, d.Key)
		if err != nil || int64(len(history)) != d.Number {
			t.Fatalf("%d of %d revisions of %v: %v", len(history), d.Number, d.Key, err)
		}
		for i, r := range history {
			if want := d.Number - int64(i); r.Number != want || r.Hash != fmt.Sprintf("[%d]", want) {
				t.Fatalf("revision %d: %+v", want, r)
			}
		}
	}
	all, err := s.Rollouts(ctx)
	if err != nil || len(all.States) != 1 {
		t.Fatalf("%+v: %v", all.States, err)
	}
	halted := map[string]bool{}
	for _, h := range all.Halts {
		halted[h.Digest] = true
	}
	for n := range acknowledged {
		if !halted[fmt.Sprintf("sha256:%d", n)] {
			t.Fatalf("halt %d was acknowledged and is lost", n)
		}
	}
	if state := number(t, string(all.States[0].Data)); state < n || state > n+1 {
		t.Fatalf("state %d after %d was acknowledged", state, n)
	}
	events, err := s.Events(ctx, "web", 0)
	if err != nil || len(events) != quiet.KeepEvents || number(t, events[len(events)-1].Type) < n {
		t.Fatalf("%+v: %v", events, err)
	}
	// The one that was killed led; nobody has to wait for its lease.
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := s.Campaign(short, "coordinator", "next"); err != nil {
		t.Fatal(err)
	}
}

func TestACleanCloseLetsTheNextOneIn(t *testing.T) {
	dir := t.TempDir()
	for n := range 3 {
		s, err := store.OpenEmbedded(t.Context(), dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if docs, _, err := s.Documents(t.Context()); err != nil || len(docs) != min(n, 1) {
			t.Fatalf("%+v: %v", docs, err)
		}
		_, rev, _ := s.Documents(t.Context())
		apply(t, s, rev, region("eu", strconv.Itoa(n)))
		_, err = store.OpenEmbedded(t.Context(), dir, quiet)
		is(t, err, store.ErrLocked)
		if err := s.PutHandover(t.Context(), "eu", []byte("lease")); err != nil {
			t.Fatal(err)
		}
		closed(t, s)
		closed(t, s)
	}
	s, err := store.OpenEmbedded(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	if b, err := s.TakeHandover(t.Context(), "eu"); err != nil || string(b) != "lease" {
		t.Fatalf("%q: %v", b, err)
	}
}

// shortDir is for sockets, whose paths are bounded; a test's own directory may be too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "av")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
