package ads

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

const ttl = 10 * time.Second

// leased brings up a proxy that holds a live lease since now.
func leased(t *testing.T, open opener, cfg Config) (*rig, *peer, got) {
	t.Helper()
	r := newRig(t, cfg)
	r.layer(layerOf(ttl, map[string]any{"w.canary": 500, "w.stable": 9500}))
	p := open(r, node("p"))
	p.subscribe(Runtime, "aviary")
	safe := p.accept("RTDS +aviary")[0]
	if len(safe.Layer.GetFields()) != 0 || len(safe.TTL) != 0 {
		t.Fatal("a proxy that nobody vouched for was given", safe.Layer, safe.TTL)
	}
	if s := r.status("p"); s.Lease != LeaseNone || s.Effective != nil {
		t.Errorf("%+v", s)
	}
	time.Sleep(time.Second)
	r.Renew("p")
	live := p.accept("RTDS +aviary")[0]
	if live.Layer.GetFields()["w.canary"].GetNumberValue() != 500 || live.TTL["aviary"] != ttl || live.Version == safe.Version {
		t.Fatalf("%+v", live)
	}
	s := r.status("p")
	if s.Lease != LeaseHeld || time.Until(s.LeaseUntil) != ttl || s.Effective.GetFields()["w.stable"].GetNumberValue() != 9500 {
		t.Errorf("%+v", s)
	}
	return r, p, live
}

func TestHeartbeats(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		for range 5 {
			time.Sleep(ttl/4 - time.Millisecond)
			r.Renew("p")
			p.expect() // renewed a moment too early to be worth a heartbeat
			time.Sleep(time.Millisecond)
			r.Renew("p")
			beat := p.accept(p.either("RTDS + ~aviary", "RTDS +aviary"))[0]
			if beat.Version != live.Version || beat.TTL["aviary"] != ttl {
				t.Fatalf("%+v", beat)
			}
		}
		if s := r.Stats(); s.Heartbeats != 5 || s.Lapses != 0 || s.Leased != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLapse(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		time.Sleep(ttl - time.Millisecond)
		if s := r.status("p"); s.Lease != LeaseHeld || s.Effective == nil {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Millisecond)
		p.expect() // the sidecar drops the layer itself
		if s := r.status("p"); s.Lease != LeaseLapsed || s.Effective != nil {
			t.Errorf("%+v", s)
		}
		if s := r.Stats(); s.Lapses != 1 || s.Leased != 0 {
			t.Errorf("%+v", s)
		}
		r.Renew("p")
		again := p.accept("RTDS +aviary")[0]
		if again.Version == live.Version || again.TTL["aviary"] != ttl {
			t.Errorf("%+v", again)
		}
		if s := r.status("p"); s.Lease != LeaseHeld || s.Effective == nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestARenewalNearTheEndSendsTheBody(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		time.Sleep(ttl - 100*time.Millisecond) // a heartbeat might come too late
		r.Renew("p")
		if g := p.accept("RTDS +aviary")[0]; g.Version == live.Version || g.TTL["aviary"] != ttl {
			t.Errorf("%+v", g)
		}
		if n := r.Stats().Lapses; n != 0 {
			t.Error(n)
		}
	})
}

func TestALateHeartbeatIsRefusedAndTheBodyFollows(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		time.Sleep(ttl / 2)
		r.Renew("p")
		p.nack(p.expect(p.either("RTDS + ~aviary", "RTDS +aviary"))[0], "type URL embedded in an individual Any does not match")
		if g := p.accept("RTDS +aviary")[0]; g.Version == live.Version {
			t.Error("the old version")
		}
		p.expect()
		if s := r.status("p"); s.Lease != LeaseHeld || s.Types[Runtime].State != Synced || r.Stats().Lapses != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPublishingDoesNotProlongALease(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		time.Sleep(4 * time.Second)
		r.layer(layerOf(ttl, map[string]any{"w.canary": 1000}))
		g := p.accept("RTDS +aviary")[0]
		if g.Version == live.Version || g.TTL["aviary"] != 6*time.Second || g.Layer.GetFields()["w.canary"].GetNumberValue() != 1000 {
			t.Errorf("%+v", g)
		}
		r.layer(layerOf(ttl, map[string]any{"w.canary": 1000}))
		p.expect() // the same layer is no news
		time.Sleep(6 * time.Second)
		if s := r.status("p"); s.Lease != LeaseLapsed || s.Effective != nil {
			t.Errorf("%+v", s)
		}
		r.layer(layerOf(ttl, map[string]any{"w.canary": 2000}))
		if g := p.accept("RTDS +aviary")[0]; len(g.Layer.GetFields()) != 0 || len(g.TTL) != 0 {
			t.Errorf("a lapsed proxy was given %+v", g)
		}
		r.layer(layerOf(ttl, map[string]any{"w.canary": 3000}))
		p.expect() // empty it is and stays
		if s := r.status("p"); s.Types[Runtime].State != Synced || s.Lease != LeaseLapsed || r.Stats().KillPending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWithoutALease(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, _ := leased(t, open, Config{})
		r.layer(layerOf(0, map[string]any{"w.canary": 0}))
		if g := p.accept("RTDS +aviary")[0]; len(g.TTL) != 0 || len(g.Layer.GetFields()) != 1 {
			t.Errorf("%+v", g)
		}
		for range 100 {
			time.Sleep(time.Second)
			r.Renew("p")
		}
		p.expect()
		if s := r.status("p"); s.Lease != LeaseNone || s.Effective == nil || r.Stats().Lapses != 0 {
			t.Errorf("%+v", s)
		}
		q := open(r, node("q")) // nobody vouched for it, and nobody needs to
		q.subscribe(Runtime, "aviary")
		if g := q.accept("RTDS +aviary")[0]; len(g.Layer.GetFields()) != 1 {
			t.Errorf("%+v", g)
		}
	})
}

