package deadman

import (
	"testing"
	"time"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"

	"github.com/aviary-mesh/aviary/internal/lab"
)

// TestGone kills the control plane, and stops it where it stands, under a canary at a half: every sidecar is at stable within
// the lease, and the canary climbs again from the first step when the control plane is back.
func TestGone(t *testing.T) {
	const ttl = 2 * time.Second
	for _, c := range []struct {
		name string
		gone func(lab.ControlPlane) error
		back func(*testing.T, lab.ControlPlane) error
	}{
		{"kill", lab.ControlPlane.Kill, func(t *testing.T, p lab.ControlPlane) error { return p.Start(t.Context()) }},
		{"pause", lab.ControlPlane.Pause, func(_ *testing.T, p lab.ControlPlane) error { return p.Continue() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, users := half(t, "2s")
			follow := r.Follow("v2")
			served(r, "v2", 20)
			gone := time.Now()
			if err := c.gone(r.Plane); err != nil {
				t.Fatal(err)
			}
			took := fallen(t, r, follow).Sub(gone)
			follow.Stop()
			if took > ttl+slack {
				t.Errorf("the last sidecar was at stable after %v, the lease is %v", took, ttl)
			}
			served(r, "v1", 100)
			counts := r.Instances["v2"].Counts()
			outlived := counts.LastReceived.Sub(gone)
			if outlived > ttl+slack {
				t.Errorf("the canary got requests for %v, the lease is %v", outlived, ttl)
			}
			served(r, "v1", 200)
			if again := r.Instances["v2"].Counts(); again.Received != counts.Received {
				t.Errorf("the canary got %d requests without a control plane", again.Received-counts.Received)
			}
			noneFailed(t, users)

			up := r.Follow("v2")
			served(r, "v1", 20)
			if err := c.back(t, r.Plane); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			r.UntilWeight(second, climb)
			served(r, "v2", 50)
			climbed := climbs(t, r, up).Sub(back)
			// One second of fresh evidence, as the policy asks.
			if climbed < 900*time.Millisecond {
				t.Errorf("the canary was back after %v, before there could be fresh evidence", climbed)
			}
			noneFailed(t, users)
			t.Logf("%s: every sidecar at stable after %v (lease %v), the canary's last request after %v; first step again %v after the control plane was back (%v); %d requests, none failed",
				c.name, took.Round(time.Millisecond), ttl, outlived.Round(time.Millisecond), climbed.Round(time.Millisecond), up, users.Report().Done)
		})
	}
}

// TestShortPause stops the control plane for less than the lease: nothing moves.
func TestShortPause(t *testing.T) {
	t.Parallel()
	r, users := half(t, "5s")
	follow := r.Follow("v2")
	served(r, "v2", 10)
	if err := r.Plane.Pause(); err != nil {
		t.Fatal(err)
	}
	served(r, "v1", 75) // about a second
	if err := r.Plane.Continue(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s := r.Status(); s != nil && s.Weight != second {
			t.Fatalf("after a pause within the lease: %v", s)
		}
	}
	served(r, "v2", 10)
	follow.Stop()
	for _, s := range r.Sidecars {
		if all := follow.Of(s.ID); len(all) != 1 || all[0].Weight != second {
			t.Errorf("a pause within the lease moved the share: %v", follow)
		}
	}
	noneFailed(t, users)
}

// TestHaltedStaysHalted kills the control plane after a halt: the restarted one knows of it, though the canary is well again.
func TestHaltedStaysHalted(t *testing.T) {
	t.Parallel()
	r, users := half(t, "2s")
	well := r.Instances["v2"].Behavior()
	r.Set("v2", lab.Errors(1, 500))
	r.UntilPhase(aviaryv1.Phase_PHASE_HALTED, soon)
	r.Until("the halt is told", soon, func() bool {
		resp, err := r.Plane.API().ListEvents(t.Context(), &aviaryv1.ListEventsRequest{Rollout: "shop"})
		if err != nil {
			return false
		}
		for _, e := range resp.GetEvents() {
			if e.Type == "Halted" {
				return true
			}
		}
		return false
	})
	if err := r.Plane.Kill(); err != nil {
		t.Fatal(err)
	}
	r.Set("v2", well)
	served(r, "v1", 50)
	before := r.Instances["v2"].Counts()
	follow := r.Follow("v2")
	for range 2 {
		if err := r.Plane.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if s := r.Status(); s == nil || s.Phase != aviaryv1.Phase_PHASE_HALTED || s.Weight != 0 {
				t.Fatalf("after the restart: %v", s)
			}
		}
		if err := r.Plane.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	served(r, "v1", 50)
	follow.Stop()
	if after := r.Instances["v2"].Counts(); after.Received != before.Received {
		t.Errorf("the halted canary got %d requests after restarts", after.Received-before.Received)
	}
	for _, s := range r.Sidecars {
		if all := follow.Of(s.ID); len(all) != 1 || all[0].Weight != 0 {
			t.Errorf("shares after restarts: %v", follow)
		}
	}
	if report := users.Report(); report.FailedMethods["GET"] > 0 {
		t.Errorf("GETs failed: %q", report.Errors)
	}
}
