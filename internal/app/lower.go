package app

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// share is what moves from minute to minute: layers say it, and the routes of clients without one.
type share struct {
	weight, shadow, admit, shed uint32
	testers                     bool
}

func shareOf(in traffic.Intent) share {
	s := share{weight: in.Weight, shadow: in.Shadow, testers: in.Testers}
	if f := in.Failover; f != nil {
		s.admit, s.shed = f.Admit, f.Shed
	}
	return s
}

// bare is an intent without its share.
func bare(in traffic.Intent) traffic.Intent {
	in.Weight, in.Shadow, in.Testers = 0, 0, false
	if in.Failover != nil {
		f := *in.Failover
		f.Admit, f.Shed = 0, 0
		in.Failover = &f
	}
	return in
}

// change is how much of a service differs between two plans.
type change uint8

const (
	same change = iota
	// moved: its share, as layers say it.
	moved
	// remade: anything else.
	remade
)

// changes says how much of each service differs between two editions.
func changes(before, after edition) map[string]change {
	changed := map[string]change{}
	if before.number == after.number {
		return changed
	}
	for _, in := range before.plan.Intents {
		if _, ok := intent(after.plan, in.Service); !ok {
			changed[in.Service] = remade
		}
	}
	for _, in := range after.plan.Intents {
		was, ok := intent(before.plan, in.Service)
		from, to := shareOf(was), shareOf(in)
		switch {
		case !ok, before.arms != after.arms && !sameBeside(was, in, before.plan.Charter, after.plan.Charter):
			changed[in.Service] = remade
		case from == to:
		case from.admit != to.admit: // routes say it too, for when the layer is gone
			changed[in.Service] = remade
		default:
			changed[in.Service] = moved
		}
	}
	return changed
}

// sameBeside reports whether two intents, and what they are checked against, differ in nothing but the share.
func sameBeside(a, b traffic.Intent, of, by traffic.Charter) bool {
	return reflect.DeepEqual(bare(a), bare(b)) && reflect.DeepEqual(of[a.Service], by[b.Service])
}

func intent(p traffic.Plan, service string) (traffic.Intent, bool) {
	i, ok := slices.BinarySearchFunc(p.Intents, service, func(in traffic.Intent, s string) int { return strings.Compare(in.Service, s) })
	if !ok {
		return traffic.Intent{}, false
	}
	return p.Intents[i], true
}

// lowered is a good plan with no more than a newer one gives: what holds while the newer one is not built, or is refused.
// It needs no build and no check of its own, so that nothing keeps it from taking a canary to zero.
func lowered(good, newer traffic.Plan) traffic.Plan {
	good.Intents = slices.Clone(good.Intents)
	for i, in := range good.Intents {
		now, _ := intent(newer, in.Service)
		good.Intents[i] = lower(in, now)
	}
	return good
}

func lower(in, newer traffic.Intent) traffic.Intent {
	to := shareOf(newer)
	if in.Failover != nil {
		f := *in.Failover
		f.Admit, f.Shed = min(f.Admit, to.admit), min(f.Shed, to.shed)
		in.Failover = &f
	}
	switch {
	case in.Canary == nil:
	case newer.Canary != nil && sameBuild(*newer.Canary, *in.Canary):
		in.Weight, in.Shadow, in.Testers = min(in.Weight, to.weight), min(in.Shadow, to.shadow), in.Testers && to.testers
	case sameBuild(newer.Stable, *in.Canary):
		// Promoted: it keeps its share until the routes know, or the old version would have it all for a moment.
		in.Shadow = 0
	default:
		in.Weight, in.Shadow, in.Testers = 0, 0, false
	}
	return in
}

func sameBuild(a, b traffic.Arm) bool { return a.Version == b.Version && a.Digest == b.Digest }

// differing names the services whose shares differ in two plans that are one, lowered.
func differing(a, b traffic.Plan) map[string]bool {
	which := map[string]bool{}
	for i, in := range a.Intents {
		if shareOf(in) != shareOf(b.Intents[i]) {
			which[in.Service] = true
		}
	}
	return which
}

// keepPromoted returns the splits, of those kept and those before, whose canary is stable in the next plan and has no other
// canary beside it.
func keepPromoted(kept map[string]traffic.Intent, before, next traffic.Plan) map[string]traffic.Intent {
	splits := maps.Clone(kept)
	for _, in := range before.Intents {
		if in.Canary != nil && in.Weight > 0 {
			splits[in.Service] = in
		}
	}
	promoted := map[string]traffic.Intent{}
	for service, split := range splits {
		if in, ok := intent(next, service); ok && in.Canary == nil && sameBuild(in.Stable, *split.Canary) {
			promoted[service] = split
		}
	}
	return promoted
}
