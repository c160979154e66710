package budget

import "time"

// Objective is a share of good requests that is promised over a window.
type Objective struct {
	// Target, in (0,1).
	Target float64 `json:"target"`
	// Window of the promise, > 0.
	Window time.Duration `json:"window"`
}

// ErrorRate is the objective's own error rate, 1 − Target.
func (o Objective) ErrorRate() float64 { return 1 - o.Target }

// Count is requests, and how many of them were errors.
type Count struct {
	Requests uint64 `json:"r,omitempty"`
	Errors   uint64 `json:"e,omitempty"`
}

func (c *Count) add(o Count) {
	c.Requests += o.Requests
	c.Errors += o.Errors
}

// A window is kept in slots of 1/120, and one more, so that what leaves is surely out of it: errors are counted a little
// too long and never too short.
const (
	regionParts = 120
	regionSlots = regionParts + 1
)

// Region counts all requests to one service in one region, whatever version answered, against one objective.
type Region struct {
	Objective Objective `json:"objective"`
	// Since is when counting began; zero before the first tick.
	Since time.Time `json:"since"`
	// Newest is the number of the slot that was written last, and Slots are by number modulo their length.
	Newest int64              `json:"newest"`
	Slots  [regionSlots]Count `json:"slots"`
}

// NewRegion returns a Region that saw nothing.
func NewRegion(o Objective) Region { return Region{Objective: o} }

// Tick adds what arrived at now and took length. A time before an earlier tick's counts as that one's. Of a first tick
// without a length nothing is counted, as nobody knows how long that took to come.
func (r *Region) Tick(now time.Time, length time.Duration, c Count) {
	slot := now.UnixNano() / r.slot()
	if r.Since.IsZero() {
		r.Since, r.Newest = now.Add(-max(0, length)), slot
		if length <= 0 {
			return
		}
	}
	forward(r.Slots[:], &r.Newest, slot)
	r.Slots[r.Newest%regionSlots].add(c)
}

func (r *Region) slot() int64 { return max(1, int64(r.Objective.Window)/regionParts) }

// forward moves newest to slot and empties what lies between.
func forward(slots []Count, newest *int64, slot int64) {
	n := int64(len(slots))
	for i := max(*newest+1, slot-n+1); i <= slot; i++ {
		slots[i%n] = Count{}
	}
	*newest = max(*newest, slot)
}

// knownFrom is how many requests make a rate: a tenth of it may be chance.
const knownFrom = 100

// Budget is a region's error budget at one time, in errors.
type Budget struct {
	// Known is false while fewer than 100 requests were seen; then the rest is zero.
	Known bool `json:"known"`
	// Observed is how much of the window was seen.
	Observed time.Duration `json:"observed"`
	// Requests and Errors seen in the window.
	Count
	// Allowed errors in a whole window, and Left of these.
	Allowed float64 `json:"allowed"`
	Left    float64 `json:"left"`
}

// At returns the budget: Allowed = (1 − Target)·requests in the window. Where less than the window was observed, its
// requests are taken to come at the observed mean rate (observed requests × window / observed time); errors are those
// that were seen, never extrapolated. A time without any tick counts as observed and as without requests, which makes the budget
// smaller and never larger.
func (r Region) At(now time.Time) Budget {
	slot := now.UnixNano() / r.slot()
	forward(r.Slots[:], &r.Newest, slot) // a copy
	from := time.Unix(0, (r.Newest-regionSlots+1)*r.slot())
	if r.Since.After(from) {
		from = r.Since
	}
	observed := now.Sub(from)
	var b Budget
	for _, c := range r.Slots {
		b.add(c)
	}
	if r.Since.IsZero() || observed <= 0 || b.Requests < knownFrom {
		return Budget{}
	}
	b.Known, b.Observed = true, min(r.Objective.Window, observed)
	b.Allowed = r.Objective.ErrorRate() * float64(b.Requests) * float64(r.Objective.Window) / float64(observed)
	b.Left = b.Allowed - float64(b.Errors)
	return b
}
