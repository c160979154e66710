package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// users sends until at least n requests were answered, and stops.
func users(t *testing.T, n uint64, o UsersOptions) Report {
	t.Helper()
	u, err := StartUsers(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Stop()
	eventually(t, "enough requests", func() bool { return u.Report().Done >= n })
	return u.Stop()
}

func TestUsersCountExactly(t *testing.T) {
	cases := []struct {
		name     string
		protocol Protocol
		behavior Behavior
		status   string // of the failed part; "": none fails
		outcome  string // what the service calls it
		version  bool   // whether failed answers name the version
	}{
		{"http", HTTP, Behavior{}, "", "", true},
		{"http errors", HTTP, Errors(.3, 503), "503", "503", true},
		{"http break", HTTP, Behavior{Body: 5000, Failures: []Failure{{Kind: FailBreak, Rate: .3}}}, "error", "break", true},
		{"http reset", HTTP, Failing(FailReset, .3), "error", "reset", false},
		{"http hang", HTTP, Failing(FailHang, .1), "timeout", "hang", false},
		{"http2", HTTP2, Behavior{Body: 2000}, "", "", true},
		{"http2 errors", HTTP2, Errors(.3, 500), "500", "500", true},
		{"http2 break", HTTP2, Behavior{Body: 5000, Failures: []Failure{{Kind: FailBreak, Rate: .3}}}, "error", "break", true},
		{"http2 reset", HTTP2, Failing(FailReset, .3), "error", "reset", false},
		{"http2 hang", HTTP2, Failing(FailHang, .1), "timeout", "hang", false},
		{"grpc", GRPC, Behavior{}, "", "", true},
		{"grpc status", GRPC, Behavior{Failures: []Failure{{Kind: FailStatus, Rate: .3, GRPC: "UNAVAILABLE"}}}, "UNAVAILABLE", "UNAVAILABLE", true},
		{"grpc trailer", GRPC, Failing(FailTrailer, .3), "INTERNAL", "INTERNAL", true},
		{"grpc reset", GRPC, Failing(FailReset, .3), "INTERNAL", "reset", false},
		{"grpc hang", GRPC, Failing(FailHang, .1), "DEADLINE_EXCEEDED", "hang", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			i := instance(t, c.protocol, c.behavior)
			n, rate, timeout := uint64(120), 400., 20*time.Second // what is slow because the machine is busy is no failure
			if c.outcome == OutcomeHang {
				t.Parallel()
				n, rate, timeout = 50, 50, 2*time.Second
			}
			r := users(t, n, UsersOptions{
				Proxies: []string{i.Address()}, Host: "cart.example", Protocol: c.protocol, Rate: rate, Posts: .5, Body: 300,
				Timeout: timeout,
			})
			eventually(t, "the service counted all", func() bool { return i.Counts().InFlight == 0 })
			s := i.Counts()
			if r.Due != r.Started+r.Skipped || r.Started != r.Done || r.Done != r.OK+r.Failed || r.InFlight != 0 || r.Aborted != 0 {
				t.Errorf("the report does not add up: %+v", r)
			}
			if r.Done != s.Received || r.OK != s.Good() || r.Failed != s.Outcomes[c.outcome] || r.Latency.Count() != r.Done {
				t.Errorf("users counted %+v, the service %+v", r, s)
			}
			if c.status == "" && r.Failed != 0 || c.status != "" && r.Failed == 0 || r.Status[c.status] != r.Failed {
				t.Errorf("failures %d by status %v: %v", r.Failed, r.Status, r.Errors)
			}
			version := map[string]uint64{"v1": r.Done}
			if !c.version && r.Failed > 0 {
				version = map[string]uint64{"v1": r.OK, "": r.Failed}
			}
			failed := map[string]uint64{}
			if r.Failed > 0 {
				failed["v1"] = r.Failed
				if !c.version {
					failed = map[string]uint64{"": r.Failed}
				}
			}
			region := map[string]uint64{}
			for v, n := range version {
				if v != "" {
					v = "eu"
				}
				region[v] = n
			}
			if !maps.Equal(r.FailedVersion, failed) || !maps.Equal(r.Region, region) {
				t.Errorf("failed by version %v, want %v; regions %v, want %v", r.FailedVersion, failed, r.Region, region)
			}
			if !maps.Equal(r.Version, version) {
				t.Errorf("versions %v, want %v", r.Version, version)
			}
			if c.protocol != GRPC && (r.Methods["GET"] == 0 || r.Methods["POST"] == 0) || s.Bytes == 0 {
				t.Errorf("methods %v, %d bytes sent", r.Methods, s.Bytes)
			}
			if r.Failed > 0 && len(r.Errors) == 0 {
				t.Error("no text of any failure")
			}
		})
	}
}

