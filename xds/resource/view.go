package resource

import (
	"slices"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// WeightsIn says where a client takes the weights of a split from.
type WeightsIn uint8

// The places.
const (
	// InLayer: from the runtime layer, which is a lease; routes say stable only.
	InLayer WeightsIn = iota
	// InRoutes: from the routes, for clients without the layer. There is no lease then.
	InRoutes
)

// View is a kind of client. Clients of one view are given the same resources.
type View struct {
	// Service is the caller: a sidecar is given the services that it calls.
	Service string
	// Gateway is given every service of the region, on a public listener.
	Gateway bool
	Weights WeightsIn
	// GRPC is a proxyless gRPC client: one listener a host, without an address, and no arm.
	GRPC bool
	// Port of the listener; 0 is DefaultPort, for a gateway DefaultGatewayPort.
	Port uint32
	// Zone of the client, for services that keep to it; "" is not known.
	Zone string
}

// Ports of listeners that nobody chose.
const (
	DefaultPort        = 15001
	DefaultGatewayPort = 8080
)

// Intents are the services of the plan that a view sees, sorted by name.
func Intents(plan traffic.Plan, v View) []traffic.Intent {
	if v.Gateway {
		return plan.Intents
	}
	calls := plan.Callers[v.Service]
	var seen []traffic.Intent
	for _, in := range plan.Intents {
		if _, ok := slices.BinarySearch(calls, in.Service); ok {
			seen = append(seen, in)
		}
	}
	return seen
}

// StableCluster and its like name the clusters of a service: service/role/version. A cluster is another one for another
// version, so that a promotion warms the new one before routes name it.
func StableCluster(service, version string) string { return service + "/stable/" + version }

// CanaryCluster is the canary's own.
func CanaryCluster(service, version string) string { return service + "/canary/" + version }

// ArmCluster is what the split sends the canary's share to.
func ArmCluster(service, version string) string { return service + "/arm/" + version }

// ShadowCluster is the canary's, for copies of requests.
func ShadowCluster(service, version string) string { return service + "/shadow/" + version }

// RemoteCluster is stable in other regions, whatever version is stable there; version is the own region's.
func RemoteCluster(service, version string) string { return service + "/remote/" + version }

// EverywhereCluster is stable here, and when no endpoint is left here in other regions; version is the own region's.
func EverywhereCluster(service, version string) string { return service + "/everywhere/" + version }

// ShedCluster is stable in other regions, and when no endpoint is left there the own region's after all; version is the own
// region's.
func ShedCluster(service, version string) string { return service + "/shed/" + version }

// target is the cluster that a view's split sends the canary's share to.
func (v View) target(in traffic.Intent) string {
	if v.GRPC {
		return CanaryCluster(in.Service, in.Canary.Version)
	}
	return ArmCluster(in.Service, in.Canary.Version)
}
