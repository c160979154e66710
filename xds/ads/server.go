package ads

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
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
	// endpoints, listeners, routes, but wait for no ACK in between. They are for what takes away: a cluster that is new in
	// an urgent publish may not be warm when its routes arrive.
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
	cfg    Config
	log    *slog.Logger
	start  time.Time // renewals are counted from it, on the monotonic clock
	queue  *queue
	wg     sync.WaitGroup
	count  counters
	kill   histogram
	epochs atomic.Int64

	mu      sync.Mutex
	views   map[string]*view     // guarded by mu
	proxies map[string]*proxy    // guarded by mu
	open    map[*stream]struct{} // guarded by mu: every stream that is being handled
	closed  bool                 // guarded by mu
}

// proxy is what outlives a proxy's streams, for a while.
type proxy struct {
	start   time.Time
	renewed atomic.Int64 // time since start, 0: never

	streams []*stream   // guarded by the server's mu; oldest first
	linger  *time.Timer // guarded by the server's mu; runs while there is no stream
}

func (p *proxy) renew(now time.Time) { p.renewed.Store(max(1, int64(now.Sub(p.start)))) }

func (p *proxy) lastRenewal() (time.Time, bool) {
	d := p.renewed.Load()
	return p.start.Add(time.Duration(d)), d != 0
}

// New is a server without any view: streams are identified, and wait for their view's first Publish and PublishLayer.
// Close it in the end. It panics without Config.Identify.
func New(cfg Config) *Server {
	s := newServer(cfg)
	for range max(2, runtime.GOMAXPROCS(0)) {
		s.wg.Go(s.pushes)
	}
	return s
}

// pushes sends what streams are due until the server closes.
func (s *Server) pushes() {
	for {
		st, l, ok := s.queue.pop()
		if !ok {
			return
		}
		st.turn(l)
	}
}

func newServer(cfg Config) *Server {
	if cfg.Identify == nil {
		panic("ads: Config.Identify is required")
	}
	cfg.Debounce = cmp.Or(cfg.Debounce, 20*time.Millisecond)
	cfg.GateTimeout = cmp.Or(cfg.GateTimeout, 5*time.Second)
	cfg.AckTimeout = cmp.Or(cfg.AckTimeout, 30*time.Second)
	cfg.Linger = cmp.Or(cfg.Linger, 2*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: cfg.Log, start: time.Now(), queue: newQueue(),
		views: make(map[string]*view), proxies: make(map[string]*proxy), open: make(map[*stream]struct{}),
	}
}

// cancelKey is the context key of what ends a stream from the server's side.
type cancelKey struct{}

// Options are what the grpc.Server that carries this server must be built with; other services may share it.
//
// The codec sends shared bytes; the tap lets the server end a stream whose handler is receiving, without a goroutine more
// for each stream; the small read buffer saves 11 KB a connection, and large messages go past it.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.ReadBufferSize(2 << 10),
		grpc.InTapHandle(func(ctx context.Context, info *tap.Info) (context.Context, error) {
			switch info.FullMethodName {
			case discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
				discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName:
				ctx, cancel := context.WithCancel(ctx)
				return context.WithValue(ctx, cancelKey{}, cancel), nil
			}
			return ctx, nil
		}),
	}
}

// Publish makes snap what the view serves. It never blocks; streams that are behind skip to the newest. The first publish
// of a view is never debounced.
func (s *Server) Publish(view string, snap *Snapshot, urgency Urgency) {
	s.view(view).publish(snap, urgency)
}

// PublishLayer makes layer the runtime layer of the view, always in the kill lane: at once, ahead of everything queued. A
// view has one layer; until its first PublishLayer, RTDS requests of its streams wait (so that a restart takes nothing
// from a proxy), and afterwards any other RTDS name does not exist. Publish a layer, if need be an empty one, for each
// view. It is an error if the layer has no name, a negative TTL, or values that are not valid UTF-8; nothing changes then.
func (s *Server) PublishLayer(view string, layer Layer) error {
	l, err := newLayer(layer, time.Now())
	if err != nil {
		return err
	}
	s.view(view).publishLayer(l)
	return nil
}

// Renew says that these proxies' flushes arrived and were judged: their leases stand for another TTL from now. A proxy that
// is not connected keeps its renewal for Config.Linger: after a restart flushes are back before streams.
func (s *Server) Renew(proxies ...string) {
	now := time.Now()
	var streams []*stream
	s.mu.Lock()
	for _, name := range proxies {
		p := s.proxies[name]
		if p == nil && !s.closed {
			p = s.proxy(name)
			s.linger(name, p)
		}
		if p != nil {
			p.renew(now)
			streams = append(streams, p.streams...)
		}
	}
	s.mu.Unlock()
	streams = slices.DeleteFunc(streams, func(st *stream) bool { return !st.renewalDue(now) })
	if len(streams) > 0 {
		s.queue.push(routine, streams...)
	}
}

// Restore takes over the renewals of a process that stopped in good order, by proxy (see ProxyStatus.Renewed): the leases
// that it gave stand for as long as they would have stood, and no proxy gets one that had none. Call it before serving.
func (s *Server) Restore(renewed map[string]time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, at := range renewed {
		if s.proxies[name] == nil && !s.closed {
			p := s.proxy(name)
			p.start = at.Add(-1) // renewals are counted from there
			p.renew(at)
			s.linger(name, p)
		}
	}
}

// Close ends all streams (their clients see Canceled, later ones Unavailable), and returns when nothing of the server runs
// any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	streams := slices.Collect(maps.Keys(s.open))
	for _, v := range s.views {
		v.close()
	}
	for _, p := range s.proxies {
		if p.linger != nil {
			p.linger.Stop()
		}
	}
	s.mu.Unlock()
	for _, st := range streams {
		st.mu.Lock()
		st.end(errClosed)
		st.mu.Unlock()
	}
	s.queue.close()
	s.wg.Wait()
}

var errClosed = status.Error(codes.Unavailable, "ads: the server is closing")

func (s *Server) view(name string) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[name]
	if v == nil {
		v = &view{name: name, srv: s, closed: s.closed}
		s.views[name] = v
	}
	return v
}

// epoch makes the version of an RTDS body new: over streams, and over processes as far as their clocks agree.
func (s *Server) epoch() int64 {
	for {
		last := s.epochs.Load()
		next := max(last+1, time.Now().UnixMilli())
		if s.epochs.CompareAndSwap(last, next) {
			return next
		}
	}
}
