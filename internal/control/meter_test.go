package control

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func everything(string) bool { return true }

// tried is an arm of the service shop with tries that were answered.
func tried(version, region string, n uint64) signal.Arm {
	return signal.Arm{
		Service: "shop", Version: version, Region: region,
		Outcomes: []signal.Outcome{{Class: signal.Class{Status: 200, GRPC: -1}, Tries: n}},
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.02*math.Abs(want) }

func TestTheRateIsOfTheCallers(t *testing.T) {
	m := newMeter()
	eu, us := site{"eu", "shop"}, site{"us", "shop"}
	if r := m.perSecond(eu, now); r >= 0 {
		t.Errorf("nobody asked: %v", r)
	}
	copies := tried("v2", "", 1000)
	copies.Shadow = true
	refused := tried("v1", "", 1)
	refused.Overflows, refused.ConnectFailures, refused.Ejections = 2, 3, 4
	at := now
	for range 90 {
		at = at.Add(time.Second)
		for proxy := range 2 {
			m.take(signal.Flush{Proxy: fmt.Sprint(proxy), Region: "eu", Arms: []signal.Arm{refused, tried("v1", "us", 5), tried("v2", "", 10), copies}}, everything, at)
		}
	}
	if r := m.perSecond(eu, at); !near(r, 50) {
		t.Errorf("%v requests a second in eu", r)
	}
	if r := m.perSecond(us, at); r >= 0 {
		t.Errorf("%v requests a second in us, where nobody calls", r)
	}
	if r := m.perSecond(eu, at.Add(30*time.Second)); !near(r, 25) {
		t.Errorf("%v requests a second after half a minute of none", r)
	}
}

// What fails for want of an endpoint is tried by nobody: what is tried elsewhere stands for it.
func TestTheDemandOutlivesTheEndpoints(t *testing.T) {
	m := newMeter()
	shop := site{"eu", "shop"}
	plan := func(admit uint32) {
		m.leans(traffic.Plan{Region: "eu", Intents: []traffic.Intent{{
			Service: "shop", Stable: traffic.Arm{Version: "v1", Localities: []traffic.Locality{{}}},
			Weight: 1000, Failover: &traffic.Failover{Admit: admit},
		}}})
	}
	at := now
	pass := func(seconds int, healthy uint64, here, elsewhere, canary uint64) {
		for range seconds {
			at = at.Add(time.Second)
			own := tried("v1", "", here)
			own.Endpoints, own.Healthy = 2, healthy
			m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{own, tried("v1", "us", elsewhere), tried("v2", "", canary)}}, everything, at)
			m.demand(shop, at)
		}
	}
	plan(5000)
	pass(90, 2, 900, 0, 100)
	if d := m.demand(shop, at); !near(d, 1000) || m.out(shop) {
		t.Fatalf("before: %v, out %v", d, m.out(shop))
	}
	pass(90, 0, 0, 450, 100)
	if d := m.demand(shop, at); !near(d, 1000) || !m.out(shop) {
		t.Errorf("half of stable's fail: %v, out %v", d, m.out(shop))
	}
	plan(0)
	pass(90, 0, 0, 0, 0)
	if d := m.demand(shop, at); !near(d, 1000) {
		t.Errorf("all fail: %v", d)
	}
	plan(5000)
	pass(90, 2, 300, 0, 0)
	if d := m.demand(shop, at); !near(d, 300) || m.out(shop) {
		t.Errorf("after: %v, out %v", d, m.out(shop))
	}
}

