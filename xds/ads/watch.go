package ads

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// watch is what one stream knows of one type. Its stream's mu guards it.
//
// What the proxy holds is never listed: it is what the subscription selects from at, and gone, and neither force nor
// refused. So a stream costs memory for what it named, not for what it was sent.
type watch struct {
	asked bool                // a request for the type came
	wild  bool                // subscribed to everything
	named bool                // state of the world: named something once; from then on naming nothing means nothing
	names map[string]struct{} // explicit subscriptions

	at      *set                 // the proxy was brought to this content; nil: to none
	gen     uint64               // of at, in the view
	initial map[string]string    // delta: what a reconnecting proxy has, until the first answer
	answer  bool                 // the next response goes out even if it is empty
	again   bool                 // everything is to be sent again
	force   map[string]struct{}  // names to answer though their content did not change
	gone    map[string]*Resource // the proxy holds these and is to lose them, once nothing of it needs them

	nonce  string // of the last response
	flight []sent // unanswered responses, oldest first

	// parked says that what the proxy refused last is still the content; refused is what it refused.
	parked  bool
	refused []*Resource

	sent, acked     string // versions
	sentAt, ackedAt time.Time
	nack, nackSent  string // text and version of the refusal that stands
	nackAt          time.Time
	nacks           uint64
}

// sent is a response that was sent.
type sent struct {
	nonce   string
	version string
	list    []*Resource
	size    int
	at      time.Time
	kill    time.Time // publish time, if it went through the kill lane because of that publish
	body    *body     // RTDS: what it carried
}

func (w *watch) wants(name string) bool {
	if w.wild {
		return true
	}
	_, ok := w.names[name]
	return ok
}

func (w *watch) demand(name string) {
	if w.force == nil {
		w.force = make(map[string]struct{})
	}
	w.force[name] = struct{}{}
}

func (w *watch) lose(name string, r *Resource) {
	if w.gone == nil {
		w.gone = make(map[string]*Resource)
	}
	w.gone[name] = r
}

func (w *watch) subscribe(name string) {
	if w.names == nil {
		w.names = make(map[string]struct{})
	}
	w.names[name] = struct{}{}
}

// everything subscribes to the wildcard; the proxy is then to be sent all there is.
func (w *watch) everything() {
	w.wild, w.answer, w.again = true, true, w.at != nil
}

// unsubscribe forgets a name. Under a wildcard the proxy no longer knows whether it may keep the resource, so it is told.
func (w *watch) unsubscribe(name string) {
	delete(w.names, name)
	if w.wild {
		w.demand(name)
		return
	}
	delete(w.force, name)
	delete(w.gone, name)
}

func (w *watch) unsubscribeWildcard() {
	w.wild = false
	for name := range w.gone {
		if !w.wants(name) {
			delete(w.gone, name)
		}
	}
}

// withholds says that r is content that the proxy refused: it is not sent again, however often it is asked for.
func (w *watch) withholds(r *Resource) bool {
	return w.parked && slices.ContainsFunc(w.refused, func(o *Resource) bool { return o.name == r.name && o.version == r.version })
}

// batch is what a response is to carry.
type batch struct {
	list    []*Resource
	missing []string // names that the proxy asked for and that do not exist, or no longer
	send    bool
	fresh   bool // list is all that exists, but for what the proxy is known to have
	ahead   bool // list is newer than at: answers to names, while the rest of the content has to wait
}

// take brings the watch to the content to, and says what the proxy needs for it.
func (w *watch) take(to *set, gen uint64, keepsGone bool) batch {
	var b batch
	if w.at == nil {
		b = w.first(to)
	} else if w.at != to {
		b = w.changes(to, keepsGone)
	}
	if w.again {
		b.list = slices.DeleteFunc(slices.Clone(to.sorted), w.withholds)
		b.fresh = true
	}
	w.at, w.gen, w.again = to, gen, false
	w.forced(to, &b)
	w.decide(&b)
	return b
}

// takeNamed answers the names that were asked for out of to, and leaves the watch where it stands.
func (w *watch) takeNamed(to *set) batch {
	b := batch{ahead: true}
	w.forced(to, &b)
	w.decide(&b)
	return b
}

// decide says whether a batch is worth a response: one that carries something, or the one that an asking proxy waits for.
// A proxy that asks again for what it refused waits in vain.
func (w *watch) decide(b *batch) {
	b.send = len(b.list) > 0 || len(b.missing) > 0 || w.answer && !w.parked
	w.answer = false
}

