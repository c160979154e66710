package lab

import (
	"bytes"
	gocmp "cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) {
	if orphanHelper() {
		return
	}
	goleak.VerifyTestMain(m)
}

func instance(t *testing.T, p Protocol, b Behavior) *Instance {
	t.Helper()
	i, err := StartInstance(InstanceOptions{Service: "cart", Version: "v1", Protocol: p, Behavior: b, Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// plain is a client that retries nothing and keeps no connection.
func plain(t *testing.T, p Protocol) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(p == HTTP)
	protocols.SetUnencryptedHTTP2(p == HTTP2)
	transport := &http.Transport{Protocols: protocols, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestHTTPFaults(t *testing.T) {
	cases := []struct {
		name     string
		behavior Behavior
		outcome  string
		bad      bool
		check    func(t *testing.T, body string, code int, err error)
	}{
		{"healthy", Behavior{}, "200", false, func(t *testing.T, body string, code int, err error) {
			if err != nil || code != 200 || body != "v1" {
				t.Errorf("got %d %q %v", code, body, err)
			}
		}},
		{"body size", Behavior{Body: 100_000}, "200", false, func(t *testing.T, body string, code int, err error) {
			if err != nil || len(body) != 100_000 {
				t.Errorf("got %d bytes, %v", len(body), err)
			}
		}},
		{"status", Errors(1, 503), "503", true, func(t *testing.T, _ string, code int, err error) {
			if err != nil || code != 503 {
				t.Errorf("got %d %v", code, err)
			}
		}},
		{"hang", Failing(FailHang, 1), "hang", true, func(t *testing.T, _ string, _ int, err error) {
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v, want a time-out", err)
			}
		}},
		{"break", Failing(FailBreak, 1), "break", true, func(t *testing.T, _ string, code int, err error) {
			if err == nil || code != 200 {
				t.Errorf("got %d %v, want 200 and a body that breaks off", code, err)
			}
		}},
		{"reset", Failing(FailReset, 1), "reset", true, func(t *testing.T, _ string, code int, err error) {
			if err == nil || code != 0 {
				t.Errorf("got %d %v, want no answer", code, err)
			}
		}},
		{"slow", Behavior{Failures: []Failure{{Kind: FailSlow, Rate: 1, Delay: 50 * time.Millisecond}}}, "200", true,
			func(t *testing.T, _ string, code int, err error) {
				if err != nil || code != 200 {
					t.Errorf("got %d %v", code, err)
				}
			}},
		{"latency over the client's patience", Behavior{Latency: Latency{Median: time.Second, Multiplier: 60}}, "gone", false,
			func(t *testing.T, _ string, _ int, err error) {
				if err == nil {
					t.Error("got an answer in time")
				}
			}},
		{"only other methods", Behavior{Failures: []Failure{{Kind: FailStatus, Rate: 1, Methods: []string{"POST"}}}}, "200", false,
			func(t *testing.T, _ string, code int, err error) {
				if err != nil || code != 200 {
					t.Errorf("got %d %v", code, err)
				}
			}},
		{"only other users", Behavior{Failures: []Failure{{Kind: FailStatus, Rate: 1, Headers: map[string]string{"x-user": "7"}}}}, "200", false,
			func(t *testing.T, _ string, code int, err error) {
				if err != nil || code != 200 {
					t.Errorf("got %d %v", code, err)
				}
			}},
	}
	for _, protocol := range []Protocol{HTTP, HTTP2} {
		for _, c := range cases {
			t.Run(string(protocol)+" "+c.name, func(t *testing.T) {
				i := instance(t, protocol, c.behavior)
				var body []byte
				code := 0
				begin := time.Now()
				client := plain(t, protocol)
				if c.outcome == OutcomeHang || c.outcome == OutcomeGone {
					client.Timeout = 300 * time.Millisecond
				}
				resp, err := client.Get("http://" + i.Address() + "/")
				if err == nil {
					code = resp.StatusCode
					if v := resp.Header.Get("x-version"); v != "v1" {
						t.Errorf("x-version %q", v)
					}
					body, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				c.check(t, string(body), code, err)
				eventually(t, "the try is counted", func() bool { return i.Counts().InFlight == 0 && i.Counts().Received == 1 })
				got := i.Counts()
				if want := map[string]uint64{c.outcome: 1}; !cmp.Equal(got.Outcomes, want) {
					t.Errorf("outcomes %v, want %v", got.Outcomes, want)
				}
				if got.FirstBad.IsZero() == c.bad {
					t.Errorf("first bad %v, want one: %v", got.FirstBad, c.bad)
				}
				if got.LastReceived.Before(begin) || got.LastReceived.After(time.Now()) {
					t.Errorf("last received %v is not within the test", got.LastReceived)
				}
			})
		}
	}
}

func TestResetIsRST(t *testing.T) {
	i := instance(t, HTTP, Failing(FailReset, 1))
	c, err := net.Dial("tcp", i.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

func TestRefuseAndComeBack(t *testing.T) {
	i := instance(t, HTTP, Behavior{})
	address := i.Address()
	idle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	for round := range 3 {
		if err := i.Set(Behavior{Refuse: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("round %d: %v, want ECONNREFUSED", round, err)
		}
		if err := i.Set(Errors(1, 500)); err != nil {
			t.Fatal(err)
		}
		resp, err := plain(t, HTTP).Get("http://" + address)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		resp.Body.Close()
		if resp.StatusCode != 500 {
			t.Errorf("round %d: %d, the first answer has the old behavior", round, resp.StatusCode)
		}
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("an open connection outlived the refusal")
	}
}

func TestUnhealthy(t *testing.T) {
	i := instance(t, HTTP, Behavior{Unhealthy: true, Failures: []Failure{{Kind: FailHang, Rate: 1}}})
	for _, want := range []int{503, 200} {
		resp, err := plain(t, HTTP).Get("http://" + i.Address() + HealthPath)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("health check: %d, want %d", resp.StatusCode, want)
		}
		if err := i.Set(Behavior{}); err != nil {
			t.Fatal(err)
		}
	}
	if c := i.Counts(); c.Health != 2 || c.HealthFailed != 1 || c.Received != 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestRateAndReset(t *testing.T) {
	i := instance(t, HTTP, Errors(.5, 500))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	seen := map[int]uint64{}
	for range 400 {
		resp, err := client.Get("http://" + i.Address())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		seen[resp.StatusCode]++
	}
	eventually(t, "all counted", func() bool { return i.Counts().InFlight == 0 })
	c := i.Counts()
	if c.Outcomes["200"] != seen[200] || c.Outcomes["500"] != seen[500] || c.Good() != seen[200] || c.Bad() != seen[500] {
		t.Errorf("counted %v, seen %v", c.Outcomes, seen)
	}
	if seen[500] < 120 || seen[500] > 280 { // eight standard deviations
		t.Errorf("%d of 400 failed at a rate of .5", seen[500])
	}
	i.ResetCounts()
	if c := i.Counts(); c.Received != 0 || len(c.Outcomes) != 0 || !c.FirstBad.IsZero() {
		t.Errorf("after a reset: %+v", c)
	}
}

func TestGRPCFaults(t *testing.T) {
	cases := []struct {
		name     string
		behavior Behavior
		want     codes.Code
		outcome  string
		message  bool // whether x-version came with an answer
	}{
		{"healthy", Behavior{}, codes.OK, "OK", true},
		{"big body", Behavior{Body: 1 << 20}, codes.OK, "OK", true},
		{"status", GRPCErrors(1, codes.Unavailable), codes.Unavailable, "UNAVAILABLE", true},
		{"http status", Behavior{Failures: []Failure{{Kind: FailStatus, Rate: 1, Status: 503, GRPC: "UNAVAILABLE"}}}, codes.Unavailable, "UNAVAILABLE", true},
		{"trailer", Failing(FailTrailer, 1), codes.Internal, "INTERNAL", true},
		{"hang", Failing(FailHang, 1), codes.DeadlineExceeded, "hang", false},
		{"break", Behavior{Body: 1000, Failures: []Failure{{Kind: FailBreak, Rate: 1}}}, codes.Internal, "break", true},
		{"reset", Failing(FailReset, 1), codes.Internal, "reset", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			i := instance(t, GRPC, c.behavior)
			conn := dialGRPC(t, i.Address())
			timeout := 20 * time.Second
			if c.outcome == OutcomeHang {
				timeout = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			var header, trailer metadata.MD
			answer := new(wrapperspb.BytesValue)
			err := conn.Invoke(ctx, "/shop.Cart/Get", wrapperspb.Bytes([]byte("hello")), answer, grpc.Header(&header), grpc.Trailer(&trailer))
			if got := status.Code(err); got != c.want {
				t.Errorf("status %v (%v), want %v", got, err, c.want)
			}
			// An answer of headers alone is a trailer to grpc-go.
			if got := append(header.Get("x-version"), trailer.Get("x-version")...); c.message && strings.Join(got, ",") != "v1" {
				t.Errorf("x-version %q, want v1", got)
			}
			if want := gocmp.Or(c.behavior.Body, len("v1")); err == nil && len(answer.Value) != want {
				t.Errorf("%d bytes, want %d", len(answer.Value), want)
			}
			eventually(t, "the try is counted", func() bool { return i.Counts().InFlight == 0 })
			if got, want := i.Counts().Outcomes, map[string]uint64{c.outcome: 1}; !cmp.Equal(got, want) {
				t.Errorf("outcomes %v, want %v", got, want)
			}
		})
	}
}

func dialGRPC(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestGRPCHealthAndStreams(t *testing.T) {
	i := instance(t, GRPC, Behavior{Unhealthy: true})
	conn := dialGRPC(t, i.Address())
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{
		grpc_health_v1.HealthCheckResponse_NOT_SERVING, grpc_health_v1.HealthCheckResponse_SERVING,
	} {
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || resp.Status != want {
			t.Errorf("health %v, %v, want %v", resp.GetStatus(), err, want)
		}
		if err := i.Set(Behavior{}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/shop.Cart/Watch")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		answer := new(wrapperspb.BytesValue)
		if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(answer); err != nil || !bytes.Equal(answer.Value, []byte("v1")) {
			t.Fatalf("answer %q, %v", answer.Value, err)
		}
	}
	if c := i.Counts(); c.InFlight != 1 {
		t.Errorf("%d in flight while a stream is open", c.InFlight)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
		t.Errorf("end of stream: %v", err)
	}
	eventually(t, "the stream is counted", func() bool { return i.Counts().Outcomes["OK"] == 1 })
}

func TestCopiesAreCountedApart(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, HTTP2} {
		i, err := StartInstance(InstanceOptions{Service: "cart", Version: "v2", Protocol: protocol, Behavior: Errors(1, 500), Region: "eu",
			Personal: []string{"x-customer"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		for _, headers := range []map[string]string{
			{}, {"cookie": "a=b"}, // requests
			{ShadowHeader: "v2"}, {ShadowHeader: "v2", "cookie": "a=b", "authorization": "x"}, {ShadowHeader: "v2", "x-customer": "ann"},
		} {
			req, err := http.NewRequest(http.MethodPost, "http://"+i.Address(), strings.NewReader("1234567"))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range headers {
				req.Header.Set(name, value)
			}
			resp, err := plain(t, protocol).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("x-region"); got != "eu" {
				t.Errorf("x-region %q", got)
			}
		}
		eventually(t, "all counted", func() bool { return i.Counts().InFlight+i.Copies().InFlight == 0 })
		requests, copies := i.Counts(), i.Copies()
		if requests.Received != 2 || requests.Bytes != 14 || requests.Leaked != 0 || requests.Outcomes["500"] != 2 {
			t.Errorf("requests %+v", requests)
		}
		want := map[string]uint64{"cookie": 1, "authorization": 1, "x-customer": 1}
		if copies.Received != 3 || copies.Bytes != 21 || copies.Leaked != 2 || !cmp.Equal(copies.Leaks, want) || copies.Bad() != 3 {
			t.Errorf("copies %+v", copies)
		}
		i.ResetCounts()
		if c := i.Copies(); c.Received+c.Leaked != 0 || len(c.Leaks) != 0 {
			t.Errorf("after a reset: %+v", c)
		}
	}
}

func TestWhatAnInstanceNeeds(t *testing.T) {
	needed := instance(t, HTTP, Behavior{})
	start := func(p Protocol) *Instance {
		i, err := StartInstance(InstanceOptions{Service: "shop", Version: "v2", Protocol: p, Needs: []string{needed.Address()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		return i
	}
	web, calls := start(HTTP), start(GRPC)
	ask := func(shadow string) int {
		req, err := http.NewRequest(http.MethodGet, "http://"+web.Address(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if shadow != "" {
			req.Header.Set(ShadowHeader, shadow)
		}
		resp, err := plain(t, HTTP).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	call := func() codes.Code {
		return status.Code(dialGRPC(t, calls.Address()).Invoke(t.Context(), "/shop.Cart/Get", &emptypb.Empty{}, new(wrapperspb.BytesValue)))
	}
	if got := ask(""); got != 200 {
		t.Errorf("got %d", got)
	}
	if got := ask("v2"); got != 200 {
		t.Errorf("a copy: %d", got)
	}
	if got := call(); got != codes.OK {
		t.Errorf("got %v", got)
	}
	if requests, copies := needed.Counts(), needed.Copies(); requests.Received != 2 || copies.Received != 1 {
		t.Errorf("the needed service got %+v, copies %+v", requests, copies)
	}
	for _, b := range []Behavior{Errors(1, 503), {Refuse: true}, Failing(FailBreak, 1)} {
		if err := needed.Set(b); err != nil {
			t.Fatal(err)
		}
		if got := ask(""); got != 502 {
			t.Errorf("%s: %d, want 502", describe(b), got)
		}
		if got := call(); got != codes.Unavailable {
			t.Errorf("%s: %v, want Unavailable", describe(b), got)
		}
	}
	eventually(t, "all counted", func() bool { return web.Counts().InFlight+calls.Counts().InFlight == 0 })
	if c := web.Counts(); c.Outcomes["502"] != 3 || c.FirstBad.IsZero() {
		t.Errorf("counts %+v", c)
	}
	if c := calls.Counts(); c.Outcomes["UNAVAILABLE"] != 3 || c.FirstBad.IsZero() {
		t.Errorf("counts %+v", c)
	}
}

func TestImpossibleBehaviors(t *testing.T) {
	i := instance(t, HTTP, Behavior{})
	for name, b := range map[string]Behavior{
		"rate over 1":     Errors(1.5, 500),
		"unknown kind":    Failing("explode", 1),
		"trailer on http": Failing(FailTrailer, 1),
		"slow by nothing": Failing(FailSlow, 1),
		"status 99":       Errors(1, 99),
		"grpc status":     {Failures: []Failure{{Kind: FailStatus, GRPC: "BROKEN"}}},
		"negative body":   {Body: -1},
		"latency":         {Latency: Latency{Median: -time.Second}},
	} {
		if err := i.Set(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := i.Behavior(); len(got.Failures) != 0 {
		t.Errorf("a refused behavior was taken: %+v", got)
	}
}
