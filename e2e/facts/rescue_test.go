package facts

import (
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// unejected keeps the second net out of a test of the first: without it the canary is ejected after a few failures, and
// nothing is left to rescue.
func (s *shop) unejected(g *given) { g.cluster(s.canary()).OutlierDetection = nil }

func TestAFailingCanaryFailsNoGET(t *testing.T) {
	const requests, users = 2000, 100
	failing := lab.Behavior{
		Latency:  lab.Latency{Median: 20 * time.Millisecond},
		Failures: []lab.Failure{{Kind: lab.FailStatus, Rate: 1, Status: 503}},
	}
	t.Run("the arm's retry budget", func(t *testing.T) {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.change = s.unejected
		s.set(s.v2, failing)
		s.at(traffic.Whole)
		all := s.ask(ask{n: requests, users: users})
		t.Logf("%d of %d GETs of %d users at once failed; the canary failed %d tries", all.failed(), requests, users, s.v2.Counts().Bad())
		if all.failed() > 0 || s.v2.Counts().Bad() != requests {
			t.Errorf("%v, canary %+v", all, s.v2.Counts())
		}
	})
	t.Run("Envoy's default of three retries at once", func(t *testing.T) {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.change = func(g *given) { s.unejected(g); g.cluster(s.arm()).CircuitBreakers = nil }
		s.set(s.v1, lab.Behavior{Latency: lab.Latency{Median: 20 * time.Millisecond}})
		s.set(s.v2, failing)
		s.at(traffic.Whole)
		all := s.ask(ask{n: requests, users: users})
		t.Logf("%d of %d GETs of %d users at once failed", all.failed(), requests, users)
		if all.failed() < requests/2 {
			t.Errorf("%v: the default does not bind; the arm needs no budget of its own?", all)
		}
	})
}

func TestEveryWayToFailIsRescued(t *testing.T) {
	for _, p := range []struct {
		name     string
		protocol traffic.Protocol
	}{{"http", traffic.HTTP}, {"http2", traffic.HTTP2}} {
		for _, c := range []struct {
			name     string
			behavior lab.Behavior
		}{
			{"500", lab.Errors(1, 500)},
			{"reset", lab.Failing(lab.FailReset, 1)},
			{"refused", lab.Behavior{Refuse: true}},
			{"hang", lab.Failing(lab.FailHang, 1)},
		} {
			t.Run(p.name+" "+c.name, func(t *testing.T) {
				s := newShop(t, theMesh(t), p.protocol)
				s.in.HangLimit = 100 * time.Millisecond
				s.change = s.unejected
				s.set(s.v2, c.behavior)
				s.at(traffic.Whole)
				all := s.ask(ask{n: 100, users: 20})
				retried := s.m.stat(t, "cluster."+s.arm()+".upstream_rq_retry")
				t.Logf("%d of 100 GETs failed, %d were tried again", all.failed(), retried)
				if all.failed() > 0 || all.of("v1") != 100 || retried != 100 {
					t.Errorf("%v, %d retries", all, retried)
				}
			})
		}
	}
}

func TestStableIsNotTriedAgain(t *testing.T) {
	const requests = 200
	tries := func(t *testing.T, change func(*shop, *given)) uint64 {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.change = func(g *given) { change(s, g) }
		s.set(s.v1, lab.Errors(1, 500))
		s.at(0)
		if all := s.ask(ask{n: requests, users: 10}); all.failed() != requests {
			t.Errorf("%v, want stable's own failures", all)
		}
		return s.v1.Counts().Received
	}
	t.Run("max_retries 0", func(t *testing.T) {
		got := tries(t, func(*shop, *given) {})
		t.Logf("%d requests that fail on stable: %d tries", requests, got)
		if got != requests {
			t.Errorf("%d tries of %d requests", got, requests)
		}
	})
	t.Run("without it", func(t *testing.T) {
		got := tries(t, func(s *shop, g *given) {
			for _, b := range g.cluster(s.stable()).CircuitBreakers.Thresholds {
				b.MaxRetries = nil
			}
		})
		t.Logf("%d requests that fail on stable: %d tries", requests, got)
		if got <= requests {
			t.Errorf("%d tries of %d requests: the limit on stable is not needed?", got, requests)
		}
	})
}

func TestAHangIsRescuedAndASlowStableIsLeftAlone(t *testing.T) {
	const requests, limit, slow = 100, 150 * time.Millisecond, 400 * time.Millisecond
	run := func(t *testing.T, change func(*shop, *given)) (onCanary, onStable answers) {
		s := newShop(t, theMesh(t), traffic.HTTP)
		s.in.HangLimit = limit
		s.change = func(g *given) { s.unejected(g); change(s, g) }
		s.set(s.v1, lab.Behavior{Latency: lab.Latency{Median: slow}})
		s.set(s.v2, lab.Failing(lab.FailHang, 1))
		s.at(traffic.Whole)
		onCanary = s.ask(ask{n: requests, users: 50})
		if got := s.v2.Counts().Received; got != requests {
			t.Errorf("%d tries hung on the canary, want %d", got, requests)
		}
		s.at(0)
		return onCanary, s.ask(ask{n: requests, users: 50})
	}
	t.Run("max_stream_duration of the canary's cluster", func(t *testing.T) {
		onCanary, onStable := run(t, func(*shop, *given) {})
		t.Logf("stable takes %v, the limit is %v: failed of %d GETs that hung on the canary: %d, of %d on stable: %d",
			slow, limit, requests, onCanary.failed(), requests, onStable.failed())
		if onCanary.failed()+onStable.failed() > 0 || onCanary.of("v1") != requests {
			t.Errorf("%v, %v", onCanary, onStable)
		}
	})
	t.Run("per_try_timeout of the route", func(t *testing.T) {
		onCanary, onStable := run(t, func(s *shop, g *given) {
			delete(g.cluster(s.canary()).TypedExtensionProtocolOptions, "envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
			for _, r := range g.all() {
				r.GetRoute().RetryPolicy.PerTryTimeout = durationpb.New(limit)
			}
		})
		t.Logf("stable takes %v, the limit is %v: failed of %d GETs that hung on the canary: %d, of %d on stable: %d",
			slow, limit, requests, onCanary.failed(), requests, onStable.failed())
		if onCanary.failed() != requests || onStable.failed() != requests {
			t.Errorf("it spares a slow stable: %v, %v", onCanary, onStable)
		}
	})
}

func TestAnEmptyCanaryFallsThroughInTheSameTry(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.Canary.Localities = nil
	s.at(traffic.Whole)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		all := s.ask(ask{n: 300, users: 20, method: method, body: 10})
		t.Logf("%s: %d of 300 failed, answered by %v", method, all.failed(), all)
		if all.failed() > 0 || all.of("v1") != 300 {
			t.Errorf("%s: %v", method, all)
		}
	}
	if n := s.m.stat(t, "cluster."+s.arm()+".upstream_rq_retry"); n > 0 || s.v1.Counts().Received != 600 {
		t.Errorf("%d retries, %d tries on stable", n, s.v1.Counts().Received)
	}
	// It has its share as soon as it has an endpoint.
	s.in.Canary.Localities = arm("v2", s.v2).Localities
	s.publish()
	s.until("the canary answers", func() bool { return s.ask(ask{}).of("v2") == 1 })
}

func TestAnEjectedCanaryFallsThrough(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.at(traffic.Whole)
	if all := s.ask(ask{n: 100, users: 10}); all.of("v2") != 100 {
		t.Fatalf("the canary in order: %v", all)
	}
	s.set(s.v2, lab.Errors(1, 500))
	// No net under a POST: what fails until the ejection fails for good.
	posts := s.ask(ask{n: 200, method: http.MethodPost, body: 10})
	bad := s.v2.Counts().Bad()
	after := s.ask(ask{n: 500, users: 20, method: http.MethodPost, body: 10})
	t.Logf("%d of 200 POSTs failed before the canary was out, and %d of 500 after; tries that it failed: %d, then %d; ejected: %d",
		posts.failed(), after.failed(), bad, s.v2.Counts().Bad()-bad, s.m.stat(t, "cluster."+s.canary()+".outlier_detection.ejections_active"))
	if n := posts.failed(); n < 5 || n > 10 || after.failed() > 0 || after.of("v1") != 500 || s.v2.Counts().Bad() != bad {
		t.Errorf("%v, then %v", posts, after)
	}
	// An edit of its cluster forgets the ejection.
	s.in.HangLimit = time.Second
	s.publish()
	all := s.ask(ask{n: 100, users: 1})
	t.Logf("after an edit of the canary's cluster: %d more tries on it", s.v2.Counts().Bad()-bad)
	if s.v2.Counts().Bad() == bad || all.failed() > 0 {
		t.Errorf("after an edit of the canary's cluster: %v, %d more tries on it", all, s.v2.Counts().Bad()-bad)
	}
}

func TestHangsDoNotEject(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.HangLimit = 50 * time.Millisecond
	s.set(s.v2, lab.Failing(lab.FailHang, 1))
	s.at(traffic.Whole)
	all := s.ask(ask{n: 40, users: 2})
	ejected := s.m.stat(t, "cluster."+s.canary()+".outlier_detection.ejections_enforced_total")
	t.Logf("%d of 40 GETs failed, %d tries hung, %d ejections", all.failed(), s.v2.Counts().Received, ejected)
	if all.failed() > 0 || s.v2.Counts().Received != 40 || ejected > 0 {
		t.Errorf("%v: the second net sees hangs?", all)
	}
}
