package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func newClient(o UsersOptions, proxy, host string) (client, error) {
	switch o.Protocol {
	case HTTP:
		return &http1{proxy: proxy, host: host, path: o.Path, open: map[net.Conn]bool{}}, nil
	case HTTP2:
		return newHTTP2(o, proxy, host), nil
	case GRPC:
		return newGRPC(o, proxy, host)
	}
	return nil, fmt.Errorf("lab: users speak %q; want http, http2 or grpc", o.Protocol)
}

// http1 speaks HTTP/1.1 over connections of its own: net/http sends a GET again, without a word, when a kept connection
// breaks under it, and that is just what must be seen here.
type http1 struct {
	proxy, host, path string

	mu     sync.Mutex
	idle   []*conn1
	open   map[net.Conn]bool
	closed bool
}

type conn1 struct {
	net.Conn
	r     *bufio.Reader
	write []byte
}

func (h *http1) do(ctx context.Context, c call) answer {
	conn, err := h.conn(ctx)
	if err != nil {
		return failure(ctx, err)
	}
	// An end of ctx before its time cuts the request short.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	a, reuse := h.exchange(conn, c)
	a = brokenOff(ctx, a)
	h.give(conn, stop() && reuse)
	return a
}

func (h *http1) exchange(conn *conn1, c call) (a answer, reuse bool) {
	w := append(conn.write[:0], c.method...)
	w = append(append(append(w, ' '), h.path...), " HTTP/1.1\r\nhost: "...)
	w = append(w, h.host...)
	for _, header := range c.headers {
		w = append(append(append(append(w, "\r\n"...), header[0]...), ": "...), header[1]...)
	}
	if c.method == "POST" {
		w = strconv.AppendInt(append(w, "\r\ncontent-length: "...), int64(c.body), 10)
	}
	w = append(w, "\r\n\r\n"...)
	for range c.body {
		w = append(w, '.')
	}
	conn.write = w
	if _, err := conn.Write(w); err != nil {
		return answer{failed: err.Error()}, false
	}
	resp, err := http.ReadResponse(conn.r, &http.Request{Method: c.method})
	if err != nil {
		return answer{failed: "no answer: " + err.Error()}, false
	}
	return read(resp), !resp.Close
}

// read takes the rest of an answer; the status is "" when its body breaks off.
func read(resp *http.Response) answer {
	defer resp.Body.Close()
	a := answer{version: resp.Header.Get("X-Version"), region: resp.Header.Get("X-Region")}
	for _, line := range resp.Header["Set-Cookie"] {
		cookie, _, _ := strings.Cut(line, ";")
		a.cookies = append(a.cookies, cookie)
	}
	var text strings.Builder
	if resp.StatusCode >= 400 {
		_, _ = io.CopyN(&text, resp.Body, 160)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		a.failed = fmt.Sprintf("%d, and the body broke off: %v", resp.StatusCode, err)
		return a
	}
	a.status = strconv.Itoa(resp.StatusCode)
	if !good(a.status) {
		a.failed = a.status + " " + strings.TrimSpace(text.String())
	}
	return a
}

// brokenOff is an answer as it is, or, when its body broke off, the failure that this is.
func brokenOff(ctx context.Context, a answer) answer {
	if a.failed == "" || a.status != "" {
		return a
	}
	f := failure(ctx, errors.New(a.failed))
	f.version, f.region = a.version, a.region
	return f
}

// failure is the answer when there was none.
func failure(ctx context.Context, err error) answer {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return answer{status: "timeout", failed: "timeout: " + err.Error()}
	}
	return answer{status: "error", failed: err.Error()}
}

func (h *http1) conn(ctx context.Context) (*conn1, error) {
	for {
		h.mu.Lock()
		n := len(h.idle)
		if n == 0 || h.closed {
			h.mu.Unlock()
			break
		}
		conn := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		if !hungUp(conn.Conn) {
			return conn, nil
		}
		h.give(conn, false)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", h.proxy)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.open[c] = true
	h.mu.Unlock()
	return &conn1{Conn: c, r: bufio.NewReader(c)}, nil
}

// hungUp looks, without waiting, whether the other side closed a kept connection.
func hungUp(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = err != syscall.EAGAIN && err != syscall.EINTR // an end, or bytes that nobody asked for
	})
	return closed || err != nil
}

