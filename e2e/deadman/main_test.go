package deadman

import (
	"os"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func TestMain(m *testing.M) { rig.Main(m) }

var long = os.Getenv("AVIARY_LONG") != ""

const (
	// soon bounds what takes well under a second on a machine that does nothing else, climb a way up of two short steps.
	soon  = 20 * time.Second
	climb = 60 * time.Second

	// slack is how late a sidecar and the test that looks at it may be on a busy machine.
	slack = 700 * time.Millisecond

	first, second = 2000, 5000
)

// steps is a policy with a lease, that stays at a half.
func steps(lease string) string {
	return `steps: [{share: "20%", hold: 1s}, {share: "50%", hold: 1h}]
noData: {holdAfter: 1s}
lease: {ttl: ` + lease + `}`
}

// half starts a region with two sidecars and users, and takes its canary to a half.
func half(t *testing.T, lease string) (*rig.Rig, *lab.Users) {
	t.Helper()
	r := rig.New(t, rig.Options{Sidecars: 2, Policy: steps(lease)})
	well := lab.Behavior{Latency: lab.Latency{Median: 3 * time.Millisecond, Sigma: 0.3}}
	r.Set("v1", well)
	r.Set("v2", well)
	users := r.Users(lab.UsersOptions{Rate: 150, Posts: 0.2, Body: 100})
	r.Act("start")
	r.UntilWeight(second, climb)
	served(r, "v2", 50)
	return r, users
}

// served waits until a version answered so many requests well since now.
func served(r *rig.Rig, version string, n uint64) {
	before := r.Instances[version].Counts().Good()
	r.Until(version+" serves", soon, func() bool { return r.Instances[version].Counts().Good() >= before+n })
}

// fallen waits until no sidecar has a share for v2, and returns when the last of them went to stable.
func fallen(t *testing.T, r *rig.Rig, w *rig.Weights) time.Time {
	t.Helper()
	var last time.Time
	for _, s := range r.Sidecars {
		r.Until(s.ID+" is at stable", soon, func() bool { return w.At(s.ID, 0) })
		all := w.Of(s.ID)
		if all[0].Weight == 0 {
			t.Errorf("%s had no share to lose: that shows nothing", s.ID)
		}
		if at := all[len(all)-1].At; at.After(last) {
			last = at
		}
	}
	return last
}

// climbs waits until every sidecar has its half again, and checks that the way up was from zero by both steps. A sidecar that
// comes back late finds the region further up. It returns when the first share was given.
func climbs(t *testing.T, r *rig.Rig, w *rig.Weights) time.Time {
	t.Helper()
	for _, s := range r.Sidecars {
		r.Until(s.ID+" has a half", climb, func() bool { return w.At(s.ID, second) })
	}
	w.Stop()
	var begin, half time.Time
	for _, s := range r.Sidecars {
		all := w.Of(s.ID)
		whole := len(all) == 3 && all[0].Weight == 0 && all[1].Weight == first && all[2].Weight == second
		late := len(all) == 2 && all[0].Weight == 0 && all[1].Weight == second
		if !whole && !late {
			t.Errorf("%s did not climb from zero: %v", s.ID, w)
			continue
		}
		if at := all[1].At; whole && (begin.IsZero() || at.Before(begin)) {
			begin, half = at, all[2].At
		}
	}
	if begin.IsZero() {
		t.Fatalf("no sidecar climbed by the steps: %v", w)
	}
	if held := half.Sub(begin); held < 900*time.Millisecond {
		t.Errorf("the first step was held for %v at the sidecar that had it first, want a second: %v", held, w)
	}
	for _, s := range r.Sidecars {
		if all := w.Of(s.ID); len(all) > 1 && all[1].Weight == second && all[1].At.Before(half.Add(-slack)) {
			t.Errorf("%s had a half before the region: %v", s.ID, w)
		}
	}
	if err := w.Err(); err != nil {
		t.Error(err)
	}
	return begin
}

func noneFailed(t *testing.T, u *lab.Users) {
	t.Helper()
	if report := u.Report(); report.Failed > 0 || report.Skipped > 0 || report.Done == 0 {
		t.Errorf("%d of %d requests failed, %d were not sent: %q", report.Failed, report.Done, report.Skipped, report.Errors)
	}
}
