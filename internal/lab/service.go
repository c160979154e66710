package lab

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Protocol is what an instance or a user speaks.
type Protocol string

// The protocols: HTTP/1.1, HTTP/2 without TLS (prior knowledge), and gRPC over it.
const (
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
)

// HealthPath is where an HTTP instance answers health checks: 200, or 503 while it is unhealthy. A gRPC instance has the
// standard health service. Health checks are counted apart, and no other fault than Unhealthy and Refuse touches them.
const HealthPath = "/healthz"

// InstanceOptions say what an instance is.
type InstanceOptions struct {
	Service, Version string
	// Protocol defaults to HTTP.
	Protocol Protocol
	// Behavior is what it does at first.
	Behavior Behavior
	// Region that answers name; "" is not named.
	Region string
	// Host is the loopback address that it listens on; default 127.0.0.1.
	Host string
	// Needs are addresses (host:port) of a service over HTTP/1.1, which every request calls in turn: a request fails (502,
	// UNAVAILABLE) when its call does.
	Needs []string
	// Personal are the headers, beside those with credentials, that a copy of a request must not have.
	Personal []string
}

// ShadowHeader marks a copy of a request, which answers nobody.
const ShadowHeader = "X-Aviary-Shadow"

// Instance is one endpoint of a service: a server in this process on a loopback port that stays the same for as long as
// the instance lives. Every answer carries the version in the header x-version and the region in x-region. Over HTTP any path answers with the body;
// over gRPC any method is a call with messages of type google.protobuf.BytesValue in the answer: one message for each that
// came, sent as they come, then the status.
type Instance struct {
	o        InstanceOptions
	port     *Port
	behavior atomic.Pointer[Behavior]
	tally    tally // of requests
	copies   tally // of copies of requests
	needs    *dependency
	handlers sync.WaitGroup

	mu     sync.Mutex // guards what follows and orders Set and Close
	server *http.Server
	served chan struct{}
	closed bool
}

// StartInstance starts an instance on a free loopback port.
func StartInstance(o InstanceOptions) (*Instance, error) {
	if o.Protocol == "" {
		o.Protocol = HTTP
	}
	switch o.Protocol {
	case HTTP, HTTP2, GRPC:
	default:
		return nil, fmt.Errorf("lab: %s %s: protocol %q; want http, http2 or grpc", o.Service, o.Version, o.Protocol)
	}
	if o.Host == "" {
		o.Host = loopback
	}
	port, err := newPort(o.Host)
	if err != nil {
		return nil, err
	}
	i := &Instance{o: o, port: port}
	if len(o.Needs) > 0 {
		i.needs = newDependency(o.Needs)
	}
	if err := i.Set(o.Behavior); err != nil {
		port.Close()
		return nil, err
	}
	return i, nil
}

// Service and Version say what it is; Protocol what it speaks.
func (i *Instance) Service() string { return i.o.Service }

// Version is the version that the instance answers with.
func (i *Instance) Version() string { return i.o.Version }

// Protocol is what the instance speaks.
func (i *Instance) Protocol() Protocol { return i.o.Protocol }

// Address is host and port; it never changes.
func (i *Instance) Address() string { return i.port.Address() }

// Behavior returns what the instance does now.
func (i *Instance) Behavior() Behavior { return *i.behavior.Load() }

// Set changes what the instance does, whole and at once: every request that arrives afterwards sees the new behavior, and
// one that is being answered keeps the old. It returns an error, and changes nothing, when b is not possible.
func (i *Instance) Set(b Behavior) error {
	ready, err := b.prepared(i.o)
	if err != nil {
		return fmt.Errorf("lab: %s %s: %w", i.o.Service, i.o.Version, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return fmt.Errorf("lab: %s %s: %w", i.o.Service, i.o.Version, net.ErrClosed)
	}
	if !b.Refuse && i.server == nil {
		// The first request on the new listener must see the new behavior.
		before := i.behavior.Swap(ready)
		if err := i.open(); err != nil {
			i.behavior.Store(before)
			return fmt.Errorf("lab: %s %s: %w", i.o.Service, i.o.Version, err)
		}
		return nil
	}
	i.behavior.Store(ready)
	if b.Refuse && i.server != nil {
		i.tally.bad()
		i.copies.bad()
		i.shut()
	}
	return nil
}

// Counts returns what the instance did since it was started or since ResetCounts, copies of requests not among it.
func (i *Instance) Counts() Counts { return i.tally.counts() }

// Copies is Counts of the copies of requests alone.
func (i *Instance) Copies() Counts { return i.copies.counts() }

// ResetCounts starts the counts and times again, but for what is in flight.
func (i *Instance) ResetCounts() {
	i.tally.reset()
	i.copies.reset()
}

// Close stops the instance: connections are cut, and when it returns no goroutine of it is left.
func (i *Instance) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	i.closed = true
	if i.server != nil {
		i.shut()
	}
	i.handlers.Wait()
	if i.needs != nil {
		i.needs.close()
	}
	i.port.Close()
}

// open listens and serves; i.mu is held.
func (i *Instance) open() error {
	listener, err := net.Listen("tcp4", i.port.Address())
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	if i.o.Protocol == HTTP {
		protocols.SetHTTP1(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	server := &http.Server{
		Handler:     i,
		Protocols:   protocols,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 100_000},
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	served := make(chan struct{})
	i.server, i.served = server, served
	go func() {
		defer close(served)
		_ = server.Serve(countingListener{listener, &i.tally.connections})
	}()
	return nil
}

// shut closes the listener and every connection; i.mu is held.
func (i *Instance) shut() {
	_ = i.server.Close()
	<-i.served
	i.server = nil
}

type connKey struct{}

type countingListener struct {
	net.Listener
	accepted *atomic.Uint64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}
