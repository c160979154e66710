package control

import (
	"maps"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// planRegion says what the traffic of one region should be.
func planRegion(f *facts, region string) traffic.Plan {
	p := traffic.Plan{Region: region, Callers: map[string][]string{}, Charter: charter(f, region)}
	for _, name := range slices.Sorted(maps.Keys(f.set.Services)) {
		s := f.set.Services[name]
		if len(s.Calls) > 0 {
			p.Callers[name] = slices.Sorted(slices.Values(s.Calls))
		}
		p.Intents = append(p.Intents, f.intent(s, region))
	}
	return p
}

func (f *facts) intent(s *spec.Service, region string) traffic.Intent {
	in := traffic.Intent{
		Service:      s.Name,
		Hosts:        s.Hosts,
		Protocol:     traffic.Protocol(s.Protocol),
		Stable:       f.arm(s, f.stable(s, region), region),
		NearestZone:  s.NearestZone,
		Timeout:      s.Timeout,
		HangLimit:    s.HangLimit,
		RetryOn:      s.Retries.On,
		RetryMethods: s.Retries.Methods,
		StickyHeader: s.Stickiness.Header,
		StickyCookie: s.Stickiness.Cookie,
		CookieTTL:    s.Stickiness.CookieTTL,
		TesterHeader: s.TesterHeader,
		Limits:       traffic.Limits(s.Limits),
	}
	if h := s.HealthCheck; h != nil {
		in.Health = (*traffic.Health)(h)
	}
	f.beside(&in, s, region)
	if f.relief[site{region, s.Name}].Active && relief.Tightens(s.Relief) {
		tight := traffic.Limits(relief.Tighten(s.Relief, s.Limits))
		in.Tight = &tight
	}
	in.Failover = f.failover(s, region, in.Stable.Version, in.Weight)
	return in
}

// beside puts the canary beside stable.
func (f *facts) beside(in *traffic.Intent, s *spec.Service, region string) {
	r := f.set.RolloutOf(s.Name, region)
	if r == nil {
		return
	}
	here := f.here(r, region)
	// The arm is there from the declaration on, at no share, so that its clusters are warm before the first request.
	known, ok := rollout.Canary(here)
	if !ok || known.Version == in.Stable.Version || s.Version(known.Version) == nil {
		return
	}
	canary := f.arm(s, s.Version(known.Version), region)
	if canary.Digest != known.Digest { // the state is still about another build
		return
	}
	policy := f.set.Policies[r.Policy]
	in.Canary = &canary
	in.Weight = uint32(here.Weight)
	in.Testers = rollout.Testers(here)
	in.Lease = policy.LeaseTTL
	if policy.Shadow != nil && len(s.Mirror.Methods) > 0 {
		// The way of the copies is there with the arm, so that their beginning and end are a weight alone.
		in.ShadowMethods, in.StripHeaders = s.Mirror.Methods, s.Mirror.StripHeaders
		if in.Weight == 0 {
			in.Shadow = uint32(here.Shadow)
		}
	}
}
