package ads

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// whole brings an Envoy-like client up on everything of the view: clusters and listeners by wildcard, the rest by name.
func whole(t *testing.T, r *rig, open opener, eds, rds []string) *peer {
	t.Helper()
	p := open(r, node("p"))
	p.subscribe(Cluster)
	p.settle()
	p.subscribe(Endpoint, eds...)
	p.settle()
	p.subscribe(Listener)
	p.settle()
	p.subscribe(Route, rds...)
	p.settle()
	time.Sleep(time.Second) // so that what follows is told apart from connecting
	return p
}

func TestMakeBeforeBreak(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a", "eds:a", "lds:l", "rds:r=a"), Routine)
		p := whole(t, r, open, []string{"a"}, []string{"r"})
		r.Publish("v", snap("cds:b", "eds:b", "lds:l", "rds:r=bb"), Routine)

		cds := p.expect(p.either("CDS +b", "CDS +b,a")) // a stays until nothing routes to it
		p.ack(cds[0])
		p.expect() // accepted, but not warm: its endpoints are not asked for
		if s := r.status("p").Types[Route]; s.State != Stale || s.Held != "endpoints of new clusters are not asked for" {
			t.Errorf("%+v", s)
		}
		p.subscribe(Endpoint, "b")
		eds := p.expect("EDS +b")
		if s := r.status("p").Types[Route]; s.Held != "EDS is not answered" {
			t.Errorf("%+v", s)
		}
		p.ack(eds[0])
		rds := p.expect("RDS +r")
		p.ack(rds[0])
		p.accept(p.either("CDS + -a", "CDS +b"))
		p.accept(onlyDelta(p, "EDS + -a")...) // endpoints only after the cluster that used them
		p.expect()
		if s := r.status("p"); s.Types[Cluster].State != Synced || s.Types[Endpoint].State != Synced {
			t.Errorf("%+v", s.Types)
		}
	})
}

func onlyDelta(p *peer, want ...string) []string {
	if p.transport == Delta {
		return want
	}
	return nil
}

func TestRemovalsGoInOrder(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a", "eds:a", "lds:l", "rds:r"), Routine)
		p := whole(t, r, open, []string{"a"}, []string{"r"})
		r.Publish("v", snap(), Routine)
		p.accept(p.either("LDS + -l", "LDS +"))
		if p.transport == Delta { // state of the world cannot say it of routes and endpoints
			p.accept("RDS + -r")
		}
		p.accept(p.either("CDS + -a", "CDS +"))
		p.accept(onlyDelta(p, "EDS + -a")...)
		p.expect()
	})
}

func TestWhatIsBackIsNotRemoved(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a", "eds:a", "rds:r=1"), Routine)
		p := whole(t, r, open, []string{"a"}, []string{"r"})
		r.Publish("v", snap("eds:a", "rds:r=22"), Routine)
		rds := p.expect("RDS +r") // the removal of a waits for the answer
		r.Publish("v", snap("cds:a", "eds:a", "rds:r=22"), Routine)
		p.ack(rds[0])
		p.accept("CDS "+p.either("+a", "+a"), "EDS +a")
		p.expect()
	})
}

func TestASilentProxyHoldsItsRoutesForALimitedTime(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1, GateTimeout: 3 * time.Second, AckTimeout: 10 * time.Second})
		r.Publish("v", snap("static:a=1", "rds:r=1"), Routine)
		p := whole(t, r, open, nil, []string{"r"})
		r.Publish("v", snap("static:a=22", "rds:r=22"), Routine)
		p.expect("CDS +a")
		time.Sleep(2900 * time.Millisecond)
		p.expect()
		time.Sleep(200 * time.Millisecond)
		p.accept("RDS +r")
		if p.ended() != nil {
			t.Error(p.ended())
		}
		time.Sleep(7 * time.Second) // and it is not waited for without end
		if p.ended() == nil || r.Stats().Closed != 1 || r.Stats().Streams != 0 {
			t.Error(p.ended(), r.Stats())
		}
	})
}

func TestUnaskedEndpointsHoldRoutesForALimitedTime(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1, GateTimeout: 3 * time.Second})
		r.Publish("v", snap("static:a", "rds:r=1"), Routine)
		p := whole(t, r, open, nil, []string{"r"})
		r.Publish("v", snap("static:a", "cds:b", "rds:r=22"), Routine)
		p.accept(p.either("CDS +b", "CDS +a,b"))
		time.Sleep(2900 * time.Millisecond)
		p.expect()
		time.Sleep(200 * time.Millisecond)
		p.accept("RDS +r")
	})
}

