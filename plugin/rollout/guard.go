package rollout

import (
	"fmt"
	"strconv"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// mayRise is what is asked before every step up: the region keeps up with what it has, stable can take everything back at
// once, and enough other regions have one version alone.
func (t *turn) mayRise(d documents, region string, r *Region, in Input) bool {
	if !t.keepsUp(region, r, in) {
		return false
	}
	if reason, message := carries(capacity(d.service, r.Stable.Version, region), r.Rate, StableCapacityUnproved, StableCapacityTooLow); reason != "" {
		t.note(region, r, reason, "stable "+r.Stable.Version+": "+message)
		return false
	}
	if alone := t.aloneElsewhere(d, region); r.Weight == 0 && alone < d.policy.MinRegions {
		t.note(region, r, TooFewRegions, fmt.Sprintf("%d other regions have one version alone, the policy wants %d", alone, d.policy.MinRegions))
		return false
	}
	return true
}

// mayServeAlone is what is asked before a promotion.
func (t *turn) mayServeAlone(d documents, region string, r *Region, in Input) bool {
	if !t.keepsUp(region, r, in) {
		return false
	}
	if reason, message := alone(d, region, r, in); reason != "" {
		t.note(region, r, reason, message)
		return false
	}
	return true
}

// keepsUp holds every rise while the region is saturated.
func (t *turn) keepsUp(region string, r *Region, in Input) bool {
	if in.Saturated {
		t.note(region, r, RegionSaturated, "the region cannot keep up with what it has")
	}
	return !in.Saturated
}

// alone says why a version may not serve a region alone; "" is no reason.
func alone(d documents, region string, r *Region, in Input) (Reason, string) {
	if reason, message := carries(capacity(d.service, r.Version, region), r.Rate, CanaryCapacityUnproved, CanaryCapacityTooLow); reason != "" {
		return reason, "canary " + r.Version + ": " + message
	}
	canary, stable := endpoints(d.service, r.Version, region), endpoints(d.service, r.Stable.Version, region)
	if in.CanaryEndpoints != 0 || in.StableEndpoints != 0 {
		canary, stable = max(0, in.CanaryEndpoints), max(0, in.StableEndpoints)
	}
	if canary*int(spec.Whole) < stable*int(d.policy.MinEndpoints) {
		return TooFewEndpoints, fmt.Sprintf("%s has %d of the %d endpoints that %s has here; the policy wants %s", r.Version, canary, stable, r.Stable.Version, d.policy.MinEndpoints)
	}
	return "", ""
}

// aloneElsewhere counts the other regions of the rollout in which no request goes to the canary.
func (t *turn) aloneElsewhere(d documents, region string) int {
	n := 0
	for _, name := range d.rollout.Regions {
		if name != region && t.state.Regions[name].Weight == 0 {
			n++
		}
	}
	return n
}

func endpoints(service *spec.Service, version, region string) int {
	v := service.Version(version)
	if v == nil || v.In(region) == nil {
		return 0
	}
	return len(v.In(region).Endpoints)
}

func carries(capacity, rate float64, unproved, tooLow Reason) (Reason, string) {
	switch {
	case rate < 0:
		return unproved, "the region's rate was not measured"
	case !(capacity > 0):
		return unproved, "declares no capacity here"
	case capacity < rate:
		return tooLow, "carries " + perSecond(capacity) + ", the region has " + perSecond(rate)
	}
	return "", ""
}

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'f', -1, 64) + "/s" }