func TestGaugesAreOfTheNewestFlushes(t *testing.T) {
	m := newMeter()
	flush := func(proxy string, pending, progress uint64, at time.Time) {
		own := signal.Arm{Service: "shop", Version: "v1", Pending: pending, InProgress: progress}
		elsewhere, copies := own, own
		elsewhere.Region, copies.Shadow = "us", true
		m.take(signal.Flush{Proxy: proxy, Region: "eu", Arms: []signal.Arm{own, copies, elsewhere}}, everything, at)
	}
	want := func(what string, pending, progress uint64, at time.Time) {
		t.Helper()
		m.sweep(func(site) bool { return true }, at)
		if got := m.sample(site{"eu", "shop"}, at); got != (relief.Sample{Pending: pending, InProgress: progress}) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	flush("p1", 5, 7, now)
	flush("p2", 1, 2, now.Add(5*time.Second))
	want("two proxies", 6, 9, now.Add(5*time.Second))
	flush("p2", 0, 4, now.Add(6*time.Second))
	want("a newer flush", 5, 11, now.Add(10*time.Second))
	want("p1 is silent", 0, 4, now.Add(11*time.Second))
	m.take(signal.Flush{Proxy: "p2", Region: "eu"}, everything, now.Add(12*time.Second))
	want("it does not speak of it any more", 0, 0, now.Add(12*time.Second))
}

func TestOverflowsAreARate(t *testing.T) {
	m := newMeter()
	at := now.Add(500 * time.Millisecond)
	for range 5 {
		at = at.Add(time.Second)
		m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{{Service: "shop", Overflows: 10}}}, everything, at)
	}
	if got := m.sample(site{"eu", "shop"}, at).Overflows; got != 12 { // three flushes in two seconds and a half
		t.Errorf("%v a second", got)
	}
	if got := m.sample(site{"eu", "shop"}, at.Add(3*time.Second)).Overflows; got != 0 {
		t.Errorf("%v a second after three without", got)
	}
}

// The limit of requests is met at an endpoint: what it refuses has an outcome, and is one request.
func TestRefusalsByTheLimitOfRequestsAreOverflows(t *testing.T) {
	refused := func(region, flags string, shadow bool) signal.Arm {
		return signal.Arm{Service: "shop", Version: "v1", Region: region, Shadow: shadow,
			Outcomes: []signal.Outcome{{Class: signal.Class{Status: 503, GRPC: -1, Flags: flags}, Tries: 10}}}
	}
	for _, c := range []struct {
		name string
		arm  signal.Arm
		want float64
	}{
		{"the flag alone", refused("", "UO", false), 5},
		{"among others", refused("", "URX,UO", false), 5},
		{"another one", refused("", "UOX", false), 0},
		{"in another region", refused("us", "UO", false), 0},
		{"a copy", refused("", "UO", true), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMeter()
			m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{c.arm}}, everything, now)
			if got := m.sample(site{"eu", "shop"}, now).Overflows; got != c.want {
				t.Errorf("%v a second, want %v", got, c.want)
			}
		})
	}
	if n := tries(refused("", "UO", false)); n != 10 {
		t.Errorf("%d tries", n)
	}
}

func TestWhatIsNotDeclaredIsNotMeasured(t *testing.T) {
	m := newMeter()
	m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{tried("v1", "", 1)}}, func(s string) bool { return s != "shop" }, now)
	if len(m.sites) != 0 {
		t.Errorf("kept %v", m.sites)
	}
	m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{tried("v1", "", 1)}}, everything, now)
	m.sweep(func(site) bool { return false }, now)
	if len(m.sites) != 0 {
		t.Errorf("kept %v", m.sites)
	}
}

func TestRatesAreHandedOver(t *testing.T) {
	m, next := newMeter(), newMeter()
	at := now
	for range 90 {
		at = at.Add(time.Second)
		m.take(signal.Flush{Proxy: "p", Region: "eu", Arms: []signal.Arm{tried("v1", "", 7)}}, everything, at)
	}
	next.resume(m.rates(at), at)
	if got := next.perSecond(site{"eu", "shop"}, at); !near(got, 7) {
		t.Errorf("%v a second after the hand-over", got)
	}
}

// However flushes come and proxies go, the sums are those of the newest flushes.
func TestGaugesNeverDrift(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMeter()
		type one struct {
			pending uint64
			at      time.Time
		}
		newest := map[string]one{}
		at := now
		for range rapid.IntRange(1, 40).Draw(t, "flushes") {
			at = at.Add(time.Duration(rapid.IntRange(0, 6).Draw(t, "seconds")) * time.Second)
			proxy, n := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "proxy")), rapid.Uint64Range(0, 9).Draw(t, "pending")
			m.take(signal.Flush{Proxy: proxy, Region: "eu", Arms: []signal.Arm{{Service: "shop", Pending: n}}}, everything, at)
			newest[proxy] = one{n, at}
			m.sweep(func(site) bool { return true }, at)
			var want uint64
			for _, o := range newest {
				if at.Sub(o.at) <= silentAfter {
					want += o.pending
				}
			}
			if got := m.sample(site{"eu", "shop"}, at).Pending; got != want {
				t.Fatalf("%d wait, want %d", got, want)
			}
		}
	})
}
