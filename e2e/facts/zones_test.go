package facts

import (
	"testing"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// zoned is a service without a canary, with two instances in the caller's zone and one in another.
type zoned struct {
	*shop
	near []*lab.Instance
	far  *lab.Instance
}

func newZoned(t *testing.T) *zoned {
	t.Helper()
	s := newShop(t, theMesh(t), traffic.HTTP)
	z := &zoned{shop: s, near: []*lab.Instance{s.v1, instance(t, s.in.Service, "v1", traffic.HTTP)}, far: instance(t, s.in.Service, "v1", traffic.HTTP)}
	s.in.Canary = nil
	s.in.Stable.Localities = []traffic.Locality{at("eu-west", "a", z.near...), at("eu-west", "b", z.far)}
	return z
}

// spread asks and returns how many requests were in the other zone.
func (z *zoned) spread(n int) (far int) {
	z.t.Helper()
	before := z.far.Counts().Received
	if all := z.ask(ask{n: n, users: 10}); all.failed() > 0 {
		z.t.Errorf("%v", all)
	}
	return int(z.far.Counts().Received - before)
}

func TestACallerKeepsToItsZone(t *testing.T) {
	z := newZoned(t)
	z.in.NearestZone, z.in.Health = true, oftenChecked()
	z.at(0)
	z.healthy(z.stable(), 3)
	// Changes of stable's health reach the workers within a second of the checks.
	settled := func(what string, least, most int) {
		t.Helper()
		z.until(what, func() bool { n := z.spread(100); return n >= least && n <= most })
		n := z.spread(1000)
		t.Logf("%s: %d of 1000 requests in the other zone", what, n)
		if n < 10*least || n > 10*most {
			t.Errorf("%s: %d of 1000 requests in the other zone", what, n)
		}
	}
	settled("all are well", 0, 0)
	z.set(z.near[0], lab.Behavior{Unhealthy: true})
	z.healthy(z.stable(), 2)
	// Half of the zone carries 1.4 times its half.
	settled("half of the own zone is out", 20, 40)
	z.set(z.near[1], lab.Behavior{Unhealthy: true})
	z.healthy(z.stable(), 1)
	settled("the own zone is out", 100, 100)
	for _, i := range z.near {
		z.set(i, lab.Behavior{})
	}
	z.healthy(z.stable(), 3)
	settled("it is back", 0, 0)
}

func TestZonesHaveTheirWeights(t *testing.T) {
	z := newZoned(t)
	z.in.Stable.Localities[0].Weight, z.in.Stable.Localities[1].Weight = 10, 30
	z.at(0)
	n := z.spread(2000)
	t.Logf("a weight of 30 beside 10: %d of 2000 requests", n)
	if n < 1400 || n > 1600 {
		t.Errorf("%d of 2000 requests in the zone with three quarters of the weight", n)
	}
	// Without weights it is the endpoints that count.
	z.in.Stable.Localities[0].Weight, z.in.Stable.Localities[1].Weight = 0, 0
	z.publish()
	n = z.spread(1500)
	t.Logf("one endpoint beside two: %d of 1500 requests", n)
	if n < 400 || n > 600 {
		t.Errorf("one endpoint beside two: %d of 1500 requests", n)
	}
}

// A canary keeps to its caller's zone by weight. By priority its failures would be tried again on the canary, in another zone.
func TestACanaryKeepsToItsCallersZoneAndIsRescuedByStable(t *testing.T) {
	newCanary := func(change func(*shop, *given)) (s *shop, far *lab.Instance) {
		s = newShop(t, theMesh(t), traffic.HTTP)
		far = instance(t, s.in.Service, "v2", traffic.HTTP)
		s.in.NearestZone, s.in.Health = true, oftenChecked()
		s.in.Canary.Localities = append(s.in.Canary.Localities, at("eu-west", "b", far))
		s.change = func(g *given) { s.unejected(g); change(s, g) }
		s.at(traffic.Whole)
		s.healthy(s.canary(), 2)
		return s, far
	}
	s, far := newCanary(func(*shop, *given) {})
	all := s.ask(ask{n: 1000, users: 10})
	t.Logf("the canary in two zones: %d of 1000 requests in the other one", far.Counts().Received)
	if all.of("v2") != 1000 || far.Counts().Received > 10 {
		t.Errorf("%v, %d in the other zone", all, far.Counts().Received)
	}
	s.set(s.v2, lab.Errors(1, 500))
	all = s.ask(ask{n: 500, users: 10})
	if all.failed() > 0 || all.of("v1") < 490 {
		t.Errorf("it fails in its zone: %v", all)
	}
	s.set(s.v2, lab.Behavior{Unhealthy: true})
	s.healthy(s.canary(), 1)
	// With one of two endpoints the canary keeps seven tenths of its requests, as without zones.
	s.until("the other zone answers", func() bool { all := s.ask(ask{n: 100, users: 5}); return all.of("v2") > 50 && all.failed() == 0 })

	s, far = newCanary(func(s *shop, g *given) {
		for _, a := range g.assignments {
			if a.ClusterName == s.canary() {
				a.Endpoints[1].Priority = 1
			}
		}
	})
	s.set(s.v2, lab.Errors(1, 500))
	all = s.ask(ask{n: 500, users: 10})
	t.Logf("with zones as priorities: %v, %d of the canary in the other zone", all, far.Counts().Received)
	if far.Counts().Received < 400 {
		t.Errorf("%d tries on the canary in the other zone: why no priorities?", far.Counts().Received)
	}
}
