package telemetry

import (
	"maps"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// proxy is what is kept of one proxy between its flushes.
type proxy struct {
	who Proxy

	// Guarded by Server.mu.
	streams int
	touched time.Time

	mu sync.Mutex // guards what follows, and orders the flushes of the proxy
	// stream is the newest that sent anything; older ones are over.
	stream uint64
	// at is when the last flush arrived, zero before the first; stamp and started are the proxy's own times of that flush
	// (ms) and of its process's start (s), 0 when unknown.
	at      time.Time
	stamp   int64
	started int64
	// since is when there was nothing to compare with last; idle is whether the proxy may have left a counter out then that it
	// still had.
	since time.Time
	idle  bool
	// generation counts flushes; the messages of one flush share it.
	generation uint64
	series     map[key]*series
	// held are tries without an answer or a flag, whose request's log, which says why, may be in the next flush; late are
	// requests that were cut and whose try was not in the flush yet, by the flushes that they waited: a try may have come
	// after its request and then have waited for its latency.
	held []heldTries
	late [2]map[cutKey]uint64
	// connections failed and have no try yet, or the other way round (negative); it waits for one flush.
	connections map[armKey]int64
	// counted is when access logs of tries came last: LRS must not count them again.
	counted time.Time
}

// series is one counter.
type series struct {
	total uint64
	// generation and seen are those of the last flush that had it.
	generation uint64
	seen       time.Time
	// waiting are tries whose latency is due in the next flush: Envoy takes histograms a moment before counters.
	waiting uint64
}

// flush takes one message in and hands on what it says.
func (p *proxy) flush(s *Server, stream uint64, families []*dto.MetricFamily) error {
	sample := read(families, p.who.Region)
	if sample.ignored > 0 {
		s.config.Log.Debug("telemetry that could not be read", "proxy", p.who.ID, "metrics", sample.ignored)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if stream < p.stream {
		return status.Error(codes.Aborted, "a newer stream of this node took over")
	}
	if stream == p.stream && p.behind(&sample) {
		s.config.Log.Debug("telemetry came late", "proxy", p.who.ID, "stamp", sample.stamp, "last", p.stamp)
		return nil
	}
	now := s.config.Now()
	fresh := stream != p.stream
	span, known := p.begin(fresh, now, &sample)
	p.stream = stream
	if !known {
		s.config.Log.Debug("telemetry starts anew", "proxy", p.who.ID)
	}
	arms := newArms()
	for k, g := range sample.gauges {
		arms.gauges(k, g)
	}
	p.count(&sample, arms, known, fresh)
	s.config.Sink(signal.Flush{
		Proxy: p.who.ID, Region: p.who.Region, Service: p.who.Service, At: now, Span: span, Arms: arms.sorted(),
	})
	return nil
}

// begin finds out what the message can be compared with. known: the counters continue those that are kept, and span is the
// time since. If not, the message is a new beginning: nothing is known of what the proxy did before it.
func (p *proxy) begin(fresh bool, now time.Time, m *sample) (span time.Duration, known bool) {
	known = !p.at.IsZero()
	if known && fresh {
		known = now.Sub(p.at) <= catchUpLimit && !p.restarted(m)
		clear(p.late[:])
	}
	if !known {
		p.series, p.held, p.connections = map[key]*series{}, nil, nil
		p.since, p.idle = now, m.uptime >= leftOut
		clear(p.late[:])
	} else {
		// Two messages of one flush, or one that came twice, must not look like two flushes at one time.
		span = max(now.Sub(p.at), 1)
	}
	// A flush has its metrics' time; an Envoy always has some, so a message with none is not one that lost them all.
	if m.stamp != 0 && (fresh || m.stamp != p.stamp) {
		for k, c := range p.series {
			if c.generation != p.generation && (now.Sub(c.seen) > keepIdle || len(p.series) > maxSeries/2) {
				delete(p.series, k)
			}
		}
		p.generation++
	}
	p.at = now
	if m.stamp != 0 || fresh {
		p.stamp = m.stamp
	}
	if m.uptime >= 0 && m.stamp > 0 {
		p.started = m.stamp/1000 - m.uptime
	} else if fresh {
		p.started = 0
	}
	return span, known
}

// behind is whether a message is older than one that was taken in on the same stream. A proxy whose clock was set back is
// not: its counters did not fall.
func (p *proxy) behind(m *sample) bool {
	return m.stamp != 0 && m.stamp < p.stamp && p.fell(m)
}

// restarted is whether the first message of a stream is from another process than the flush before it.
func (p *proxy) restarted(m *sample) bool {
	if p.started != 0 && m.uptime >= 0 && m.stamp > 0 {
		const rounding = 2
		if d := m.stamp/1000 - m.uptime - p.started; d > rounding || d < -rounding {
			return true
		}
	}
	return p.fell(m)
}

func (p *proxy) fell(m *sample) bool {
	for k, c := range p.series {
		if n, ok := m.counters[k]; ok && n < c.total {
			return true
		}
	}
	return false
}

// count turns totals into differences and puts them into arms; with nothing to compare with it only keeps them. fresh: the
// message is the first of its stream.
func (p *proxy) count(m *sample, arms *arms, known, fresh bool) {
	ended := map[cutKey]uint64{}
	for k, n := range m.counters {
		var latencies uint64
		if k.kind == tries {
			p.counted = p.at
			latencies = m.answered[k].Total() + m.cut[k].Total()
		}
		d, first := p.step(k, n, latencies)
		if !first || !known {
			continue
		}
		switch k.kind {
		case tries:
			// Of connections to other regions only the tries are counted.
			if hasFlag(k.class.Flags, "UF") && d > 0 && k.arm.region == "" {
				arms.get(k.arm).unmatched -= int64(d)
			}
			p.outcome(m, k, d, fresh, arms)
		case cutRequests:
			if c := cause(k.class.Flags); c != "" && d > 0 {
				ended[cutKey{k.arm, c}] += d
			}
		case hangs:
			ended[cutKey{k.arm, hang}] += d
		case timeouts:
			ended[cutKey{k.arm, "UT"}] += d
		default:
			arms.add(k, d)
		}
	}
	if !known {
		return
	}
	arrived := maps.Clone(ended)
	for _, late := range p.late {
		for k, n := range late {
			ended[k] += n
		}
	}
	for _, h := range p.held {
		arms.heldBack(h)
	}
	for arm, of := range arms.of {
		for _, c := range causes {
			k := cutKey{arm, c}
			ended[k] = of.explain(c, ended[k])
		}
	}
	before := p.late[0]
	p.late = [2]map[cutKey]uint64{{}, {}}
	for k, n := range ended {
		// The newest wait longest. One that waited twice ended between two tries, or after the whole answer: it explains none.
		if newest := min(n, arrived[k]); newest > 0 {
			p.late[0][k] = newest
			n -= newest
		}
		if older := min(n, before[k]); older > 0 {
			p.late[1][k] = older
		}
	}
	p.held = arms.hold()
	arms.abandoned()
	p.connections = arms.connections(p.connections)
}

// step keeps a total and gives the difference to the one before; first is false for one that this flush gave already.
// latencies are how many came with it.
//
// Envoy leaves a counter that was idle out of its flushes (see stats_eviction_interval), and after as long again it drops
// it. One that comes back may thus go on from where it was, or from 0; more latencies than the first would allow tell. One that
// was left out when we began to listen is new to us with all that it ever counted: of it only what has a latency in this
// flush is new for sure.
func (p *proxy) step(k key, n, latencies uint64) (d uint64, first bool) {
	c := p.series[k]
	switch {
	case c == nil:
		if len(p.series) >= maxSeries {
			return 0, false
		}
		c = &series{}
		p.series[k] = c
		if d = n; p.idle && (k.kind == tries || k.kind == cutRequests) && p.at.Sub(p.since) <= keepIdle {
			d = min(n, latencies)
		}
	case c.generation == p.generation:
		return 0, false
	case n < c.total, c.generation+1 < p.generation && latencies > n-c.total:
		d = n
	default:
		d = n - c.total
	}
	c.total, c.generation, c.seen = n, p.generation, p.at
	return d, true
}

// outcome adds the tries of one class whose latencies came, and those that waited for theirs in vain. all: nobody waits, as
// histograms were lost.
func (p *proxy) outcome(m *sample, k key, d uint64, all bool, arms *arms) {
	c := p.series[k]
	cut := m.cut[k]
	latency := merge(m.answered[k], cut)
	due := c.waiting + d
	given := max(c.waiting, min(due, latency.Total()))
	if all {
		given = due
	}
	c.waiting = due - given
	if given == 0 {
		return
	}
	latency, _ = thin(latency, min(given, latency.Total()))
	arms.outcome(k.arm, k.class, given, latency, cut)
}
