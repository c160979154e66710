package story

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func contains(b []byte, text string) bool { return bytes.Contains(b, []byte(text)) }

// all waits until a version gets all of the traffic.
func all(r *rig.Rig, version, other string) {
	quiet(r, other, version)
	served(r, version, 50)
}

// TestPauseAndPromote pauses a canary, lets it go on, promotes it by hand and takes it back by one command.
func TestPauseAndPromote(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: `steps: [{share: "20%", hold: 1s}, {share: "40%", hold: 10m}]`}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(2000, climb)
	r.Act("pause")
	served(r, "v2", 20)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s := r.Status(); s.Phase != aviaryv1.Phase_PHASE_PAUSED || s.Weight != 2000 || s.EffectiveMin != 2000 || s.EffectiveMax != 2000 {
			t.Fatalf("paused, and %v", s)
		}
	}
	served(r, "v2", 5)
	r.Act("resume")
	r.UntilWeight(4000, climb)
	served(r, "v2", 20)
	r.Act("promote")
	r.UntilPhase(promoted, soon)
	all(r, "v2", "v1")
	if s := r.Status(); s.Stable != "v2" || s.Previous != "v1" {
		t.Errorf("promoted, and %v", s)
	}
	r.Act("rollback")
	all(r, "v1", "v2")
	if s := r.Status(); s.Phase != aviaryv1.Phase_PHASE_ROLLED_BACK || s.Stable != "v1" {
		t.Errorf("rolled back, and %v", s)
	}
	noFailedGET(t, users)
}

// TestPromotion lets a rollout come to its end by itself, with no way back to the old version in between, and takes it back by
// one command.
func TestPromotion(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Sidecars: 2, Policy: `steps: [{share: "20%", hold: 1s}, {share: "100%", hold: 2s}]`}, lab.UsersOptions{Rate: 150})
	follow := r.Follow("v2")
	r.UntilWeight(10_000, climb)
	served(r, "v2", 50)
	last := r.Instances["v1"].Counts().Received
	r.UntilPhase(promoted, climb)
	all(r, "v2", "v1")
	follow.Stop()
	if n := r.Instances["v1"].Counts().Received - last; n > 0 {
		t.Errorf("%d requests went back to v1 at the promotion", n)
	}
	for _, s := range r.Sidecars {
		before := uint32(0)
		for _, c := range follow.Of(s.ID) {
			if c.Weight < before && before < 10_000 {
				t.Errorf("the share fell on the way: %v", follow)
			}
			before = c.Weight
		}
	}
	before := time.Now()
	r.Act("rollback")
	took := time.Since(before)
	all(r, "v1", "v2")
	after := r.Instances["v2"].Counts().LastReceived.Sub(before)
	noFailedGET(t, users)
	t.Logf("promoted by way of %v; rolled back: persisted after %v, last request of v2 after %v; %d requests, none failed",
		follow, took.Round(time.Millisecond), after.Round(time.Millisecond), users.Report().Done)
}

// TestRetry halts a canary and starts it again, healed, as a person may.
func TestRetry(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: quarter}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	slow := usual
	slow.Latency.Multiplier = 4
	r.Set("v2", slow)
	r.UntilPhase(halted, soon)
	r.Set("v2", usual)
	quiet(r, "v2", "v1")
	r.Act("retry")
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s := r.Status(); s.Weight != 2500 {
			t.Fatalf("retried and well: %v", s)
		}
	}
	noFailedGET(t, users)
}

// TestNewDigest names another build while a canary runs: the old one is at zero, the new one climbs from the first step.
func TestNewDigest(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{
		Versions: []string{"v1", "v2", "v3"}, Rollout: "v2", Policy: `steps: [{share: "20%", hold: 1s}, {share: "40%", hold: 10m}]
noData: {holdAfter: 1s}`,
	}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(4000, climb)
	served(r, "v2", 20)

	// Another version.
	follow := r.Follow("v3")
	r.Apply(rig.Rollout("v3"))
	r.Until("v3 has the second step", climb, func() bool { return follow.At("front-0", 4000) })
	follow.Stop()
	if seen := follow.Of("front-0"); len(seen) != 3 || seen[0].Weight != 0 || seen[1].Weight != 2000 {
		t.Errorf("v3 did not climb by its steps: %v", follow)
	}
	served(r, "v3", 20)
	quiet(r, "v2", "v3")

	// Another build of the same version.
	o := r.Options
	o.Rollout, o.Digests = "v3", map[string]string{"v3": "rebuilt"}
	again := r.Follow("v3")
	r.Apply(r.Documents(o))
	r.Until("the new build is at the first step", climb, func() bool { s := r.Status(); return s != nil && s.Weight == 2000 })
	r.Until("the new build has the second step", climb, func() bool { return again.At("front-0", 4000) })
	served(r, "v3", 20)
	again.Stop()
	if seen := again.Of("front-0"); len(seen) != 4 || seen[1].Weight != 0 || seen[2].Weight != 2000 || seen[3].Weight != 4000 {
		t.Errorf("the new build of v3 did not go to zero and climb by its steps: %v", again)
	}
	noFailedGET(t, users)
}

// TestDeletedMidway takes the rollout's document away under a canary with a share, and declares it again.
func TestDeletedMidway(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: quarter}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	deleted := time.Now()
	if _, err := r.Plane.API().DeleteDocument(ctx, &aviaryv1.DeleteDocumentRequest{Kind: "Rollout", Name: "shop", Author: "test"}); err != nil {
		t.Fatal(err)
	}
	counts := quiet(r, "v2", "v1")
	r.Apply(rig.Rollout("v2"))
	r.Until("declared again", soon, func() bool {
		s := r.Status()
		return s != nil && s.Phase == aviaryv1.Phase_PHASE_PENDING && s.Reason == "NotStarted"
	})
	served(r, "v1", 100)
	if after := r.Instances["v2"].Counts(); after.Received != counts.Received {
		t.Errorf("declared again and not started, v2 got %d requests", after.Received-counts.Received)
	}
	r.Act("start")
	r.UntilWeight(2500, climb)
	served(r, "v2", 10)
	noFailedGET(t, users)
	t.Logf("deleted: the canary's last request came %v after it was asked for", max(counts.LastReceived.Sub(deleted), 0).Round(time.Millisecond))
}
