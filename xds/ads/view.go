package ads

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// published is what a view serves. It is replaced, never changed.
type published struct {
	snap      *Snapshot
	gens      [Runtime]uint64 // counts, by type, the contents that the view has had
	urgentGen uint64          // counts the urgent publishes
	urgentAt  time.Time       // of the last one
}

// view is the streams that see the same snapshot and the same layer.
type view struct {
	name    string
	srv     *Server
	current atomic.Pointer[published]
	layer   atomic.Pointer[layer]

	mu      sync.Mutex
	streams []*stream   // guarded by mu
	pending *Snapshot   // guarded by mu: waits for the debounce
	timer   *time.Timer // guarded by mu: runs while pending is set
	closed  bool        // guarded by mu

	nackMu sync.Mutex
	nacks  []*nackEntry // guarded by nackMu; oldest first
}

type nackEntry struct {
	NackCount
	proxies map[string]struct{}
}

// maxNackEntries bounds the refused versions that a view remembers.
const maxNackEntries = 64

func (v *view) publish(snap *Snapshot, urgency Urgency) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	wait := v.srv.cfg.Debounce
	if urgency == Urgent || wait < 0 || v.current.Load() == nil {
		if v.timer != nil {
			v.timer.Stop()
			v.timer = nil
		}
		v.pending = nil
		v.install(snap, urgency)
		return
	}
	v.pending = snap
	if v.timer == nil {
		// The window is not extended by later publishes: a busy publisher must not starve its proxies.
		v.timer = time.AfterFunc(wait, func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.pending != nil && !v.closed {
				v.install(v.pending, Routine)
			}
			v.pending, v.timer = nil, nil
		})
	}
}

// install makes snap current and wakes the streams. Types whose content is the same keep their set, so that streams see at
// once that there is nothing to do. Its mu must be held.
func (v *view) install(snap *Snapshot, urgency Urgency) {
	p := &published{snap: &Snapshot{sets: snap.sets}}
	old := v.current.Load()
	changed := old == nil
	if old != nil {
		p.gens, p.urgentGen, p.urgentAt = old.gens, old.urgentGen, old.urgentAt
	}
	for t := range p.snap.sets {
		if old != nil && old.snap.sets[t].version == snap.sets[t].version {
			p.snap.sets[t] = old.snap.sets[t]
			continue
		}
		p.gens[t]++
		changed = true
	}
	v.srv.count.publishes.Add(1)
	if !changed {
		return
	}
	l := routine
	if urgency == Urgent {
		l = kill
		p.urgentGen++
		p.urgentAt = time.Now()
	}
	v.current.Store(p)
	v.srv.queue.push(l, v.streams...)
}

func (v *view) publishLayer(l *layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.srv.count.publishes.Add(1)
	if v.closed || l.same(v.layer.Load()) {
		return
	}
	v.layer.Store(l)
	v.srv.queue.push(kill, v.streams...)
}

func (v *view) add(st *stream) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st.index = len(v.streams)
	v.streams = append(v.streams, st)
}

func (v *view) remove(st *stream) {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := len(v.streams) - 1
	v.streams[st.index] = v.streams[last]
	v.streams[st.index].index = st.index
	v.streams[last] = nil
	v.streams = v.streams[:last]
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
}

// noteNack counts a proxy that refused a version.
func (v *view) noteNack(t Type, version, proxy, text string, now time.Time) {
	v.nackMu.Lock()
	defer v.nackMu.Unlock()
	i := slices.IndexFunc(v.nacks, func(e *nackEntry) bool { return e.Type == t && e.Version == version })
	if i < 0 {
		if len(v.nacks) == maxNackEntries {
			v.nacks = slices.Delete(v.nacks, 0, 1)
		}
		v.nacks = append(v.nacks, &nackEntry{
			NackCount: NackCount{View: v.name, Type: t, Version: version},
			proxies:   make(map[string]struct{}),
		})
		i = len(v.nacks) - 1
	}
	e := v.nacks[i]
	e.proxies[proxy] = struct{}{}
	e.Proxies, e.Text, e.Last = len(e.proxies), text, now
}
