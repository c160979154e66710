package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// places is a short form of localities: "0 us/a v2 ×2 w5000".
func places(all []traffic.Locality) []string {
	var out []string
	for _, l := range all {
		text := fmt.Sprintf("%d %s/%s", l.Priority, l.Region, l.Zone)
		if l.Version != "" {
			text += " " + l.Version
		}
		text += fmt.Sprintf(" ×%d", len(l.Endpoints))
		if l.Weight != 0 {
			text += fmt.Sprintf(" w%d", l.Weight)
		}
		out = append(out, text)
	}
	return out
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestFailoverIsStableElsewhere(t *testing.T) {
	set := newSet([]string{"eu", "EU", "ap", "us", "sa"}, []string{"us", "US", "eu"}, []string{"ap", "AP"}, []string{"sa", "BR"})
	s := add(set, "shop", "eu", "us", "ap", "sa")
	s.Residency = []string{"AP", "EU", "US"}
	for i := range s.Versions { // as documents must have it
		s.Versions[i].Placements = slices.DeleteFunc(s.Versions[i].Placements, func(p spec.Placement) bool { return p.Region == "sa" })
	}
	state := in(in(rollOut(set, "shop", "eu", "us", "ap"), "us", promoted), "eu", progressing(500))
	c := still(set, state)
	c.meter.resume(map[string]map[string]float64{"eu": {"shop": 1000}, "ap": {"shop": 700}, "us": {"shop": 100}}, now)
	c.room = map[site]uint32{}
	c.admit(now)

	eu := intentOf(planRegion(c.facts(), "eu"), "shop")
	// ap has 300 to spare for 1000, us 900; the last 20 % fit there with more to spare.
	equal(t, "failover of eu", places(eu.Failover.Localities), []string{"0 ap/a ×2 w3000", "0 us/a v2 ×2 w7000"})
	if eu.Failover.Admit != 10_000 || eu.Failover.Shed != 0 {
		t.Errorf("eu admits %d and sheds %d", eu.Failover.Admit, eu.Failover.Shed)
	}
	equal(t, "stable of eu", places(eu.Stable.Localities), []string{"0 eu/a ×2"})
	equal(t, "canary of eu", places(eu.Canary.Localities), []string{"0 eu/a ×2"})
	us := intentOf(planRegion(c.facts(), "us"), "shop")
	// eu has nothing to spare.
	if us.Stable.Version != "v2" || us.Failover == nil || us.Failover.Admit != 0 || len(us.Failover.Localities) != 0 {
		t.Errorf("failover of us: %+v", us.Failover)
	}
	if f := intentOf(planRegion(c.facts(), "ap"), "shop").Failover; f != nil {
		t.Errorf("ap has no failover order: %+v", f)
	}
	sa := intentOf(planRegion(c.facts(), "sa"), "shop")
	if len(sa.Stable.Localities) != 0 {
		t.Errorf("a region that the service may not be in: %+v", sa.Stable)
	}
}

func TestANeighbourWithoutCapacityTakesNothing(t *testing.T) {
	set := newSet([]string{"eu", "", "us", "ap"}, []string{"us", ""}, []string{"ap", ""})
	s := add(set, "shop", "eu", "us", "ap")
	s.Versions[0].Placements[1].Capacity = 0
	c := still(set)
	f := intentOf(planRegion(c.facts(), "eu"), "shop").Failover
	equal(t, "failover", places(f.Localities), []string{"0 ap/a ×2 w10000"})
	s.Versions[0].Placements[2].Capacity = 0
	if f := intentOf(planRegion(still(set).facts(), "eu"), "shop").Failover; f != nil {
		t.Errorf("nobody says what it carries: %+v", f)
	}
}

func TestNeighboursThatAreNotNeededFollow(t *testing.T) {
	set := newSet([]string{"eu", "", "us", "ap", "sa"}, []string{"us", ""}, []string{"ap", ""}, []string{"sa", ""})
	add(set, "shop", "eu", "us", "ap", "sa")
	c := still(set)
	f := intentOf(planRegion(c.facts(), "eu"), "shop").Failover
	equal(t, "failover", places(f.Localities), []string{"0 us/a ×2 w10000", "1 ap/a ×2", "2 sa/a ×2"})
}

func TestASharedNeighbourIsSharedByRates(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"ap", "", "us"}, []string{"us", ""})
	add(set, "shop", "eu", "us", "ap")
	c := still(set)
	c.meter.resume(map[string]map[string]float64{"eu": {"shop": 300}, "ap": {"shop": 900}, "us": {"shop": 400}}, now)
	c.admit(now)
	for _, region := range []string{"eu", "ap"} {
		if f := intentOf(planRegion(c.facts(), region), "shop").Failover; f.Admit != 5000 {
			t.Errorf("%s admits %d of the half that us has room for", region, f.Admit)
		}
	}
}