func TestUsersSeeRefusal(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, HTTP2, GRPC} {
		i := instance(t, protocol, Behavior{Refuse: true})
		r := users(t, 20, UsersOptions{Proxies: []string{i.Address()}, Protocol: protocol, Rate: 500})
		if r.OK != 0 || r.Failed != r.Done || r.Status["error"]+r.Status["UNAVAILABLE"] != r.Done {
			t.Errorf("%s: %+v", protocol, r)
		}
	}
}

// fake answers after a fixed time.
type fake struct {
	mu     sync.Mutex
	takes  time.Duration
	starts []time.Time
}

func (f *fake) do(ctx context.Context, _ call) answer {
	f.mu.Lock()
	f.starts = append(f.starts, time.Now())
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
		return answer{status: "200", version: "v1"}
	case <-ctx.Done():
		return failure(ctx, ctx.Err())
	}
}

func (f *fake) close() {}

func fakeUsers(t *testing.T, f *fake, o UsersOptions) *Users {
	t.Helper()
	o.Proxies = []string{"127.0.0.1:1"}
	rate := o.Rate
	o.Rate = 0
	u, err := StartUsers(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	u.clients = []client{f}
	u.SetRate(rate)
	return u
}

func TestUsersAreAnOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 5 * time.Second}
		u := fakeUsers(t, f, UsersOptions{Rate: 10, Concurrency: 30})
		time.Sleep(9950 * time.Millisecond)
		synctest.Wait()
		r := u.Report()
		// 100 were due; 30 at a time, and a full set of them ended after 5 s.
		if r.Due != 100 || r.Started != 60 || r.Skipped != 40 || r.InFlight != 30 {
			t.Errorf("slow answers changed the arrivals: %+v", r)
		}
		u.SetRate(0)
		time.Sleep(time.Minute)
		if got := u.Report(); got.Due != 100 || got.InFlight != 0 || got.Done != 60 || got.Latency.Mean() != 5*time.Second {
			t.Errorf("at rate 0: %+v", got)
		}
		u.SetRate(2)
		time.Sleep(10 * time.Second)
		if got := u.Report().Sub(r); got.Due < 20 || got.Due > 21 || got.Skipped != 0 {
			t.Errorf("at rate 2 for 10 s: %+v", got)
		}
		u.Stop()
	})
}

func TestUsersTimeOutAndAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Hour}
		u := fakeUsers(t, f, UsersOptions{Rate: 1, Timeout: 3 * time.Second})
		time.Sleep(4500 * time.Millisecond)
		u.cancel()
		synctest.Wait()
		r := u.Stop()
		if r.Due != 5 || r.Status["timeout"] != 2 || r.Failed != 2 || r.Aborted != 3 {
			t.Errorf("%+v", r)
		}
	})
}

func TestUsersPoisson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		u := fakeUsers(t, f, UsersOptions{Rate: 100, Poisson: true})
		time.Sleep(100 * time.Second)
		u.Stop()
		var mean, square float64
		for n := 1; n < len(f.starts); n++ {
			gap := f.starts[n].Sub(f.starts[n-1]).Seconds()
			mean += gap
			square += gap * gap
		}
		n := float64(len(f.starts) - 1)
		mean /= n
		deviation := math.Sqrt(square/n - mean*mean)
		// Both are 10 ms; the standard error of 10,000 gaps is 1 % and 1.4 %.
		if math.Abs(mean-.01) > .0006 || math.Abs(deviation-.01) > .0009 {
			t.Errorf("gaps of %v s, deviation %v s, want .01 both", mean, deviation)
		}
	})
}

func TestUsersHeadersCookiesAndProxies(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]map[string]bool{} // by user: hosts/testers/cookies
	handler := func(proxy string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			user := r.Header.Get("x-user")
			if seen[user] == nil {
				seen[user] = map[string]bool{}
			}
			seen[user][proxy+" "+r.Host+" "+r.Header.Get("x-tester")] = true
			cookie, err := r.Cookie("seat")
			if err != nil {
				http.SetCookie(w, &http.Cookie{Name: "seat", Value: user, MaxAge: 60})
			} else if cookie.Value != user {
				w.WriteHeader(http.StatusConflict)
			}
			version := "v1"
			if user == "1" && len(cookies(r)) > 0 {
				version = "v2"
			}
			w.Header().Set("x-version", version)
		})
	}
	a, b := httptest.NewServer(handler("a")), httptest.NewServer(handler("b"))
	defer a.Close()
	defer b.Close()
	r := users(t, 40, UsersOptions{
		Proxies: []string{a.Listener.Addr().String(), b.Listener.Addr().String()}, Host: "cart.example", Rate: 100, Concurrency: 1,
		Users: 4, UserHeader: "x-user", Cookies: true, Testers: .25, TesterHeaders: map[string]string{"x-tester": "yes"},
		Headers: map[string]string{"x-all": "1"},
	})
	want := map[string]map[string]bool{}
	for user, proxy := range []string{"a", "b", "a", "b"} {
		tester := map[bool]string{true: "yes"}[user == 0]
		want[strconv.Itoa(user)] = map[string]bool{proxy + " cart.example " + tester: true}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	if r.Failed != 0 || r.Switched != 1 {
		t.Errorf("failed %d %v, switched %d, want 0 and 1", r.Failed, r.Errors, r.Switched)
	}
}

