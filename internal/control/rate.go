package control

import "time"

// rateSlots of a second each are what a rate is taken over.
const rateSlots = 60

// rate counts requests by second over the last minute. A part of one may count.
type rate struct {
	from  time.Time // when counting began
	last  int64     // the second that was counted last
	slots [rateSlots]float64
}

// rateOf is a rate that was so for the last minute.
func rateOf(perSecond float64, now time.Time) rate {
	r := rate{from: now.Add(-rateSlots * time.Second), last: now.Unix()}
	for i := range r.slots {
		r.slots[i] = perSecond
	}
	return r
}

func (r *rate) add(n float64, now time.Time) {
	if r.from.IsZero() {
		r.from = now
	}
	second := max(now.Unix(), r.last) // a clock that was set back adds to the newest second
	if second-r.last >= rateSlots {
		r.slots = [rateSlots]float64{}
	} else {
		for s := r.last + 1; s <= second; s++ {
			r.slots[s%rateSlots] = 0
		}
	}
	r.last = second
	r.slots[second%rateSlots] += n
}

// perSecond is the mean over the last minute, or since counting began; negative when that was less than a second ago.
func (r *rate) perSecond(now time.Time) float64 {
	over := min(now.Sub(r.from), rateSlots*time.Second)
	if r.from.IsZero() || over < time.Second {
		return -1
	}
	return r.sum(rateSlots, now) / over.Seconds()
}

// lately is the mean over the last whole seconds and the present one as far as it went.
func (r *rate) lately(whole int, now time.Time) float64 {
	if r.from.IsZero() {
		return 0
	}
	part := time.Duration(now.Nanosecond())
	return r.sum(whole+1, now) / (time.Duration(whole)*time.Second + part).Seconds()
}

// sum of the last n seconds, the present one included.
func (r *rate) sum(n int, now time.Time) float64 {
	r.add(0, now)
	var sum float64
	for second := r.last; second > r.last-int64(n); second-- {
		sum += r.slots[second%rateSlots]
	}
	return sum
}
