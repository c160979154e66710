package resource

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// failsOver is whether a view's split reaches stable in other regions.
func (v View) failsOver(in traffic.Intent) bool { return in.Failover != nil && !v.GRPC }

// grpcFailsOver is whether stable's own cluster does. gRPC clients have no aggregate cluster whose part of the split would
// bound what the neighbours get: it is all or nothing.
func (v View) grpcFailsOver(in traffic.Intent) bool {
	return v.GRPC && in.Failover != nil && in.Failover.Admit >= traffic.Whole
}

// failOverFrom has a cluster that is not the last resort lose all its endpoints, each at once.
func failOverFrom(c *clusterv3.Cluster) {
	c.OutlierDetection = ejectDown(100)
	ejectionsCount(c)
}

// remoteCluster has the endpoints in other regions, the nearest by priority.
func remoteCluster(in traffic.Intent, v View) *clusterv3.Cluster {
	c := endpointsCluster(in, RemoteCluster(in.Service, in.Stable.Version), v, in.Failover.Localities)
	failOverFrom(c)
	tighten(c, in, v)
	return c
}

// everywhereCluster goes on to other regions when the own one has too few endpoints left, without any help.
func everywhereCluster(in traffic.Intent) *clusterv3.Cluster {
	return untried(aggregate(EverywhereCluster(in.Service, in.Stable.Version),
		StableCluster(in.Service, in.Stable.Version), RemoteCluster(in.Service, in.Stable.Version)))
}

// shedCluster comes back when other regions are out: a region that has much to do is better than none.
func shedCluster(in traffic.Intent) *clusterv3.Cluster {
	return untried(aggregate(ShedCluster(in.Service, in.Stable.Version),
		RemoteCluster(in.Service, in.Stable.Version), StableCluster(in.Service, in.Stable.Version)))
}

// untried has nothing tried again: what fails on stable is not, neither here nor there. Retries are charged to the cluster of
// the route, whatever its members' limits.
func untried(c *clusterv3.Cluster) *clusterv3.Cluster {
	none := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{Priority: p, MaxRetries: wrapperspb.UInt32(0)}
	}
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
		none(corev3.RoutingPriority_DEFAULT), none(corev3.RoutingPriority_HIGH),
	}}
	return c
}
