package story

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// The four traps in which tools that wait for readiness before they take a weight away, or that decide to widen before they
// look, leave a canary its traffic.

const checked = `healthCheck: {path: /healthz, interval: 200ms, timeout: 200ms, unhealthyAfter: 2, healthyAfter: 1}`

// TestCrashLoop has a canary that comes up for moments and is never ready for long: it must not keep its share while it has no
// endpoint that could be waited for, and not get it back each time it comes up.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: quarter, Service: checked}, lab.UsersOptions{Rate: 120})
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	crashed := time.Now()
	r.Set("v2", lab.Behavior{Refuse: true})
	r.UntilPhase(halted, soon)
	took := time.Since(crashed)
	r.UntilWeight(0, soon)
	s := r.Status()
	before := r.Instances["v2"].Counts()
	for range 4 {
		r.Set("v2", usual)
		health := r.Instances["v2"].Counts().Health
		r.Until("the canary is found to be up", soon, func() bool { return r.Instances["v2"].Counts().Health > health+1 })
		r.Set("v2", lab.Behavior{Refuse: true})
		if w, err := r.Sidecars[0].Weight("v2"); err != nil || w != 0 || r.Status().Phase != halted {
			t.Fatalf("share %d at the sidecar (%v), %v", w, err, r.Status())
		}
	}
	if after := r.Instances["v2"].Counts(); after.Received != before.Received {
		t.Errorf("the crash-looping canary got %d requests after its halt", after.Received-before.Received)
	}
	noFailedGET(t, users)
	t.Logf("crash loop: halted after %v (%s: %s); %d requests of users, none failed", took.Round(time.Millisecond), s.Reason, s.Message, users.Report().Done)
}

// TestNeverReady starts a rollout whose canary has no ready endpoint: it gets no share, and the first step once it is up.
func TestNeverReady(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Options{Policy: quarter, Service: checked})
	r.Set("v1", usual)
	r.Set("v2", lab.Behavior{Refuse: true})
	users := r.Users(lab.UsersOptions{Rate: 100})
	r.Until("the canary is known to be down", soon, func() bool {
		n, err := r.Sidecars[0].Stat("cluster.shop/canary/v2.membership_healthy")
		return err == nil && n == 0
	})
	follow := r.Follow("v2")
	r.Act("start")
	r.Until("it waits", soon, func() bool { s := r.Status(); return s != nil && s.Reason == "CanaryEjected" })
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s := r.Status(); s.Weight != 0 {
			t.Fatalf("without a ready endpoint: %v", s)
		}
	}
	if seen := follow.Of("front-0"); len(seen) != 1 || seen[0].Weight != 0 {
		t.Errorf("shares at the sidecar: %v", follow)
	}
	r.Set("v2", usual)
	r.UntilWeight(2500, climb)
	served(r, "v2", 10)
	noFailedGET(t, users)
}

// TestAbortWhileStableIsUnready aborts while one of stable's endpoints is down: the canary is at zero at once all the same.
func TestAbortWhileStableIsUnready(t *testing.T) {
	t.Parallel()
	dead, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dead.Close)
	r, users := begun(t, rig.Options{Policy: quarter, Service: checked, More: map[string][]string{"v1": {dead.Address()}}},
		lab.UsersOptions{})
	r.Until("the endpoint is known to be down", soon, func() bool {
		n, err := r.Sidecars[0].Stat("cluster.shop/stable/v1.membership_healthy")
		return err == nil && n == 1
	})
	users.SetRate(150)
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	aborted := time.Now()
	r.Act("abort")
	persisted := time.Since(aborted)
	r.UntilWeight(0, soon)
	counts := quiet(r, "v2", "v1")
	if n, err := r.Sidecars[0].Stat("cluster.shop/stable/v1.membership_healthy"); err != nil || n != 1 {
		t.Errorf("%d of stable's endpoints are healthy (%v), want 1 of 2: this test is wrong", n, err)
	}
	after := counts.LastReceived.Sub(aborted)
	if after > 5*time.Second {
		t.Errorf("the canary got requests for %v", after)
	}
	noFailedGET(t, users)
	t.Logf("abort with an unready stable endpoint: the canary's last request %v after it was asked for, persisted after %v", max(after, 0).Round(time.Millisecond), persisted.Round(time.Millisecond))
}

