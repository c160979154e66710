package facts

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// neighboured is a service without a canary, with two instances at home and one in a neighbour, where v0 is stable.
type neighboured struct {
	*shop
	home  []*lab.Instance
	north *lab.Instance
}

func newNeighboured(t *testing.T, admit uint32) *neighboured {
	t.Helper()
	s := newShop(t, theMesh(t), traffic.HTTP)
	n := &neighboured{
		shop: s, home: []*lab.Instance{s.v1, instance(t, s.in.Service, "v1", traffic.HTTP)},
		north: instance(t, s.in.Service, "v0", traffic.HTTP),
	}
	there := at("eu-north", "a", n.north)
	there.Version = "v0"
	s.in.Stable, s.in.Canary = arm("v1", n.home...), nil
	s.in.Failover = &traffic.Failover{Admit: admit, Localities: []traffic.Locality{there}}
	return n
}

func (n *neighboured) everywhere() string {
	return resource.EverywhereCluster(n.in.Service, n.in.Stable.Version)
}

func (n *neighboured) remote() string {
	return resource.RemoteCluster(n.in.Service, n.in.Stable.Version)
}

func (n *neighboured) homes(b lab.Behavior) {
	n.t.Helper()
	for _, i := range n.home {
		n.set(i, b)
	}
}

// healthy waits until a cluster has so many healthy endpoints.
func (s *shop) healthy(cluster string, want uint64) {
	s.t.Helper()
	s.until("the health of "+cluster, func() bool { return s.m.stat(s.t, "cluster."+cluster+".membership_healthy") == want })
}

func TestARegionThatIsOutFailsOverByItself(t *testing.T) {
	for _, c := range []struct {
		name   string
		health *traffic.Health
	}{{"by its failures", nil}, {"by its health checks", oftenChecked()}} {
		t.Run(c.name, func(t *testing.T) {
			s := newNeighboured(t, traffic.Whole)
			s.in.Health, s.in.TesterHeader = c.health, "x-version-wanted"
			s.change = func(g *given) { // for a shorter test
				o := g.cluster(s.stable()).OutlierDetection
				o.BaseEjectionTime, o.Interval = durationpb.New(time.Second), durationpb.New(time.Second)
			}
			s.at(0)
			s.healthy(s.stable(), 2)
			s.healthy(s.remote(), 1)
			if all := s.ask(ask{n: 300, users: 10}); all.of("v1") != 300 {
				t.Fatalf("with a region in order: %v", all)
			}
			pushes := s.m.srv.Stats().Bytes
			s.homes(lab.Behavior{Refuse: true})
			var during answers
			s.until("the neighbour answers", func() bool {
				during = append(during, s.ask(ask{n: 5, users: 5})...)
				return during[len(during)-5:].of("v0") == 5
			})
			s.until("both are out", func() bool {
				during = append(during, s.ask(ask{n: 20, users: 5})...)
				return during[len(during)-20:].of("v0") == 20
			})
			after := s.ask(ask{n: 500, users: 10, method: http.MethodPost, body: 10})
			testers := s.ask(ask{n: 50, users: 5, header: func(int) http.Header { return http.Header{"X-Version-Wanted": {"v1"}} }})
			t.Logf("%d requests failed until both endpoints were out, then %d of 500 POSTs; %d of 50 testers of stable",
				during.failed(), after.failed(), testers.failed())
			// Five failures eject an endpoint; those of other users are under way.
			if during.failed() > 30 || after.of("v0") != 500 || c.health == nil && testers.of("v0") < 45 {
				t.Errorf("%v, then %v, testers %v", during, after, testers)
			}
			if region := s.tries("version.v0", "region.eu-north"); region == 0 {
				t.Error("no try is counted under the neighbour's version and region")
			}
			s.homes(lab.Behavior{})
			s.until("it is back", func() bool { return s.ask(ask{n: 100, users: 10}).of("v1") == 100 })
			if now := s.m.srv.Stats().Bytes; now != pushes {
				t.Errorf("%d bytes of configuration were sent for it", now-pushes)
			}
		})
	}
}

