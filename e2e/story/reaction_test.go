package story

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// spread of a figure over runs.
type spread []time.Duration

func (s spread) median() time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (s spread) String() string {
	return fmt.Sprintf("min %v, median %v, max %v", slices.Min(s).Round(time.Millisecond), s.median().Round(time.Millisecond), slices.Max(s).Round(time.Millisecond))
}

// TestReaction measures the time from the first bad response at the service to the last request that the canary got, with a
// hundred users, for a canary that fails altogether (nets 1 to 3) and for one whose failures no proxy can see before it is
// too late to try again, and that no outlier detection ejects (net 3 alone).
func TestReaction(t *testing.T) {
	runs := 3
	if long {
		runs = 20
	}
	for _, c := range []struct {
		name  string
		flush time.Duration
		kind  lab.Kind
	}{
		{"500, flush 100ms", 100 * time.Millisecond, lab.FailStatus},
		{"500, flush 1s", time.Second, lab.FailStatus},
		{"broken mid-body, flush 100ms", 100 * time.Millisecond, lab.FailBreak},
		{"broken mid-body, flush 1s", time.Second, lab.FailBreak},
	} {
		if c.kind == lab.FailBreak && c.flush == time.Second && !long {
			continue
		}
		t.Run(c.name, func(t *testing.T) { measureReaction(t, runs, c.flush, c.kind) })
	}
}

func measureReaction(t *testing.T, runs int, flush time.Duration, kind lab.Kind) {
	// A version a run: what is halted or ejected stays so.
	o := rig.Options{Versions: []string{"v1"}, Flush: flush}
	o.Policy = strings.Replace(quarter, "holdAfter: 1s", "holdAfter: 2s", 1) // more than a flush, or no evidence is fresh
	for n := range runs {
		o.Versions = append(o.Versions, fmt.Sprintf("v%d", n+2))
	}
	o.Rollout = "v2"
	r := rig.New(t, o)
	for version := range r.Instances {
		r.Set(version, usual)
	}
	readers := r.Users(lab.UsersOptions{Users: 100, Rate: 380})
	buyers := r.Users(lab.UsersOptions{Users: 5, Rate: 20, Posts: 1, Body: 200})
	r.Act("start")
	var reactions, decisions, deliveries spread
	var bad, posts, gets uint64
	for n := range runs {
		version := o.Versions[n+1]
		if n > 0 {
			r.Apply(rig.Rollout(version))
		}
		r.Until("a quarter for "+version, climb, func() bool {
			w, err := r.Sidecars[0].Weight(version)
			return err == nil && w == 2500
		})
		served(r, version, 50)
		// What a flush holds from before a change of weights is not compared; the canary breaks in one that holds none.
		r.Until("watched at its share", soon, func() bool {
			s := r.Status()
			return s != nil && s.Seen.AsTime().Sub(s.Since.AsTime()) > 2*flush
		})
		time.Sleep(rand.N(flush)) // any moment of a flush
		readersBefore, buyersBefore := readers.Report(), buyers.Report()
		r.Set(version, failing(kind, 1))
		r.UntilPhase(halted, soon)
		counts := quiet(r, version, "v1")
		s := r.Status()
		if s.Weight != 0 || s.Phase != halted {
			t.Errorf("run %d: %v", n, s)
		}
		took, decided := reaction(counts), s.Since.AsTime().Sub(counts.FirstBad)
		reactions, decisions, deliveries = append(reactions, took), append(decisions, decided), append(deliveries, counts.LastReceived.Sub(s.Since.AsTime()))
		g, p := readers.Report().Failed-readersBefore.Failed, buyers.Report().Failed-buyersBefore.Failed
		bad, gets, posts = bad+counts.Bad(), gets+g, posts+p
		t.Logf("run %d: reaction %v, halted after %v (%s: %s), %d bad answers, %d GETs and %d POSTs failed",
			n, took.Round(time.Millisecond), decided.Round(time.Millisecond), s.Reason, s.Message, counts.Bad(), g, p)
	}
	t.Logf("reaction over %d runs: %v (decided after: %v; last request after the decision: %v); %d bad answers, of which users saw %d GETs and %d POSTs fail",
		runs, reactions, decisions, deliveries, bad, gets, posts)
	if kind == lab.FailStatus {
		noFailedGET(t, readers)
	} else if gets == 0 {
		t.Error("no GET failed, though none can be saved: this test is wrong")
	}
	if posts == 0 && long {
		t.Error("no POST failed, though none can be saved: this test is wrong")
	}
	limit := flush + 50*time.Millisecond
	if !long { // a busy machine
		limit = 2*flush + 2*time.Second
	}
	if m := reactions.median(); m > limit {
		t.Errorf("median reaction %v, want at most %v", m, limit)
	}
}
