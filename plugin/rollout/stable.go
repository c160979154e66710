package rollout

import (
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Stable returns the version that serves as stable in a region: the one that the latest promotion or rollback of any
// rollout of the service left there, while it is declared with endpoints in the region; otherwise what the service's
// document declares. It is zero when the service is not declared. The states of deleted rollouts belong among states.
func Stable(set *spec.Set, service, region string, states []State) Known {
	doc := set.Services[service]
	if doc == nil {
		return Known{}
	}
	if left, since := latest(service, region, states); !since.IsZero() {
		if v := serving(doc, region, left); v != nil {
			return Known{Version: v.Name, Digest: v.Digest}
		}
	}
	return declared(doc)
}

// Adopt tells every rollout of a service which version the latest promotion or rollback left stable in each region, so
// that a rollout compares with what serves and not with what the document says. Call it before Step, with all states;
// it keeps their order.
func Adopt(set *spec.Set, states []State) []State {
	out := make([]State, len(states))
	for i, s := range states {
		out[i] = s.clone()
		doc := set.Services[s.Service]
		for name, r := range out[i].Regions {
			left, since := latest(s.Service, name, states)
			if doc == nil || !since.After(r.StableSince) || serving(doc, name, left) == nil {
				continue
			}
			r.Stable, r.StableSince = left, since
			out[i].Regions[name] = r
		}
	}
	return out
}

// leaveStable makes a version the stable one. The time rises, so that what was decided last wins wherever it is adopted.
func (r *Region) leaveStable(known Known, at time.Time) {
	if !at.After(r.StableSince) {
		at = r.StableSince.Add(1)
	}
	r.Previous, r.Stable, r.StableSince = r.Stable, known, at
}

func latest(service, region string, states []State) (Known, time.Time) {
	var left Known
	var since time.Time
	for _, s := range states {
		if r, ok := s.Regions[region]; ok && s.Service == service && r.StableSince.After(since) {
			left, since = r.Stable, r.StableSince
		}
	}
	return left, since
}

// serving finds a known version among the declared ones with endpoints in the region: by name, or by digest under
// another name; nil when it is gone.
func serving(service *spec.Service, region string, known Known) *spec.Version {
	if v := service.Version(known.Version); v != nil && placed(v, region) {
		return v
	}
	i := slices.IndexFunc(service.Versions, func(v spec.Version) bool { return v.Digest == known.Digest && placed(&v, region) })
	if i < 0 {
		return nil
	}
	return &service.Versions[i]
}

func declared(service *spec.Service) Known {
	known := Known{Version: service.Stable}
	if v := service.Version(service.Stable); v != nil {
		known.Digest = v.Digest
	}
	return known
}

func placed(v *spec.Version, region string) bool {
	place := v.In(region)
	return place != nil && len(place.Endpoints) > 0
}

func capacity(service *spec.Service, version, region string) float64 {
	v := service.Version(version)
	if v == nil || !placed(v, region) {
		return 0
	}
	return v.In(region).Capacity
}
