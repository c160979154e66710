package lab

import (
	"slices"
	"strings"
	"time"
)

// slack is how late a process, and who looks at it, may be on a busy machine, where a limit is a time of the system itself.
const slack = 500 * time.Millisecond

// Fall is a version that lost all of its share, or of its copies, in one region by a decision.
type Fall struct {
	Rollout, Service, Version, Region string
	// Phase and Reason that it fell to.
	Phase, Reason string
	// Cause is the fault or the command that asked for it; "" when none is known, and then it begins with the decision.
	Cause string
	// At is when the cause was there, after the users began: a command given, the first failure of a fault (or the fault
	// itself, when nothing failed), but not before the version had traffic.
	At time.Duration
	// Decided and Last are the decision and the last request or copy that the version got, after At. Last is 0 when none
	// came after the cause.
	Decided, Last time.Duration
	// Quiet is whether the version then got nothing for a while.
	Quiet bool
	// Limit is the policy's rollback.within.
	Limit time.Duration
}

// Broken says whether the version was given up later than its policy says.
func (f Fall) Broken() bool { return !f.Quiet || max(f.Last, f.Decided) > f.Limit }

// Lapse is a version that got no more requests in a region that was without its control plane.
type Lapse struct {
	Service, Version, Region string
	// Took is from the moment when the control plane was gone to the last request.
	Took time.Duration
	// Lease is the policy's lease.ttl.
	Lease time.Duration
}

// Broken says whether the share outlived its lease.
func (l Lapse) Broken() bool { return l.Took > l.Lease+slack }

// demand is what asks for a fall: a fault at a place, or a command for a rollout in the place's region.
type demand struct {
	at      time.Time
	rollout string
	place   place
	text    string
}

// fall is one that is not quiet yet.
type fall struct {
	Fall
	key     [2]string
	from    time.Time
	decided time.Time
}

func (f *fall) place() place { return place{f.Service, f.Version, f.Region} }

// ask notes a demand.
func (w *watcher) ask(d demand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.demands = append(w.demands, d)
}

// heal forgets the faults of a place.
func (w *watcher) heal(p place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.demands = slices.DeleteFunc(w.demands, func(d demand) bool { return d.place == p })
}

// cause finds what asked for a fall that was decided at a time: a command, or a fault of the version in its region; else of
// another version of the service there, as of the stable one; else of the version elsewhere. A command counts when the
// version had its traffic by then. w.mu is held.
func (w *watcher) cause(rollout string, p place, rose, decided time.Time) (found demand) {
	best := 0
	for _, d := range w.demands {
		rank := 0
		switch {
		case d.rollout == rollout && d.place.region == p.region && d.at.After(rose), d.place == p:
			rank = 3
		case d.place.service == p.service && d.place.region == p.region:
			rank = 2
		case d.place.service == p.service && d.place.version == p.version:
			rank = 1
		}
		if rank > 0 && rank >= best && !d.at.After(decided.Add(slack)) {
			best, found = rank, d
		}
	}
	return found
}

// traffic says whether a status gives its version requests or copies.
func (s RegionStatus) traffic() bool { return s.Weight > 0 || s.Shadow > 0 || s.Phase == "Promoted" }

// note takes a transition: it may be a rise or a fall.
func (r *run) note(t Transition, at time.Time) {
	key := [2]string{t.Rollout, t.Region}
	all := r.world.counts()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transitions = append(r.transitions, t)
	named, was := r.declared.rollouts[t.Rollout], r.versions[key]
	r.versions[key] = named
	if t.To.traffic() && !t.From.traffic() {
		r.rose[key] = at
	}
	if t.To.Phase == "Halted" && !t.From.traffic() {
		r.verdict(key, t.To)
	}
	fell := t.From.traffic() && !t.To.traffic() && (t.From.Phase != "Promoted" || t.To.Phase == "RolledBack")
	if !fell || r.down[t.Region] || t.To.Reason == "LeaseLapsed" {
		return // what nobody decides is a lapse
	}
	f := &fall{key: key, from: at, decided: at, Fall: Fall{
		Rollout: t.Rollout, Service: was.Service, Version: was.Version, Region: t.Region, Phase: t.To.Phase, Reason: t.To.Reason,
		Limit: r.declared.policies[was.Policy].within(),
	}}
	if d := r.cause(t.Rollout, f.place(), r.rose[key], at); d.text != "" {
		from := d.at
		if bad := all[d.place].firstBad(); bad.After(from) && bad.Before(at) {
			from = bad
		}
		f.Cause, f.from = d.text, later(from, r.rose[key])
	}
	f.At, f.Decided = f.from.Sub(r.begin), max(at.Sub(f.from), 0)
	r.open = append(r.open, f)
}

