package story

import (
	"fmt"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// TestAA runs canaries that are the same as their stable, with errors and a tail of latencies in both, each at one share: none
// may be halted or lose its share. Ten minutes of traffic, all at once, when the long runs are asked for.
func TestAA(t *testing.T) {
	period := 10 * time.Second
	if long {
		period = 10 * time.Minute
	}
	same := lab.Behavior{
		Latency:  lab.Latency{Median: 5 * time.Millisecond, Sigma: 0.6},
		Failures: []lab.Failure{{Kind: lab.FailStatus, Rate: 0.0005, Status: 503}},
	}
	type run struct {
		share  string
		weight uint32
		rate   float64
		rig    *rig.Rig
		users  *lab.Users
	}
	runs := []*run{
		{share: "0.1%", weight: 10, rate: 200},
		{share: "1%", weight: 100, rate: 120},
		{share: "10%", weight: 1000, rate: 80},
		{share: "50%", weight: 5000, rate: 60},
	}
	for _, c := range runs {
		c.rig = rig.New(t, rig.Options{Policy: fmt.Sprintf("steps: [{share: %q, hold: 2h}]", c.share)})
		for version := range c.rig.Instances {
			c.rig.Set(version, same)
		}
		c.users = c.rig.Users(lab.UsersOptions{Rate: c.rate, Poisson: true, Posts: 0.2, Body: 100})
		c.rig.Act("start")
	}
	for _, c := range runs {
		c.rig.UntilWeight(c.weight, climb)
	}
	begin := time.Now()
	for _, c := range runs {
		c.rig.Instances["v1"].ResetCounts()
		c.rig.Instances["v2"].ResetCounts()
	}
	for time.Since(begin) < period {
		for _, c := range runs {
			if s := c.rig.Status(); s == nil || s.Weight != c.weight {
				t.Fatalf("at %s after %v: %v", c.share, time.Since(begin).Round(time.Millisecond), s)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, c := range runs {
		// At the smallest share a short run may have to wait for its first request.
		c.rig.Until("the canary at "+c.share+" gets traffic", time.Minute, func() bool { return c.rig.Instances["v2"].Counts().Good() > 0 })
		canary, stable := c.rig.Instances["v2"].Counts(), c.rig.Instances["v1"].Counts()
		s := c.rig.Status()
		if s == nil || s.Weight != c.weight {
			t.Errorf("at %s: %v", c.share, s)
		}
		report := c.users.Report()
		got := float64(canary.Received) / float64(canary.Received+stable.Received)
		if want := float64(c.weight) / 10_000; long && (got < want*0.7 || got > want*1.4) {
			t.Errorf("at %s the canary got %.3f %% of the requests", c.share, 100*got)
		}
		t.Logf("A/A at %s for %v: canary %d of %d tries bad, stable %d of %d (%.3f %% of the requests); users' %d of %d failed, p99 %v; nearest to a halt: %s at %.1f of %.1f",
			c.share, time.Since(begin).Round(time.Second), canary.Bad(), canary.Received, stable.Bad(), stable.Received, 100*got,
			report.Failed, report.Done, report.Latency.Quantile(0.99).Round(time.Millisecond),
			s.GetEvidence().GetMetric(), s.GetEvidence().GetLogE(), s.GetEvidence().GetLogThreshold())
	}
}
