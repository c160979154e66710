package lab

import (
	"net/http"
	"slices"
	"strings"
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
	// Leaked counts copies with a header that none may have, Leaks these headers by their names.
	Leaked uint64
	Leaks  map[string]uint64
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
	sum := Counts{}.plus(Counts{})
	for _, i := range instances {
		sum = sum.plus(i.Counts())
	}
	return sum
}

func (c Counts) plus(o Counts) Counts {
	return Counts{
		Received: c.Received + o.Received, InFlight: c.InFlight + o.InFlight, Outcomes: more(c.Outcomes, o.Outcomes),
		Slow: c.Slow + o.Slow, Bytes: c.Bytes + o.Bytes, Health: c.Health + o.Health, HealthFailed: c.HealthFailed + o.HealthFailed,
		Connections: c.Connections + o.Connections, Leaked: c.Leaked + o.Leaked, Leaks: more(c.Leaks, o.Leaks),
		FirstReceived: earlier(c.FirstReceived, o.FirstReceived), FirstBad: earlier(c.FirstBad, o.FirstBad),
		LastReceived: later(c.LastReceived, o.LastReceived), LastBad: later(c.LastBad, o.LastBad),
	}
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
	received, slow, bytes, health, healthFailed, connections, leaked atomic.Uint64
	inFlight                                                         atomic.Int64
	firstReceived, lastReceived, firstBad, lastBad                   atomic.Int64

	mu              sync.Mutex
	outcomes, leaks map[string]uint64
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

// credentials are the headers that no copy of a request may have.
var credentials = []string{"Authorization", "Proxy-Authorization", "Cookie"}

// leak looks for headers that a copy must not have.
func (t *tally) leak(have http.Header, personal []string) {
	found := false
	for _, name := range slices.Concat(credentials, personal) {
		if len(have.Values(name)) == 0 {
			continue
		}
		t.mu.Lock()
		if t.leaks == nil {
			t.leaks = map[string]uint64{}
		}
		t.leaks[strings.ToLower(name)]++
		t.mu.Unlock()
		found = true
	}
	if found {
		t.leaked.Add(1)
	}
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
	outcomes, leaks := more(t.outcomes, nil), more(t.leaks, nil)
	t.mu.Unlock()
	return Counts{
		Received: t.received.Load(), InFlight: t.inFlight.Load(), Outcomes: outcomes, Slow: t.slow.Load(), Bytes: t.bytes.Load(),
		Health: t.health.Load(), HealthFailed: t.healthFailed.Load(), Connections: t.connections.Load(),
		Leaked: t.leaked.Load(), Leaks: leaks,
		FirstReceived: at(t.firstReceived.Load()), LastReceived: at(t.lastReceived.Load()),
		FirstBad: at(t.firstBad.Load()), LastBad: at(t.lastBad.Load()),
	}
}

func (t *tally) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.outcomes)
	clear(t.leaks)
	for _, n := range []*atomic.Uint64{&t.received, &t.slow, &t.bytes, &t.health, &t.healthFailed, &t.connections, &t.leaked} {
		n.Store(0)
	}
	for _, n := range []*atomic.Int64{&t.firstReceived, &t.lastReceived, &t.firstBad, &t.lastBad} {
		n.Store(0)
	}
	t.received.Add(uint64(max(t.inFlight.Load(), 0)))
}