func TestRefusedClustersHoldRoutesUntilTheyChange(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a=1", "rds:r=1"), Routine)
		p := whole(t, r, open, nil, []string{"r", "new"})
		r.Publish("v", snap("static:a=bad", "rds:r=22"), Routine)
		p.nack(p.expect("CDS +a")[0], "bad cluster")
		time.Sleep(time.Hour)
		p.expect()
		if s := r.status("p").Types[Route]; s.State != Stale || s.Held != "CDS is refused" {
			t.Errorf("%+v", s)
		}
		p.subscribe(Route, "other") // a new listener's routes are answered all the same
		p.accept(p.either("RDS + -other", "RDS +"))
		r.Publish("v", snap("static:a=bad", "rds:r=zero"), Urgent) // and a canary leaves all the same
		p.accept("RDS +r")
		r.Publish("v", snap("static:a=good", "rds:r=333"), Routine)
		p.accept("CDS +a")
		p.accept("RDS +r")
	})
}

func TestAFreshProxyGetsItsRoutesThoughItRefusesClusters(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a=bad", "rds:r=1"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.nack(p.expect("CDS +a")[0], "bad")
		p.subscribe(Route, "r")
		p.accept("RDS +r")
	})
}

func TestWarming(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a=1", "cds:b=1", "cds:c=1", "eds:a", "eds:b", "eds:c"), Routine)
		p := whole(t, r, open, []string{"a", "b", "c"}, nil)
		r.Publish("v", snap("cds:a=22", "cds:b=1", "cds:c=22", "eds:a", "eds:b", "eds:c"), Routine)
		p.accept(p.either("CDS +a,c", "CDS +a,b,c"), "EDS +a,c")
		p.expect()
		r.Publish("v", snap("cds:a=22", "cds:b=1", "cds:c=333", "eds:a=22", "eds:b", "eds:c"), Routine)
		p.accept(p.either("CDS +c", "CDS +a,b,c"), "EDS +a,c")
	})
}

func TestANackParks(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a=1", "static:b=1", "eds:x=1"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a,b")
		good := r.status("p").Types[Cluster]
		r.Publish("v", snap("static:a=bad", "static:b=22", "eds:x=1"), Routine)
		refused := p.expect("CDS +a,b")[0]
		for range 100 { // it asks again and again
			p.nack(refused, "a: no such filter")
			if p.transport == Delta {
				p.subscribe(Cluster, "a", "*")
			}
		}
		p.expect()
		s := r.status("p").Types[Cluster]
		if s.State != Nacked || s.Nack != "a: no such filter" || s.Acked != good.Acked || s.Sent != refused.Version || s.NackSent != s.Sent {
			t.Errorf("%+v", s)
		}
		if n := r.Nacks(); len(n) != 1 || n[0].Proxies != 1 || n[0].View != "v" || n[0].Type != Cluster || n[0].Version != refused.Version {
			t.Errorf("%+v", n)
		}
		p.subscribe(Endpoint, "x") // another type goes on
		p.accept("EDS +x")
		r.Publish("v", snap("static:a=bad", "static:b=22", "eds:x=22"), Routine)
		p.accept("EDS +x") // and other content does not touch what is parked
		r.Publish("v", snap("static:a=good", "static:b=22", "eds:x=22"), Routine)
		p.accept("CDS +a,b") // b may not have been taken either
		if s := r.status("p").Types[Cluster]; s.State != Synced || s.Nack != "" || s.NacksTotal == 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestANackIsOverWhenTheRefusedIsGone(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("static:a"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a")
		r.Publish("v", snap("static:a", "static:b=bad"), Routine)
		p.nack(p.expect(p.either("CDS +b", "CDS +a,b"))[0], "bad")
		r.Publish("v", snap("static:a"), Routine)
		p.accept(p.either("CDS + -b", "CDS +a"))
		if s := r.status("p").Types[Cluster]; s.State != Synced || s.Nack != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestStateOfTheWorldNackLoops(t *testing.T) {
	in(t, func(t *testing.T) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("eds:a=bad"), Routine)
		p := r.dial(Sotw, node("p"))
		p.subscribe(Endpoint, "a")
		g := p.expect("EDS +a")[0]
		p.nack(g, "bad")
		for range 100 { // every way to ask again for the same
			p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: Endpoint.URL(), ResourceNames: []string{"a"}})
			p.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: Endpoint.URL(), ResourceNames: []string{"a"}, ResponseNonce: g.Nonce})
			p.unsubscribe(Endpoint, "a")
			p.subscribe(Endpoint, "a")
		}
		p.expect()
		r.Publish("v", snap("eds:a=good!"), Routine)
		p.accept("EDS +a")
	})
}

func TestASlowReaderSkipsToTheNewest(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("eds:a", "eds:b"), Routine)
		p := open(r, node("p"))
		p.subscribe(Endpoint, "a", "b")
		slow := p.expect("EDS +a,b")[0]
		variant := ""
		for range 50 {
			variant += "x"
			r.Publish("v", snap("eds:a="+variant, "eds:b"), Routine)
		}
		p.expect()
		p.ack(slow)
		g := p.accept("EDS +a")[0]
		if p.transport == Delta && g.Versions["a"] != res("eds:a="+variant).Version() {
			t.Error("not the newest")
		}
		if n := r.Stats().Skipped; n != 49 {
			t.Error(n)
		}
	})
}

