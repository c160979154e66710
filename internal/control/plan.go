package control

import (
	"cmp"
	"maps"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// planRegion says what the traffic of one region should be, from the documents and where each rollout stands.
func planRegion(set *spec.Set, region string, states []rollout.State) traffic.Plan {
	p := traffic.Plan{Region: region, Callers: map[string][]string{}}
	for _, name := range slices.Sorted(maps.Keys(set.Services)) {
		s := set.Services[name]
		if len(s.Calls) > 0 {
			p.Callers[name] = slices.Sorted(slices.Values(s.Calls))
		}
		p.Intents = append(p.Intents, intent(set, s, region, states))
	}
	return p
}

func intent(set *spec.Set, s *spec.Service, region string, states []rollout.State) traffic.Intent {
	in := traffic.Intent{
		Service:      s.Name,
		Hosts:        s.Hosts,
		Protocol:     traffic.Protocol(s.Protocol),
		Stable:       arm(s, rollout.Stable(set, s.Name, region, states).Version, region),
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
	r := rolloutOf(set, s.Name, region)
	if r == nil {
		return in
	}
	here := regionOf(states, r.Name, region)
	// The arm is there from the declaration on, at no share, so that its clusters are warm before the first request.
	known, ok := rollout.Canary(here)
	if !ok || known.Version == in.Stable.Version || s.Version(known.Version) == nil {
		return in
	}
	canary := arm(s, known.Version, region)
	if canary.Digest != known.Digest { // the state is still about another build
		return in
	}
	in.Canary = &canary
	in.Weight = uint32(here.Weight)
	in.Testers = rollout.Testers(here)
	in.Lease = set.Policies[r.Policy].LeaseTTL
	return in
}

func regionOf(states []rollout.State, name, region string) rollout.Region {
	for _, st := range states {
		if st.Rollout == name {
			return st.Regions[region]
		}
	}
	return rollout.Region{}
}

// rolloutOf returns the rollout of a service in a region; documents allow one at most.
func rolloutOf(set *spec.Set, service, region string) *spec.Rollout {
	for _, r := range set.Rollouts {
		if r.Service == service && slices.Contains(r.Regions, region) {
			return r
		}
	}
	return nil
}

func arm(s *spec.Service, version, region string) traffic.Arm {
	v := s.Version(version)
	a := traffic.Arm{Version: v.Name, Digest: v.Digest}
	place := v.In(region)
	if place == nil {
		return a
	}
	byZone := map[string][]traffic.Endpoint{}
	for _, e := range place.Endpoints {
		byZone[e.Zone] = append(byZone[e.Zone], traffic.Endpoint{Host: e.Host, Port: e.Port})
	}
	for _, zone := range slices.Sorted(maps.Keys(byZone)) {
		endpoints := byZone[zone]
		slices.SortFunc(endpoints, func(a, b traffic.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
		})
		a.Localities = append(a.Localities, traffic.Locality{Region: region, Zone: zone, Endpoints: endpoints})
	}
	return a
}

// sameArms reports whether two plans of one set of documents name the same arms for every service.
func sameArms(a, b traffic.Plan) bool {
	return slices.EqualFunc(a.Intents, b.Intents, func(x, y traffic.Intent) bool {
		if (x.Canary == nil) != (y.Canary == nil) {
			return false
		}
		return x.Service == y.Service && sameArm(x.Stable, y.Stable) && (x.Canary == nil || sameArm(*x.Canary, *y.Canary))
	})
}

func sameArm(a, b traffic.Arm) bool { return a.Version == b.Version && a.Digest == b.Digest }

func sameWeights(a, b traffic.Plan) bool {
	return slices.EqualFunc(a.Intents, b.Intents, func(x, y traffic.Intent) bool {
		return x.Weight == y.Weight && x.Testers == y.Testers
	})
}
