package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// Proxy is who reports, as proven by its connection.
type Proxy struct {
	// ID is the node id; Service is the caller that the proxy belongs to.
	ID, Region, Service string
}

// Config is what a Server needs; Identify and Sink are required.
type Config struct {
	// Identify says who is at the other end of a stream, or refuses it with an error, which the proxy gets.
	Identify func(ctx context.Context, node *corev3.Node) (Proxy, error)
	// Sink gets every flush, those of one proxy in order and one at a time. It must not block: the proxy's stream waits.
	Sink func(signal.Flush)
	// LoadInterval is how often LRS clients are asked to report; 0 is 1 s.
	LoadInterval time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log gets refusals and proxies that misbehave; nil is none.
	Log *slog.Logger
}

// Bounds that keep one proxy, or a storm of them, from filling the memory. What is over them is not counted.
const (
	maxSeries    = 16384 // counters of one proxy
	maxName      = 256   // bytes of a service's or version's name
	maxFlags     = 64    // bytes of response flags
	maxProxies   = 100_000
	forgetAfter  = 10 * time.Minute // since the last report of a proxy that has no stream
	keepIdle     = 30 * time.Minute // a counter that the proxy leaves out: far longer than it keeps it itself
	leftOut      = 60               // seconds that a counter must lie idle before the proxy leaves it out (xds/bootstrap)
	catchUpLimit = time.Minute      // a longer silence is not made up for: its tries were under other weights
)

// Server serves the MetricsService and LRS.
type Server struct {
	config Config

	mu      sync.Mutex // guards what follows
	proxies map[Proxy]*proxy
	streams uint64
	swept   time.Time
}

// New returns a server; it starts nothing.
func New(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LoadInterval == 0 {
		c.LoadInterval = time.Second
	}
	return &Server{config: c, proxies: map[Proxy]*proxy{}}
}

// Register adds both services to a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	metricsv3.RegisterMetricsServiceServer(g, metricsServer{s: s})
	loadv3.RegisterLoadReportingServiceServer(g, loadServer{s: s})
}

type metricsServer struct {
	metricsv3.UnimplementedMetricsServiceServer
	s *Server
}

// StreamMetrics reads one proxy's flushes until its stream ends. The service never answers while the stream lives.
func (m metricsServer) StreamMetrics(stream grpc.ClientStreamingServer[metricsv3.StreamMetricsMessage, metricsv3.StreamMetricsResponse]) error {
	s := m.s
	message, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	node := message.GetIdentifier().GetNode()
	p, number, err := s.join(stream.Context(), node)
	if err != nil {
		return err
	}
	defer s.leave(p)
	for {
		if other := message.GetIdentifier().GetNode(); other != nil && other.GetId() != node.GetId() {
			return status.Errorf(codes.InvalidArgument, "node %q on the stream of node %q", other.GetId(), node.GetId())
		}
		if err := p.flush(s, number, message.GetEnvoyMetrics()); err != nil {
			return err
		}
		if message, err = stream.Recv(); err != nil {
			return ended(err)
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// join finds or makes the state of the proxy of a new stream; number is higher than that of any earlier stream.
func (s *Server) join(ctx context.Context, node *corev3.Node) (p *proxy, number uint64, err error) {
	if node.GetId() == "" {
		return nil, 0, status.Error(codes.InvalidArgument, "the first message names no node")
	}
	who, err := s.config.Identify(ctx, node)
	if err != nil {
		s.config.Log.Warn("telemetry refused", "node", node.GetId(), "err", err)
		if _, ok := status.FromError(err); ok {
			return nil, 0, err
		}
		return nil, 0, status.Error(codes.PermissionDenied, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	s.sweep(now)
	p = s.proxies[who]
	if p == nil {
		if len(s.proxies) >= maxProxies {
			return nil, 0, status.Errorf(codes.ResourceExhausted, "telemetry of %d proxies is kept already", len(s.proxies))
		}
		p = &proxy{who: who}
		s.proxies[who] = p
	}
	p.streams++
	p.touched = now
	s.streams++
	return p, s.streams, nil
}

func (s *Server) leave(p *proxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.streams--
	p.touched = s.config.Now()
}

// sweep forgets proxies that are gone. It looks at all of them at most once a minute, or when there is no room.
func (s *Server) sweep(now time.Time) {
	if len(s.proxies) < maxProxies && now.Sub(s.swept) < time.Minute {
		return
	}
	s.swept = now
	for who, p := range s.proxies {
		if p.streams == 0 && now.Sub(p.touched) > forgetAfter {
			delete(s.proxies, who)
		}
	}
}