func TestRoutinePublishesCoalesce(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: 100 * time.Millisecond})
		r.Publish("v", snap("static:a=1"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a")
		for range 9 {
			r.Publish("v", snap("static:a=22"), Routine)
			time.Sleep(10 * time.Millisecond)
		}
		r.Publish("v", snap("static:a=333"), Routine)
		p.expect()
		time.Sleep(11 * time.Millisecond) // the window counts from the first
		p.accept("CDS +a")
		r.Publish("v", snap("static:a=4444"), Routine)
		r.Publish("v", snap("static:a=5"), Urgent) // at once, and what waited is older
		p.accept("CDS +a")
		time.Sleep(time.Second)
		p.expect()
	})
}

func TestUrgentKeepsTheOrderAndWaitsForNothing(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:a=1", "eds:a", "lds:l=1", "rds:r=1"), Routine)
		p := whole(t, r, open, []string{"a"}, []string{"r"})
		r.Publish("v", snap("cds:a=22", "eds:a", "lds:l=1", "rds:r=1"), Routine)
		p.expect("CDS +a", "EDS +a") // not answered
		before := r.Stats().Kill.Count
		r.Publish("v", snap("cds:a=333", "eds:a", "lds:l=22", "rds:r=22"), Urgent)
		all := p.expect("CDS +a", "EDS +a", "LDS +l", "RDS +r")
		if n := r.Stats().KillPending; n != 1 {
			t.Error(n)
		}
		for _, g := range all {
			p.ack(g)
		}
		p.expect()
		s := r.Stats()
		if s.KillPending != 0 || s.Kill.Count != before+4 {
			t.Errorf("%+v", s)
		}
		for _, s := range r.status("p").Types[:4] {
			if s.State != Synced || s.Acked != s.Intended {
				t.Errorf("%+v", s)
			}
		}
		r.Publish("v", snap("cds:a=4444", "eds:a", "lds:l=22", "rds:r=333"), Routine)
		p.accept("CDS +a", "EDS +a") // and afterwards the gate is back
		p.accept("RDS +r")
	})
}

// An urgent route waits for no ACK, but where a proxy answers nothing and its clusters have no room left, it must not come
// before the cluster that it names.
func TestAnUrgentRouteNeverOvertakesItsCluster(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("cds:c0", "eds:c0", "rds:r=c0"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.subscribe(Endpoint, "c0")
		p.subscribe(Route, "r")
		for n := range 2 * urgentRoom { // until the clusters have no room
			r.Publish("v", snap("cds:c0", "eds:c0", fmt.Sprintf("cds:more%d", n), "rds:r=c0"), Urgent)
			synctest.Wait()
		}
		r.Publish("v", snap("cds:new", "eds:new", "rds:r=new"), Urgent)
		has := map[string]bool{}
		for _, g := range p.drain() {
			for _, name := range g.Names {
				has[name] = has[name] || g.Type == Cluster
			}
			if g.Type == Route && !has[g.Header[1:]] {
				t.Fatalf("the route names %q, and only %v came", g.Header[1:], has)
			}
		}
	})
}

func TestUrgentIsBounded(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1})
		r.Publish("v", snap("rds:r"), Routine)
		p := open(r, node("p"))
		p.subscribe(Route, "r")
		p.accept("RDS +r")
		variant := ""
		for range 20 {
			variant += "x"
			r.Publish("v", snap("rds:r="+variant), Urgent)
		}
		all := p.drain()
		if len(all) > urgentRoom {
			t.Fatal(len(all))
		}
		p.ack(all[len(all)-1])
		last := append(all, p.drain()...)
		if p.transport == Delta && last[len(last)-1].Versions["r"] != res("rds:r="+variant).Version() {
			t.Error("not the newest")
		}
	})
}

func TestANonReaderBlocksNobodyAndIsClosed(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Debounce: -1, AckTimeout: 10 * time.Second})
		big := make([]byte, 4<<20)
		for i := range big {
			big[i] = 'x'
		}
		r.Publish("v", snap("static:a="+string(big), "lds:l="+string(big)), Routine)
		r.layer(layerOf(0, nil))
		stuck := make([]discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, 8)
		for i := range stuck { // never read: more of them than there are pushers
			stuck[i] = must(discoveryv3.NewAggregatedDiscoveryServiceClient(r.conn).DeltaAggregatedResources(t.Context()))
			for _, typ := range []Type{Cluster, Listener, Runtime} {
				req := &discoveryv3.DeltaDiscoveryRequest{Node: node("stuck"), TypeUrl: typ.URL()}
				if typ == Runtime {
					req.ResourceNamesSubscribe = []string{"aviary"}
				}
				if err := stuck[i].Send(req); err != nil {
					t.Fatal(err)
				}
			}
		}
		p := open(r, node("p"))
		p.subscribe(Runtime, "aviary")
		p.accept("RTDS +aviary")
		r.layer(layerOf(0, map[string]any{"k": 1}))
		p.accept("RTDS +aviary")
		time.Sleep(11 * time.Second)
		if s := r.Stats(); s.Closed != 8 || s.Streams != 1 {
			t.Errorf("%+v", s)
		}
	})
}
