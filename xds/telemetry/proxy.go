package telemetry

import (
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
	// generation counts flushes; the messages of one flush share it.
	generation uint64
	series     map[key]*series
	// held are tries without an answer or a flag, whose request's log, which says why, may be in the next flush; late are
	// requests that were cut and whose try was not in the flush yet. Both wait for one flush.
	held []heldTries
	late map[cutKey]uint64
	// counted is when access logs of tries came last: LRS must not count them again.
	counted time.Time
}

// series is one counter.
type series struct {
	total      uint64
	generation uint64
	// owed are tries that were given without their latency, as its histogram is taken a moment before the counter; left
	// are latencies of such tries, which came a flush later and had no room.
	owed uint64
	left signal.Histogram
}

// flush takes one message in and hands on what it says.
func (p *proxy) flush(s *Server, stream uint64, families []*dto.MetricFamily) error {
	sample := read(families)
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
	span, known := p.begin(stream, now, &sample)
	if !known {
		s.config.Log.Debug("telemetry starts anew", "proxy", p.who.ID)
	}
	arms := newArms()
	for k, g := range sample.gauges {
		arms.gauges(k, g)
	}
	p.count(&sample, arms, known)
	s.config.Sink(signal.Flush{
		Proxy: p.who.ID, Region: p.who.Region, Service: p.who.Service, At: now, Span: span, Arms: arms.sorted(),
	})
	return nil
}

// begin finds out what the message can be compared with. known: the counters continue those that are kept, and span is the
// time since. If not, the message is a new beginning: nothing is known of what the proxy did before it.
func (p *proxy) begin(stream uint64, now time.Time, m *sample) (span time.Duration, known bool) {
	fresh := stream != p.stream
	known = !p.at.IsZero()
	if known && fresh {
		known = now.Sub(p.at) <= catchUpLimit && !p.restarted(m)
		for _, c := range p.series {
			c.owed, c.left = 0, nil // what happened in between has no histogram
		}
		p.late = nil
	}
	if !known {
		p.series, p.late, p.held = map[key]*series{}, nil, nil
	} else {
		// Two messages of one flush, or one that came twice, must not look like two flushes at one time.
		span = max(now.Sub(p.at), 1)
	}
	// A flush has its metrics' time; an Envoy always has some, so a message with none is not one that lost them all.
	if m.stamp != 0 && (fresh || m.stamp != p.stamp) {
		for k, c := range p.series {
			if c.generation != p.generation {
				delete(p.series, k) // the proxy dropped it: if it comes back, then from 0
			}
		}
		p.generation++
	}
	p.stream, p.at = stream, now
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

// count turns totals into differences and puts them into arms; with nothing to compare with it only keeps them.
func (p *proxy) count(m *sample, arms *arms, known bool) {
	ended := map[cutKey]uint64{}
	for k, n := range m.counters {
		if k.kind == tries {
			p.counted = p.at
		}
		d, fresh := p.step(k, n)
		if !fresh || !known {
			continue
		}
		switch k.kind {
		case tries:
			p.outcome(m, k, d, arms)
		case cutRequests:
			if c := cause(k.class.Flags); c != "" && d > 0 {
				ended[cutKey{k.arm(), c}] += d
			}
		default:
			arms.add(k, d)
		}
	}
	if !known {
		return
	}
	late := p.late
	p.late = map[cutKey]uint64{}
	for k, n := range late {
		ended[k] += n
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
	for k, n := range ended {
		// One that waited already ended between two tries, or after the whole answer was read: it explains none.
		if n -= min(n, late[k]); n > 0 {
			p.late[k] = n
		}
	}
	p.held = arms.hold()
}

// step keeps a total and gives the difference to the one before; fresh is false for one that this flush gave already.
func (p *proxy) step(k key, n uint64) (d uint64, fresh bool) {
	c := p.series[k]
	switch {
	case c == nil:
		if len(p.series) >= maxSeries {
			return 0, false
		}
		c = &series{}
		p.series[k] = c
		d = n
	case c.generation == p.generation:
		return 0, false
	case n < c.total:
		d = n // Envoy dropped the series and began another between two flushes
	default:
		d = n - c.total
	}
	c.total, c.generation = n, p.generation
	return d, true
}

// outcome adds d tries of one class, with as many of their latencies as are known.
func (p *proxy) outcome(m *sample, k key, d uint64, arms *arms) {
	c := p.series[k]
	cut := m.cut[k]
	latency := merge(merge(c.left, m.answered[k]), cut)
	if d == 0 {
		// Latencies of tries that were counted a flush ago, if there are any; they wait for one more.
		c.left, _ = thin(latency, min(c.owed, latency.Total()-c.left.Total()))
		return
	}
	given, left := thin(latency, min(d, latency.Total()))
	c.owed += d - given.Total()
	c.left, _ = thin(left, min(c.owed, left.Total()))
	arms.outcome(k, d, given, cut)
}