// verdict is what a region that fell on suspicion is judged for afterwards; r.mu is held.
func (r *run) verdict(key [2]string, s RegionStatus) {
	for _, f := range r.open {
		if f.key == key {
			f.Phase, f.Reason = s.Phase, s.Reason
			return
		}
	}
	for n := len(r.falls) - 1; n >= 0; n-- {
		if f := &r.falls[n]; f.Rollout == key[0] && f.Region == key[1] {
			f.Phase, f.Reason = s.Phase, s.Reason
			return
		}
	}
}

// firstBad is when the first request or copy failed; zero: none did.
func (c counts) firstBad() time.Time { return earlier(c.requests.FirstBad, c.copies.FirstBad) }

// settle closes the falls whose version is quiet, or has traffic again.
func (r *run) settle(last map[[2]string]RegionStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 {
		return
	}
	all, now := r.world.counts(), time.Now()
	r.open = slices.DeleteFunc(r.open, func(f *fall) bool {
		f.Last = max(all[f.place()].last().Sub(f.from), 0)
		f.Quiet = now.Sub(later(all[f.place()].last(), f.decided)) > quiet
		again := last[f.key].traffic()
		if f.Quiet || again {
			f.Quiet = true // what came since is of its new share
			r.falls = append(r.falls, f.Fall)
		}
		return f.Quiet
	})
}

// closeFalls ends those that never came to be quiet.
func (r *run) closeFalls(all map[place]counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.open {
		f.Last = max(all[f.place()].last().Sub(f.from), 0)
		r.falls = append(r.falls, f.Fall)
	}
	r.open = nil
	slices.SortStableFunc(r.falls, func(a, b Fall) int { return int(a.At + a.Decided - b.At - b.Decided) })
}

// Hold is a share that a version had in a region, or copies of it.
type Hold struct {
	Rollout, Region, Version string
	// Weight or Shadow of 10,000.
	Weight, Shadow uint32
	Held, Declared time.Duration
	// Next is what came then: the status after it; zero: the run ended.
	Next RegionStatus
	// ByHand: a person promoted it meanwhile.
	ByHand bool
}

// Broken says whether the share rose before its time.
func (h Hold) Broken() bool {
	up := h.Next.Phase == "Promoted" || h.Next.Weight > h.Weight
	return up && !h.ByHand && h.Held+100*time.Millisecond < h.Declared
}

// holds reads the transitions of each region. A pause belongs to the share that is paused, and adds to how long it is held.
func (r *run) holds() []Hold {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Hold
	open := map[[2]string]int{} // the index in all, from 1
	since := map[[2]string]time.Duration{}
	for _, t := range r.transitions {
		key := [2]string{t.Rollout, t.Region}
		if t.From.Weight == t.To.Weight && t.From.Shadow == t.To.Shadow && (t.From.Phase == "Promoted") == (t.To.Phase == "Promoted") {
			continue
		}
		if n := open[key]; n > 0 {
			h := &all[n-1]
			h.Held, h.Next = t.At-since[key], t.To
			at, hurried := r.hurried[key]
			h.ByHand = hurried && at.Sub(r.begin) > since[key] && at.Sub(r.begin) < t.At
		}
		open[key], since[key] = 0, t.At
		if t.To.Weight == 0 && t.To.Shadow == 0 {
			continue
		}
		limits := r.declared.policies[t.Policy]
		h := Hold{Rollout: t.Rollout, Region: t.Region, Version: t.Version, Weight: t.To.Weight, Shadow: t.To.Shadow}
		if h.Declared = limits.hold(t.Region, h.Weight); h.Shadow > 0 && limits.Shadow != nil {
			h.Declared = timeOf(limits.Shadow.Hold, 0)
		}
		all = append(all, h)
		open[key] = len(all)
	}
	for key, n := range open {
		if n > 0 {
			all[n-1].Held = r.result.Took - since[key]
		}
	}
	slices.SortStableFunc(all, func(a, b Hold) int { return strings.Compare(a.Region, b.Region) })
	return all
}
