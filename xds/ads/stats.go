package ads

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

type counters struct {
	opened, refused, closed, malformed, publishes, skipped, bytes, heartbeats, lapses atomic.Uint64

	pushes, acks, nacks [numTypes]atomic.Uint64
}

// histogram counts durations in buckets of a quarter of an octave, from 1 µs up to about 70 min.
type histogram struct {
	count, sum atomic.Uint64
	max        atomic.Uint64
	buckets    [128]atomic.Uint64
}

func bucketBound(i int) time.Duration {
	return time.Duration(float64(time.Microsecond) * math.Exp2(float64(i)/4))
}

func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	if d > time.Microsecond {
		i = min(int(math.Ceil(4*math.Log2(float64(d)/float64(time.Microsecond)))), len(h.buckets)-1)
	}
	h.buckets[i].Add(1)
	h.count.Add(1)
	h.sum.Add(uint64(d))
	for {
		old := h.max.Load()
		if uint64(d) <= old || h.max.CompareAndSwap(old, uint64(d)) {
			return
		}
	}
}

func (h *histogram) read() Latency {
	l := Latency{Count: h.count.Load(), Sum: time.Duration(h.sum.Load()), Max: time.Duration(h.max.Load())}
	for i := range h.buckets {
		if n := h.buckets[i].Load(); n > 0 {
			l.Buckets = append(l.Buckets, Bucket{Bound: bucketBound(i), Count: n})
		}
	}
	return l
}

// Stats is the counters since New, and the gauges of now.
func (s *Server) Stats() Stats {
	c := &s.count
	out := Stats{
		Opened: c.opened.Load(), Refused: c.refused.Load(), Closed: c.closed.Load(), Malformed: c.malformed.Load(),
		Publishes: c.publishes.Load(), Skipped: c.skipped.Load(), Bytes: c.bytes.Load(),
		Heartbeats: c.heartbeats.Load(), Lapses: c.lapses.Load(), Kill: s.kill.read(),
	}
	for t := range numTypes {
		out.Pushes[t], out.Acks[t], out.Nacks[t] = c.pushes[t].Load(), c.acks[t].Load(), c.nacks[t].Load()
	}
	now := time.Now()
	for _, streams := range s.connected() {
		out.Proxies++
		for _, st := range streams {
			out.Streams++
			st.mu.Lock()
			if st.lease.running() && now.Before(st.lease.until) {
				out.Leased++
			}
			if st.killPending() {
				out.KillPending++
			}
			st.mu.Unlock()
		}
	}
	return out
}

// killPending says whether something of the kill lane is not ACKed. Its mu must be held.
func (st *stream) killPending() bool {
	if pub := st.view.current.Load(); pub != nil {
		if st.urgentGen < pub.urgentGen {
			return true
		}
		for t := range st.watches {
			if slices.ContainsFunc(st.watches[t].flight, func(s sent) bool { return !s.kill.IsZero() }) {
				return true
			}
		}
	}
	cur, w := st.view.layer.Load(), &st.watches[Runtime]
	if cur == nil || !w.wants(cur.Name) {
		return false
	}
	return st.lease.last == nil || !st.lease.last.layer.same(cur) ||
		st.lease.acked == nil || !st.lease.acked.layer.same(cur) && (st.lease.acked.live || st.lease.last.live)
}

// connected are the streams of every proxy that has any, oldest first.
func (s *Server) connected() map[string][]*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string][]*stream, len(s.proxies))
	for name, p := range s.proxies {
		if len(p.streams) > 0 {
			all[name] = slices.Clone(p.streams)
		}
	}
	return all
}

// Nacks counts, by view, type and version, the proxies that refused a version: newest first.
func (s *Server) Nacks() []NackCount {
	s.mu.Lock()
	views := make([]*view, 0, len(s.views))
	for _, v := range s.views {
		views = append(views, v)
	}
	s.mu.Unlock()
	var all []NackCount
	for _, v := range views {
		v.nackMu.Lock()
		for _, e := range v.nacks {
			all = append(all, e.NackCount)
		}
		v.nackMu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b NackCount) int { return b.Last.Compare(a.Last) })
	return all
}

func versionString(major, minor, patch uint32) string {
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