func TestTheNeighbourGetsTheAdmittedPartAndTheRestFailsAtOnce(t *testing.T) {
	const requests = 2000
	s := newNeighboured(t, 3000)
	s.in.Health = oftenChecked()
	s.at(0)
	s.healthy(s.stable(), 2)
	s.healthy(s.remote(), 1)
	s.homes(lab.Behavior{Refuse: true})
	s.healthy(s.stable(), 0)
	s.until("the neighbour answers", func() bool { return s.ask(ask{n: 20}).of("v0") > 0 })
	before := s.north.Counts().Received
	all := s.ask(ask{n: requests, users: 10})
	there := int(s.north.Counts().Received - before)
	t.Logf("30 %% admitted: %d of %d requests were answered by the neighbour; the others failed within %v (90 %% within %v)",
		all.of("v0"), requests, all.bad().took(1), all.bad().took(.9))
	// Five deviations of a binomial distribution: 600 ± 102.
	if got := all.of("v0"); got < 498 || got > 702 || there != got || all.failed() != requests-got {
		t.Errorf("%v; the neighbour got %d", all, there)
	}
	if all.bad().took(.9) > time.Second {
		t.Errorf("failing took %v", all.bad().took(.9))
	}
}

func TestShedRequestsGoToTheNeighbourWhileTheLeaseHolds(t *testing.T) {
	const requests, ttl = 2000, time.Second
	s := newNeighboured(t, traffic.Whole)
	s.in.Canary, s.in.TesterHeader, s.in.Testers, s.in.Lease = ptr(arm("v2", s.v2)), "x-version-wanted", true, ttl
	s.in.Failover.Shed = 2500
	s.at(1000)
	all := s.ask(ask{n: requests, users: 10})
	t.Logf("25 %% shed, 10 %% on the canary: %v", all)
	if shed, canary := all.of("v0"), all.of("v2"); shed < 403 || shed > 597 || canary < 132 || canary > 268 || all.failed() > 0 {
		t.Errorf("%v", all)
	}
	// A neighbour that is out sheds nothing.
	s.set(s.north, lab.Behavior{Refuse: true})
	all = s.ask(ask{n: requests, users: 10})
	t.Logf("the neighbour is out: %v", all)
	if all.failed() > 20 || all.of("v1")+all.of("v2")+all.failed() != requests {
		t.Errorf("the neighbour is out: %v", all)
	}
	s.set(s.north, lab.Behavior{})
	s.m.keep.Store(false)
	since := time.Now()
	// The last heartbeat is older than the last renewal: the server may give the layer once more for what is left of it.
	s.until("the layer is gone", func() bool {
		return time.Since(since) >= ttl && s.m.runtime(t, "aviary."+s.in.Service+".failover."+resource.ShedCluster(s.in.Service, "v1")) == ""
	})
	if all = s.ask(ask{n: requests, users: 10}); all.of("v1") != requests {
		t.Errorf("without a lease: %v", all)
	}
}

// The arm keeps the end of the hash space.
func TestNobodyFallsOffTheCanaryWhenRequestsGoElsewhere(t *testing.T) {
	const users = 300
	s := newNeighboured(t, 0)
	s.in.Canary, s.in.StickyHeader = ptr(arm("v2", s.v2)), "x-user"
	byUser := ask{n: users, users: 10, header: func(i int) http.Header { return http.Header{"X-User": {fmt.Sprint("user-", i)}} }}
	s.at(2000)
	before := s.ask(byUser)
	if n := before.of("v2"); n < 25 || n > 95 || before.failed() > 0 {
		t.Fatalf("%v", before)
	}
	for _, f := range []struct{ admit, shed uint32 }{{traffic.Whole, 0}, {5000, 3000}, {traffic.Whole, 8000}, {0, 0}} {
		s.in.Failover.Admit, s.in.Failover.Shed = f.admit, f.shed
		s.publish()
		after := s.ask(byUser)
		t.Logf("%d admitted, %d shed: %v", f.admit, f.shed, after)
		for i := range after {
			if (after[i].version == "v2") != (before[i].version == "v2") {
				t.Errorf("%d admitted, %d shed: user %d went from %s to %s", f.admit, f.shed, i, before[i].version, after[i].version)
			}
		}
		if want := int(f.shed) * users / traffic.Whole; after.failed() > 0 || after.of("v0") < want*7/10 || f.shed == 0 && after.of("v0") > 0 {
			t.Errorf("%d admitted, %d shed: %v", f.admit, f.shed, after)
		}
	}
}