func TestARegionThatIsOutOrNeedsReliefHasNoRoom(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""})
	s := add(set, "shop", "eu", "us")
	s.Relief = &spec.Relief{Pending: 1, Until: time.Minute, Tighten: spec.Whole}
	c := still(set)
	admit := func() uint32 {
		c.admit(now)
		return intentOf(planRegion(c.facts(), "eu"), "shop").Failover.Admit
	}
	if got := admit(); got != 10_000 {
		t.Fatalf("before: %d", got)
	}
	c.relief[site{"us", "shop"}] = relief.State{Active: true}
	if got := admit(); got != 0 {
		t.Errorf("in relief: %d", got)
	}
	c.relief = map[site]relief.State{}
	c.meter.at(site{"us", "shop"}).knowing, c.meter.at(site{"us", "shop"}).without = 2, 2
	if got := admit(); got != 0 {
		t.Errorf("out: %d", got)
	}
	c.meter.at(site{"us", "shop"}).without = 1
	if got := admit(); got != 10_000 {
		t.Errorf("back: %d", got)
	}
}

func TestReliefTightensAndSheds(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""})
	s := add(set, "shop", "eu", "us")
	s.Limits = spec.Limits{Requests: 100, Retries: 10}
	s.Relief = &spec.Relief{Pending: 1, Tighten: 5000, Shed: 2000}
	c := still(set, in(rollOut(set, "shop", "eu"), "eu", progressing(5000)))
	c.relief[site{"eu", "shop"}] = relief.State{Active: true}
	eu, us := intentOf(planRegion(c.facts(), "eu"), "shop"), intentOf(planRegion(c.facts(), "us"), "shop")
	declared := traffic.Limits{Requests: 100, Retries: 10}
	equal(t, "limits of the canary in eu", eu.Limits, declared)
	equal(t, "limits of stable in eu", eu.Tight, &traffic.Limits{Connections: 512, Pending: 512, Requests: 50, Retries: 5})
	equal(t, "limits in us", us.Limits, declared)
	equal(t, "limits of stable in us", us.Tight, (*traffic.Limits)(nil))
	// A fifth of the half that stable has.
	if eu.Failover.Shed != 1000 || eu.Failover.Admit != 10_000 {
		t.Errorf("eu sheds %d and admits %d", eu.Failover.Shed, eu.Failover.Admit)
	}
	c.room[site{"us", "shop"}] = 1000
	if f := intentOf(planRegion(c.facts(), "eu"), "shop").Failover; f.Shed != 500 || f.Admit != 0 {
		t.Errorf("with room for a tenth eu sheds %d and admits %d", f.Shed, f.Admit)
	}
	s.Relief.Tighten = spec.Whole
	if in := intentOf(planRegion(c.facts(), "eu"), "shop"); in.Tight != nil {
		t.Errorf("limits that stay are cut to %+v", in.Tight)
	}
}

