package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// build is a plan as checked resources. It is not changed once it is made.
type build struct {
	edition
	bundles map[bundleName]bundle
	views   map[string]*content
	// refused says of services why they are not as the plan would have them; nil is none. The edition has what they are.
	refused error
}

// bundleName names the clusters and endpoints of one service for one kind of client.
type bundleName struct {
	service string
	weights resource.WeightsIn
	grpc    bool
	zone    string // of the callers, where it makes a difference
}

// bundle is encoded and checked once, however many views share it.
type bundle struct {
	resources []*ads.Resource
	// outline has the clusters without endpoints, for the check of what names them.
	outline []proto.Message
}

// content is what a view is given.
type content struct {
	view     resource.View
	services []string // that it sees, sorted
	bundles  []*ads.Resource
	doors    []*ads.Resource // listeners and routes
	snapshot *ads.Snapshot
}

// assembly is a build in the making.
type assembly struct {
	*build
	before  *build
	changed map[string]change
	// refused says why services cannot be given.
	refused map[string]error
	// doors are shared by views that differ in nothing but the zone.
	doors map[resource.View][]*ads.Resource
}

// assemble makes and checks the resources of a plan for views. What does not differ from the build before is taken over,
// so that the work is that of what changed. A service that may not be given stays as it was before; the error is what
// concerns more than a service.
func assemble(e edition, views map[string]resource.View, before *build) (*build, error) {
	if before == nil {
		before = &build{}
	}
	first, err := attempt(e, views, before)
	if err != nil || len(first.refused) == 0 {
		return first.build, err
	}
	kept, why := first.keep()
	second, err := attempt(kept, views, before)
	if err == nil && len(second.refused) > 0 { // not even what was good
		_, err = second.keep()
	}
	if err != nil {
		return nil, errors.Join(why, err)
	}
	second.build.refused = why
	return second.build, nil
}

// attempt is what comes of a plan, but for services that may not be given.
func attempt(e edition, views map[string]resource.View, before *build) (*assembly, error) {
	a := &assembly{
		build:   &build{edition: e, bundles: map[bundleName]bundle{}, views: map[string]*content{}},
		before:  before,
		doors:   map[resource.View][]*ads.Resource{},
		refused: map[string]error{},
	}
	a.changed = changes(before.edition, e)
	for name, b := range before.bundles {
		if a.changed[name.service] <= moved {
			a.bundles[name] = b
		}
	}
	for _, name := range slices.Sorted(maps.Keys(views)) {
		view := views[name]
		intents := resource.Intents(e.plan, view)
		if c := before.views[name]; c != nil && !a.stale(c, intents) {
			a.views[name] = c
			continue
		}
		c, err := a.content(view, intents)
		if err != nil {
			return a, err
		}
		a.views[name] = c
	}
	return a, nil
}

// keep is the edition with refused services as they are in the build before, or without them when they are not there, and
// why.
func (a *assembly) keep() (edition, error) {
	e := a.edition
	e.arms = 0 // it differs from every plan in more than shares
	e.plan.Intents = nil
	e.plan.Charter = maps.Clone(a.plan.Charter)
	var why []error
	for _, in := range a.plan.Intents {
		err, refused := a.refused[in.Service]
		if !refused {
			e.plan.Intents = append(e.plan.Intents, in)
			continue
		}
		if !a.before.gives(in.Service) {
			why = append(why, fmt.Errorf("service %s is left out: %w", in.Service, err))
			continue
		}
		good, _ := intent(a.before.plan, in.Service)
		e.plan.Intents = append(e.plan.Intents, good)
		e.plan.Charter[in.Service] = a.before.plan.Charter[in.Service]
		why = append(why, fmt.Errorf("service %s stays as it was: %w", in.Service, err))
	}
	return e, errors.Join(why...)
}

// gives reports whether some view is given a service.
func (b *build) gives(service string) bool {
	for name := range b.bundles {
		if name.service == service {
			return true
		}
	}
	return false
}

// stale reports whether what a view was given before is not what it is to be given.
func (a *assembly) stale(c *content, now []traffic.Intent) bool {
	most := same
	if c.view.Weights == resource.InLayer {
		most = moved
	}
	return !slices.EqualFunc(c.services, now, func(s string, in traffic.Intent) bool {
		return s == in.Service && a.changed[s] <= most
	})
}