// TestEditMidway edits the service's timeout, again and again, under a canary with a share: it never rises, and nothing fails.
func TestEditMidway(t *testing.T) {
	t.Parallel()
	r, users := begun(t, rig.Options{Policy: quarter, Service: "timeout: 3s"}, lab.UsersOptions{Rate: 150})
	r.UntilWeight(2500, climb)
	served(r, "v2", 20)
	follow := r.Follow("v2")
	since := r.Status().Since.AsTime()
	for n := range 6 {
		o := r.Options
		o.Service = fmt.Sprintf("timeout: %ds", n+4)
		r.Apply(r.Documents(o))
		want := fmt.Sprintf(`"timeout": "%ds"`, n+4)
		r.Until("the sidecar has "+want, soon, func() bool {
			dump, err := r.Sidecars[0].ConfigDump("dynamic_route_configs")
			return err == nil && contains(dump, want)
		})
		served(r, "v2", 10)
	}
	follow.Stop()
	if err := follow.Err(); err != nil {
		t.Error(err)
	}
	if seen := follow.Of("front-0"); len(seen) != 1 || seen[0].Weight != 2500 {
		t.Errorf("shares while the service was edited: %v", follow)
	}
	if s := r.Status(); s.Weight != 2500 || !s.Since.AsTime().Equal(since) {
		t.Errorf("the edit moved the rollout: %v", s)
	}
	noFailedGET(t, users)
}

// TestBreachBeforeAStep breaks the canary in the last moments of a step: what the tick of the step itself has read must win.
func TestBreachBeforeAStep(t *testing.T) {
	t.Parallel()
	runs := 4
	if long {
		runs = 20
	}
	o := rig.Options{Versions: []string{"v1"}, Rollout: "v2", Policy: `steps: [{share: "20%", hold: 2s}, {share: "40%", hold: 10m}]
noData: {holdAfter: 1s}`}
	for n := range runs {
		o.Versions = append(o.Versions, fmt.Sprintf("v%d", n+2))
	}
	r := rig.New(t, o)
	for version := range r.Instances {
		r.Set(version, usual)
	}
	users := r.Users(lab.UsersOptions{Rate: 200})
	r.Act("start")
	rose, late := 0, 0
	for n := range runs {
		version := o.Versions[n+1]
		if n > 0 {
			r.Apply(rig.Rollout(version))
		}
		r.Until("the first step for "+version, climb, func() bool {
			w, err := r.Sidecars[0].Weight(version)
			return err == nil && w == 2000
		})
		follow := r.Follow(version)
		before := 30*time.Millisecond + rand.N(270*time.Millisecond)
		time.Sleep(time.Until(r.Status().Since.AsTime().Add(2*time.Second - before))) // the step's own clock
		if n := r.Instances[version].Counts().Good(); n < 20 {
			t.Errorf("the canary answered %d before it broke: that shows nothing", n)
		}
		broke := time.Now()
		r.Set(version, failing(lab.FailStatus, 1))
		r.Until("it is halted", soon, func() bool { s := r.Status(); return s != nil && s.Phase == halted && s.Weight == 0 })
		counts := quiet(r, version, "v1")
		follow.Stop()
		s := r.Status()
		for _, c := range follow.Of("front-0") {
			if c.Weight == 4000 {
				rose++
				if c.At.Before(broke) { // a busy machine
					late++
				}
			}
			// The step may have come before the first flush that held a bad answer.
			if after := c.At.Sub(counts.FirstBad); c.Weight == 4000 && after > 500*time.Millisecond {
				t.Errorf("%s rose %v after its first bad answer: %v", version, after, follow)
			}
		}
		if changes := follow.Of("front-0"); changes[len(changes)-1].Weight != 0 {
			t.Errorf("%s ends at %v", version, follow)
		}
		t.Logf("broken %v before the step: %s after %v, the sidecar had %v", before.Round(time.Millisecond), s.Reason,
			s.Since.AsTime().Sub(counts.FirstBad).Round(time.Millisecond), follow)
	}
	if late == runs {
		t.Error("every canary rose before it broke: that shows nothing")
	}
	noFailedGET(t, users)
	t.Logf("%d runs, of which %d took the step before there was proof", runs, rose)
}
