package budget

import "time"

// fastSlots are seconds: the longest window of the fast loop.
const fastSlots = 300

// Canary is what one rollout's canary may spend in one region, and what it spent.
type Canary struct {
	Objective Objective `json:"objective"`
	// Allotted is how many errors it may make; 0 while that is not known.
	Allotted float64 `json:"allotted"`
	// Total since it entered, shares of 0 included.
	Total Count `json:"total"`
	// Newest second that was written, and the last 300 by number modulo their length.
	Newest int64            `json:"newest"`
	Recent [fastSlots]Count `json:"recent"`
}

// NewCanary returns a Canary without an allotment, which cannot be spent.
func NewCanary(o Objective) Canary { return Canary{Objective: o} }

// Allot gives the canary its share (in (0,1]) of what the region has left, once: when it enters, or as soon as the region's
// budget is known. It is never less than one error, so that a single one at low traffic, or in a region with nothing left,
// trips nothing; a second one does there.
func (c *Canary) Allot(b Budget, share float64) {
	if c.Allotted == 0 && b.Known {
		c.Allotted = max(1, share*b.Left)
	}
}

// Tick adds the canary's tries that arrived at now.
func (c *Canary) Tick(now time.Time, n Count) {
	c.Total.add(n)
	if c.Newest == 0 {
		c.Newest = now.Unix()
	}
	forward(c.Recent[:], &c.Newest, now.Unix())
	c.Recent[c.Newest%fastSlots].add(n)
}

// Spent is whether the canary made more errors than it was allotted: a hard fact.
func (c Canary) Spent() bool { return c.Allotted > 0 && float64(c.Total.Errors) > c.Allotted }

// Left is how many errors of the allotment are left, never below 0.
func (c Canary) Left() float64 { return max(0, c.Allotted-float64(c.Total.Errors)) }

// pageBurn is the burn that pages somebody when a whole service does it.
const pageBurn = 14.4

// Rate is b, the error rate that the objective allows the canary: its allotment over the tries that it is planned to have
// in the whole rollout (Σ share·hold of the steps, times the region's requests a second).
//
// Both grow with the traffic, so b is the same at 1 and at 100,000 requests a second. It is never below the objective's
// own rate, 1 − Target: a canary that fails no more than was promised spends no more than its part. And never above 14.4
// times that, nor (but for objectives looser than that) above a half: a short canary's allotment over its few tries can be
// most of them, and what would page somebody as a service is over budget as an arm; so a canary that fails every try is
// always over, within a few. While the allotment or the plan is not known, b is 1 − Target.
func (c Canary) Rate(planned float64) float64 {
	floor := c.Objective.ErrorRate()
	if c.Allotted == 0 || planned <= 0 {
		return floor
	}
	return max(floor, min(c.Allotted/planned, pageBurn*floor, 0.5))
}

// Burn is an error ratio over the objective's own rate, in a window and in its last part.
type Burn struct {
	// Window is the long one; 0 is none.
	Window time.Duration `json:"window"`
	// Long and Short are the burns in both, which are at Threshold or above.
	Long, Short, Threshold float64
}

// fast are the windows and which part of the budget of its own requests a canary may burn in each.
var fast = []struct {
	window time.Duration
	part   float64
}{{10 * time.Second, 0.0001}, {time.Minute, 0.0005}, {5 * time.Minute, 0.002}}

// Burning looks at the canary's own requests before now and returns the first window that burns too fast, in whole and in its
// last twelfth (or the last tick, of the given length, where that is longer): .01 % of the budget in 10 s, .05 % in 1 min,
// .2 % in 5 min, which for a window of 30 days are burns of 26, 22 and 17. A burn below 1 is never too fast, and one that half of all
// requests failing would make always is, whatever the objective.
//
// proven gates it (evidence.Verdict.OverBudgetProven): the canary's own budget process reached its threshold, without
// which a single error at low traffic would trip. That process has its part of α (evidence.Metrics), so this loop's false
// alarms are within α.
func (c Canary) Burning(now time.Time, tick time.Duration, proven bool) (Burn, bool) {
	if !proven {
		return Burn{}, false
	}
	for _, f := range fast {
		threshold := max(1, min(f.part*float64(c.Objective.Window)/float64(f.window), 0.5/c.Objective.ErrorRate()))
		long, short := c.burn(now, f.window), c.burn(now, max(f.window/12, tick))
		if long >= threshold && short >= threshold {
			return Burn{f.window, long, short, threshold}, true
		}
	}
	return Burn{}, false
}

// burn in the whole seconds of the window before now, the present one included.
func (c Canary) burn(now time.Time, window time.Duration) float64 {
	n := min(fastSlots, int64((window+time.Second-1)/time.Second))
	last := max(now.Unix(), c.Newest)
	var sum Count
	for second := max(last-n+1, c.Newest-fastSlots+1); second <= c.Newest; second++ {
		sum.add(c.Recent[((second%fastSlots)+fastSlots)%fastSlots])
	}
	if sum.Requests == 0 {
		return 0
	}
	return float64(sum.Errors) / float64(sum.Requests) / c.Objective.ErrorRate()
}
