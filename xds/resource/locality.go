package resource

import (
	"cmp"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// nearness is how much more a canary's endpoints weigh in the caller's zone than in another.
const nearness = 10_000

// weighs is whether zones have weights that Envoy must heed; else it spreads over endpoints wherever they are.
func weighs(in traffic.Intent, all []traffic.Locality) bool {
	return in.NearestZone || slices.ContainsFunc(all, func(l traffic.Locality) bool { return l.Weight > 0 })
}

// weight of a locality. It is never 0: gRPC clients pass over a locality that has none.
func weight(l traffic.Locality) uint32 {
	return cmp.Or(l.Weight, uint32(max(len(l.Endpoints), 1)))
}

// ranked gives localities the priorities from first on in their order, without a gap, which clients refuse. With a zone to
// keep to, its own come before the others of their priority.
func ranked(all []traffic.Locality, first uint32, zone string) []traffic.Locality {
	compare := func(a, b traffic.Locality) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(far(a, zone), far(b, zone)))
	}
	sorted := slices.SortedStableFunc(slices.Values(all), compare)
	out := slices.Clone(sorted)
	priority := first
	for i := range out {
		if i > 0 && compare(sorted[i-1], sorted[i]) != 0 {
			priority++
		}
		out[i].Priority = priority
	}
	return out
}

// leaning has a canary's localities weigh by their nearness, in one priority. A retry passes over the priority that failed
// and not over the version: with one for each zone it would be made again on the canary, in another zone.
func leaning(all []traffic.Locality, zone string) []traffic.Locality {
	all = ranked(all, 0, "")
	for i, l := range all {
		if zone != "" && l.Zone == zone {
			all[i].Weight = weight(l) * nearness
		}
	}
	return all
}

// distinct keeps the first of endpoints with one address: gRPC clients refuse an assignment that has it twice.
func distinct(all []traffic.Locality) []traffic.Locality {
	seen := map[traffic.Endpoint]bool{}
	out := slices.Clone(all)
	for i := range out {
		out[i].Endpoints = slices.DeleteFunc(slices.Clone(out[i].Endpoints), func(e traffic.Endpoint) bool {
			twice := seen[e]
			seen[e] = true
			return twice
		})
	}
	return out
}

// far is 1 in another zone than the one to keep to, if there is one.
func far(l traffic.Locality, zone string) int {
	if zone == "" || l.Zone == zone {
		return 0
	}
	return 1
}