func TestReconnectOfALeasedProxy(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, live := leased(t, open, Config{})
		time.Sleep(3 * time.Second)
		p.cancel()
		q := open(r, node("p"))
		q.request(Runtime, []string{"aviary"}, nil, map[string]string{"aviary": live.Version})
		if g := q.accept("RTDS +aviary")[0]; g.Version == live.Version || g.TTL["aviary"] != 7*time.Second {
			t.Errorf("%+v", g)
		}
		time.Sleep(7 * time.Second)
		q.cancel()
		late := open(r, node("p")) // its renewal is too old
		late.subscribe(Runtime, "aviary")
		if g := late.accept("RTDS +aviary")[0]; len(g.Layer.GetFields()) != 0 {
			t.Errorf("%+v", g)
		}
	})
}

func TestReconnectKeepsALayerThatIsForGood(t *testing.T) {
	in(t, func(t *testing.T) {
		r := newRig(t, Config{})
		r.layer(layerOf(0, map[string]any{"k": 1}))
		p := r.dial(Delta, node("p"))
		p.subscribe(Runtime, "aviary")
		g := p.accept("RTDS +aviary")[0]
		q := r.dial(Delta, node("q"))
		q.request(Runtime, []string{"aviary"}, nil, map[string]string{"aviary": g.Version, "other": "1"})
		q.expect()
		if s := r.status("q"); s.Types[Runtime].State != Synced || s.Effective == nil {
			t.Errorf("%+v", s)
		}
		r.layer(layerOf(0, map[string]any{"k": 2}))
		q.accept("RTDS +aviary")
	})
}

func TestRestore(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Identify: byNode, Linger: time.Minute})
		r.Restore(map[string]time.Time{"p": time.Now().Add(-time.Second), "gone": time.Now().Add(-ttl)})
		r.layer(layerOf(ttl, map[string]any{"w.canary": 500}))
		for _, c := range []struct {
			name string
			left time.Duration
		}{
			{"p", ttl - time.Second}, // what was left of it, and no more
			{"gone", 0},
			{"another", 0},
		} {
			p := open(r, node(c.name))
			p.subscribe(Runtime, "aviary")
			g := p.accept("RTDS +aviary")[0]
			if live := len(g.Layer.GetFields()) > 0; live != (c.left > 0) || g.TTL["aviary"] != c.left {
				t.Errorf("%s: %+v", c.name, g)
			}
		}
	})
}

// After a restart a proxy's flushes are back before its stream, which then must not be given an empty layer first.
func TestARenewalBeforeTheStream(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Identify: byNode, Linger: time.Minute})
		r.layer(layerOf(ttl, map[string]any{"w.canary": 500}))
		r.Renew("p", "nobody")
		time.Sleep(time.Second)
		p := open(r, node("p"))
		p.subscribe(Runtime, "aviary")
		g := p.accept("RTDS +aviary")[0]
		if g.Layer.GetFields()["w.canary"].GetNumberValue() != 500 || g.TTL["aviary"] != ttl-time.Second {
			t.Errorf("%+v", g)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.proxies["nobody"] != nil || r.proxies["p"] == nil {
			t.Errorf("remembered %v", r.proxies)
		}
	})
}

func TestAProxyWithoutTheLayerIsNeverLeased(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{Identify: func(context.Context, *corev3.Node) (Client, error) { return Client{Proxy: "p", View: "v"}, nil }})
		r.layer(layerOf(ttl, map[string]any{"k": 1}))
		p := open(r, node("p"))
		p.subscribe(Runtime, "aviary")
		p.accept("RTDS +aviary")
		r.Renew("p")
		p.expect()
	})
}

