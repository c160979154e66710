package lab

import (
	"slices"
	"time"
)

// Result is what a run showed.
type Result struct {
	Scenario string
	Took     time.Duration
	// Users is what all users together saw, Groups each group by name, and Regions those behind the sidecars of a region.
	Users           Report
	Groups, Regions map[string]Report
	// Served is what every version did in every region, sorted.
	Served []Served
	// Transitions of rollouts in the order in which they were seen.
	Transitions []Transition
	// Reactions to behaviors that were set to fail, in the order of the timeline.
	Reactions []Reaction
	// Falls of versions to zero, in the order in which they were decided, and Lapses where nobody decided; Holds of shares.
	Falls  []Fall
	Lapses []Lapse
	Holds  []Hold
	// Ejections counts hosts that outlier detection took out, over all sidecars of a region.
	Ejections map[string]uint64
	// Checks are the expectations in the order of the timeline.
	Checks []Check
}

// OK says whether every expectation held and every limit was kept.
func (r Result) OK() bool { return r.failed() == 0 && r.broken() == 0 }

// failed counts the expectations that did not hold.
func (r Result) failed() (n int) {
	for _, c := range r.Checks {
		if !c.OK {
			n++
		}
	}
	return n
}

// broken counts the limits that were not kept.
func (r Result) broken() (n int) {
	for _, f := range r.Falls {
		if f.Broken() {
			n++
		}
	}
	for _, l := range r.Lapses {
		if l.Broken() {
			n++
		}
	}
	for _, h := range r.Holds {
		if h.Broken() {
			n++
		}
	}
	return n
}

// Served is what a version did in a region, for requests and for copies of requests.
type Served struct {
	Service, Version, Region string
	Requests, Copies         Counts
}

// Reaction is the time between a version's first failure in a region, or the change that made it slow, and the last request
// that it was sent. A version that still got requests at the end has none.
type Reaction struct {
	Service, Version, Region string
	// Took is 0 when no request came afterwards.
	Took time.Duration
	// Tries that failed at the service.
	Failed uint64
}

// Check is an expectation with what was measured.
type Check struct {
	Line     int
	Text     string
	OK       bool
	Measured string
	Took     time.Duration
}

// finish collects what the result holds.
func (r *run) finish() {
	for _, region := range r.s.regions() {
		r.back(region)
	}
	r.result.Took = time.Since(r.begin)
	r.result.Users = r.world.report("")
	r.result.Groups, r.result.Regions, r.result.Ejections = map[string]Report{}, map[string]Report{}, map[string]uint64{}
	for name, group := range r.world.users {
		r.result.Groups[name] = r.world.reportOf(name, "")
		for _, c := range group {
			r.result.Regions[c.region] = r.world.report(c.region)
		}
	}
	all := r.world.counts()
	newest := map[string]time.Time{}
	for _, p := range r.world.places {
		r.result.Served = append(r.result.Served, Served{p.service, p.version, p.region, all[p].requests, all[p].copies})
		newest[p.region] = later(newest[p.region], all[p].last())
	}
	r.closeFalls(all)
	r.result.Transitions, r.result.Falls, r.result.Holds = r.transitions, r.falls, r.holds()
	for n, p := range r.order {
		c := all[p].requests
		from := c.FirstBad
		if from.IsZero() {
			from = r.set[p]
		}
		// One that still got requests was not taken out, or came back.
		if slices.Contains(r.order[:n], p) || newest[p.region].Sub(c.LastReceived) <= quiet {
			continue
		}
		r.result.Reactions = append(r.result.Reactions,
			Reaction{p.service, p.version, p.region, max(c.LastReceived.Sub(from), 0), c.Bad()})
	}
	for _, c := range r.world.sidecars {
		stats, err := c.envoy.Stats(`outlier_detection\.ejections_enforced_total$`)
		if err != nil {
			continue // a sidecar that was killed has nothing to say
		}
		for _, n := range stats {
			r.result.Ejections[c.Region] += n
		}
	}
}
