package lab

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Outcomes other than an HTTP status ("200") or the name of a gRPC status ("INTERNAL").
const (
	OutcomeHang  = "hang"
	OutcomeBreak = "break"
	OutcomeReset = "reset"
	// OutcomeGone: the caller left, or the connection was cut, before the answer was written.
	OutcomeGone = "gone"
)

// Counts is what one or more instances did. Received = InFlight + the sum of Outcomes, but for a request whose handler is
// just between two of the counters.
type Counts struct {
	// Received counts requests (tries), health checks not among them.
	Received uint64
	InFlight int64
	// Outcomes counts ended tries by what was done.
	Outcomes map[string]uint64
	// Slow counts answers that were delayed by FailSlow; they are in Outcomes too.
	Slow uint64
	// Bytes of request bodies.
	Bytes uint64
	// Health counts health checks, HealthFailed those that were failed.
	Health, HealthFailed uint64
	// Connections counts accepted connections.
	Connections uint64
	// FirstReceived and LastReceived are when the first and the newest request arrived. FirstBad is when the first failure
	// was done: an answer written, a connection cut, a hang received, the listener closed. LastBad is the newest such time.
	// Zero: never.
	FirstReceived, LastReceived, FirstBad, LastBad time.Time
}

// Good and Bad are the numbers of ended tries that were answered well (2xx and 3xx, OK), and that were not.
func (c Counts) Good() uint64 {
	var n uint64
	for outcome, k := range c.Outcomes {
		if good(outcome) {
			n += k
		}
	}
	return n
}

// Bad is the number of ended tries that failed, those included whose caller left.
func (c Counts) Bad() uint64 {
	var n uint64
	for outcome, k := range c.Outcomes {
		if !good(outcome) {
			n += k
		}
	}
	return n
}

func good(outcome string) bool {
	return outcome == "OK" || len(outcome) == 3 && (outcome[0] == '2' || outcome[0] == '3')
}

// Total adds up the counts of instances, such as those of one version.
func Total(instances ...*Instance) Counts {
	sum := Counts{Outcomes: map[string]uint64{}}
	for _, i := range instances {
		c := i.Counts()
		sum.Received += c.Received
		sum.InFlight += c.InFlight
		sum.Slow += c.Slow
		sum.Bytes += c.Bytes
		sum.Health += c.Health
		sum.HealthFailed += c.HealthFailed
		sum.Connections += c.Connections
		for outcome, n := range c.Outcomes {
			sum.Outcomes[outcome] += n
		}
		sum.FirstReceived = earlier(sum.FirstReceived, c.FirstReceived)
		sum.FirstBad = earlier(sum.FirstBad, c.FirstBad)
		sum.LastReceived = later(sum.LastReceived, c.LastReceived)
		sum.LastBad = later(sum.LastBad, c.LastBad)
	}
	return sum
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// started is what the nanoseconds in a tally are counted from, on the monotonic clock.
var started = time.Now()

// stamp is now, in nanoseconds after started; never 0.
func stamp() int64 { return max(int64(time.Since(started)), 1) }

func at(stamp int64) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	return started.Add(time.Duration(stamp))
}

// tally counts for one instance.
type tally struct {
	received, slow, bytes, health, healthFailed, connections atomic.Uint64
	inFlight                                                 atomic.Int64
	firstReceived, lastReceived, firstBad, lastBad           atomic.Int64

	mu       sync.Mutex
	outcomes map[string]uint64
}

func (t *tally) receive() {
	now := stamp()
	t.inFlight.Add(1)
	t.received.Add(1)
	t.firstReceived.CompareAndSwap(0, now)
	raise(&t.lastReceived, now)
}

func (t *tally) bad() {
	now := stamp()
	t.firstBad.CompareAndSwap(0, now)
	raise(&t.lastBad, now)
}

// raise sets v to at least n.
func raise(v *atomic.Int64, n int64) {
	for {
		old := v.Load()
		if old >= n || v.CompareAndSwap(old, n) {
			return
		}
	}
}

func (t *tally) end(outcome string) {
	t.mu.Lock()
	if t.outcomes == nil {
		t.outcomes = map[string]uint64{}
	}
	t.outcomes[outcome]++
	t.mu.Unlock()
	t.inFlight.Add(-1)
}

func (t *tally) counts() Counts {
	t.mu.Lock()
	outcomes := maps.Clone(t.outcomes)
	t.mu.Unlock()
	if outcomes == nil {
		outcomes = map[string]uint64{}
	}
	return Counts{
		Received: t.received.Load(), InFlight: t.inFlight.Load(), Outcomes: outcomes, Slow: t.slow.Load(), Bytes: t.bytes.Load(),
		Health: t.health.Load(), HealthFailed: t.healthFailed.Load(), Connections: t.connections.Load(),
		FirstReceived: at(t.firstReceived.Load()), LastReceived: at(t.lastReceived.Load()),
		FirstBad: at(t.firstBad.Load()), LastBad: at(t.lastBad.Load()),
	}
}

func (t *tally) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.outcomes)
	for _, n := range []*atomic.Uint64{&t.received, &t.slow, &t.bytes, &t.health, &t.healthFailed, &t.connections} {
		n.Store(0)
	}
	for _, n := range []*atomic.Int64{&t.firstReceived, &t.lastReceived, &t.firstBad, &t.lastBad} {
		n.Store(0)
	}
	t.received.Add(uint64(max(t.inFlight.Load(), 0)))
}
