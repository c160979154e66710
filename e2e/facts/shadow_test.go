package facts

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// reader is an endpoint that keeps what it is asked.
type reader struct {
	mu   sync.Mutex
	seen []read
	at   traffic.Endpoint
}

type read struct {
	method, host, body string
	header             http.Header
}

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, read{req.Method, req.Host, string(body), req.Header})
	}))
	t.Cleanup(server.Close)
	r.at = traffic.Endpoint{Host: "127.0.0.1", Port: uint32(server.Listener.Addr().(*net.TCPAddr).Port)}
	return r
}

// all are those that were read by now.
func (r *reader) all() []read {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]read(nil), r.seen...)
}

func (r *reader) arm(version string) traffic.Arm {
	return traffic.Arm{Version: version, Localities: []traffic.Locality{{Region: "eu-west", Zone: "a", Endpoints: []traffic.Endpoint{r.at}}}}
}

// shadowed is a service of which a part of the requests is copied.
func shadowed(t *testing.T, share uint32) *shop {
	t.Helper()
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Shadow, s.in.ShadowMethods = share, []string{"GET", "HEAD"}
	s.in.StripHeaders = []string{"authorization", "cookie", "proxy-authorization", "x-user"}
	return s
}

func (s *shop) shadow() string { return resource.ShadowCluster(s.in.Service, s.in.Canary.Version) }

// copied counts copies that have ended, however they did.
func (s *shop) copied() uint64 { return s.m.stat(s.t, "cluster."+s.shadow()+".upstream_rq_completed") }

func TestACopyIsAnonymousAndMarked(t *testing.T) {
	s := shadowed(t, traffic.Whole)
	live, shadow := newReader(t), newReader(t)
	s.in.Stable, s.in.Canary = live.arm("v1"), ptr(shadow.arm("v2"))
	s.in.TesterHeader, s.in.Testers = "x-version-wanted", true
	s.at(0)
	given := http.Header{
		"Authorization": {"Bearer t"}, "Proxy-Authorization": {"Basic t"}, "Cookie": {"a=b", "c=d"}, "X-User": {"someone"},
		"X-Other": {"kept"}, "X-Aviary-Shadow": {"forged", "twice"},
	}
	logged := s.tries("version.v1")
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		if all := s.ask(ask{n: 10, method: method, body: 50, header: func(int) http.Header { return given.Clone() }}); all.failed() > 0 {
			t.Errorf("%s: %v", method, all)
		}
	}
	// Testers chose their version: nothing of theirs is copied.
	s.ask(ask{n: 10, header: func(int) http.Header { return http.Header{"X-Version-Wanted": {"v1"}} }})
	s.until("the copies of GET and HEAD", func() bool { return len(shadow.all()) >= 20 && s.copied() >= 20 })
	copies := shadow.all()
	t.Logf("of 50 requests with five methods %d were copied; a copy: %v", len(copies), copies[0])
	if len(copies) != 20 || len(live.all()) != 60 {
		t.Errorf("%d copies, %d at stable", len(copies), len(live.all()))
	}
	for _, c := range copies {
		for _, name := range s.in.StripHeaders {
			if c.header.Get(name) != "" {
				t.Errorf("a copy has %s: %v", name, c.header)
			}
		}
		mark := c.header.Values(resource.ShadowHeader)
		if len(mark) != 1 || mark[0] != "v2" || c.header.Get("X-Other") != "kept" || c.host != s.in.Hosts[0] ||
			c.method != "GET" && c.method != "HEAD" || c.body != strings.Repeat(".", 50) {
			t.Errorf("a copy: %+v", c)
		}
	}
	for _, r := range live.all()[:50] {
		if r.header.Get("Authorization") == "" || r.header.Get("X-User") == "" || len(r.header.Values("Cookie")) == 0 ||
			r.header.Get(resource.ShadowHeader) == "v2" || len(r.body) != 50 {
			t.Errorf("what a user said was changed: %+v", r)
		}
	}
	// The log of tries sees copies too, with the mark that their endpoints have.
	if n, marked := s.tries("version.v1")-logged, s.tries("version.v2", "shadow.true"); n != 60 || marked != 20 || s.tries("version.v2") != marked {
		t.Errorf("%d tries of stable logged, %d of the canary, of which %d are copies", n, s.tries("version.v2"), marked)
	}
}

