package ads

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// urgentRoom is how many responses of a type may be unanswered when the kill lane needs it; else it is one.
	urgentRoom = 4
	// quota is how many unanswered bytes a stream may have for a send to be certain not to block: gRPC lets a stream
	// queue 64 KiB before a send waits, and what is answered is no longer queued.
	quota = 32 << 10
)

// stream is one proxy's stream. Its handler goroutine only receives; the pushers send.
type stream struct {
	srv       *Server
	delta     bool
	transport Transport
	send      func(*frame) error
	cancel    context.CancelFunc

	// Set once by the first request, before any pusher knows the stream.
	client    Client
	agent     agent
	proxy     *proxy
	view      *view
	connected time.Time

	queued [numLanes]bool // guarded by the queue's mu
	index  int            // in view.streams; guarded by the view's mu

	mu        sync.Mutex
	watches   [numTypes]watch
	lease     lease
	nonces    uint64
	sending   bool
	hurried   bool          // the kill lane came by while sending
	idle      chan struct{} // closed when sending ends, if somebody waits for it
	ended     bool
	reason    error
	timer     *time.Timer
	due       time.Time // when timer fires; zero: not armed
	urgentGen uint64    // the last urgent publish that is wholly sent
	unserved  []string

	// expected are endpoint resources of clusters that were sent and that the proxy has not asked for yet; routes wait
	// for them until expectedTill.
	expected     map[string]struct{}
	expectedTill time.Time
}

// response is what a turn sends.
type response struct {
	frame frame
	watch *watch
	sent  sent
}

// end makes the stream end; the handler returns err to gRPC's interceptors, but the client sees Canceled, as gRPC writes that
// when a receive is cut short. Its mu must be held.
func (st *stream) end(err error) {
	if !st.ended {
		st.ended, st.reason = true, err
		st.cancel()
	}
}