func TestZonesAndNames(t *testing.T) {
	set := newSet([]string{"eu", "EU"}, []string{"us", "US", "eu"})
	s := add(set, "shop", "eu")
	s.NearestZone, s.Residency = true, []string{"EU", "XX"}
	set.Regions["eu"].Networks = []netip.Prefix{networkOf("eu")}
	other := add(set, "other", "us")
	there := netip.MustParseAddr(other.Versions[0].Placements[0].Endpoints[0].Host)
	place := &s.Versions[0].Placements[0]
	place.Weights = map[string]uint32{"b": 7}
	place.Endpoints = []spec.Endpoint{
		{Zone: "a", Host: "10.1.9.9", Port: 80},
		{Zone: "a", Host: "shop.eu.example", Port: 80, Name: true},
		{Zone: "b", Host: "shop.eu.example", Port: 80, Name: true},
		{Zone: "b", Host: "never.example", Port: 80, Name: true},
	}
	c := still(set)
	equal(t, "before", places(intentOf(planRegion(c.facts(), "eu"), "shop").Stable.Localities), []string{"0 eu/a ×1 w1"})
	// One of the name's addresses is declared as well.
	good := []netip.Addr{netip.MustParseAddr("10.1.9.8"), netip.MustParseAddr("10.1.9.9")}
	c.resolved(map[string][]netip.Addr{"shop.eu.example": good})
	shop := intentOf(planRegion(c.facts(), "eu"), "shop")
	equal(t, "resolved", places(shop.Stable.Localities), []string{"0 eu/a ×2 w2", "0 eu/b ×2 w7"})
	if !shop.NearestZone || shop.Stable.Localities[0].Endpoints[0] != (traffic.Endpoint{Host: "10.1.9.8", Port: 80}) {
		t.Errorf("got %+v", shop)
	}
	// An answer that crosses a line is refused whole: what was known before is better than a part of it.
	for what, bad := range map[string]netip.Addr{"outside of the region": netip.MustParseAddr("192.0.2.1"), "known to be in another": there} {
		c.resolved(map[string][]netip.Addr{"shop.eu.example": append(slices.Clone(good), bad)})
		equal(t, what, places(intentOf(planRegion(c.facts(), "eu"), "shop").Stable.Localities), []string{"0 eu/a ×2 w2", "0 eu/b ×2 w7"})
		if names := c.serviceState(c.facts(), s, "eu", now).Names; len(names) != 2 || len(names[1].Addresses) != 2 || !strings.Contains(names[1].Error, bad.String()) {
			t.Errorf("%s: %v", what, names)
		}
	}
	// Documents that allow it let it in without another answer.
	c.resolved(map[string][]netip.Addr{"shop.eu.example": append(slices.Clone(good), netip.MustParseAddr("192.0.2.1"))})
	set.Regions["eu"].Networks = nil
	c.use(declared{set, 2})
	equal(t, "allowed", places(intentOf(planRegion(c.facts(), "eu"), "shop").Stable.Localities), []string{"0 eu/a ×3 w3", "0 eu/b ×3 w7"})
	if names := c.serviceState(c.facts(), s, "eu", now).Names; len(names[1].Addresses) != 3 || names[1].Error != "" {
		t.Errorf("allowed: %v", names)
	}
	// No host has them, whatever the documents allow: a DNS server answers so for a name that it blocks.
	for _, bad := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "239.0.0.1", "ff02::1"} {
		c.resolved(map[string][]netip.Addr{"shop.eu.example": {netip.MustParseAddr(bad)}})
		equal(t, bad, places(intentOf(planRegion(c.facts(), "eu"), "shop").Stable.Localities), []string{"0 eu/a ×3 w3", "0 eu/b ×3 w7"})
	}
	if n := c.facts().endpoints(s, "v1", "eu"); n != 6 {
		t.Errorf("%d endpoints", n)
	}
	if n := c.facts().endpoints(other, "v1", "us"); n != 0 {
		t.Errorf("%d endpoints of a version without names", n)
	}
}

func TestZonesOfANeighbourShareItsPart(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""})
	s := add(set, "shop", "eu", "us")
	us := &s.Versions[0].Placements[1]
	us.Endpoints[1].Zone = "b"
	us.Weights = map[string]uint32{"a": 3}
	c := still(set)
	c.meter.resume(map[string]map[string]float64{"eu": {"shop": 2000}}, now)
	c.admit(now)
	f := intentOf(planRegion(c.facts(), "eu"), "shop").Failover
	equal(t, "failover", places(f.Localities), []string{"0 us/a ×1 w3750", "0 us/b ×1 w1250"})
	if f.Admit != 5000 {
		t.Errorf("admits %d", f.Admit)
	}
}

