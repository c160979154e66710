package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

const (
	typePrefix  = "type.googleapis.com/envoy."
	clusterType = typePrefix + "config.cluster.v3.Cluster"
	endpoints   = typePrefix + "config.endpoint.v3.ClusterLoadAssignment"
	listeners   = typePrefix + "config.listener.v3.Listener"
	routes      = typePrefix + "config.route.v3.RouteConfiguration"
	layers      = typePrefix + "service.runtime.v3.Runtime"
)

// proxy is a client that asks for what a sidecar asks for, acknowledges all of it, and reports tries that all went well, at
// the share that it was told.
type proxy struct {
	id, region string
	flush      time.Duration

	mu sync.Mutex
	// weight of the canary, of 10,000, and when it was last told another.
	weight uint32
	at     time.Time
}

// told is the canary's share and when it came.
func (p *proxy) told() (uint32, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weight, p.at
}

// run is connected until ctx ends.
func (p *proxy) run(ctx context.Context, server string) error {
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	failed := make(chan error, 2)
	go func() { failed <- p.subscribe(ctx, conn) }()
	go func() { failed <- p.report(ctx, conn) }()
	err = errors.Join(<-failed, <-failed)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", p.id, err)
}

func (p *proxy) node() *corev3.Node {
	return &corev3.Node{
		Id: p.id, Cluster: caller, Locality: &corev3.Locality{Region: p.region, Zone: "a"},
		UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{}},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"aviary": structpb.NewStructValue(&structpb.Struct{
			Fields: map[string]*structpb.Value{"lease": structpb.NewBoolValue(true)},
		})}},
	}
}

func (p *proxy) subscribe(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	for i, t := range []string{layers, clusterType, listeners} {
		ask := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
		if i == 0 {
			ask.Node, ask.ResourceNamesSubscribe = p.node(), []string{"aviary"}
		}
		if err := stream.Send(ask); err != nil {
			return err
		}
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: routes, ResourceNamesSubscribe: []string{"egress"}}); err != nil {
		return err
	}
	for {
		got, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: got.GetTypeUrl(), ResponseNonce: got.GetNonce()}); err != nil {
			return err
		}
		switch got.GetTypeUrl() {
		case clusterType:
			var names []string
			for _, r := range got.GetResources() {
				names = append(names, r.GetName())
			}
			if len(names) > 0 {
				if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpoints, ResourceNamesSubscribe: names}); err != nil {
					return err
				}
			}
		case layers:
			for _, r := range got.GetResources() {
				if r.GetResource() == nil {
					continue // a renewal
				}
				var layer runtimev3.Runtime
				if err := r.GetResource().UnmarshalTo(&layer); err != nil {
					return err
				}
				weight := uint32(layer.GetLayer().GetFields()[weightKey].GetNumberValue())
				p.mu.Lock()
				if weight != p.weight {
					p.weight, p.at = weight, time.Now()
				}
				p.mu.Unlock()
			}
		}
	}
}

// report sends a flush every p.flush: ten tries of the service in each, split as the proxy was told.
func (p *proxy) report(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := metricsv3.NewMetricsServiceClient(conn).StreamMetrics(ctx)
	if err != nil {
		return err
	}
	defer func() { _, _ = stream.CloseAndRecv() }()
	const perFlush = 10
	started, total := time.Now(), map[string]float64{}
	ticker := time.NewTicker(p.flush)
	defer ticker.Stop()
	for first := true; ; first = false {
		now := time.Now()
		weight, _ := p.told()
		canary := float64(weight) / 10_000 * perFlush
		total["v2"], total["v1"] = total["v2"]+canary, total["v1"]+perFlush-canary
		m := &metricsv3.StreamMetricsMessage{EnvoyMetrics: families(total, map[string]float64{"v1": perFlush - canary, "v2": canary}, started, now)}
		if first {
			m.Identifier = &metricsv3.StreamMetricsMessage_Identifier{Node: p.node()}
		}
		if err := stream.Send(m); err != nil {
			if errors.Is(err, io.EOF) {
				return stream.RecvMsg(new(metricsv3.StreamMetricsResponse))
			}
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// families are what an Envoy with our bootstrap and listeners sends of its tries: totals, and the latencies of the flush.
func families(total, flush map[string]float64, started, now time.Time) []*dto.MetricFamily {
	stamp := proto.Int64(now.UnixMilli())
	uptime := now.Sub(started).Truncate(time.Second).Seconds()
	all := []*dto.MetricFamily{{Name: proto.String("server.uptime"), Type: dto.MetricType_GAUGE.Enum(),
		Metric: []*dto.Metric{{TimestampMs: stamp, Gauge: &dto.Gauge{Value: &uptime}}}}}
	for version, n := range total {
		whole := float64(uint64(n))
		labels := []*dto.LabelPair{}
		for _, pair := range [][2]string{{"service", service}, {"version", version}, {"status", "200"}, {"grpc", ""}, {"flags", "-"}} {
			labels = append(labels, &dto.LabelPair{Name: proto.String(pair[0]), Value: proto.String(pair[1])})
		}
		count := uint64(flush[version])
		h := &dto.Histogram{SampleCount: &count}
		for _, e := range signal.Edges {
			n := uint64(0)
			if e >= 5000 { // microseconds
				n = count
			}
			h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: &n, UpperBound: proto.Float64(e)})
		}
		all = append(all,
			&dto.MetricFamily{Name: proto.String("aviary.tries"), Type: dto.MetricType_COUNTER.Enum(),
				Metric: []*dto.Metric{{Label: labels, TimestampMs: stamp, Counter: &dto.Counter{Value: &whole}}}},
			&dto.MetricFamily{Name: proto.String("aviary.try_us"), Type: dto.MetricType_HISTOGRAM.Enum(),
				Metric: []*dto.Metric{{Label: labels, TimestampMs: stamp, Histogram: h}}})
	}
	return all
}
