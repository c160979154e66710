package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/aviary-mesh/aviary/internal/admin"
	"github.com/aviary-mesh/aviary/internal/control"
	"github.com/aviary-mesh/aviary/internal/discovery"
	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
	"github.com/aviary-mesh/aviary/xds/telemetry"
)

// Default addresses: loopback, so that a plain `aviary serve` is reachable by nobody else.
const (
	DefaultXDS   = "127.0.0.1:18000"
	DefaultAdmin = "127.0.0.1:18001"
	DefaultHTTP  = "127.0.0.1:18002"
)

// Config of a process.
type Config struct {
	// DataDir is where the embedded etcd lives; needed without Open.
	DataDir string
	// Open says where the store comes from; nil is the embedded one in DataDir. Run closes what it opened.
	Open func(ctx context.Context) (*store.Store, error)
	// DNS is the server that looks up names of endpoints; the zero value is those of the machine.
	DNS netip.AddrPort
	// XDS, Admin and HTTP are the addresses of the xDS server, the admin API, and metrics and health. A port 0 takes any.
	XDS, Admin, HTTP string
	// TLS of the xDS server and the admin API; nil is plaintext, on loopback only unless Plaintext.
	TLS       *TLS
	Plaintext bool
	Version   string
	Log       *slog.Logger
}

// App is one control plane.
type App struct {
	cfg              Config
	tls              *tls.Config
	xds, admin, http net.Listener
	ready            chan struct{}
}