func (h *http1) give(conn *conn1, keep bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if keep && !h.closed {
		h.idle = append(h.idle, conn)
		return
	}
	delete(h.open, conn.Conn)
	_ = conn.Close()
}

func (h *http1) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.open {
		_ = c.Close()
	}
}

// http2 speaks HTTP/2 without TLS over a fixed number of connections. What the protocol says was never processed
// (GOAWAY, REFUSED_STREAM) is sent again by net/http.
type http2 struct {
	url        url.URL
	host       string
	next       atomic.Uint64
	transports []*http.Transport
}

func newHTTP2(o UsersOptions, proxy, host string) *http2 {
	h := &http2{url: url.URL{Scheme: "http", Host: proxy, Path: o.Path}, host: host}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	for range o.Connections {
		h.transports = append(h.transports, &http.Transport{Protocols: protocols, DisableCompression: true})
	}
	return h
}

func (h *http2) do(ctx context.Context, c call) answer {
	address := h.url
	req := (&http.Request{Method: c.method, URL: &address, Host: h.host, Header: http.Header{"User-Agent": {"lab"}}}).WithContext(ctx)
	for _, header := range c.headers {
		req.Header.Add(header[0], header[1])
	}
	if c.method == "POST" {
		req.Body = io.NopCloser(strings.NewReader(strings.Repeat(".", c.body)))
		req.ContentLength = int64(c.body)
	}
	resp, err := h.transports[h.next.Add(1)%uint64(len(h.transports))].RoundTrip(req)
	if err != nil {
		return failure(ctx, err)
	}
	return brokenOff(ctx, read(resp))
}

func (h *http2) close() {
	for _, t := range h.transports {
		t.CloseIdleConnections()
	}
}

// grpcClient makes unary calls with a message of google.protobuf.BytesValue.
type grpcClient struct {
	method  string
	next    atomic.Uint64
	conns   []*grpc.ClientConn
	message *wrapperspb.BytesValue
}

func newGRPC(o UsersOptions, proxy, host string) (*grpcClient, error) {
	g := &grpcClient{method: o.Path, message: wrapperspb.Bytes(make([]byte, o.Body))}
	for range o.Connections {
		conn, err := grpc.NewClient("passthrough:///"+proxy,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host), grpc.WithNoProxy(),
			grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
				MinConnectTimeout: 5 * time.Second,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<27), grpc.MaxCallSendMsgSize(1<<27)))
		if err != nil {
			g.close()
			return nil, fmt.Errorf("lab: users: %w", err)
		}
		g.conns = append(g.conns, conn)
	}
	return g, nil
}

func (g *grpcClient) do(ctx context.Context, c call) answer {
	pairs := make([]string, 0, 2*len(c.headers))
	for _, header := range c.headers {
		pairs = append(pairs, header[0], header[1])
	}
	var header, trailer metadata.MD
	err := g.conns[g.next.Add(1)%uint64(len(g.conns))].Invoke(metadata.AppendToOutgoingContext(ctx, pairs...), g.method,
		g.message, new(wrapperspb.BytesValue), grpc.Header(&header), grpc.Trailer(&trailer))
	a := answer{status: codeName(status.Code(err))}
	// An answer of headers alone is a trailer to grpc-go.
	for _, v := range append(header.Get("x-version"), trailer.Get("x-version")...) {
		a.version = v
	}
	for _, v := range append(header.Get("x-region"), trailer.Get("x-region")...) {
		a.region = v
	}
	if code := status.Code(err); code != codes.OK {
		a.failed = a.status + ": " + status.Convert(err).Message()
	}
	return a
}

func (g *grpcClient) close() {
	for _, c := range g.conns {
		_ = c.Close()
	}
}

func cookieName(cookie string) string {
	name, _, _ := strings.Cut(cookie, "=")
	return name
}
