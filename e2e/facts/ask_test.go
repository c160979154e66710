package facts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ask is a number of requests, sent by a number of users who wait for each answer before they send the next one.
type ask struct {
	n, users int // default 1 each
	method   string
	body     int
	header   func(i int) http.Header
}

// answer is what came of one request.
type answer struct {
	status  int // 0: none
	version string
	cookies []string
	broken  bool // the body broke off
	took    time.Duration
}

func (a answer) ok() bool { return a.status == http.StatusOK && !a.broken }

// answers are what came of all of them, in the order in which they were sent.
type answers []answer

func (all answers) failed() (n int) {
	for _, a := range all {
		if !a.ok() {
			n++
		}
	}
	return n
}

func (all answers) of(version string) (n int) {
	for _, a := range all {
		if a.version == version {
			n++
		}
	}
	return n
}

// took is how long the given part of them took at most, the quickest first.
func (all answers) took(part float64) time.Duration {
	var times []time.Duration
	for _, a := range all {
		times = append(times, a.took)
	}
	slices.Sort(times)
	return times[int(part*float64(len(times)-1))]
}

// bad are those that failed.
func (all answers) bad() answers {
	return slices.DeleteFunc(slices.Clone(all), func(a answer) bool { return a.ok() })
}

func (all answers) String() string {
	count := map[string]int{}
	for _, a := range all {
		what := fmt.Sprint(a.status)
		if a.broken {
			what += " broken"
		}
		if a.version != "" {
			what += " by " + a.version
		}
		count[what]++
	}
	return fmt.Sprint(count)
}

func (s *shop) ask(a ask) answers { return s.m.ask(s.t, s.in.Hosts[0], a) }

func (m *mesh) ask(t *testing.T, host string, a ask) answers {
	t.Helper()
	a.n, a.users = max(a.n, 1), max(a.users, 1)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: a.users, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", m.egress)
		},
	}}
	defer client.CloseIdleConnections()
	all := make(answers, a.n)
	var next atomic.Int64
	var users sync.WaitGroup
	for range a.users {
		users.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= a.n {
					return
				}
				sent := time.Now()
				all[i] = a.send(client, host, i)
				all[i].took = time.Since(sent)
			}
		})
	}
	users.Wait()
	return all
}

func (a ask) send(client *http.Client, host string, i int) answer {
	method, body := a.method, io.Reader(nil)
	if method == "" {
		method = http.MethodGet
	}
	if a.body > 0 {
		body = strings.NewReader(strings.Repeat(".", a.body))
	}
	req, err := http.NewRequest(method, "http://"+host+"/", body)
	if err != nil {
		return answer{}
	}
	if a.header != nil {
		req.Header = a.header(i)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}
	}
	defer resp.Body.Close()
	got := answer{status: resp.StatusCode, version: resp.Header.Get("X-Version")}
	for _, c := range resp.Header.Values("Set-Cookie") {
		pair, _, _ := strings.Cut(c, ";")
		got.cookies = append(got.cookies, pair)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	got.broken = err != nil
	return got
}

// background sends GETs from a number of users until it is ended; it returns what came of them.
func (s *shop) background(users int) (end func() answers) {
	s.t.Helper()
	quit, ended := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var all answers
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			default:
			}
			got := s.ask(ask{n: 10 * users, users: users})
			mu.Lock()
			all = append(all, got...)
			mu.Unlock()
		}
	}()
	stop := sync.OnceFunc(func() { close(quit); <-ended })
	s.t.Cleanup(stop)
	return func() answers { stop(); return all }
}

// dial is a gRPC client of the service through the sidecar.
func (s *shop) dial() *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.m.egress, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(s.in.Hosts[0]), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call is one unary call; it returns the version that answered.
func call(conn *grpc.ClientConn) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var header, trailer metadata.MD
	err = conn.Invoke(ctx, "/lab.Echo/Call", wrapperspb.Bytes([]byte("x")), &wrapperspb.BytesValue{}, grpc.Header(&header), grpc.Trailer(&trailer))
	for _, v := range append(header.Get("x-version"), trailer.Get("x-version")...) {
		version = v
	}
	return version, err
}

// stream is a call that stays open.
type stream struct {
	grpc.ClientStream
	version string
}

// open opens a stream, says something and hears it answered.
func open(ctx context.Context, conn *grpc.ClientConn) (*stream, error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/lab.Echo/Stream")
	if err != nil {
		return nil, err
	}
	out := &stream{ClientStream: s}
	if err := out.say(); err != nil {
		return nil, err
	}
	header, err := s.Header()
	if v := header.Get("x-version"); len(v) > 0 {
		out.version = v[0]
	}
	return out, err
}

// say sends a message and waits for the one that answers it.
func (s *stream) say() error {
	if err := s.SendMsg(wrapperspb.Bytes([]byte("x"))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	err := s.RecvMsg(&wrapperspb.BytesValue{})
	if err != nil {
		return fmt.Errorf("%s: %w", status.Code(err), err)
	}
	return nil
}

// within runs f and fails the test when it takes longer than patience.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
}
