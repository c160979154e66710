package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// cluster is the name of the control planes' cluster; names of the product's services have a "/".
	cluster = "aviary"
	// layer is the name of the runtime layer whose time to live is the lease, and of its RTDS resource.
	layer = "aviary"
	// maxConnections bounds what clients may open; without a bound Envoy warns and may run out of files.
	maxConnections = 100_000
)

// Render returns a bootstrap as JSON that Envoy starts with as it is. The same options give the same bytes.
// The error joins everything that is wrong with the options.
func Render(o Options) ([]byte, error) {
	servers, err := o.check()
	if err != nil {
		return nil, err
	}
	if o.Flush == 0 {
		o.Flush = defaultFlush
	}
	upstream, err := controlPlanes(servers, o.TLS)
	if err != nil {
		return nil, err
	}
	sink, err := statsSink()
	if err != nil {
		return nil, err
	}
	limit, err := connectionLimit()
	if err != nil {
		return nil, err
	}
	node, err := node(&o)
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node:            node,
		Admin:           admin(o.Admin),
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: upstream},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: overADS(),
			CdsConfig: overADS(),
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices:              []*corev3.GrpcService{adsService()},
			},
		},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{
			{Name: layer, LayerSpecifier: &bootstrapv3.RuntimeLayer_RtdsLayer_{
				RtdsLayer: &bootstrapv3.RuntimeLayer_RtdsLayer{Name: layer, RtdsConfig: overADS()},
			}},
			// Above the leases: an operator at the sidecar has the last word.
			{Name: "admin", LayerSpecifier: &bootstrapv3.RuntimeLayer_AdminLayer_{AdminLayer: &bootstrapv3.RuntimeLayer_AdminLayer{}}},
		}},
		StatsSinks:         sink,
		StatsConfig:        statsConfig(o.Edges),
		StatsFlushInterval: durationpb.New(o.Flush),
		StatsEviction:      &bootstrapv3.Bootstrap_StatsEvictionInterval{StatsEvictionInterval: durationpb.New(evictionInterval(o.Flush))},
		OverloadManager:    limit,
	}
	return encode(b)
}

func node(o *Options) (*corev3.Node, error) {
	ours := map[string]any{"lease": true, "gateway": o.Gateway}
	if o.Port != 0 {
		ours["port"] = o.Port
	}
	metadata, err := structpb.NewStruct(map[string]any{"aviary": ours})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return &corev3.Node{
		Id: o.ID, Cluster: o.Service, Metadata: metadata,
		Locality: &corev3.Locality{Region: o.Region, Zone: o.Zone},
	}, nil
}

func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func grpcService() *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
	}}
}

// adsService has the stream opened again soon after a control plane came back: with Envoy's own back-off of up to 30 s leases
// end that a restart had handed over.
func adsService() *corev3.GrpcService {
	s := grpcService()
	s.GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
		BaseInterval: durationpb.New(200 * time.Millisecond), MaxInterval: durationpb.New(2 * time.Second),
	}}
	return s
}

func admin(address string) *bootstrapv3.Admin {
	switch {
	case address == "":
		return nil
	case filepath.IsAbs(address):
		return &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: address, Mode: 0o600}}}}
	}
	s, _ := parseServer(address) // checked before
	return &bootstrapv3.Admin{Address: socket(s)}
}

func socket(s server) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: s.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: s.port},
	}}}
}

func connectionLimit() (*overloadv3.OverloadManager, error) {
	config, err := packed(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: maxConnections})
	if err != nil {
		return nil, err
	}
	return &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
		Name:       "envoy.resource_monitors.global_downstream_max_connections",
		ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: config},
	}}}, nil
}

// evictionInterval is how long an outcome or a version must lie idle before Envoy leaves it out of its flushes, where a
// histogram costs 2.5 KB even when it is empty: about a minute, in whole flushes, as Envoy wants it.
func evictionInterval(flush time.Duration) time.Duration {
	const idle = time.Minute
	return (idle + flush - 1) / flush * flush
}

func packed(m proto.Message) (*anypb.Any, error) {
	out := &anypb.Any{}
	if err := anypb.MarshalFrom(out, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return out, nil
}

// encode sorts keys and sets the blanks itself: protojson promises neither.
func encode(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return append(out, '\n'), nil
}
