package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server with a clock of its own and one client connection.
type world struct {
	t       *testing.T
	server  *Server
	client  *grpc.ClientConn
	flushes chan signal.Flush

	mu  sync.Mutex
	now time.Time
}

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, flushes: make(chan signal.Flush, 100), now: epoch}
	w.server = New(Config{
		Identify: func(_ context.Context, node *corev3.Node) (Proxy, error) {
			if node.GetId() == "stranger" {
				return Proxy{}, errors.New("who are you")
			}
			return Proxy{ID: node.GetId(), Region: "eu", Service: "web"}, nil
		},
		Sink: func(f signal.Flush) { w.flushes <- f },
		Now:  w.clock,
	})
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	w.server.Register(g)
	go func() { _ = g.Serve(listener) }()
	var err error
	w.client, err = grpc.NewClient("passthrough:bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.client.Close()
		g.Stop()
	})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// next is the flush that the last message made.
func (w *world) next() signal.Flush {
	w.t.Helper()
	select {
	case f := <-w.flushes:
		return f
	case <-time.After(10 * time.Second):
		w.t.Fatal("no flush")
		panic("unreachable")
	}
}

// quiet checks that there is no flush that nobody took.
func (w *world) quiet() {
	w.t.Helper()
	select {
	case f := <-w.flushes:
		w.t.Fatalf("a flush that nobody asked for: %+v", f)
	default:
	}
}

// stream is one proxy's MetricsService stream.
type stream struct {
	w      *world
	grpc   grpc.ClientStreamingClient[metricsv3.StreamMetricsMessage, metricsv3.StreamMetricsResponse]
	node   *corev3.Node
	cancel context.CancelFunc
}

func (w *world) open(id string) *stream {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	s, err := metricsv3.NewMetricsServiceClient(w.client).StreamMetrics(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cancel)
	return &stream{w: w, grpc: s, node: &corev3.Node{Id: id}, cancel: cancel}
}

// send gives the flush that a message makes. Only the first of a stream has the node, as in Envoy.
func (s *stream) send(families ...*dto.MetricFamily) signal.Flush {
	s.w.t.Helper()
	s.raw(families...)
	return s.w.next()
}

func (s *stream) raw(families ...*dto.MetricFamily) {
	s.w.t.Helper()
	m := &metricsv3.StreamMetricsMessage{EnvoyMetrics: withLatencies(families)}
	if s.node != nil {
		m.Identifier, s.node = &metricsv3.StreamMetricsMessage_Identifier{Node: s.node}, nil
	}
	if err := s.grpc.Send(m); err != nil {
		s.w.t.Fatal(err)
	}
}

// withLatencies adds the histograms of the counters that have none: then no try waits for its latency.
func withLatencies(families []*dto.MetricFamily) []*dto.MetricFamily {
	text := func(m *dto.Metric) string { return fmt.Sprint(m.Label) }
	has := map[string]bool{}
	for _, f := range families {
		if f.GetName() == "aviary.try_us" || f.GetName() == "aviary.cut_ms" {
			has[text(f.Metric[0])] = true
		}
	}
	for _, f := range families {
		if f.GetName() != "aviary.tries" {
			continue
		}
		for _, m := range f.Metric {
			name := "aviary.try_us"
			if label(m, "status") == "0" {
				name = "aviary.cut_ms"
			}
			if n, ok := count(m.Counter.GetValue()); ok && !has[text(m)] {
				families = append(families, &dto.MetricFamily{Name: &name, Metric: []*dto.Metric{{
					Label: m.Label, TimestampMs: m.TimestampMs, Histogram: &dto.Histogram{SampleCount: &n},
				}}})
			}
		}
	}
	return families
}

// at sets the time of a flush, in seconds, on its metrics.
func at(seconds float64, families ...*dto.MetricFamily) []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, len(families))
	for i, f := range families {
		f = proto.CloneOf(f)
		for _, m := range f.Metric {
			m.TimestampMs = proto.Int64(int64(seconds * 1000))
		}
		out[i] = f
	}
	return out
}

func labels(pairs ...string) []*dto.LabelPair {
	var out []*dto.LabelPair
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &dto.LabelPair{Name: &pairs[i], Value: &pairs[i+1]})
	}
	return out
}

func counter(name string, n float64, pairs ...string) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_COUNTER.Enum(),
		Metric: []*dto.Metric{{Label: labels(pairs...), Counter: &dto.Counter{Value: &n}}}}
}

func gauge(name string, n float64, pairs ...string) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_GAUGE.Enum(),
		Metric: []*dto.Metric{{Label: labels(pairs...), Gauge: &dto.Gauge{Value: &n}}}}
}

func class(version, status, grpc, flags string) []string {
	return []string{"service", "cart", "version", version, "status", status, "grpc", grpc, "flags", flags}
}

func count200(version string, n float64) *dto.MetricFamily {
	return counter("aviary.tries", n, class(version, "200", "", "-")...)
}

// latencies is a histogram with Envoy's buckets, in microseconds or, for aviary.cut_ms, milliseconds.
func latencies(name string, pairs []string, values ...float64) *dto.MetricFamily {
	unit := 1.0
	if name == "aviary.cut_ms" {
		unit = 1000
	}
	h := &dto.Histogram{SampleCount: proto.Uint64(uint64(len(values)))}
	for _, e := range signal.Edges {
		if e/unit < 1 {
			continue
		}
		n := uint64(0)
		for _, v := range values {
			if v <= e/unit {
				n++
			}
		}
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: &n, UpperBound: proto.Float64(e / unit)})
	}
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_HISTOGRAM.Enum(),
		Metric: []*dto.Metric{{Label: labels(pairs...), Histogram: h}}}
}

// outcomes of one version; nil when the flush has none.
func outcomes(f signal.Flush, version string) map[signal.Class]uint64 {
	var out map[signal.Class]uint64
	for _, a := range f.Arms {
		for _, o := range a.Outcomes {
			if a.Version == version {
				if out == nil {
					out = map[signal.Class]uint64{}
				}
				out[o.Class] = o.Tries
			}
		}
	}
	return out
}

func outcome(f signal.Flush, version string, c signal.Class) signal.Outcome {
	for _, a := range f.Arms {
		for _, o := range a.Outcomes {
			if a.Version == version && o.Class == c {
				return o
			}
		}
	}
	return signal.Outcome{Class: c}
}

func armOf(f signal.Flush, version string) signal.Arm {
	for _, a := range f.Arms {
		if a.Version == version {
			return a
		}
	}
	return signal.Arm{}
}
