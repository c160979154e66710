package control

import (
	"cmp"
	"math"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// admitStep is how finely room is told, of traffic.Whole: what a neighbour can take follows rates, and plans must not.
const admitStep = 500

// roomOf says what part of the requests of every region that leans on it a neighbour can take, of traffic.Whole: all of
// them have the same part of its spare capacity, as they share it in proportion to their rates. capacity and rate are the
// neighbour's own, in requests per second. Requests of others that land there do not count against it: they are what is
// shared out, and would take away the room that they are in. leaning is the sum of the rates of the regions that lean on it;
// without any request it can take all, if it has any room at all.
//
// It is rounded down to steps. It falls at once, and rises when there is a step more than is told, so that a rate
// which wavers around a step moves nothing. before is what was told last; known is whether anything was.
func roomOf(capacity, rate, leaning float64, before uint32, known bool) uint32 {
	spare := max(0, capacity-rate)
	part := 0.0
	switch {
	case leaning > 0:
		part = spare / leaning * traffic.Whole
	case spare > 0:
		part = math.Inf(1)
	}
	now, sure := steps(part), steps(part-admitStep)
	switch {
	case !known || now < before:
		return now
	case sure > before:
		return sure
	}
	return before
}

func steps(part float64) uint32 {
	return uint32(math.Floor(min(max(part, 0), traffic.Whole)/admitStep)) * admitStep
}

// fill gives each neighbour of a region, in order, what it has room for of what those before it left, and returns the sum.
func fill(room []uint32) (parts []uint32, sum uint32) {
	parts = make([]uint32, len(room))
	for i, r := range room {
		parts[i] = min(r, traffic.Whole-sum)
		sum += parts[i]
	}
	return parts, sum
}

// divide turns what is admitted and shed, of stable's requests, into what a plan says: the part of stable's requests left
// in the region that is admitted elsewhere, and the part of all requests that is shed, weight being the canary's. What is shed
// uses up room: with no endpoint left in the region, both together are no more than is admitted.
func divide(admitted, shed, weight uint32) (admit, ofAll uint32) {
	shed = min(shed, admitted)
	ofAll = shed * (traffic.Whole - weight) / traffic.Whole
	if shed == traffic.Whole {
		return traffic.Whole, ofAll
	}
	return (admitted - shed) * traffic.Whole / (traffic.Whole - shed), ofAll
}

func sortLocalities(all []traffic.Locality) {
	slices.SortStableFunc(all, func(a, b traffic.Locality) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Zone, b.Zone))
	})
}
