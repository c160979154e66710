package resource

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// share is what a split sends to one cluster, of traffic.Whole.
type share struct {
	cluster string
	weight  uint32
}

// moment says which weights are meant.
type moment bool

const (
	// live: what the plan says now.
	live moment = true
	// lapsed: what holds when nobody renews it.
	lapsed moment = false
)

// splits is whether a view's requests to a service have more than one way to go.
func (v View) splits(in traffic.Intent) bool { return in.Canary != nil || v.failsOver(in) }

// shares are the parts of a split in their order. The canary's arm is the last, so that it has the same end of the hash
// space whatever becomes of the others, and the total never changes: nobody falls off the canary when it widens or when
// requests go to other regions.
//
// Envoy cannot bound what an aggregate cluster sends on to a member. So it is the split that bounds the failover: only the
// admitted part goes to the cluster that reaches other regions, and when no endpoint is left here the rest fails.
func shares(in traffic.Intent, v View, m moment) []share {
	weight := uint32(0)
	if in.Canary != nil && m == live {
		weight = min(in.Weight, traffic.Whole)
	}
	rest := traffic.Whole - weight
	stable := StableCluster(in.Service, in.Stable.Version)
	all := []share{{stable, rest}}
	if v.failsOver(in) {
		shed := uint32(0)
		if m == live {
			shed = min(in.Failover.Shed, rest)
		}
		rest -= shed
		admitted := rest * min(in.Failover.Admit, traffic.Whole) / traffic.Whole
		all = []share{
			{ShedCluster(in.Service, in.Stable.Version), shed},
			{stable, rest - admitted},
			{EverywhereCluster(in.Service, in.Stable.Version), admitted},
		}
	}
	if in.Canary != nil {
		all = append(all, share{v.target(in), weight})
	}
	return all
}

// split is the route that sends each request to one of the shares.
func split(in traffic.Intent, v View) *routev3.Route {
	a := action(in, v)
	if v.splits(in) {
		weighted := &routev3.WeightedCluster{}
		m := lapsed
		if v.Weights == InRoutes {
			m = live
		} else {
			weighted.RuntimeKeyPrefix = weightsPrefix(in.Service, v.failsOver(in))
		}
		for _, s := range shares(in, v, m) {
			weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{
				Name: s.cluster, Weight: wrapperspb.UInt32(s.weight),
			})
		}
		a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
		if in.Canary != nil && !v.GRPC && (in.StickyHeader != "" || in.StickyCookie != "") {
			weighted.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
			if in.StickyHeader != "" {
				a.HashPolicy = headerHash(in.StickyHeader)
			}
		}
	} else {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: StableCluster(in.Service, in.Stable.Version)}
	}
	return &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: everyPath()}, Action: &routev3.Route_Route{Route: a}}
}