func TestShadowIsOfTheStageAlone(t *testing.T) {
	set := newSet([]string{"eu", ""}, []string{"us", ""})
	s := add(set, "shop", "eu", "us")
	state := in(rollOut(set, "shop", "eu", "us"), "eu", shadowing(2500))
	shop := func() traffic.Intent { return intentOf(planRegion(still(set, state).facts(), "eu"), "shop") }
	if in := shop(); in.Shadow != 0 || in.ShadowMethods != nil {
		t.Errorf("a policy without the stage: %+v", in)
	}
	set.Policies["careful"].Shadow = &spec.Shadow{Share: 2500, Hold: time.Minute, MinTries: 1}
	if in := shop(); in.Shadow != 2500 || in.Weight != 0 || !slices.Equal(in.ShadowMethods, []string{"GET"}) || !slices.Equal(in.StripHeaders, []string{"cookie"}) {
		t.Errorf("in the stage: %+v", in)
	}
	s.Mirror.Methods = nil
	if in := shop(); in.Shadow != 0 {
		t.Errorf("nothing may be copied: %+v", in)
	}
	s.Mirror.Methods = []string{"GET"}
	state = in(state, "eu", progressing(500))
	if in := shop(); in.Shadow != 0 || in.Weight != 500 || in.ShadowMethods == nil {
		t.Errorf("after it: %+v", in)
	}
}

func TestCharter(t *testing.T) {
	set := newSet([]string{"eu", "EU"}, []string{"us", "US"}, []string{"ap", ""})
	set.Regions["eu"].Networks = []netip.Prefix{networkOf("eu")}
	s := add(set, "shop", "eu")
	s.Residency = []string{"EU"}
	other := add(set, "other", "eu", "us", "ap")
	other.Versions[0].Placements[1].Endpoints[0].Name, other.Versions[0].Placements[1].Endpoints[0].Host = true, "us.example"
	c := still(set)
	eu, us := charter(c.facts(), "eu"), charter(c.facts(), "us")
	if b := eu["shop"]; b.Closed || !slices.Equal(b.Own, set.Regions["eu"].Networks) || len(b.Others) != 0 {
		t.Errorf("shop in eu: %+v", b)
	}
	if b := us["shop"]; !b.Closed || len(b.Others) != 1 || b.Others["eu"] == nil {
		t.Errorf("shop in us: %+v", b)
	}
	if b := eu["other"]; b.Closed || b.Forbidden != nil || !slices.Equal(slices.Sorted(maps.Keys(b.Others)), []string{"ap", "us"}) {
		t.Errorf("other in eu: %+v", b)
	}
	forbidden := eu["shop"].Forbidden
	if forbidden[netip.MustParseAddrPort("10.2.1.11:80")] != "us" || forbidden[netip.MustParseAddrPort("10.3.1.10:80")] != "ap" || len(forbidden) != 7 {
		t.Errorf("shop may not reach %v", forbidden)
	}
}

func TestAPromotionLeavesAnEndpoint(t *testing.T) {
	set := newSet([]string{"eu", ""}, []string{"us", ""})
	add(set, "shop", "eu", "us")
	state := in(rollOut(set, "shop", "eu", "us"), "eu", promoted)
	least := func(region string) int { return charter(still(set, state).facts(), region)["shop"].MinEndpoints }
	if eu, us := least("eu"), least("us"); eu != 1 || us != 0 {
		t.Errorf("with a promotion %d, without %d", eu, us)
	}
	state = in(state, "eu", func(r *rollout.Region) {
		r.Phase, r.Stable, r.StableSince = rollout.RolledBack, r.Previous, now.Add(1)
	})
	if got := least("eu"); got != 0 {
		t.Errorf("after a rollback: %d", got)
	}
}
