package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// layer is a published Layer, encoded.
type layer struct {
	Layer
	at   time.Time
	live encoded // the values
	safe encoded // the same name without any: the values of RDS hold
}

// encoded is one form of a layer: its content hash, and its Any as the `resource` field of a wrapper Resource.
type encoded struct {
	hash  string
	field mem.Buffer
}

func newLayer(l Layer, at time.Time) (*layer, error) {
	if l.TTL < 0 || l.Name == "" || l.Name == wildcard {
		return nil, fmt.Errorf("ads: layer %q with a TTL of %v", l.Name, l.TTL)
	}
	l.Name = canonical(l.Name)
	if l.Values == nil {
		l.Values = new(structpb.Struct)
	}
	p := &layer{Layer: l, at: at}
	var err error
	if p.live, err = encodeLayer(l.Name, l.Values); err != nil {
		return nil, err
	}
	p.safe, err = encodeLayer(l.Name, new(structpb.Struct))
	return p, err
}

func encodeLayer(name string, values *structpb.Struct) (encoded, error) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&runtimev3.Runtime{Name: name, Layer: values})
	if err != nil {
		return encoded{}, fmt.Errorf("ads: layer %q: %w", name, err)
	}
	sum := sha256.Sum256(value)
	return encoded{
		hash:  hex.EncodeToString(sum[:8]),
		field: mem.SliceBuffer(appendBytes(nil, fieldWrapped, appendAny(nil, Runtime.URL(), value))),
	}, nil
}

func (l *layer) same(o *layer) bool {
	return o != nil && l.Name == o.Name && l.TTL == o.TTL && l.live.hash == o.live.hash
}

func (l *layer) form(live bool) encoded {
	if live {
		return l.live
	}
	return l.safe
}

// margin is how long before its end a lease counts as past: a heartbeat that arrives after the end is refused.
func (l *layer) margin() time.Duration {
	return min(max(l.TTL/10, 20*time.Millisecond), l.TTL/4, time.Second)
}

// body is what an RTDS response carried.
type body struct {
	layer     *layer
	live      bool
	heartbeat bool
}

// lease is how the runtime layer stands at one stream's proxy. Its stream's mu guards it.
type lease struct {
	last    *body  // the last body sent; nil: none on this stream
	version string // of last: content hash and lease epoch
	until   time.Time
	lapsed  bool  // the last live body with a TTL ran out
	acked   *body // the last body that was accepted
	parked  *body // the last body that was refused
}

// running says that the server believes that a TTL runs at the proxy.
func (l *lease) running() bool {
	return l.last != nil && l.last.live && l.last.layer.TTL > 0 && !l.lapsed
}

func (l *lease) accepted(b *body) {
	if !b.heartbeat {
		l.acked, l.parked = b, nil
	}
}

// refused: a body that was refused is not sent again; a heartbeat that was refused came too late, so the lease is past.
func (l *lease) refused(b *body, now time.Time) {
	if !b.heartbeat {
		l.parked = b
	} else if l.until.After(now) {
		l.until = now
	}
}

// effective is the layer that stands at the proxy, nil if none or an empty one.
func (l *lease) effective(now time.Time) *structpb.Struct {
	if l.acked == nil || !l.acked.live || len(l.acked.layer.Values.GetFields()) == 0 {
		return nil
	}
	if l.acked.layer.TTL > 0 && (l.lapsed || !now.Before(l.until)) {
		return nil
	}
	return l.acked.layer.Values
}

// vouched is until when the proxy's renewal lets it have layer live.
func (st *stream) vouched(l *layer) time.Time {
	renewed, ok := st.proxy.lastRenewal()
	if !st.client.Lease || !ok {
		return time.Time{}
	}
	return renewed.Add(l.TTL)
}

// nextRuntime is the next RTDS response that is due, or nil. It never waits for another type.
//
// A body or a heartbeat carries what is left of the renewal, never more: so a lease ends one TTL after the last
// renewal, however often the layer was published meanwhile.
func (st *stream) nextRuntime(now time.Time) *response {
	w, ls := &st.watches[Runtime], &st.lease
	cur := st.view.layer.Load()
	if ls.running() && !now.Before(ls.until) {
		ls.lapsed = true
		st.srv.count.lapses.Add(1)
	}
	if !w.asked || cur == nil || len(w.flight) >= urgentRoom {
		return nil
	}
	missing := st.missingLayers(cur)
	_, forced := w.force[cur.Name]
	answer := w.answer || forced
	w.force, w.answer, w.again = nil, false, false
	var due *body
	if w.wants(cur.Name) {
		due = st.dueBody(cur, answer, now)
	}
	w.initial = nil
	if due == nil && len(missing) == 0 && !(answer && !st.delta && !w.wants(cur.Name)) {
		return nil
	}
	var head []byte
	var shared mem.Buffer
	version := ls.version
	if due != nil {
		head, shared, version = st.carry(due, now)
	}
	r := &response{watch: w, sent: sent{version: version, at: now, body: due}}
	if due != nil && !due.heartbeat && st.connected.Before(cur.at) && w.acked != "" {
		r.sent.kill = cur.at
	}
	tail := appendString(nil, fieldVersion, version)
	tail = appendString(tail, fieldTypeURL, Runtime.URL())
	if st.delta {
		for _, name := range missing {
			tail = appendString(tail, fieldRemoved, name)
		}
	}
	tail = appendString(tail, fieldNonce, st.nonce())
	if head != nil {
		r.frame.bufs = append(r.frame.bufs, mem.SliceBuffer(head))
	}
	if shared != nil {
		r.frame.bufs = append(r.frame.bufs, shared)
	}
	r.frame.bufs = append(r.frame.bufs, mem.SliceBuffer(tail))
	w.sent = version
	st.note(Runtime, r)
	return r
}

