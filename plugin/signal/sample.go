package signal

import (
	"math"
	"time"
)

// Settled is how long after a change of weights every try counts again, whatever is known of its latency, where no limit
// bounds a try.
const Settled = 10 * time.Minute

// ConnectLimit is the longest that a connection may take to fail. No cluster may have a longer connect timeout.
const ConnectLimit = 5 * time.Second

// Always, as the time since a change, counts everything: for budgets, which are about what happened and not about who is
// to blame.
const Always = time.Duration(math.MaxInt64)

// Sample is what one arm's tries of one tick say to the tests.
type Sample struct {
	// Tries that count, and how many of these were errors; Errors ≤ Tries.
	Tries, Errors uint64
	// Latency of the tries that count and whose latency is known, errors included: a try that got no answer has the time
	// at which it ended, so a time-out is slow by its age and a refusal is quick. Its total is at most Tries.
	Latency Histogram
}

// Add returns the sum of both.
func (s Sample) Add(o Sample) Sample {
	return Sample{s.Tries + o.Tries, s.Errors + o.Errors, s.Latency.Merge(o.Latency)}
}

// Sample counts the arm's tries. isError says which classes are errors (the policy's).
//
// sinceChange is the time from the last change of a weight, as the proxies had it, to the begin of the flush's span (the
// shortest of several flushes). A completion counts only when its try surely began after the change: arms are then compared
// over the same starts, and the tries that a wider canary sent before are not held against the narrow one. So, in both arms
// alike:
//   - a try counts when its bucket's upper edge is at or below sinceChange;
//   - a try without a known upper edge (longer than the last one, in a histogram that was lost, or from a client that
//     reports no latencies) counts once longest has passed: the limit of a try, 0 for none, which is Settled. Histograms are
//     lost with the whole of a flush, all classes and arms together, so what is left of them is a fair sample of the same
//     tries; nothing is scaled, counts stay whole;
//   - overflows and ejections happen at once and count as tries and errors; connect failures do once ConnectLimit passed.
//
// Counting starts anew at a change, never in arrears: what does not count now is dropped for good.
func (a Arm) Sample(isError func(Class) bool, sinceChange, longest time.Duration) Sample {
	if longest == 0 {
		longest = Settled
	}
	var s Sample
	for _, o := range a.Outcomes {
		tries, latency := o.Tries, o.Latency
		if sinceChange < longest {
			latency = latency.Within(sinceChange)
			tries = min(tries, latency.Total())
		}
		s.Tries += tries
		if isError(o.Class) {
			s.Errors += tries
		}
		s.Latency = s.Latency.Merge(latency)
	}
	if sinceChange >= 0 {
		s.Tries += a.Overflows + a.Ejections
		s.Errors += a.Overflows + a.Ejections
	}
	if sinceChange >= ConnectLimit {
		s.Tries += a.ConnectFailures
		s.Errors += a.ConnectFailures
	}
	return s
}
