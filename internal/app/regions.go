package app

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/discovery"
	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/spec"
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
	// documents are those in the store.
	documents func(ctx context.Context) (*spec.Set, error)
}

// Regions are sorted by name.
func (r regions) Regions(ctx context.Context) ([]*aviaryv1.RegionState, error) {
	all, err := r.declared.RegionStates(ctx)
	if err != nil {
		return nil, err
	}
	set, err := r.documents(ctx)
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
			for _, name := range namesOf(set.Services[service.GetService()], region.GetName()) {
				service.Names = append(service.Names, known(name, resolved[name]))
			}
		}
	}
	return all, nil
}

// namesOf are the names of a service's endpoints in a region, sorted.
func namesOf(s *spec.Service, region string) []string {
	if s == nil {
		return nil
	}
	var all []string
	for _, v := range s.Versions {
		if place := v.In(region); place != nil {
			for _, e := range place.Endpoints {
				if e.Name {
					all = append(all, e.Host)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func known(name string, r discovery.Resolved) *aviaryv1.Resolved {
	out := &aviaryv1.Resolved{Name: name}
	for _, a := range r.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	if !r.At.IsZero() {
		out.At = timestamppb.New(r.At)
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	return out
}

// documents reads what is declared.
func documents(ctx context.Context, kept *store.Store) (*spec.Set, error) {
	revisions, _, err := kept.Documents(ctx)
	if err != nil {
		return nil, err
	}
	docs := make([]*aviaryv1.Document, len(revisions))
	for i, r := range revisions {
		docs[i] = r.Document
	}
	return spec.Build(docs, nil)
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