// first is the answer to a proxy of which only the initial versions are known.
func (w *watch) first(to *set) batch {
	b := batch{fresh: true}
	has := func(r *Resource) bool { return w.initial[r.name] == r.version }
	switch {
	case w.wild && len(w.initial) == 0:
		b.list = to.sorted
	case w.wild:
		for _, r := range to.sorted {
			if !has(r) {
				b.list = append(b.list, r)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.names)) {
		r := to.get(name)
		_, had := w.initial[name]
		switch {
		case r == nil && !had:
			b.missing = append(b.missing, name)
		case r != nil && !w.wild && !has(r):
			b.list = append(b.list, r)
		}
		delete(w.force, name)
	}
	for name := range w.initial {
		if w.wants(name) && to.get(name) == nil {
			w.lose(name, nil)
		}
	}
	w.initial, w.refused, w.parked = nil, nil, false
	return b
}

// changes is what differs for this proxy between where it stands and to.
func (w *watch) changes(to *set, keepsGone bool) batch {
	var b batch
	d := to.since(w.at)
	if !w.wild && len(w.names) < len(d.changed) {
		for name := range w.names {
			if r := to.get(name); r != nil {
				if old := w.at.get(name); old == nil || old.version != r.version {
					b.list = append(b.list, r)
				}
			}
		}
		slices.SortFunc(b.list, func(a, b *Resource) int { return strings.Compare(a.name, b.name) })
	} else if w.wild {
		b.list = d.changed
	} else {
		for _, r := range d.changed {
			if w.wants(r.name) {
				b.list = append(b.list, r)
			}
		}
	}
	changed := len(b.list) > 0
	if len(w.gone) > 0 {
		for _, r := range b.list {
			delete(w.gone, r.name)
		}
	}
	for _, r := range d.removed {
		if w.wants(r.name) {
			changed = true
			if keepsGone {
				w.lose(r.name, r)
			}
		}
	}
	if changed && w.parked {
		b.list = w.retry(to, b.list)
	}
	return b
}

// retry adds to a changed content what the proxy refused and what still is: only an ACK of it all makes the proxy synced.
func (w *watch) retry(to *set, list []*Resource) []*Resource {
	list = slices.Clone(list)
	in := names(list)
	for _, old := range w.refused {
		r := to.get(old.name)
		if r != nil && w.wants(r.name) && !in[r.name] {
			in[r.name] = true
			list = append(list, r)
		}
	}
	w.parked, w.refused = false, nil
	if len(list) == 0 {
		w.nack, w.nackSent = "", ""
	}
	return list
}

// forced adds the names that are to be answered whatever changed.
func (w *watch) forced(to *set, b *batch) {
	if len(w.force) == 0 {
		return
	}
	if b.fresh && w.wild { // all that exists is in it, or known to the proxy
		for name := range w.force {
			if to.get(name) == nil {
				b.missing = append(b.missing, name)
			}
		}
		w.force = nil
		return
	}
	list, in := slices.Clone(b.list), names(b.list)
	for _, name := range slices.Sorted(maps.Keys(w.force)) {
		switch r := to.get(name); {
		case r == nil:
			b.missing = append(b.missing, name)
			delete(w.gone, name)
		case !in[name] && !w.withholds(r):
			list = append(list, r)
		}
	}
	b.list, w.force = list, nil
}

// full is a state-of-the-world response of a full-set type: the subscription's part of at, what is to go only later, and
// answers that are ahead of at.
func (w *watch) full(b batch) []*Resource {
	to := w.at
	if w.wild && len(w.gone) == 0 && !b.ahead {
		return to.sorted
	}
	var list []*Resource
	if w.wild {
		list = slices.Clone(to.sorted)
	} else {
		for _, name := range slices.Sorted(maps.Keys(w.names)) {
			if r := to.get(name); r != nil {
				list = append(list, r)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.gone)) {
		if r := w.gone[name]; r != nil {
			list = append(list, r)
		}
	}
	if b.ahead {
		in := names(b.list)
		list = append(slices.DeleteFunc(list, func(r *Resource) bool { return in[r.name] }), b.list...)
	}
	return list
}

func names(list []*Resource) map[string]bool {
	in := make(map[string]bool, len(list))
	for _, r := range list {
		in[r.name] = true
	}
	return in
}

// settle notes that the proxy needs nothing more of the content it was brought to.
func (w *watch) settle(version string, now time.Time) {
	w.sent = version
	if n := len(w.flight); n > 0 { // what answers the last response answers this too
		w.flight[n-1].version = version
	} else if !w.parked && w.acked != version {
		w.acked, w.ackedAt = version, now
	}
}

// answered takes the flight out that a nonce answers. Older ones go with it: a proxy answers in order, and a
// state-of-the-world proxy may answer only the newest.
func (w *watch) answered(nonce string) (sent, bool) {
	for i, s := range w.flight {
		if s.nonce == nonce {
			w.flight = slices.Delete(w.flight, 0, i+1)
			if len(w.flight) == 0 {
				w.flight = nil
			}
			return s, true
		}
	}
	return sent{}, false
}

func (w *watch) accept(s sent, now time.Time) {
	if len(w.refused) > 0 {
		in := names(s.list)
		w.refused = slices.DeleteFunc(slices.Clone(w.refused), func(o *Resource) bool { return in[o.name] })
	}
	if len(w.refused) == 0 {
		w.parked = false
		w.nack, w.nackSent = "", ""
		w.acked, w.ackedAt = s.version, now
	}
}

func (w *watch) refuse(s sent, text string, now time.Time) {
	w.parked = true
	w.refused = append(slices.Clip(w.refused), s.list...)
	w.nack, w.nackSent, w.nackAt = text, s.version, now
	w.nacks++
}
