package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// layerName is the runtime layer that bootstraps ask for.
const layerName = "aviary"

// publisher is where layers and snapshots go.
type publisher interface {
	PublishLayer(view string, l ads.Layer) error
	Publish(view string, s *ads.Snapshot, u ads.Urgency)
}

// delivery hands each plan to its region, which has a lock and a worker of its own: a region whose build is slow or fails
// holds up no other, nor who publishes. A view is made when its first client connects.
type delivery struct {
	ads *ads.Server
	to  publisher // ads
	log *slog.Logger
	// builds is how long the builds of each region take.
	builds *prometheus.HistogramVec
	// building is called by a region's worker before each build, and before it makes routes with less; for tests.
	building func(region string)

	workers sync.WaitGroup
	stop    chan struct{}

	mu      sync.Mutex
	regions map[string]*region // guarded by mu; a region that is not declared any more stays, with an empty plan
	closed  bool               // guarded by mu
}

func newDelivery(log *slog.Logger) *delivery {
	return &delivery{
		log:  log,
		stop: make(chan struct{}),
		builds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aviary_plan_build_seconds", Help: "From a plan to checked resources, by region.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"region"}),
		building: func(string) {},
		regions:  map[string]*region{},
	}
}

// close ends the workers, each after the build that it is at.
func (d *delivery) close() {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.stop)
	}
	d.mu.Unlock()
	d.workers.Wait()
}

// Publish makes a plan what the region's clients are given: what takes away at once, the rest when it is built and checked.
func (d *delivery) Publish(plan traffic.Plan, weights bool) {
	if r := d.declare(plan.Region); r != nil {
		r.publish(plan, weights)
	}
}

// Renew renews the leases of proxies whose flushes were judged.
func (d *delivery) Renew(proxies []string) { d.ads.Renew(proxies...) }

// declare returns a region and starts its worker the first time; nil after close.
func (d *delivery) declare(name string) *region {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.regions[name]
	if r == nil && !d.closed {
		r = &region{
			d: d, name: name, woken: make(chan struct{}, 1), now: time.Now,
			views: map[string]resource.View{}, out: map[string]*ads.Snapshot{}, promoted: map[string]traffic.Intent{},
		}
		d.regions[name] = r
		d.workers.Go(r.work)
	}
	return r
}

// region returns a region that is or was declared, else nil.
func (d *delivery) region(name string) *region {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.regions[name]
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
	r := d.region(id.region)
	if r == nil {
		return ads.Client{}, fmt.Errorf("region %q is not declared", id.region)
	}
	if !hasZone(r.current().plan, view.Zone) {
		view.Zone = "" // clients name what zones they like, and each would be a view for good
	}
	name := fmt.Sprintf("%s/%s%s", id.region, id.service, kind(view))
	r.see(name, view)
	return ads.Client{Proxy: id.proxy(), Region: id.region, Service: id.service, View: name, Lease: view.Weights == resource.InLayer}, nil
}