func TestARefusedLayerIsParked(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, _ := leased(t, open, Config{})
		r.layer(layerOf(ttl, map[string]any{"bad": 1}))
		p.nack(p.expect("RTDS +aviary")[0], "bad layer")
		for range 9 {
			time.Sleep(time.Second)
			r.Renew("p")
		}
		p.expect() // neither the body nor heartbeats of what it does not have
		s := r.status("p")
		if s.Types[Runtime].State != Nacked || s.Types[Runtime].Nack != "bad layer" || s.Effective.GetFields()["w.canary"] == nil {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second) // so what it has of old runs out
		if s := r.status("p"); s.Lease != LeaseLapsed || s.Effective != nil {
			t.Errorf("%+v", s)
		}
		r.layer(layerOf(ttl, map[string]any{"good": 1}))
		p.accept("RTDS +aviary")
		if s := r.status("p"); s.Types[Runtime].State != Synced || s.Lease != LeaseHeld {
			t.Errorf("%+v", s)
		}
	})
}

func TestOtherLayersDoNotExist(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.layer(layerOf(0, map[string]any{"k": 1}))
		p := open(r, node("p"))
		p.subscribe(Runtime, "other")
		p.accept(p.either("RTDS + -other", "RTDS +"))
		p.subscribe(Runtime, "aviary", "third")
		p.accept(p.either("RTDS +aviary -third", "RTDS +aviary"))
		l := layerOf(0, nil)
		l.Name = "other"
		r.layer(l)
		p.accept(p.either("RTDS +other -aviary", "RTDS +other"))
	})
}

func TestTheKillGoesFirst(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, _ := leased(t, open, Config{Debounce: -1})
		r.Publish("v", snap("static:a=1", "rds:r=1"), Routine)
		p.subscribe(Cluster)
		p.accept("CDS +a")
		p.subscribe(Route, "r")
		p.accept("RDS +r")
		time.Sleep(time.Second)
		// Another weight and clusters are on their way and not answered; the zero passes both.
		r.layer(layerOf(ttl, map[string]any{"w.canary": 1000}))
		r.Publish("v", snap("static:a=22", "rds:r=22"), Routine)
		sent := p.expect("RTDS +aviary", "CDS +a")
		time.Sleep(time.Second)
		r.layer(layerOf(0, map[string]any{"w.canary": 0}))
		zero := p.expect("RTDS +aviary")
		if n := r.Stats().KillPending; n != 1 {
			t.Error(n)
		}
		time.Sleep(3 * time.Millisecond)
		p.ack(sent[0])
		p.ack(zero[0])
		p.expect()
		s := r.Stats()
		if s.KillPending != 0 || s.Kill.Max != 1003*time.Millisecond || s.Kill.Quantile(.5) < 3*time.Millisecond || s.Kill.Quantile(.5) > 4*time.Millisecond {
			t.Errorf("%+v", s.Kill)
		}
	})
}

func TestLayersThatAreRefusedAtOnce(t *testing.T) {
	s := New(Config{Identify: byNode})
	defer s.Close()
	for _, l := range []Layer{{}, {Name: "*"}, {Name: "a", TTL: -1}} {
		if s.PublishLayer("v", l) == nil {
			t.Errorf("%+v", l)
		}
	}
}

func TestAProxyIsForgotten(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r, p, _ := leased(t, open, Config{Linger: time.Minute})
		p.cancel()
		remembered := func() int {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.proxies)
		}
		time.Sleep(59 * time.Second)
		if n := remembered(); n != 1 {
			t.Error(n)
		}
		time.Sleep(2 * time.Second)
		if n := remembered(); n != 0 {
			t.Error(n)
		}
	})
}

func TestEpochsNeverRepeat(t *testing.T) {
	s := New(Config{Identify: byNode})
	defer s.Close()
	last := s.epoch()
	for range 1000 {
		next := s.epoch()
		if next <= last {
			t.Fatal(next, last)
		}
		last = next
	}
}

func TestEncodingIsThatOfTheProtocol(t *testing.T) {
	r := res("eds:a")
	var d discoveryv3.DeltaDiscoveryResponse
	f := deltaFrame(Endpoint, []*Resource{r}, []string{"gone"}, "v", "n")
	if err := proto.Unmarshal(f.bufs.Materialize(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Resources[0].Name != "a" || d.Resources[0].Version != r.Version() || d.RemovedResources[0] != "gone" || d.Nonce != "n" || d.SystemVersionInfo != "v" {
		t.Error(&d)
	}
	var s discoveryv3.DiscoveryResponse
	f = sotwFrame(Endpoint, []*Resource{r}, "v", "n")
	if err := proto.Unmarshal(f.bufs.Materialize(), &s); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(s.Resources[0], d.Resources[0].Resource) || s.VersionInfo != "v" || s.Nonce != "n" || s.TypeUrl != Endpoint.URL() {
		t.Error(&s)
	}
	if len(d.ProtoReflect().GetUnknown())+len(s.ProtoReflect().GetUnknown()) > 0 {
		t.Error("unknown fields")
	}
}