// With failover it is the cluster of the route that retries are charged to, not stable's own.
func TestStableIsNotTriedAgainElsewhere(t *testing.T) {
	const requests = 200
	tries := func(t *testing.T, header string, change func(*neighboured, *given)) (home, north uint64) {
		s := newNeighboured(t, traffic.Whole)
		s.in.Canary, s.in.TesterHeader = ptr(arm("v2", s.v2)), "x-version-wanted"
		s.change = func(g *given) { change(s, g) }
		s.homes(lab.Errors(1, 500))
		s.at(0)
		all := s.ask(ask{n: requests, users: 10, header: func(int) http.Header { return http.Header{"X-Version-Wanted": {header}} }})
		t.Logf("%d requests that fail on stable: %v", requests, all)
		return lab.Total(s.home...).Received, s.north.Counts().Received
	}
	for name, header := range map[string]string{"the split": "", "testers of stable": "v1"} {
		t.Run(name, func(t *testing.T) {
			if home, north := tries(t, header, func(*neighboured, *given) {}); home != requests || north > 0 {
				t.Errorf("%d tries at home, %d in the neighbour", home, north)
			}
		})
	}
	t.Run("without the limit", func(t *testing.T) {
		if _, north := tries(t, "", func(s *neighboured, g *given) { g.cluster(s.everywhere()).CircuitBreakers = nil }); north == 0 {
			t.Error("no try in the neighbour: the limit on the aggregate is not needed?")
		}
	})
}

// Why it is the split that bounds the failover: what a member of an aggregate is told to drop is not dropped. An Envoy that
// heeds it could have the bound at the neighbour's endpoints.
func TestAnAggregateDropsNoOverload(t *testing.T) {
	drop := func(g *given, cluster string) {
		for _, a := range g.assignments {
			if a.ClusterName == cluster {
				a.Policy = &endpointv3.ClusterLoadAssignment_Policy{DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{{
					Category: "room", DropPercentage: &typev3.FractionalPercent{Numerator: 100},
				}}}
			}
		}
	}
	t.Run("a cluster of endpoints does", func(t *testing.T) {
		s := newNeighboured(t, 0)
		s.change = func(g *given) { drop(g, s.stable()) }
		s.at(0)
		if all := s.ask(ask{n: 100}); all.failed() != 100 || lab.Total(s.home...).Received > 0 {
			t.Errorf("%v, %d of them reached an endpoint", all, lab.Total(s.home...).Received)
		}
	})
	t.Run("below an aggregate it does not", func(t *testing.T) {
		s := newNeighboured(t, traffic.Whole)
		s.in.Stable.Localities = nil
		s.change = func(g *given) { drop(g, s.remote()) }
		s.at(0)
		if all := s.ask(ask{n: 100}); all.of("v0") != 100 {
			t.Errorf("%v: drop_overloads is heeded below an aggregate", all)
		}
	})
}

// tries counts what the access logs counted of this service with all of these tags.
func (s *shop) tries(tags ...string) (n uint64) {
	s.t.Helper()
	pattern := `^aviary\.tries\..*service\.` + s.in.Service + `\.`
	for _, tag := range tags {
		pattern += ".*" + tag + `\.`
	}
	all, err := s.m.envoy.Stats(pattern)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, k := range all {
		n += k
	}
	return n
}
