package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// layerName is the runtime layer that bootstraps ask for.
const layerName = "aviary"

// delivery turns plans into what each kind of client sees, and hands it to the xDS server. Clusters and endpoints are built
// and encoded once a region and shared by the views that name them; a view is made when its first client connects.
type delivery struct {
	ads *ads.Server
	log *slog.Logger

	mu      sync.Mutex
	regions map[string]*region
}

// region is what one region's clients are given.
type region struct {
	plan  traffic.Plan
	views map[string]resource.View
	// bundles are the clusters and endpoints of services by kind of client, encoded once a plan.
	bundles map[bundle][]*ads.Resource
	// promoted are, by service, the splits of canaries that are stable now. Their shares stay in the layer, as routes that
	// name the split are at the proxies for a moment longer, and without its shares would go back to the old version.
	promoted map[string]traffic.Intent
}

// bundle names the clusters and endpoints of one service for one kind of client.
type bundle struct {
	service string
	grpc    bool
	weights resource.WeightsIn
	zone    string
}

func newDelivery(log *slog.Logger) *delivery {
	return &delivery{log: log, regions: map[string]*region{}}
}

// Publish makes a plan what the region's clients are given.
func (d *delivery) Publish(plan traffic.Plan, weights bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.region(plan.Region)
	r.keepPromoted(plan)
	r.plan = plan
	if !weights {
		clear(r.bundles)
	}
	// Layers first: they are what takes traffic from a canary.
	for name, view := range r.views {
		if view.Weights == resource.InLayer {
			d.layer(name, r, view)
		}
	}
	for name, view := range r.views {
		if !weights || view.Weights == resource.InRoutes {
			d.snapshot(r, name, view, weights)
		}
	}
}

// keepPromoted notes which canaries of the plan before are stable in the next one, and forgets those that are not any more,
// or beside which there is another canary.
func (r *region) keepPromoted(next traffic.Plan) {
	before := map[string]traffic.Intent{}
	for _, in := range r.plan.Intents {
		if in.Canary != nil && in.Weight > 0 {
			before[in.Service] = in
		} else if split, ok := r.promoted[in.Service]; ok {
			before[in.Service] = split
		}
	}
	clear(r.promoted)
	for _, in := range next.Intents {
		split, ok := before[in.Service]
		if ok && in.Canary == nil && split.Canary.Version == in.Stable.Version && split.Canary.Digest == in.Stable.Digest {
			r.promoted[in.Service] = split
		}
	}
}

// Renew renews the leases of proxies whose flushes were judged.
func (d *delivery) Renew(proxies []string) { d.ads.Renew(proxies...) }

func (d *delivery) region(name string) *region {
	r := d.regions[name]
	if r == nil {
		r = &region{plan: traffic.Plan{Region: name}, views: map[string]resource.View{}, bundles: map[bundle][]*ads.Resource{}, promoted: map[string]traffic.Intent{}}
		d.regions[name] = r
	}
	return r
}

// snapshot builds a view and publishes it. A view that cannot be built keeps what it has.
func (d *delivery) snapshot(r *region, name string, view resource.View, urgent bool) {
	snap, err := r.build(view)
	if err != nil {
		d.log.Error("a view cannot be built; its clients keep what they have", "view", name, "error", err)
		return
	}
	urgency := ads.Routine
	if urgent {
		urgency = ads.Urgent
	}
	d.ads.Publish(name, snap, urgency)
}

// build composes a view of the region's bundles and its own listeners and routes.
func (r *region) build(v resource.View) (*ads.Snapshot, error) {
	var all []*ads.Resource
	var errs []error
	add := func(name string, m proto.Message) {
		res, err := ads.NewResource(name, m)
		if err != nil {
			errs = append(errs, err)
			return
		}
		all = append(all, res)
	}
	for _, in := range resource.Intents(r.plan, v) {
		b := bundle{in.Service, v.GRPC, v.Weights, v.Zone}
		if _, ok := r.bundles[b]; !ok {
			before := len(all)
			for _, c := range resource.Clusters(in, v) {
				add(c.Name, c)
			}
			for _, a := range resource.Assignments(in, v) {
				add(a.ClusterName, a)
			}
			r.bundles[b] = slices.Clone(all[before:])
			continue
		}
		all = append(all, r.bundles[b]...)
	}
	for _, l := range resource.Listeners(r.plan, v) {
		add(l.Name, l)
	}
	for _, c := range resource.Routes(r.plan, v) {
		add(c.Name, c)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return ads.NewSnapshot(all...)
}

// layer publishes the weights of a view.
func (d *delivery) layer(name string, r *region, v resource.View) {
	plan := r.plan
	plan.Intents = slices.Clone(plan.Intents)
	for i, in := range plan.Intents {
		if split, ok := r.promoted[in.Service]; ok {
			plan.Intents[i] = split
		}
	}
	values, lease := resource.Layer(plan, v)
	if err := d.ads.PublishLayer(name, ads.Layer{Name: layerName, Values: values, TTL: lease}); err != nil {
		d.log.Error("weights cannot be published; proxies keep what they have until their leases end", "view", name, "error", err)
	}
}

// identify says who an xDS client is, and makes its view if it is the first of its kind.
func (d *delivery) identify(ctx context.Context, node *corev3.Node) (ads.Client, error) {
	id, err := identify(ctx, node)
	if err != nil {
		return ads.Client{}, err
	}
	view, err := viewOf(node, id)
	if err != nil {
		return ads.Client{}, err
	}
	name := fmt.Sprintf("%s/%s%s", id.region, id.service, kind(view))
	d.mu.Lock()
	defer d.mu.Unlock()
	r, known := d.regions[id.region]
	if !known {
		return ads.Client{}, fmt.Errorf("region %q is not declared", id.region)
	}
	if _, ok := r.views[name]; !ok {
		r.views[name] = view
		d.layer(name, r, view)
		d.snapshot(r, name, view, false)
	}
	return ads.Client{Proxy: id.proxy(), Region: id.region, Service: id.service, View: name, Lease: view.Weights == resource.InLayer}, nil
}
