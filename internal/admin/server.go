package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Rollouts acts on rollouts and tells where they stand. Errors wrap rollout.ErrUnknown or rollout.ErrRefused where they
// are the caller's.
type Rollouts interface {
	// Act returns when the act is done and will outlive the process, or with the reason why not.
	Act(ctx context.Context, name string, a rollout.Action) error
	Status(ctx context.Context, name string) (*aviaryv1.RolloutStatus, error)
	// List is sorted by name.
	List(ctx context.Context) ([]*aviaryv1.RolloutStatus, error)
	// Watch sends the status now and whenever it changed, until ctx ends; a reader that lags misses all but the newest.
	Watch(ctx context.Context, name string) (<-chan *aviaryv1.RolloutStatus, error)
}

// Proxies returns what is known of every connected proxy. The caller does not change it.
type Proxies func() []*aviaryv1.ProxyStatus

// Regions tells what each region's proxies are given, sorted by name. The caller does not change it.
type Regions interface {
	Regions(ctx context.Context) ([]*aviaryv1.RegionState, error)
}

// Config of a Server. Store, Rollouts, Proxies and Regions are needed.
type Config struct {
	Store    *store.Store
	Rollouts Rollouts
	Proxies  Proxies
	Regions  Regions
	// Authorize lets a caller in or says why not; nil lets everyone in whom the transport let in. Health and reflection
	// are not asked for.
	Authorize func(context.Context) error
	// InForce waits until documents up to a store revision are what decisions are made from, so that an act may follow an
	// apply at once; it gives up by itself, as the documents are kept either way. nil: nobody waits.
	InForce func(ctx context.Context, storeRevision int64)
	// Version of the program.
	Version string
	// Log gets what is not the caller's fault; default slog.Default().
	Log *slog.Logger
}

// maxRequest bounds an apply: many files of a few megabytes.
const maxRequest = 32 << 20

// Server is a gRPC server with the admin API on it.
type Server struct {
	aviaryv1.UnimplementedAdminServiceServer
	cfg      Config
	grpc     *grpc.Server
	health   *health.Server
	validate protovalidate.Validator
	stopping context.Context // ends streams that would hold up Stop
	stop     context.CancelFunc
}

// New makes a Server that serves nothing yet. opts carry the transport's credentials.
func New(cfg Config, opts ...grpc.ServerOption) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	validate, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rules of the admin API: %w", err)
	}
	s := &Server{cfg: cfg, validate: validate, health: health.NewServer()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	}, opts...)...)
	aviaryv1.RegisterAdminServiceServer(s.grpc, s)
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	s.health.SetServingStatus(aviaryv1.AdminService_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	reflection.Register(s.grpc)
	return s, nil
}

// Serve answers on l until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop says that the server is going, ends watches, lets calls end, and cuts those that are left when ctx ends.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	s.stop()
	cut := context.AfterFunc(ctx, s.grpc.Stop)
	defer cut()
	s.grpc.GracefulStop()
}

// unary checks a request and gives its error the form of the API.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := s.authorize(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if err := s.check(req); err != nil {
		return nil, err
	}
	resp, err := handle(ctx, req)
	return resp, s.status(info.FullMethod, err)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := s.authorize(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err := handle(srv, &checkedStream{ServerStream: ss, ctx: ctx, check: s.check})
	if s.stopping.Err() != nil {
		err = store.ErrClosed
	}
	return s.status(info.FullMethod, err)
}

func (s *Server) authorize(ctx context.Context, method string) error {
	if s.cfg.Authorize == nil || !strings.HasPrefix(method, "/"+aviaryv1.AdminService_ServiceDesc.ServiceName+"/") {
		return nil
	}
	if err := s.cfg.Authorize(ctx); err != nil {
		return status.Errorf(codes.PermissionDenied, "not allowed: %v", err)
	}
	return nil
}

// checkedStream checks what it receives and ends with the server.
type checkedStream struct {
	grpc.ServerStream
	ctx   context.Context
	check func(any) error
}

func (c *checkedStream) Context() context.Context { return c.ctx }

func (c *checkedStream) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return c.check(m)
}
