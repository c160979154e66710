package ads

import (
	"context"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// Client is who a stream is, from its proven identity.
type Client struct {
	Proxy   string // names the proxy in Renew and Proxies; two streams may carry it while a restart overlaps
	Region  string
	Service string
	View    string // names the snapshot and the layer that it sees
	Lease   bool   // it has our runtime layer; without it a layer with a TTL is never given to it live
}

// Config is what a Server needs. Every duration has a default; zero means the default.
type Config struct {
	// Identify says who a stream is, from its context (peer certificate) and the node of its first request, which may be
	// nil. It is required. An error ends the stream with PermissionDenied and the error's text.
	Identify func(ctx context.Context, node *corev3.Node) (Client, error)
	// Log defaults to no log.
	Log *slog.Logger
	// Debounce is how long a routine Publish waits for a newer one (default 20 ms, negative: not at all).
	Debounce time.Duration
	// GateTimeout is how long listeners and routes wait for a proxy that is silent about the clusters and endpoints
	// sent before them (default 5 s).
	GateTimeout time.Duration
	// AckTimeout is how long a response may go unanswered before the stream is closed (default 30 s).
	AckTimeout time.Duration
	// Linger is how long a proxy without a stream keeps its renewal (default 2 min); set it to at least the longest TTL.
	Linger time.Duration
}

// Urgency says how a snapshot travels.
type Urgency uint8

const (
	// Routine publishes are debounced and coalesced, and make before break.
	Routine Urgency = iota
	// Urgent publishes go at once and ahead of all other traffic of all streams; they keep the order clusters,
	// endpoints, listeners, routes, but wait for no ACK in between.
	Urgent
)

// Layer is the runtime layer of a view. All fractional forms that Envoy's runtime knows are allowed as values.
type Layer struct {
	Name   string           // of the RTDS resource
	Values *structpb.Struct // not to be changed after PublishLayer; nil is empty
	TTL    time.Duration    // of the lease; 0: no lease, every proxy gets the values for good
}

// Server is one ADS server. Build the grpc.Server with Options, and register it with
// discoveryv3.RegisterAggregatedDiscoveryServiceServer. All methods are safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
}

// New is a server without any view: streams are identified, and wait for their view's first Publish and PublishLayer.
func New(Config) *Server { return &Server{} }

// Options are what the grpc.Server that carries this server must be built with; other services may share it.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(newCodec())}
}

// Publish makes snap what the view serves. It never blocks; streams that are behind skip to the newest. The first publish
// of a view is never debounced.
func (s *Server) Publish(view string, snap *Snapshot, urgency Urgency) {}

// PublishLayer makes layer the runtime layer of the view, always in the kill lane: at once, ahead of everything queued. A
// view has one layer; until its first PublishLayer, RTDS requests of its streams wait (so that a restart takes nothing
// from a proxy), and afterwards any other RTDS name does not exist. Publish a layer, if need be an empty one, for each view.
func (s *Server) PublishLayer(view string, layer Layer) {}

// Renew says that these proxies' flushes arrived and were judged: their leases stand for another TTL from now.
func (s *Server) Renew(proxies ...string) {}

// Grace lets every proxy that connects before until count as renewed once, at its first connect: after a planned restart a
// hand-over then lapses no lease. Call it before serving.
func (s *Server) Grace(until time.Time) {}

// Proxies is the state of every connected proxy, sorted by name.
func (s *Server) Proxies() []ProxyStatus { return nil }

// Stats is the counters since New, and the gauges of now.
func (s *Server) Stats() Stats { return Stats{} }

// Nacks counts, by view, type and version, the proxies that refused a version: newest first.
func (s *Server) Nacks() []NackCount { return nil }

// Close ends all streams with Unavailable, and returns when nothing of the server runs any more.
func (s *Server) Close() {}
