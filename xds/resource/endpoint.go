package resource

import (
	"cmp"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Assignments returns the endpoints of the service's clusters for a view. A version without endpoints has an empty
// assignment, so that its cluster does not wait for one. They depend on the view's kind, GRPC and Weights, and its Zone.
func Assignments(in traffic.Intent, v View) []*endpointv3.ClusterLoadAssignment {
	zone := ""
	if in.NearestZone {
		zone = v.Zone
	}
	stable := ranked(in.Stable.Localities, 0, zone)
	if v.grpcFailsOver(in) {
		next := uint32(0)
		if len(stable) > 0 {
			next = stable[len(stable)-1].Priority + 1
		}
		stable = append(stable, ranked(in.Failover.Localities, next, "")...)
	}
	if v.GRPC {
		stable = distinct(stable)
	}
	all := []*endpointv3.ClusterLoadAssignment{assignment(in, StableCluster(in.Service, in.Stable.Version), in.Stable.Version, stable)}
	if v.failsOver(in) {
		all = append(all, assignment(in, RemoteCluster(in.Service, in.Stable.Version), in.Stable.Version,
			ranked(in.Failover.Localities, 0, "")))
	}
	if in.Canary == nil {
		return all
	}
	localities := leaning(in.Canary.Localities, zone)
	if v.GRPC {
		localities = distinct(localities)
	}
	canary := assignment(in, CanaryCluster(in.Service, in.Canary.Version), in.Canary.Version, localities)
	for _, group := range canary.Endpoints {
		for _, e := range group.LbEndpoints {
			// It gives the arm's statistics of the canary alone (cluster.<arm>.canary.*).
			e.Metadata.FilterMetadata["envoy.lb"] = &structpb.Struct{Fields: map[string]*structpb.Value{"canary": structpb.NewBoolValue(true)}}
		}
	}
	all = append(all, canary)
	if v.shadows(in) {
		shadow := assignment(in, ShadowCluster(in.Service, in.Canary.Version), in.Canary.Version, localities)
		for _, group := range shadow.Endpoints {
			for _, e := range group.LbEndpoints {
				// The log of tries has copies too: they are told apart by this, which no caller can forge.
				e.Metadata.FilterMetadata["aviary"].Fields["shadow"] = structpb.NewStringValue("true")
			}
		}
		all = append(all, shadow)
	}
	return all
}

func assignment(in traffic.Intent, cluster, version string, localities []traffic.Locality) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	if in.Failover != nil || weighs(in, localities) {
		out.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(overprovisioned)}
	}
	for _, l := range localities {
		group := &endpointv3.LocalityLbEndpoints{
			Locality:            &corev3.Locality{Region: l.Region, Zone: l.Zone},
			Priority:            l.Priority,
			LoadBalancingWeight: wrapperspb.UInt32(weight(l)),
		}
		for _, e := range l.Endpoints {
			group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
					Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address: e.Host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.Port},
					}},
				}}},
				Metadata: metadata(in.Service, cmp.Or(l.Version, version), l.Region),
			})
		}
		out.Endpoints = append(out.Endpoints, group)
	}
	return out
}

// overprovisioned, in per cent, is Envoy's own default, said aloud as failover hangs on it: a priority keeps all its requests
// until more than 1 - 1/1.4 = 29 % of its endpoints are out, and then sends on what the rest could not carry.
const overprovisioned = 140

// metadata tells the access log of each try whose it was (TryLogs).
func metadata(service, version, region string) *corev3.Metadata {
	text := func(s string) *structpb.Value { return structpb.NewStringValue(s) }
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"aviary": {Fields: map[string]*structpb.Value{"service": text(service), "version": text(version), "region": text(region)}},
	}}
}
