package deadman

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// TestKilledAmidApplies kills the control plane in the midst of a stream of applies: everything that was acknowledged is there
// afterwards.
func TestKilledAmidApplies(t *testing.T) {
	t.Parallel()
	plane := rig.Plane(t)
	rounds := 3
	if long {
		rounds = 15
	}
	var mu sync.Mutex
	acked, count := map[string]string{}, 0
	for round := range rounds {
		var appliers sync.WaitGroup
		for k := range 4 {
			appliers.Go(func() {
				for n := 0; ; n++ {
					// Some are new, some change what is there.
					name := fmt.Sprintf("r-%d-%d", k, n%25)
					zone := fmt.Sprintf("z%d-%d", round, n)
					err := plane.Apply(t.Context(), []byte(fmt.Sprintf("apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: %s}\nspec: {zones: [%s]}\n", name, zone)))
					if err != nil {
						return
					}
					mu.Lock()
					acked[name] = zone
					count++
					mu.Unlock()
				}
			})
		}
		deadline := time.Now().Add(soon)
		for want := (round + 1) * 60; ; time.Sleep(time.Millisecond) {
			mu.Lock()
			enough := count >= want
			mu.Unlock()
			if enough {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("only %d applies were acknowledged", count)
			}
		}
		if err := plane.Kill(); err != nil {
			t.Fatal(err)
		}
		appliers.Wait()
		if err := plane.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		resp, err := plane.API().ListDocuments(ctx, &aviaryv1.ListDocumentsRequest{Kind: "Region"})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, d := range resp.GetDocuments() {
			got[d.GetDocument().GetMetadata().GetName()] = strings.Join(d.GetDocument().GetRegion().GetZones(), " ")
		}
		for name, zone := range acked {
			// The one that was under way may be there or not.
			var wantRound, wantN, gotRound, gotN int
			fmt.Sscanf(zone, "z%d-%d", &wantRound, &wantN)
			fmt.Sscanf(got[name], "z%d-%d", &gotRound, &gotN)
			if got[name] == "" || gotRound < wantRound || gotRound == wantRound && gotN < wantN {
				t.Errorf("%s was acknowledged with %s, and after the kill it has %q", name, zone, got[name])
			}
		}
	}
	t.Logf("%d kills amid %d acknowledged applies: all are there", rounds, count)
}

// TestSecondProcess starts another control plane on a data directory that is in use: it ends with an error that names the holder.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	plane := rig.Plane(t)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	out, err := exec.CommandContext(ctx, rig.Binary(t), "serve", "--data-dir", plane.Dir,
		"--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0").CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("it was not refused: %v\n%s", err, out)
	}
	if text := string(out); !strings.Contains(text, "in use") || !strings.Contains(text, fmt.Sprintf("process %d", plane.Process().Pid())) {
		t.Errorf("the error does not name the holder, process %d:\n%s", plane.Process().Pid(), text)
	}
	if err := plane.Apply(t.Context(), []byte("apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: eu}\nspec: {zones: [a]}\n")); err != nil {
		t.Errorf("the first process was harmed: %v", err)
	}
	t.Logf("refused: %s", out)
}
