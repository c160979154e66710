package resource

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// Assignments returns the endpoints of the service's clusters: stable, and the canary's when there is one. A version
// without endpoints has an empty assignment, so that its cluster does not wait for one.
func Assignments(in traffic.Intent, _ View) []*endpointv3.ClusterLoadAssignment {
	all := []*endpointv3.ClusterLoadAssignment{assignment(in.Service, StableCluster(in.Service, in.Stable.Version), in.Stable, false)}
	if in.Canary != nil {
		all = append(all, assignment(in.Service, CanaryCluster(in.Service, in.Canary.Version), *in.Canary, true))
	}
	return all
}

func assignment(service, cluster string, arm traffic.Arm, canary bool) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	for _, l := range arm.Localities {
		group := &endpointv3.LocalityLbEndpoints{
			Locality: &corev3.Locality{Region: l.Region, Zone: l.Zone},
			Priority: l.Priority,
			// gRPC clients pass over a locality that has no weight.
			LoadBalancingWeight: wrapperspb.UInt32(uint32(max(len(l.Endpoints), 1))),
		}
		for _, e := range l.Endpoints {
			group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
					Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address: e.Host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.Port},
					}},
				}}},
				Metadata: metadata(service, arm.Version, canary),
			})
		}
		out.Endpoints = append(out.Endpoints, group)
	}
	return out
}

// metadata tells the access log of each try whose it was (TryLogs). The canary's mark gives the arm's statistics of the
// canary alone (cluster.<arm>.canary.*).
func metadata(service, version string, canary bool) *corev3.Metadata {
	text := func(s string) *structpb.Value { return structpb.NewStringValue(s) }
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"aviary": {Fields: map[string]*structpb.Value{"service": text(service), "version": text(version)}},
	}}
	if canary {
		m.FilterMetadata["envoy.lb"] = &structpb.Struct{Fields: map[string]*structpb.Value{"canary": structpb.NewBoolValue(true)}}
	}
	return m
}
