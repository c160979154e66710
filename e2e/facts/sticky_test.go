package facts

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// both asks several times for each of a number of users, and returns how many of them were answered by both versions. A
// user keeps the cookies of the answers.
func (s *shop) both(users, times int, header func(user int) http.Header) (both int, share float64) {
	s.t.Helper()
	jars, versions := make([]map[string]string, users), make([]map[string]bool, users)
	onCanary := 0
	for range times {
		all := s.ask(ask{n: users, users: 10, header: func(i int) http.Header {
			h := header(i)
			for name, value := range jars[i] {
				h.Add("Cookie", name+"="+value)
			}
			return h
		}})
		if all.failed() > 0 {
			s.t.Fatalf("%v", all)
		}
		onCanary += all.of("v2")
		for i, a := range all {
			for _, c := range a.cookies {
				name, value, _ := strings.Cut(c, "=")
				if jars[i] == nil {
					jars[i] = map[string]string{}
				}
				jars[i][name] = value
			}
			if versions[i] == nil {
				versions[i] = map[string]bool{}
			}
			versions[i][a.version] = true
		}
	}
	for _, seen := range versions {
		if len(seen) > 1 {
			both++
		}
	}
	return both, float64(onCanary) / float64(users*times)
}

func TestAHeaderIsSticky(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.StickyHeader = "x-user"
	s.at(5000)
	both, share := s.both(300, 6, func(i int) http.Header { return http.Header{"X-User": {fmt.Sprint("user-", i)}} })
	t.Logf("%d of 300 users saw two versions; %.0f %% of the requests were on the canary", both, 100*share)
	if both > 0 || share < .35 || share > .65 {
		t.Errorf("%d users saw two versions, share %v", both, share)
	}
	both, _ = s.both(100, 6, func(int) http.Header { return http.Header{} })
	t.Logf("without the header: %d of 100", both)
	if both < 80 {
		t.Errorf("without the header %d of 100 users saw two versions: what would the header be for?", both)
	}
}

func TestACookieFromTheRequestIDIsSticky(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.StickyCookie, s.in.CookieTTL = "aviary-user", time.Hour
	s.at(5000)
	for name, header := range map[string]func(int) http.Header{
		"a new browser":                func(int) http.Header { return http.Header{} },
		"one with a cookie of its own": func(i int) http.Header { return http.Header{"Cookie": {fmt.Sprintf("theme=dark%d", i)}} },
		"one with a cookie that ends alike": func(i int) http.Header {
			return http.Header{"Cookie": {fmt.Sprintf("not-aviary-user=%d", i)}}
		},
	} {
		both, share := s.both(200, 5, header)
		t.Logf("%s: %d of 200 users saw two versions; %.0f %% of the requests were on the canary", name, both, 100*share)
		if both > 0 || share < .35 || share > .65 {
			t.Errorf("%s: %d users saw two versions, share %v", name, both, share)
		}
	}
}

func TestAGeneratedCookieIsNotSticky(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.StickyCookie = "aviary-user"
	s.change = func(g *given) {
		host := g.routes[0].VirtualHosts[0]
		last := host.Routes[len(host.Routes)-1]
		last.ResponseHeadersToAdd = nil
		last.GetRoute().HashPolicy = []*routev3.RouteAction_HashPolicy{{
			PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{
				Name: s.in.StickyCookie, Ttl: durationpb.New(time.Hour),
			}},
		}}
		host.Routes = []*routev3.Route{last}
	}
	s.at(5000)
	first := s.ask(ask{n: 20})
	made := 0
	for _, a := range first {
		made += len(a.cookies)
	}
	both, _ := s.both(100, 10, func(int) http.Header { return http.Header{} })
	t.Logf("%d of 100 users saw two versions; cookies in 20 first answers: %d", both, made)
	if both < 30 {
		t.Errorf("%d of 100 users saw two versions: Envoy's own cookie is sticky now", both)
	}
}