// missingLayers are the names to be answered as not existing: asked for, claimed on reconnect, or the view's former layer.
func (st *stream) missingLayers(cur *layer) []string {
	if !st.delta {
		return nil
	}
	w, gone := &st.watches[Runtime], make(map[string]struct{})
	for name := range w.force {
		gone[name] = struct{}{}
	}
	for name := range w.initial {
		if w.wants(name) {
			gone[name] = struct{}{}
		}
	}
	if last := st.lease.last; last != nil && last.layer.Name != cur.Name && w.wants(last.layer.Name) {
		gone[last.layer.Name] = struct{}{}
		st.lease.last = nil
	}
	delete(gone, cur.Name)
	return slices.Sorted(maps.Keys(gone))
}

// dueBody says what the proxy is to be sent of the layer that it wants: a body, a heartbeat or nothing.
func (st *stream) dueBody(cur *layer, asked bool, now time.Time) *body {
	ls := &st.lease
	until := st.vouched(cur)
	live := cur.TTL == 0 || until.Sub(now) > cur.margin()
	want := &body{layer: cur, live: live}
	if ls.parked != nil && ls.parked.layer.same(cur) && ls.parked.live == live {
		return nil
	}
	last := ls.last
	switch {
	case last == nil:
		if cur.TTL == 0 || !live {
			// For good, or empty: a reconnecting proxy that has it keeps it. A lease always starts anew.
			had := st.watches[Runtime].initial[cur.Name]
			if hash, _, _ := strings.Cut(had, "-"); hash == cur.form(live).hash {
				ls.last, ls.acked, ls.version = want, want, had
				st.watches[Runtime].settle(had, now)
				return nil
			}
		}
		return want
	case asked:
		return want
	case !last.layer.same(cur):
		if !live && !last.live && last.layer.Name == cur.Name {
			ls.last = want // empty before, empty now
			return nil
		}
		return want
	case cur.TTL == 0:
		return nil
	case live && !last.live:
		return want
	case !live || !until.After(ls.until):
		return nil // what was given runs out by itself
	case ls.lapsed || ls.until.Sub(now) <= cur.margin():
		return want // too late for a heartbeat
	case ls.until.Sub(now) <= cur.TTL-cur.TTL/4 && len(st.watches[Runtime].flight) == 0:
		return &body{layer: cur, live: true, heartbeat: true}
	}
	return nil
}

// carry books a body as sent, and encodes it: the head, and the shared bytes that end it (nil for a delta heartbeat).
func (st *stream) carry(b *body, now time.Time) (head []byte, shared mem.Buffer, version string) {
	ls, form := &st.lease, b.layer.form(b.live)
	var ttl []byte
	if b.live && b.layer.TTL > 0 {
		ls.until = st.vouched(b.layer)
		ls.lapsed = false
		ttl = appendBytes(nil, fieldWrappedTTL, appendDuration(nil, ls.until.Sub(now)))
	}
	if b.heartbeat {
		st.srv.count.heartbeats.Add(1)
	} else {
		ls.last = b
		ls.version = form.hash + "-" + strconv.FormatInt(st.srv.epoch(), 36)
	}
	if !b.heartbeat || !st.delta {
		// Envoy 1.40 accepts a state-of-the-world heartbeat without a body, but does not prolong the TTL by it.
		shared = form.field
	}
	inner := appendString(nil, fieldWrappedName, b.layer.Name)
	inner = appendString(inner, fieldVersion, ls.version)
	inner = append(inner, ttl...)
	rest := 0
	if shared != nil {
		rest = shared.Len()
	}
	tag := func(b []byte, field protowire.Number, size int) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
	}
	switch {
	case st.delta:
		head = append(tag(nil, fieldResources, len(inner)+rest), inner...)
	case ttl == nil:
		return nil, shared, ls.version // a plain Any: its field number is that of `resources`
	default:
		any := appendString(nil, fieldAnyURL, wrapperURL)
		any = append(tag(any, fieldAnyValue, len(inner)+rest), inner...)
		head = append(tag(nil, fieldResources, len(any)+rest), any...)
	}
	return head, shared, ls.version
}

// appendDuration appends a google.protobuf.Duration of whole milliseconds, at least one.
func appendDuration(b []byte, d time.Duration) []byte {
	d = max(d.Truncate(time.Millisecond), time.Millisecond)
	b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), uint64(d/time.Second))
	return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(d%time.Second))
}

// renewalDue says whether a renewal at now gives the stream something to send.
func (st *stream) renewalDue(now time.Time) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	cur := st.view.layer.Load()
	if cur == nil || cur.TTL == 0 || st.ended || !st.watches[Runtime].asked {
		return false
	}
	ls := &st.lease
	return !ls.running() || ls.until.Sub(now) <= cur.TTL-cur.TTL/4
}
