package deadman

import (
	"testing"
	"time"
)

// TestHandOver stops the control plane in good order and starts it again within the lease: no share falls at any sidecar and the
// canary's traffic goes on, for longer than the leases that the first process gave.
func TestHandOver(t *testing.T) {
	t.Parallel()
	r, users := half(t, "10s")
	s := r.Status()
	follow := r.Follow("v2")
	served(r, "v2", 10)
	// A deployment may take a while between the two; a hand-over stands for half of the lease.
	away := []time.Duration{0, 2500 * time.Millisecond}
	if long {
		away = append(away, 0, 0, 0, 0, time.Second, time.Second, 2*time.Second, 2*time.Second)
	}
	var stopped, started time.Duration
	for _, away := range away {
		begin := time.Now()
		if err := r.Plane.Stop(); err != nil {
			t.Fatal(err)
		}
		down := time.Now()
		time.Sleep(away)
		down = down.Add(away)
		if err := r.Plane.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stopped, started = max(stopped, down.Sub(begin)), max(started, time.Since(down))
		received, at := r.Instances["v2"].Counts().Received, time.Now()
		var gap time.Duration
		for end := time.Now().Add(11 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if n := r.Instances["v2"].Counts().Received; n != received {
				received, at = n, time.Now()
			}
			gap = max(gap, time.Since(at))
		}
		if gap > 2*time.Second {
			t.Errorf("the canary got nothing for %v", gap)
		}
	}
	follow.Stop()
	for _, c := range r.Sidecars {
		if all := follow.Of(c.ID); len(all) != 1 || all[0].Weight != second {
			t.Errorf("the share moved over a hand-over: %v", follow)
		}
	}
	if err := follow.Err(); err != nil {
		t.Error(err)
	}
	r.UntilWeight(second, soon)
	after := r.Status()
	if after.Phase != s.Phase || !after.Since.AsTime().Equal(s.Since.AsTime()) || after.Held.AsDuration() < s.Held.AsDuration() {
		t.Errorf("the step did not go on: before %v, after %v", s, after)
	}
	noneFailed(t, users)
	t.Logf("%d hand-overs: stopped within %v, serving %v after a start; %d requests, none failed", len(away),
		stopped.Round(time.Millisecond), started.Round(time.Millisecond), users.Report().Done)
}

// TestLateStart starts the next process after the leases ended: the canary climbs again from the first step.
func TestLateStart(t *testing.T) {
	t.Parallel()
	r, users := half(t, "2s")
	follow := r.Follow("v2")
	served(r, "v2", 10)
	begin := time.Now()
	if err := r.Plane.Stop(); err != nil {
		t.Fatal(err)
	}
	took := fallen(t, r, follow).Sub(begin)
	follow.Stop()
	up := r.Follow("v2")
	served(r, "v1", 50)
	if err := r.Plane.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.UntilWeight(second, climb)
	served(r, "v2", 20)
	climbs(t, r, up)
	noneFailed(t, users)
	t.Logf("stopped and not started again: every sidecar at stable after %v; then %v", took.Round(time.Millisecond), up)
}