// New checks the configuration and takes the addresses; nothing is served before Run.
func New(cfg Config) (*App, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Open == nil {
		if cfg.DataDir == "" {
			return nil, errors.New("no store: give a data directory")
		}
		cfg.Open = func(ctx context.Context) (*store.Store, error) {
			return store.OpenEmbedded(ctx, cfg.DataDir, store.Options{Logger: cfg.Log})
		}
	}
	a := &App{cfg: cfg, ready: make(chan struct{})}
	if cfg.TLS != nil {
		var err error
		if a.tls, err = cfg.TLS.config(); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		name, address string
		to            *net.Listener
		guarded       bool
	}{
		{"xDS", cfg.XDS, &a.xds, true},
		{"admin", cfg.Admin, &a.admin, true},
		{"HTTP", cfg.HTTP, &a.http, false},
	} {
		if l.guarded && a.tls == nil {
			if err := guardPlaintext(l.address, cfg.Plaintext); err != nil {
				a.close()
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
		}
		var err error
		if *l.to, err = net.Listen("tcp", l.address); err != nil {
			a.close()
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return a, nil
}

func (a *App) close() {
	for _, l := range []net.Listener{a.xds, a.admin, a.http} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Addresses returns where xDS, the admin API and HTTP are served.
func (a *App) Addresses() (xds, admin, http string) {
	return a.xds.Addr().String(), a.admin.Addr().String(), a.http.Addr().String()
}

// Ready is closed when everything is served.
func (a *App) Ready() <-chan struct{} { return a.ready }

// linger is how long a proxy without a stream keeps its renewal: the longest lease that a policy may ask for.
const linger = 5 * time.Minute

// maxFlush bounds a proxy's report of telemetry: a gateway's of thousands of services is far below.
const maxFlush = 64 << 20

// settle is how long a start waits for the first lookups of names.
const settle = 5 * time.Second

// How long each part of a clean stop may take.
const (
	stopAdmin   = 2 * time.Second
	stopControl = 5 * time.Second
)

// Run serves until ctx ends, then stops in the order that loses nothing: no more acts, then a hand-over for the next
// process, then the streams of the proxies, which keep what they have for as long as their leases last.
func (a *App) Run(ctx context.Context) error {
	defer a.close()
	kept, err := a.cfg.Open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := kept.Close(); err != nil {
			a.cfg.Log.Error("store did not close cleanly", "error", err)
		}
	}()

	d := newDelivery(a.cfg.Log)
	defer d.close()
	server := ads.New(ads.Config{Identify: d.identify, Linger: linger, Log: a.cfg.Log})
	d.ads, d.to = server, server
	var loop *control.Controller
	names := discovery.New(discovery.Config{
		Lookup: a.lookup(), Log: a.cfg.Log,
		Sink: func(found map[string][]netip.Addr) { loop.Resolve(found) },
	})
	ticks := newTicks()
	loop = control.New(control.Config{
		Store: kept, Delivery: d, Effect: d.effect, Leases: d.leases, Discover: names.Watch, Log: a.cfg.Log,
		Ticked: func(took time.Duration) { ticks.Observe(took.Seconds()) },
	})
	receiver := telemetry.New(telemetry.Config{
		Identify: func(ctx context.Context, node *corev3.Node) (telemetry.Proxy, error) {
			id, err := identify(ctx, node)
			return telemetry.Proxy{ID: id.proxy(), Region: id.region, Service: id.service}, err
		},
		Sink: loop.Observe,
		Log:  a.cfg.Log,
	})

	xds := grpc.NewServer(append(server.Options(), a.credentials(),
		grpc.MaxRecvMsgSize(maxFlush),
		grpc.ReadBufferSize(2<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: bootstrap.KeepAlive / 2, PermitWithoutStream: true}),
	)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(xds, server)
	receiver.Register(xds)
	api, err := admin.New(admin.Config{
		Store: kept, Rollouts: loop, Proxies: d.proxies, Version: a.cfg.Version, Log: a.cfg.Log,
		Authorize: operator, InForce: loop.InForce,
		Regions: regions{loop, d, names},
	}, a.credentials())
	if err != nil {
		return err
	}
	web := &http.Server{Handler: a.web(server, loop, d, ticks), ReadHeaderTimeout: 5 * time.Second}

	// The loop outlives ctx until the admin API has answered its last call.
	deciding, stopDeciding := context.WithCancel(context.WithoutCancel(ctx))
	var resolving sync.WaitGroup
	resolving.Go(func() { names.Run(deciding) })
	defer resolving.Wait()
	defer stopDeciding()
	ended := make(chan error, 4)
	decided := make(chan error, 1)
	go func() { decided <- loop.Run(deciding, stopControl) }()
	select {
	case <-loop.Ready():
	case err := <-decided:
		server.Close()
		return err
	case <-ctx.Done():
		stopDeciding()
		server.Close()
		return <-decided
	}
	renewed := map[string]time.Time{}
	for _, l := range loop.HandedOver() {
		renewed[l.Proxy] = l.Renewed
	}
	server.Restore(renewed)
	// A proxy that has endpoints from before must not lose those of a name that was not looked up yet.
	settling, cancel := context.WithTimeout(ctx, settle)
	names.Settle(settling)
	cancel()
	loop.InForce(ctx, 0) // what was found is, before the first proxy is answered
	serve := func(name string, f func() error) {
		go func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				ended <- fmt.Errorf("%s: %w", name, err)
			}
		}()
	}
	serve("xDS", func() error { return xds.Serve(a.xds) })
	serve("admin", func() error { return api.Serve(a.admin) })
	serve("HTTP", func() error { return web.Serve(a.http) })
	at, adminAt, httpAt := a.Addresses()
	a.cfg.Log.Info("serving", "xds", at, "admin", adminAt, "http", httpAt, "tls", a.tls != nil)
	close(a.ready)

	var failed error
	select {
	case <-ctx.Done():
	case failed = <-ended:
	case failed = <-decided:
		decided <- failed
	}
	a.cfg.Log.Info("stopping")
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopAdmin)
	defer cancel()
	api.Stop(last)
	stopDeciding()
	err = <-decided
	server.Close()
	xds.Stop()
	_ = web.Close()
	return errors.Join(failed, err)
}

func (a *App) lookup() discovery.Lookup {
	if a.cfg.DNS.IsValid() {
		return discovery.Server(a.cfg.DNS)
	}
	return discovery.Machine()
}

func (a *App) credentials() grpc.ServerOption {
	if a.tls == nil {
		return grpc.EmptyServerOption{}
	}
	return grpc.Creds(credentials.NewTLS(a.tls))
}
