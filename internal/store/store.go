package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What goes wrong, for errors.Is. Every error of this package that a caller can act on wraps one of these.
var (
	// ErrNotFound: there is no such document, revision, halt or record.
	ErrNotFound = errors.New("not found")
	// ErrConflict: documents changed since the caller read them; read again, validate again, apply again.
	ErrConflict = errors.New("documents changed meanwhile")
	// ErrFenced: the leadership that the write stands on is no longer held. Stop leading.
	ErrFenced = errors.New("leadership lost")
	// ErrHalted: a halt of this rollout, region and digest stands, and the write would go past it.
	ErrHalted = errors.New("halted")
	// ErrLocked: another process has the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrTooLarge: more than one value, one batch or the whole store may hold.
	ErrTooLarge = errors.New("too large")
	// ErrInvalid: a name, kind or digest that cannot be a key.
	ErrInvalid = errors.New("invalid")
	// ErrUnavailable: the etcd does not answer or has no quorum. A write may have happened or not.
	ErrUnavailable = errors.New("the store does not answer")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store closed")
)

// Bounds of single values, in bytes.
const (
	MaxDocument = 1 << 20
	MaxState    = 256 << 10
	MaxEvent    = 64 << 10
	MaxHandover = 16 << 20
)

const root = "/aviary/v1/"

// Options of a store; the zero value is what production runs.
type Options struct {
	// Logger gets etcd's warnings and errors; default slog.Default().
	Logger *slog.Logger
	// KeepEvents is how many of the newest events of a rollout are kept; default 1000.
	KeepEvents int
	// LeaderTTL is how long a leadership outlives a leader that vanished; default 5s, at least 2s (etcd's own bound).
	LeaderTTL time.Duration
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.KeepEvents <= 0 {
		o.KeepEvents = 1000
	}
	if o.LeaderTTL <= 0 {
		o.LeaderTTL = 5 * time.Second
	}
	return o
}

// Store is safe for concurrent use. Its methods end with the context's error when the context ends first.
type Store struct {
	client *clientv3.Client
	opts   Options

	// ctx ends with Close; watches of the store end with it.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	watches sync.WaitGroup // added to under mu while not closed
	stop    func() error   // what the way of opening has to undo
}

func newStore(c *clientv3.Client, o Options, stop func() error) *Store {
	s := &Store{client: c, opts: o, stop: stop}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// OpenExternal connects to an etcd of version 3.5 or later. It answers once the etcd answered, or with an error when ctx
// ends before that. A nil tls is plaintext.
func OpenExternal(ctx context.Context, endpoints []string, tls *tls.Config, o Options) (*Store, error) {
	o = o.withDefaults()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  tls,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   maxRequest,
		Logger:               zapTo(o.Logger),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(endpoints, ", "), err)
	}
	s := newStore(c, o, c.Close)
	if err := s.Ping(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", strings.Join(endpoints, ", "), err)
	}
	return s, nil
}

// Ping asks for a linearizable read: nil means that writes can be acknowledged now.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.client.Get(ctx, root+"generation", clientv3.WithCountOnly())
	return s.wrap(err)
}

// Close ends watches, gives leaderships up to their time to live, and stops an embedded etcd. Further calls do nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.watches.Wait()
	return s.stop()
}

// wrap gives etcd's errors the names of this package.
func (s *Store) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: etcd refused the transaction (%v): apply in smaller batches, or raise its --max-txn-ops and --max-request-bytes", ErrTooLarge, err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd's quota is used up (%v): defragment it, raise its quota, and disarm its alarm", ErrTooLarge, err)
	case s.ctx.Err() != nil:
		return fmt.Errorf("%w: %v", ErrClosed, err)
	case unavailable(err):
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return err
}

func unavailable(err error) bool {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable
	}
	return status.Code(err) == codes.Unavailable
}

// key joins parts below root. A part that is empty or holds a slash would collide with another key.
func key(parts ...string) (string, error) {
	for _, p := range parts[1:] {
		if p == "" || strings.Contains(p, "/") {
			return "", fmt.Errorf("%w: %q cannot be part of a key", ErrInvalid, p)
		}
	}
	return root + strings.Join(parts, "/"), nil
}