func (a *assembly) content(v resource.View, intents []traffic.Intent) (*content, error) {
	c := &content{view: v}
	var outline []proto.Message
	for _, in := range intents {
		b, err := a.bundle(in, v)
		if err != nil {
			a.refused[in.Service] = err
			continue
		}
		c.services = append(c.services, in.Service)
		c.bundles = append(c.bundles, b.resources...)
		outline = append(outline, b.outline...)
	}
	if len(a.refused) > 0 {
		return c, nil // there is another attempt
	}
	var err error
	if c.doors, err = a.door(v, outline, c.services); err != nil {
		return nil, err
	}
	c.snapshot, err = ads.NewSnapshot(slices.Concat(c.bundles, c.doors)...)
	return c, err
}

// door makes the listeners and routes of a view, unless one that differs in nothing but the zone has them already.
func (a *assembly) door(v resource.View, outline []proto.Message, services []string) ([]*ads.Resource, error) {
	anywhere := zoneless(v)
	if made, ok := a.doors[anywhere]; ok {
		return made, nil
	}
	made := doors(a.plan, v)
	// Endpoints were checked with their clusters; here it is what routes and layer make of these.
	checked := slices.Concat(outline, made)
	if v.Weights == resource.InLayer {
		values, _ := resource.Layer(a.plan, v)
		checked = append(checked, values)
	}
	unbound := traffic.Charter{}
	for _, s := range services {
		unbound[s] = traffic.Bounds{}
	}
	if err := resource.Check(unbound, a.plan.Region, checked...); err != nil {
		return nil, err
	}
	encoded, err := encode(made)
	if err == nil {
		a.doors[anywhere] = encoded
	}
	return encoded, err
}

// bundle makes the clusters and endpoints of a service, unless another view has them already.
func (a *assembly) bundle(in traffic.Intent, v resource.View) (bundle, error) {
	name := bundleName{service: in.Service, weights: v.Weights, grpc: v.GRPC}
	if in.NearestZone {
		name.zone = v.Zone
	}
	if b, ok := a.bundles[name]; ok {
		return b, nil
	}
	var b bundle
	var all []proto.Message
	for _, c := range resource.Clusters(in, v) {
		all = append(all, c)
		b.outline = append(b.outline, &clusterv3.Cluster{Name: c.Name, ClusterDiscoveryType: c.ClusterDiscoveryType})
	}
	for _, e := range resource.Assignments(in, v) {
		all = append(all, e)
		b.outline = append(b.outline, &endpointv3.ClusterLoadAssignment{ClusterName: e.ClusterName})
	}
	if err := resource.Check(a.charter(in.Service), a.plan.Region, all...); err != nil {
		return bundle{}, err
	}
	var err error
	if b.resources, err = encode(all); err == nil {
		a.bundles[name] = b
	}
	return b, err
}

// charter is what a service is checked against. Stable may have as few endpoints as it has in the good plan: keeping that
// one would help nobody, and where there is none nobody would be given anything.
func (a *assembly) charter(service string) traffic.Charter {
	b, ok := a.plan.Charter[service]
	if !ok {
		return nil
	}
	good, _ := intent(a.before.plan, service)
	have := 0
	for _, l := range good.Stable.Localities {
		have += len(l.Endpoints)
	}
	b.MinEndpoints = min(b.MinEndpoints, have)
	return traffic.Charter{service: b}
}

// doors are the listeners and routes of a view.
func doors(plan traffic.Plan, v resource.View) []proto.Message {
	var all []proto.Message
	for _, l := range resource.Listeners(plan, v) {
		all = append(all, l)
	}
	for _, r := range resource.Routes(plan, v) {
		all = append(all, r)
	}
	return all
}

// sees reports whether the view sees one of the services.
func (c *content) sees(services map[string]bool) bool {
	return len(services) > 0 && slices.ContainsFunc(c.services, func(s string) bool { return services[s] })
}

// under is the content with the routes of another plan, which differs in shares alone.
func (c *content) under(plan traffic.Plan) (*ads.Snapshot, error) {
	made, err := encode(doors(plan, c.view))
	if err != nil {
		return nil, err
	}
	return ads.NewSnapshot(slices.Concat(c.bundles, made)...)
}

func encode(messages []proto.Message) ([]*ads.Resource, error) {
	var all []*ads.Resource
	var errs []error
	for _, m := range messages {
		r, err := ads.NewResource(nameOf(m), m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(errs...)
}

func nameOf(m proto.Message) string {
	switch m := m.(type) {
	case *endpointv3.ClusterLoadAssignment:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	}
	return ""
}