func cookies(r *http.Request) []*http.Cookie { return r.Cookies() }

func TestKeptConnectionThatWasClosedIsNoFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Read(make([]byte, 1000))
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
				c.Close() // without having said so
			}()
		}
	}()
	h := &http1{proxy: l.Addr().String(), host: "x", path: "/", open: map[net.Conn]bool{}}
	defer h.close()
	for range 5 {
		if a := h.do(t.Context(), call{method: "GET"}); a.failed != "" {
			t.Error(a.failed)
		}
		eventually(t, "the end arrived", func() bool { return hungUp(h.idle[0].Conn) })
	}
}

func TestUsersRefuseNonsense(t *testing.T) {
	for name, o := range map[string]UsersOptions{
		"no proxy": {}, "rate": {Proxies: []string{"x"}, Rate: -1}, "posts": {Proxies: []string{"x"}, Posts: 2},
		"protocol": {Proxies: []string{"x"}, Protocol: "smtp"},
	} {
		if u, err := StartUsers(t.Context(), o); err == nil {
			u.Stop()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for us := range uint64(100_000) {
		if b := bucketOf(us); upper(b) < us || b > 0 && upper(b-1) >= us {
			t.Fatalf("%d µs is not within its bucket %d", us, b)
		}
		h.Add(time.Duration(us) * time.Microsecond)
	}
	if upper(bucketOf(1<<40)) != 1<<32-1 {
		t.Error("too long a latency is not in the last bucket")
	}
	for q, want := range map[float64]float64{0: 0, .5: 50_000, .99: 99_000, 1: 100_000} {
		if got := float64(h.Quantile(q).Microseconds()); math.Abs(got-want) > .033*want {
			t.Errorf("quantile %v is %v µs, want %v", q, got, want)
		}
	}
	before := h
	h.Add(time.Hour)
	if d := h.Sub(before); d.Count() != 1 || d.Mean() != time.Hour || d.Quantile(.5) < time.Hour {
		t.Errorf("the difference has %d, mean %v", d.Count(), d.Mean())
	}
	var none Histogram
	if none.Quantile(.5) != 0 || none.Mean() != 0 {
		t.Error("nothing has a latency")
	}
}

func TestCertificates(t *testing.T) {
	ca, err := NewCA("lab.example")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Sidecar("eu", "web")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, uri := range r.TLS.PeerCertificates[0].URIs {
			_, _ = io.WriteString(w, uri.String())
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{leaf.TLS}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	get := func(l *Leaf) (string, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{l.TLS}}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if got, err := get(leaf); err != nil || got != "spiffe://lab.example/region/eu/service/web" {
		t.Errorf("the server saw %q, %v", got, err)
	}
	expired, err := ca.Leaf(-time.Hour, ca.SPIFFE("eu", "web"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(expired); err == nil {
		t.Error("an expired certificate was taken")
	}
	other, err := NewCA("other.example")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Sidecar("eu", "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(foreign); err == nil {
		t.Error("another authority's certificate was taken")
	}
	dir := t.TempDir()
	if err := ca.Write(dir, leaf); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(text) || !strings.Contains(string(text), "CERTIFICATE") {
		t.Errorf("ca.pem: %v", err)
	}
}

func TestPortsAreKept(t *testing.T) {
	p, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := net.Dial("tcp", p.Address()); err == nil {
		t.Error("someone listens on a reserved port")
	}
	for range 2 {
		l, err := net.Listen("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
	for range 300 {
		q, err := NewPort()
		if err != nil {
			t.Fatal(err)
		}
		if q.Number() == p.Number() {
			t.Error("a reserved port was given twice")
		}
		q.Close()
	}
}

// BenchmarkUsers measures what one request costs users and service together, both in this process.
func BenchmarkUsers(b *testing.B) {
	for _, protocol := range []Protocol{HTTP, HTTP2, GRPC} {
		b.Run(string(protocol), func(b *testing.B) {
			i, err := StartInstance(InstanceOptions{Version: "v1", Protocol: protocol})
			if err != nil {
				b.Fatal(err)
			}
			defer i.Close()
			c, err := newClient(UsersOptions{Protocol: protocol, Path: "/x/y", Connections: 2}, i.Address(), "cart.example")
			if err != nil {
				b.Fatal(err)
			}
			defer c.close()
			b.ReportAllocs()
			for b.Loop() {
				if a := c.do(context.Background(), call{method: "GET"}); a.failed != "" {
					b.Fatal(a.failed)
				}
			}
		})
	}
}