func TestAShareIsCopied(t *testing.T) {
	s := shadowed(t, 2500)
	s.in.StickyHeader = "x-user"
	s.at(0)
	all := s.ask(ask{n: 2000, users: 10})
	s.until("the copies end", func() bool { return s.copied() > 0 && s.copied() >= s.v2.Copies().Received })
	n := s.v2.Copies().Received
	t.Logf("25 %%: %d of 2000 copied", n)
	if n < 403 || n > 597 || all.of("v1") != 2000 {
		t.Errorf("%d of 2000 copied, %v", n, all)
	}
}

// Whatever becomes of the copies, users have their answers from stable, and as soon as without them.
func TestAShadowTouchesNobody(t *testing.T) {
	const requests, users, slow = 600, 10, 2 * time.Second
	for _, c := range []struct {
		name     string
		behavior lab.Behavior
	}{
		{"in order", lab.Behavior{}},
		{"500", lab.Errors(1, 500)},
		{"refused", lab.Behavior{Refuse: true}},
		{"reset", lab.Failing(lab.FailReset, 1)},
		{"break", lab.Failing(lab.FailBreak, 1)},
		{"hang", lab.Failing(lab.FailHang, 1)},
		{"slow", lab.Behavior{Latency: lab.Latency{Median: slow}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shadowed(t, traffic.Whole)
			s.in.Limits = traffic.Limits{Connections: 20, Pending: 20}
			s.set(s.v2, c.behavior)
			s.at(0)
			all := s.ask(ask{n: requests, users: users, body: 1000})
			t.Logf("%d of %d requests failed; half within %v, 90 %% within %v; copies: %v", all.failed(), requests,
				all.took(.5).Round(time.Microsecond), all.took(.9).Round(time.Microsecond), s.copies())
			if all.of("v1") != requests || all.took(.9) > slow/4 {
				t.Errorf("%v; 90 %% within %v", all, all.took(.9))
			}
			if n := s.v1.Counts().Received; n != requests {
				t.Errorf("%d requests at stable", n)
			}
		})
	}
}

// copies are what the shadow's cluster counts of them.
func (s *shop) copies() map[string]uint64 {
	s.t.Helper()
	stats, err := s.m.envoy.Stats("^cluster." + s.shadow() + `\.upstream_(rq_(total|completed|active|pending_active|[0-9]+|timeout|max_duration_reached|rx_reset|pending_overflow|pending_failure_eject)|cx_(connect_fail|overflow))$`)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, n := range stats {
		delete(stats, name)
		if n > 0 {
			stats[strings.TrimPrefix(name, "cluster."+s.shadow()+".upstream_")] = n
		}
	}
	return stats
}

func TestCopiesEndWithTheLease(t *testing.T) {
	const ttl = time.Second
	s := shadowed(t, traffic.Whole)
	s.in.Lease = ttl
	s.at(0)
	s.ask(ask{n: 100, users: 5})
	s.until("copies", func() bool { return s.copied() == 100 })
	s.m.keep.Store(false)
	since := time.Now()
	// The last heartbeat is older than the last renewal: the server may give the layer once more for what is left of it.
	s.until("the layer is gone", func() bool {
		return time.Since(since) >= ttl && s.m.runtime(t, "aviary."+s.in.Service+".shadow") == ""
	})
	s.until("none is under way", func() bool { return s.m.stat(t, "cluster."+s.shadow()+".upstream_rq_active") == 0 })
	before := s.m.stat(t, "cluster."+s.shadow()+".upstream_rq_total")
	all := s.ask(ask{n: 500, users: 10})
	if after := s.m.stat(t, "cluster."+s.shadow()+".upstream_rq_total"); after != before || all.of("v1") != 500 {
		t.Errorf("without a lease %d of 500 requests were copied; %v", after-before, all)
	}
}
