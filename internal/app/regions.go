package app

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/discovery"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// regions puts together what the rooms know of each region, for the admin API.
type regions struct {
	// declared are the regions as documents and evidence have them.
	declared interface {
		RegionStates(ctx context.Context) ([]*aviaryv1.RegionState, error)
	}
	delivery *delivery
	names    interface{ Status() []discovery.Resolved }
}

// Regions are sorted by name.
func (r regions) Regions(ctx context.Context) ([]*aviaryv1.RegionState, error) {
	all, err := r.declared.RegionStates(ctx)
	if err != nil {
		return nil, err
	}
	proxies := map[string]uint32{}
	for _, p := range r.delivery.ads.Proxies() {
		proxies[p.Region]++
	}
	resolved := map[string]discovery.Resolved{}
	for _, n := range r.names.Status() {
		resolved[n.Name] = n
	}
	states := r.delivery.states()
	for _, region := range all {
		region.Proxies = proxies[region.GetName()]
		if s := states[region.GetName()]; !s.published.IsZero() {
			region.Published = timestamppb.New(s.published)
		}
		if s := states[region.GetName()].refusal; s != nil {
			region.Refused, region.RefusedAt = s.text, timestamppb.New(s.at)
		}
		for _, service := range region.GetServices() {
			for _, name := range service.GetNames() {
				lookedUp(name, resolved[name.GetName()])
			}
		}
	}
	return all, nil
}

// lookedUp adds to a name how looking it up went. An answer that is not in force confirms nothing.
func lookedUp(name *aviaryv1.Resolved, r discovery.Resolved) {
	if name.GetError() != "" {
		return
	}
	if !r.At.IsZero() {
		name.At = timestamppb.New(r.At)
	}
	if r.Err != nil {
		name.Error = r.Err.Error()
	}
}

// state is what is told of one region's deliveries.
type state struct {
	published         time.Time
	refusal           *refusal
	accepted, refused uint64
}

func (d *delivery) states() map[string]state {
	d.mu.Lock()
	regions := make([]*region, 0, len(d.regions))
	for _, r := range d.regions {
		regions = append(regions, r)
	}
	d.mu.Unlock()
	all := make(map[string]state, len(regions))
	for _, r := range regions {
		all[r.name] = r.state()
	}
	return all
}

func (r *region) state() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	return state{published: r.published, refusal: r.refusal, accepted: r.accepted, refused: r.refused}
}