// retire stops everything that works for the stream, and waits for a send that is under way.
func (st *stream) retire() {
	st.mu.Lock()
	st.ended = true
	if st.timer != nil {
		st.timer.Stop()
	}
	if !st.sending {
		st.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	st.idle = idle
	st.mu.Unlock()
	st.cancel()
	<-idle
}

// turn sends what the stream is due, until nothing is, or until the kill lane has work and this is none. In the kill lane
// it sends only what belongs there.
func (st *stream) turn(l lane) {
	for {
		st.mu.Lock()
		now := time.Now()
		if st.ended || st.overdue(now) {
			st.mu.Unlock()
			return
		}
		if st.sending {
			st.hurried = st.hurried || l == kill
			st.arm(now) // a send that blocks must not outlive AckTimeout
			st.mu.Unlock()
			return
		}
		r := st.next(now, l)
		if r == nil && l == kill {
			st.mu.Unlock()
			st.srv.queue.push(routine, st)
			return
		} else if r == nil {
			st.arm(now)
			st.mu.Unlock()
			return
		}
		st.sending = true
		waiting := -r.sent.size
		for i := range st.watches {
			for _, s := range st.watches[i].flight {
				waiting += s.size
			}
		}
		st.arm(now)
		st.mu.Unlock()
		if waiting > quota {
			// It may block, so it gets a goroutine of its own; a stream has at most one, and AckTimeout ends it.
			st.srv.wg.Add(1)
			go func() {
				defer st.srv.wg.Done()
				if st.transmit(r) {
					l = kill
				}
				st.srv.queue.push(l, st)
			}()
			return
		}
		if st.transmit(r) {
			l = kill
		} else if l != kill && st.srv.queue.killWaits() {
			st.srv.queue.push(l, st)
			return
		}
	}
}

// transmit sends, and says whether the kill lane asked for the stream meanwhile.
func (st *stream) transmit(r *response) (hurried bool) {
	err := st.send(&r.frame)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sending = false
	if err != nil {
		st.end(err)
	}
	if st.idle != nil {
		close(st.idle)
		st.idle = nil
	}
	hurried, st.hurried = st.hurried, false
	return hurried
}

// overdue ends the stream if a response was not answered in time.
func (st *stream) overdue(now time.Time) bool {
	for t := range st.watches {
		w := &st.watches[t]
		if len(w.flight) > 0 && now.Sub(w.flight[0].at) >= st.srv.cfg.AckTimeout {
			st.srv.count.closed.Add(1)
			st.srv.log.Warn("stream closed: response not answered in time", "proxy", st.client.Proxy, "type", Type(t).String())
			st.end(status.Errorf(codes.DeadlineExceeded, "ads: a %s response was not answered in %v", Type(t), st.srv.cfg.AckTimeout))
			return true
		}
	}
	return false
}

// arm sets the timer to the next moment at which the passing of time alone changes what is due.
func (st *stream) arm(now time.Time) {
	var next time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for t := range st.watches {
		w := &st.watches[t]
		if len(w.flight) > 0 {
			sooner(w.flight[0].at.Add(st.srv.cfg.AckTimeout))
			if Type(t) <= Endpoint {
				sooner(w.flight[len(w.flight)-1].at.Add(st.srv.cfg.GateTimeout))
			}
		}
	}
	if len(st.expected) > 0 {
		sooner(st.expectedTill)
	}
	if st.lease.running() {
		sooner(st.lease.until)
	}
	switch {
	case next.Equal(st.due):
	case next.IsZero():
		st.timer.Stop()
	case st.timer == nil:
		st.timer = time.AfterFunc(next.Sub(now), func() {
			st.mu.Lock()
			st.due = time.Time{}
			st.mu.Unlock()
			st.srv.queue.push(routine, st)
		})
	default:
		st.timer.Reset(next.Sub(now))
	}
	st.due = next
}

// next is the next response that is due, or nil. RTDS goes first; additions go in the order of the types, listeners and
// routes through the gate; removals go last.
func (st *stream) next(now time.Time, l lane) *response {
	if r := st.nextRuntime(now); r != nil {
		return r
	}
	pub := st.view.current.Load()
	if pub == nil {
		return nil
	}
	urgent := st.urgentGen < pub.urgentGen
	if l == kill && !urgent {
		return nil
	}
	room := 1
	if urgent {
		room = urgentRoom
	}
	behind := false
	for t := Cluster; t <= Route; t++ {
		w := &st.watches[t]
		if !w.asked {
			continue
		}
		to := pub.snap.sets[t]
		if w.at == to && len(w.force) == 0 && !w.answer {
			continue
		}
		if len(w.flight) >= room {
			behind = true
			continue
		}
		var b batch
		// An urgent route waits for no ACK, but never overtakes a cluster for which there is no room.
		if t < Listener || urgent && !behind || w.at == to || st.held(t, pub, now) == "" {
			if w.at != nil && w.at != to && pub.gens[t] > w.gen+1 {
				st.srv.count.skipped.Add(pub.gens[t] - w.gen - 1)
			}
			b = w.take(to, pub.gens[t], st.delta || t.fullSet())
		} else {
			behind = true
			if w.at == nil || len(w.force) == 0 {
				continue
			}
			b = w.takeNamed(to)
		}
		if !b.send {
			w.settle(w.at.version, now)
			continue
		}
		if t == Cluster {
			st.warm(b.list, now)
		}
		var at time.Time
		if urgent && st.connected.Before(pub.urgentAt) {
			at = pub.urgentAt
		}
		return st.respond(t, b, now, at)
	}
	if behind {
		return nil
	}
	st.urgentGen = pub.urgentGen
	return st.nextRemoval(pub, now)
}

// held says why listeners and routes that are newer than what the proxy has must wait; empty if they need not.
//
// They wait for the clusters and endpoints sent before them: until these are ACKed, and until the proxy has asked for the
// endpoints of each new cluster, since an ACK is acceptance and not warmth. A silent proxy is waited for up to
// GateTimeout: the order on the wire still holds. A proxy that refused them keeps its last good routes until the refused
// content changes, for routes to clusters that it does not have are errors to users; an urgent publish passes all the
// same, and so does the first answer, for no routes are worse than some.
func (st *stream) held(t Type, pub *published, now time.Time) string {
	for c := Cluster; c <= Endpoint; c++ {
		w := &st.watches[c]
		if !w.asked {
			continue
		}
		if n := len(w.flight); n > 0 && (w.at != pub.snap.sets[c] || now.Sub(w.flight[n-1].at) < st.srv.cfg.GateTimeout) {
			return c.String() + " is not answered"
		}
		if w.parked && st.watches[t].at != nil {
			return c.String() + " is refused"
		}
	}
	if len(st.expected) > 0 {
		if now.Before(st.expectedTill) {
			return "endpoints of new clusters are not asked for"
		}
		st.expected = nil
	}
	return ""
}

// warm has the endpoints of changed clusters sent again, since the proxy warms a changed cluster with an EDS answer of its
// own; those that it has not asked for yet are awaited.
func (st *stream) warm(changed []*Resource, now time.Time) {
	eds := &st.watches[Endpoint]
	for _, r := range changed {
		switch {
		case r.eds == "":
		case eds.asked && eds.wants(r.eds):
			eds.demand(r.eds)
		default:
			if st.expected == nil {
				st.expected = make(map[string]struct{})
			}
			st.expected[r.eds] = struct{}{}
			st.expectedTill = now.Add(st.srv.cfg.GateTimeout)
		}
	}
}

// nextRemoval takes away what nothing of the proxy needs any more: once all additions are answered, listeners first, then
// routes, clusters and endpoints, each after the answer to the one before.
func (st *stream) nextRemoval(pub *published, now time.Time) *response {
	for t := Cluster; t <= Route; t++ {
		w := &st.watches[t]
		if w.asked && (w.at != pub.snap.sets[t] || len(w.flight) > 0 || t >= Listener && w.parked) {
			return nil
		}
	}
	for _, t := range [...]Type{Listener, Route, Cluster, Endpoint} {
		w := &st.watches[t]
		if len(w.gone) == 0 {
			continue
		}
		var b batch
		for name := range w.gone {
			b.missing = append(b.missing, name)
		}
		slices.Sort(b.missing)
		w.gone = nil
		return st.respond(t, b, now, time.Time{})
	}
	return nil
}

// respond encodes a batch and notes it as sent.
func (st *stream) respond(t Type, b batch, now, kill time.Time) *response {
	w := &st.watches[t]
	version := w.at.version
	list := b.list
	if !st.delta && t.fullSet() {
		list = w.full(b)
		if len(w.gone) > 0 {
			version += "~" // the content, and what is still to go
		}
	}
	r := &response{watch: w, sent: sent{version: version, list: b.list, at: now, kill: kill}}
	if st.delta {
		r.frame = deltaFrame(t, list, b.missing, version, st.nonce())
	} else {
		r.frame = sotwFrame(t, list, version, st.nonce())
	}
	w.sent = w.at.version
	st.note(t, r)
	return r
}

func (st *stream) nonce() string {
	st.nonces++
	return strconv.FormatUint(st.nonces, 36)
}

// note enters a response into the books of its type.
func (st *stream) note(t Type, r *response) {
	w := r.watch
	r.sent.nonce = strconv.FormatUint(st.nonces, 36)
	r.sent.size = r.frame.bufs.Len()
	w.nonce, w.sentAt = r.sent.nonce, r.sent.at
	w.flight = append(w.flight, r.sent)
	st.srv.count.pushes[t].Add(1)
	st.srv.count.bytes.Add(uint64(r.sent.size))
}
