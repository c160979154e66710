package telemetry

import (
	"slices"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// arms collects what a flush says of each version.
type arms struct {
	of map[armKey]*arm
}

type arm struct {
	signal.Arm
	tried map[signal.Class]*tried
	// unmatched is how many connections failed in the flush, less the tries that did for it.
	unmatched int64
}

type tried struct {
	n       uint64
	latency signal.Histogram
	// cut are the latencies, of those, of tries whose answer was not read to its end.
	cut signal.Histogram
	// waited are those of n that were held back a flush ago.
	waited uint64
}

func newArms() *arms { return &arms{of: map[armKey]*arm{}} }

func (a *arms) get(k armKey) *arm {
	got := a.of[k]
	if got == nil {
		got = &arm{
			Arm:   signal.Arm{Service: k.service, Version: k.version, Region: k.region, Shadow: k.shadow},
			tried: map[signal.Class]*tried{},
		}
		a.of[k] = got
	}
	return got
}

func (a *arms) gauges(k armKey, g *gauges) {
	arm := a.get(k)
	arm.InProgress, arm.Pending = g.inProgress, g.pending
	arm.Endpoints, arm.Healthy, arm.Ejected = g.endpoints, g.healthy, g.ejected
}

func (a *arms) add(k key, n uint64) {
	if n == 0 {
		return
	}
	arm := a.get(k.arm)
	switch k.kind {
	case overflows:
		arm.Overflows += n
	case connectFailures:
		arm.unmatched += int64(n)
	case ejections:
		arm.Ejections += n
	}
}

func (a *arms) outcome(k armKey, c signal.Class, n uint64, latency, cut signal.Histogram) {
	t := a.get(k).class(c)
	t.n += n
	t.latency = merge(t.latency, latency)
	t.cut = merge(t.cut, within(cut, latency))
}

func (a *arm) class(c signal.Class) *tried {
	t := a.tried[c]
	if t == nil {
		t = &tried{}
		a.tried[c] = t
	}
	return t
}

// cutKey counts requests of one version that were cut for one cause.
type cutKey struct {
	arm   armKey
	cause string
}

// heldTries are tries that wait for the log of their request.
type heldTries struct {
	arm   armKey
	class signal.Class
	tried
}

// unexplained is true of tries that have no answer and nothing that says why.
func unexplained(c signal.Class) bool { return c.Status == 0 && c.Flags == "" }

// heldBack adds what waited since the flush before.
func (a *arms) heldBack(h heldTries) {
	t := a.get(h.arm).class(h.class)
	t.n += h.n
	t.waited += h.n
	t.latency, t.cut = merge(t.latency, h.latency), merge(t.cut, h.cut)
}

// explain gives the flag of a cause to n tries that have none: first to those without an answer, then to those whose
// answer was cut, the slowest of a class first, as the first cause is a timeout. It returns how many it found no try for.
func (a *arm) explain(cause string, n uint64) uint64 {
	if n == 0 {
		return 0
	}
	var unflagged []signal.Class
	for c := range a.tried {
		if c.Flags == "" {
			unflagged = append(unflagged, c)
		}
	}
	slices.SortFunc(unflagged, signal.Class.Compare)
	for _, c := range unflagged {
		from := a.tried[c]
		eligible := from.cut.Total()
		if unexplained(c) {
			eligible = from.n
		}
		move := min(n, eligible)
		if move == 0 {
			continue
		}
		n -= move
		slow, rest := slowest(from.cut, move)
		from.latency, from.cut = less(from.latency, slow), rest
		from.waited -= min(from.waited, move)
		if from.n -= move; from.n == 0 {
			delete(a.tried, c)
		}
		from.latency, _ = thin(from.latency, min(from.n, from.latency.Total()))
		c.Flags = cause
		to := a.class(c)
		to.n += move
		to.latency, to.cut = merge(to.latency, slow), merge(to.cut, slow)
	}
	return n
}

// hold takes out the tries of this flush that nothing explains yet; those that waited a flush stay.
func (a *arms) hold() []heldTries {
	var held []heldTries
	for k, arm := range a.of {
		for c, t := range arm.tried {
			if !unexplained(c) || t.n == t.waited {
				continue
			}
			h := heldTries{arm: k, class: c, tried: tried{n: t.n - t.waited}}
			h.latency, t.latency = thin(t.latency, min(h.n, t.latency.Total()))
			h.cut, t.cut = within(t.cut, h.latency), within(t.cut, t.latency)
			held = append(held, h)
			if t.n = t.waited; t.n == 0 {
				delete(arm.tried, c)
			}
		}
	}
	return held
}

// abandoned gives copies that nothing explains Envoy's flag for a caller who left. Everything else that ends a copy is
// explained; and one ends too with the request whose body it copies, which is no doing of the shadow.
func (a *arms) abandoned() {
	for k, arm := range a.of {
		if !k.shadow {
			continue
		}
		n := uint64(0)
		for c, t := range arm.tried {
			if unexplained(c) {
				n += t.n
			}
		}
		arm.explain("DR", n)
	}
}

// sorted are the arms as a Flush has them.
func (a *arms) sorted() []signal.Arm {
	out := make([]signal.Arm, 0, len(a.of))
	for _, arm := range a.of {
		done := arm.Arm
		for c, t := range arm.tried {
			done.Outcomes = append(done.Outcomes, signal.Outcome{Class: c, Tries: t.n, Latency: t.latency})
		}
		slices.SortFunc(done.Outcomes, func(x, y signal.Outcome) int { return x.Class.Compare(y.Class) })
		out = append(out, done)
	}
	slices.SortFunc(out, signal.Arm.Compare)
	return out
}

// connections gives the failed connections that no try explains, and returns the balances that wait for the next flush: a
// connection's failure and its try's are counted one after the other, with a flush in between at times. Several tries may
// fail for one connection.
func (a *arms) connections(before map[armKey]int64) map[armKey]int64 {
	next := map[armKey]int64{}
	for k, held := range before {
		arm := a.get(k)
		if both := min(abs(held), abs(arm.unmatched)); held > 0 && arm.unmatched < 0 {
			held, arm.unmatched = held-both, arm.unmatched+both
		} else if held < 0 && arm.unmatched > 0 {
			held, arm.unmatched = held+both, arm.unmatched-both
		}
		arm.ConnectFailures = uint64(max(held, 0))
	}
	for k, arm := range a.of {
		if arm.unmatched != 0 {
			next[k] = arm.unmatched
		}
	}
	return next
}

func abs(n int64) int64 { return max(n, -n) }
