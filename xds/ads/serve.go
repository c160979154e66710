package ads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// DeltaAggregatedResources serves one delta stream.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	req := new(discoveryv3.DeltaDiscoveryRequest)
	return s.serve(g, Delta, func() (*corev3.Node, error) {
		err := g.RecvMsg(req)
		return req.GetNode(), err
	}, func(st *stream) error { return st.deltaRequest(req, time.Now()) })
}

// StreamAggregatedResources serves one state-of-the-world stream.
func (s *Server) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	req := new(discoveryv3.DiscoveryRequest)
	return s.serve(g, Sotw, func() (*corev3.Node, error) {
		err := g.RecvMsg(req)
		return req.GetNode(), err
	}, func(st *stream) error { return st.sotwRequest(req, time.Now()) })
}

// serve handles one stream: it receives until the stream ends, from whichever side.
func (s *Server) serve(g grpc.ServerStream, transport Transport, receive func() (*corev3.Node, error), request func(*stream) error) error {
	cancel, ok := g.Context().Value(cancelKey{}).(context.CancelFunc)
	if !ok {
		return status.Error(codes.Internal, "ads: the gRPC server was not built with Server.Options")
	}
	defer cancel()
	st := &stream{
		srv: s, transport: transport, delta: transport == Delta, cancel: cancel,
		send: func(f *frame) error { return g.SendMsg(f) },
	}
	if !s.enter(st) {
		return errClosed
	}
	defer s.leave(st)
	node, err := receive()
	if err != nil {
		return st.verdict(err)
	}
	if err := s.identify(g.Context(), st, node); err != nil {
		return err
	}
	defer s.disconnect(st)
	defer st.retire()
	for {
		if err := request(st); err != nil {
			if status.Code(err) == codes.InvalidArgument {
				s.count.malformed.Add(1)
			}
			s.log.Warn("stream ended: request refused", "proxy", st.client.Proxy, "error", err)
			return err
		}
		s.queue.push(routine, st)
		if _, err := receive(); err != nil {
			return st.verdict(err)
		}
	}
}

// verdict is how a stream ends whose receiving failed: for the server's own reason, if it has one.
func (st *stream) verdict(err error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.reason != nil:
		return st.reason
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// enter registers a stream for Close.
func (s *Server) enter(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	s.open[st] = struct{}{}
	s.count.opened.Add(1)
	return true
}

func (s *Server) leave(st *stream) {
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
	s.wg.Done()
}

// identify asks who the stream is, and makes it known to its view and proxy.
func (s *Server) identify(ctx context.Context, st *stream, node *corev3.Node) error {
	client, err := s.cfg.Identify(ctx, node)
	if err == nil && (client.Proxy == "" || client.View == "") {
		err = fmt.Errorf("a client needs a proxy name and a view, got %q and %q", client.Proxy, client.View)
	}
	if err != nil {
		s.count.refused.Add(1)
		s.log.Warn("stream refused", "node", node.GetId(), "error", err)
		return status.Error(codes.PermissionDenied, err.Error())
	}
	st.client, st.agent, st.connected = client, agentOf(node), time.Now()
	st.view = s.view(client.View)
	if pub := st.view.current.Load(); pub != nil {
		st.urgentGen = pub.urgentGen // what was urgent before it came is not urgent for it
	}
	s.mu.Lock()
	p := s.proxy(client.Proxy)
	if p.linger != nil {
		p.linger.Stop()
		p.linger = nil
	}
	p.streams = append(p.streams, st)
	st.proxy = p
	s.mu.Unlock()
	st.view.add(st)
	return nil
}

// disconnect takes the stream from its view and proxy; the proxy's renewal lingers.
func (s *Server) disconnect(st *stream) {
	st.view.remove(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := st.proxy
	p.streams = slices.DeleteFunc(p.streams, func(o *stream) bool { return o == st })
	if len(p.streams) > 0 || s.closed {
		return
	}
	s.linger(st.client.Proxy, p)
}

// proxy of a name, made when it is new; s.mu is held.
func (s *Server) proxy(name string) *proxy {
	p := s.proxies[name]
	if p == nil {
		p = &proxy{start: s.start}
		s.proxies[name] = p
	}
	return p
}

// linger forgets a proxy without a stream after a while; s.mu is held.
func (s *Server) linger(name string, p *proxy) {
	p.linger = time.AfterFunc(s.cfg.Linger, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(p.streams) == 0 && s.proxies[name] == p {
			delete(s.proxies, name)
		}
	})
}
