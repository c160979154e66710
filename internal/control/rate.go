package control

import "time"

// rateSlots of a second each are what a rate is taken over.
const rateSlots = 60

// rate counts requests by second over the last minute.
type rate struct {
	From  time.Time         `json:"from"` // when counting began
	Last  int64             `json:"last"` // the second that was counted last
	Slots [rateSlots]uint64 `json:"slots"`
}

func (r *rate) add(n uint64, now time.Time) {
	if r.From.IsZero() {
		r.From = now
	}
	second := max(now.Unix(), r.Last) // a clock that was set back adds to the newest second
	if second-r.Last >= rateSlots {
		r.Slots = [rateSlots]uint64{}
	} else {
		for s := r.Last + 1; s <= second; s++ {
			r.Slots[s%rateSlots] = 0
		}
	}
	r.Last = max(r.Last, second)
	r.Slots[second%rateSlots] += n
}

// perSecond is the mean over the last minute, or since counting began; negative when that was less than a second ago.
func (r *rate) perSecond(now time.Time) float64 {
	over := min(now.Sub(r.From), rateSlots*time.Second)
	if r.From.IsZero() || over < time.Second {
		return -1
	}
	r.add(0, now)
	var sum uint64
	for _, n := range r.Slots {
		sum += n
	}
	return float64(sum) / over.Seconds()
}
