package counting

import (
	"net"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

// recorder keeps what a sidecar reports as it came over the wire, beside the telemetry of the mesh.
type recorder struct {
	metricsv3.UnimplementedMetricsServiceServer
	loadv3.UnimplementedLoadReportingServiceServer
	t        *testing.T
	port     *lab.Port
	interval time.Duration // of load reports
	stop     func()

	mu      sync.Mutex
	flushes []flush
	reports int
	loads   map[string]load // by cluster
}

const orcaMetric = "named_metrics.queue"

// flush is one message of the metrics service: its series by name and labels.
type flush map[string]*dto.Metric

// load sums up the reports of a cluster; inProgress is that of the newest, most the highest of any.
type load struct {
	ok, bad, issued, inProgress, most uint64
	orca                              uint64 // answers with orcaMetric
}

func record(t *testing.T) *recorder {
	t.Helper()
	port, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	r := &recorder{t: t, port: port, interval: 100 * time.Millisecond, loads: map[string]load{}}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *recorder) start() {
	r.t.Helper()
	listener, err := net.Listen("tcp", r.port.Address())
	if err != nil {
		r.t.Fatal(err)
	}
	g := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: bootstrap.KeepAlive / 2, PermitWithoutStream: true}))
	metricsv3.RegisterMetricsServiceServer(g, r)
	loadv3.RegisterLoadReportingServiceServer(g, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener)
	}()
	r.stop = func() {
		g.Stop()
		<-done
	}
}

// join makes the recorder a second sink of a sidecar's statistics, and its load reporting service.
func (r *recorder) join(b *bootstrapv3.Bootstrap) {
	cluster := proto.CloneOf(b.StaticResources.Clusters[0])
	cluster.Name, cluster.OutlierDetection = "recorder", nil
	cluster.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: "recorder", Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socket("127.0.0.1", uint32(r.port.Number()))},
		}}},
	}}}
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, cluster)
	service := &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "recorder"},
	}}
	b.StatsSinks = append(b.StatsSinks, &metricsconfigv3.StatsSink{
		Name: "envoy.stat_sinks.metrics_service",
		ConfigType: &metricsconfigv3.StatsSink_TypedConfig{TypedConfig: pack(&metricsconfigv3.MetricsServiceConfig{
			GrpcService: service, TransportApiVersion: corev3.ApiVersion_V3, EmitTagsAsLabels: true,
			HistogramEmitMode: metricsconfigv3.HistogramEmitMode_HISTOGRAM,
		})},
	})
	b.ClusterManager = &bootstrapv3.ClusterManager{LoadStatsConfig: &corev3.ApiConfigSource{
		ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3, GrpcServices: []*corev3.GrpcService{service},
	}}
}

func (r *recorder) StreamMetrics(stream grpc.ClientStreamingServer[metricsv3.StreamMetricsMessage, metricsv3.StreamMetricsResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		f := flush{}
		for _, family := range m.EnvoyMetrics {
			for _, metric := range family.Metric {
				f[series(family.GetName(), metric.Label)] = metric
			}
		}
		r.mu.Lock()
		r.flushes = append(r.flushes, f)
		r.mu.Unlock()
	}
}

func series(name string, labels []*dto.LabelPair) string {
	var pairs []string
	for _, l := range labels {
		pairs = append(pairs, l.GetName()+"="+l.GetValue())
	}
	sort.Strings(pairs)
	return name + "{" + strings.Join(pairs, ",") + "}"
}

func (r *recorder) StreamLoadStats(stream grpc.BidiStreamingServer[loadv3.LoadStatsRequest, loadv3.LoadStatsResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&loadv3.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(r.interval)}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.reports++
		seen := map[string]bool{}
		for _, c := range m.ClusterStats {
			seen[c.ClusterName] = true
			l := r.loads[c.ClusterName]
			l.inProgress = 0
			for _, u := range c.UpstreamLocalityStats {
				l.ok += u.TotalSuccessfulRequests
				l.bad += u.TotalErrorRequests
				l.issued += u.TotalIssuedRequests
				l.inProgress += u.TotalRequestsInProgress
				for _, o := range u.LoadMetricStats {
					if o.MetricName == orcaMetric {
						l.orca += o.NumRequestsFinishedWithMetric
					}
				}
			}
			l.most = max(l.most, l.inProgress)
			r.loads[c.ClusterName] = l
		}
		for name, l := range r.loads {
			if !seen[name] {
				l.inProgress = 0
				r.loads[name] = l
			}
		}
		r.mu.Unlock()
	}
}

func (r *recorder) all() []flush {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.flushes)
}

// newest is the flush that came last.
func (r *recorder) newest() flush {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.flushes) == 0 {
		return nil
	}
	return r.flushes[len(r.flushes)-1]
}

// flushed waits for n more flushes.
func (r *recorder) flushed(n int) {
	r.t.Helper()
	until := len(r.all()) + n
	wait(r.t, "flush", func() bool { return len(r.all()) >= until })
}

func (r *recorder) load(cluster string) load {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads[cluster]
}

// more waits for n more load reports.
func (r *recorder) more(n int) {
	r.t.Helper()
	until := r.count() + n
	wait(r.t, "load report", func() bool { return r.count() >= until })
}

// reset forgets the load reports so far.
func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads = map[string]load{}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports
}
