package story

import (
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// TestFaults breaks a canary that has a quarter of the traffic in every way, and sees it halted, at zero everywhere and
// without a failed GET where net 1 can save it.
func TestFaults(t *testing.T) {
	slow := usual
	slow.Latency.Multiplier = 3
	tenth := failing(lab.FailStatus, 0.1)
	for _, c := range []struct {
		name     string
		protocol lab.Protocol
		behavior lab.Behavior
		policy   string
		service  string
		reason   string // of the halt; "" is any
		hurts    bool   // net 1 cannot save the users
	}{
		{name: "500", behavior: failing(lab.FailStatus, 1)},
		{name: "slow by three", behavior: slow, reason: "CanarySlower"},
		{name: "hang", behavior: failing(lab.FailHang, 1), service: "timeout: 5s\nhangLimit: 300ms"},
		{name: "refused", behavior: lab.Behavior{Refuse: true}},
		{name: "reset", behavior: failing(lab.FailReset, 1)},
		{name: "a tenth from a quarter on", behavior: tenth, policy: `steps: [{share: "5%", hold: 1s}, {share: "25%", hold: 10m}]`},
		{name: "broken mid-body", behavior: failing(lab.FailBreak, 1), hurts: true},
		{name: "gRPC status", protocol: lab.GRPC, behavior: failing(lab.FailStatus, 1), hurts: true},
		{name: "gRPC trailers", protocol: lab.GRPC, behavior: failing(lab.FailTrailer, 1), hurts: true},
		{name: "gRPC status, calls that may be sent twice", protocol: lab.GRPC, behavior: failing(lab.FailStatus, 1), service: "retries: {methods: [POST]}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.policy == "" {
				c.policy = quarter
			}
			r, users := begun(t, rig.Options{Protocol: c.protocol, Policy: c.policy, Service: c.service}, lab.UsersOptions{Rate: 120})
			r.UntilWeight(2500, climb)
			served(r, "v2", 20)
			before := users.Report()
			if before.Failed > 0 {
				t.Errorf("%d failed while all was well: %q", before.Failed, before.Errors)
			}
			broken := time.Now()
			r.Set("v2", c.behavior)
			r.UntilPhase(halted, soon)
			took := time.Since(broken)
			r.UntilWeight(0, soon)
			counts := quiet(r, "v2", "v1")
			if counts.FirstBad.IsZero() { // an answer that is slow is not bad by itself
				counts.FirstBad = broken
			}
			s := r.Status()
			if c.reason != "" && s.Reason != c.reason {
				t.Errorf("halted because %s (%s), want %s", s.Reason, s.Message, c.reason)
			}
			after := users.Report()
			if !c.hurts {
				if after.Failed > 0 {
					t.Errorf("%d requests failed: %q", after.Failed, after.Errors)
				}
			} else if after.Failed == 0 {
				t.Error("no request failed where net 1 cannot save any: this test is wrong")
			}
			r.Set("v2", usual)
			if again := r.Status(); again == nil || again.Phase != halted || again.Weight != 0 {
				t.Errorf("healed, and %v", again)
			}
			t.Logf("%s (%s): halted after %v; reaction %v; the canary got %d, failed %d; users' %d failed of %d",
				s.Reason, s.Message, took.Round(time.Millisecond), reaction(counts).Round(time.Millisecond), counts.Received, counts.Bad(),
				after.Failed, after.Done)
		})
	}
}

// TestOutage lets both versions fail alike: the canary is at zero for as long as that lasts, is not judged, and climbs again.
func TestOutage(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: quarter}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(2500, climb)
	served(r, "v2", 50)
	gone := time.Now()
	half := failing(lab.FailStatus, 0.5)
	r.Set("v1", half)
	r.Set("v2", half)
	r.UntilWeight(0, soon)
	took := time.Since(gone)
	s := r.Status()
	if s.Phase != retreated || s.Reason != "RegionOutage" {
		t.Fatalf("in an outage that both share: %v", s)
	}
	counts := quiet(r, "v2", "v1")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s := r.Status(); s == nil || s.Phase != retreated || s.Weight != 0 {
			t.Fatalf("while it lasts: %v", s)
		}
	}
	failed := users.Report().Failed
	if failed == 0 {
		t.Error("nobody noticed the outage: that shows nothing")
	}
	r.Set("v1", usual)
	r.Set("v2", usual)
	healed := time.Now()
	r.UntilWeight(2500, 2*time.Minute)
	climbed := time.Since(healed)
	before := users.Report()
	served(r, "v2", 20)
	if after := users.Report(); after.Failed > before.Failed {
		t.Errorf("%d failed after it: %q", after.Failed-before.Failed, after.Errors)
	}
	t.Logf("outage: zero after %v, reaction %v, %d requests failed; climbed again %v after it was healed",
		took.Round(time.Millisecond), reaction(counts).Round(time.Millisecond), failed, climbed.Round(time.Millisecond))
}
