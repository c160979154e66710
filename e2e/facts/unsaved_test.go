package facts

import (
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// What a failed try on the canary costs the user: 100 of each, every try on the canary fails.
func TestWhatTheFirstNetCannotSave(t *testing.T) {
	const large = 2 << 20 // over Envoy's buffer of 1 MiB
	retryPUT := func(in *traffic.Intent) { in.RetryMethods = append(in.RetryMethods, http.MethodPut) }
	for _, c := range []struct {
		name     string
		behavior lab.Behavior
		intent   func(*traffic.Intent)
		ask      ask
		lost     int
	}{
		{name: "GET answered 500", behavior: lab.Errors(1, 500)},
		{name: "POST answered 500", behavior: lab.Errors(1, 500), ask: ask{method: http.MethodPost, body: 10}, lost: 100},
		{name: "PUT, declared safe, 100 KB, answered 500", behavior: lab.Errors(1, 500), intent: retryPUT,
			ask: ask{method: http.MethodPut, body: 100_000}},
		{name: "PUT, declared safe, 2 MiB, answered 500", behavior: lab.Errors(1, 500), intent: retryPUT,
			ask: ask{method: http.MethodPut, body: large}, lost: 100},
		{name: "GET whose body breaks off", behavior: lab.Behavior{Body: 20_000, Failures: []lab.Failure{{Kind: lab.FailBreak, Rate: 1}}}, lost: 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShop(t, theMesh(t), traffic.HTTP)
			s.change = s.unejected
			if c.intent != nil {
				c.intent(&s.in)
			}
			s.set(s.v2, c.behavior)
			s.at(traffic.Whole)
			c.ask.n, c.ask.users = 100, 50 // a broken answer holds its connection for a second
			all := s.ask(c.ask)
			t.Logf("%3d of 100 lost: %s", all.failed(), c.name)
			if tried := s.v2.Counts().Received; all.failed() != c.lost || tried != 100 {
				t.Errorf("%v, %d tries on the canary; want %d lost", all, tried, c.lost)
			}
		})
	}
	t.Run("GET over the canary's own limit", func(t *testing.T) {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.in.Limits = traffic.Limits{Connections: 5, Pending: 5}
		s.in.HangLimit = time.Second
		s.change = s.unejected
		s.set(s.v2, lab.Failing(lab.FailHang, 1))
		s.at(traffic.Whole)
		all := s.ask(ask{n: 100, users: 100})
		overflows := s.m.stat(t, "cluster."+s.canary()+".upstream_rq_pending_overflow")
		t.Logf("%3d of 100 lost: GET over the canary's own limit (%d overflows)", all.failed(), overflows)
		if overflows == 0 || uint64(all.failed()) != overflows {
			t.Errorf("%v, %d overflows", all, overflows)
		}
	})
	for _, c := range []struct {
		name     string
		behavior lab.Behavior
		lost     int
	}{
		{"a gRPC status in headers", lab.GRPCErrors(1, codes.Unavailable), 0},
		{"a gRPC status in trailers", lab.Behavior{Failures: []lab.Failure{{Kind: lab.FailTrailer, Rate: 1, GRPC: "UNAVAILABLE"}}}, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShop(t, theMesh(t), traffic.GRPC)
			s.change = s.unejected
			s.set(s.v2, c.behavior)
			s.at(traffic.Whole)
			conn, lost := s.dial(), 0
			for range 100 {
				version, err := call(conn)
				if err != nil {
					lost++
				}
				if err != nil && status.Code(err) != codes.Unavailable || version == "" {
					t.Fatalf("%q, %v", version, err)
				}
			}
			t.Logf("%3d of 100 lost: %s", lost, c.name)
			if tried := s.v2.Counts().Received; lost != c.lost || tried != 100 {
				t.Errorf("%d lost, %d tries on the canary; want %d lost", lost, tried, c.lost)
			}
		})
	}
}

// A request in flight on the canary when it goes to zero stays there.
func TestARequestInFlightStaysWhereItIs(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.set(s.v2, lab.Behavior{Latency: lab.Latency{Median: 300 * time.Millisecond}})
	s.at(traffic.Whole)
	got := make(chan answers)
	go func() { got <- s.ask(ask{n: 20, users: 20}) }()
	s.until("they are in flight", func() bool { return s.v2.Counts().InFlight == 20 })
	s.at(0)
	if all := s.ask(ask{n: 50, users: 5}); all.of("v1") != 50 {
		t.Errorf("new requests: %v", all)
	}
	all := <-got
	t.Logf("in flight at the halt: 20, of which %d were answered by the canary", all.of("v2"))
	if all.of("v2") != 20 || all.failed() > 0 {
		t.Errorf("%v", all)
	}
}
