package control

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

var allRegions = []string{"ap", "eu", "sa", "us"}

// anyWorld is random documents, placements that no document may have among them, with where random rollouts stand, what is
// measured and resolved.
func anyWorld(t *rapid.T) (*Controller, []rollout.State) {
	sometimes := func(label string) bool { return rapid.IntRange(0, 3).Draw(t, label) == 0 }
	often := func(label string) bool { return rapid.Bool().Draw(t, label) }
	var declaredRegions [][]string
	for _, region := range allRegions {
		r := []string{region, rapid.SampledFrom([]string{"", "EU", "US"}).Draw(t, "jurisdiction")}
		for _, other := range rapid.Permutation(allRegions).Draw(t, "failover")[:rapid.IntRange(0, 4).Draw(t, "length")] {
			if other != region {
				r = append(r, other)
			}
		}
		declaredRegions = append(declaredRegions, r)
	}
	set := newSet(declaredRegions...)
	for _, region := range allRegions {
		if often("networks") {
			set.Regions[region].Networks = []netip.Prefix{networkOf(region)}
		}
	}
	if often("shadow") {
		set.Policies["careful"].Shadow = &spec.Shadow{Share: 1000}
	}
	addresses := map[string][]netip.Addr{}
	var states []rollout.State
	rates := map[string]map[string]float64{}
	for i := range rapid.IntRange(1, 3).Draw(t, "services") {
		name := fmt.Sprintf("s%d", i)
		s := add(set, name)
		s.Residency = rapid.SampledFrom([][]string{nil, {"EU"}, {"US"}, {"EU", "US"}}).Draw(t, "residency")
		s.Relief = &spec.Relief{Pending: 1, Tighten: 5000, Shed: spec.Share(rapid.IntRange(0, 10_000).Draw(t, "shed"))}
		var placed []string
		for _, region := range allRegions {
			if !s.MayReach(set.Regions[region]) && often("lawful") || sometimes("not placed") {
				continue
			}
			placed = append(placed, region)
			for v := range s.Versions {
				p := placement(region, float64(rapid.IntRange(0, 4).Draw(t, "capacity"))*500, i, v+1, rapid.IntRange(1, 3).Draw(t, "endpoints"))
				if often("name") {
					host := fmt.Sprintf("%s.%s.%d.example", name, region, v)
					p.Endpoints[0].Name, p.Endpoints[0].Host = true, host
					// Whoever answers for the name may say anything, addresses of other regions too.
					for range rapid.IntRange(0, 4).Draw(t, "addresses") {
						of := rapid.SampledFrom(allRegions).Draw(t, "address of")
						addresses[host] = append(addresses[host], netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", nets[of],
							rapid.IntRange(0, 2).Draw(t, "service"), 10*rapid.IntRange(1, 2).Draw(t, "version"))))
					}
				}
				if sometimes("weights") {
					p.Weights = map[string]uint32{"a": rapid.Uint32Range(1, 10_000).Draw(t, "weight")}
				}
				s.Versions[v].Placements = append(s.Versions[v].Placements, p)
			}
		}
		for _, region := range allRegions {
			if rates[region] == nil {
				rates[region] = map[string]float64{}
			}
			if often("measured") {
				rates[region][name] = float64(rapid.IntRange(0, 3000).Draw(t, "rate"))
			}
		}
		if len(placed) == 0 {
			continue
		}
		state := rollOut(set, name, placed...)
		for _, region := range placed {
			state = in(state, region, anyPhase(t))
		}
		states = append(states, state)
	}
	c := still(set, states...)
	c.addresses = addresses
	c.meter.resume(rates, now)
	for _, region := range allRegions {
		for _, name := range slices.Sorted(maps.Keys(set.Services)) {
			if often("relief") {
				c.relief[site{region, name}] = relief.State{Active: true}
			}
		}
	}
	c.room = map[site]uint32{}
	c.admit(now)
	return c, states
}

func anyPhase(t *rapid.T) func(*rollout.Region) {
	share := spec.Share(rapid.IntRange(1, 10_000).Draw(t, "share"))
	return rapid.SampledFrom([]func(*rollout.Region){
		func(*rollout.Region) {},
		progressing(share),
		shadowing(share),
		promoted,
		func(r *rollout.Region) {
			r.Phase, r.Reason, r.Weight, r.Shadow = rollout.Halted, rollout.CanaryWorse, 0, 0
		},
	}).Draw(t, "phase")
}

func TestPlansKeepToTheLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, states := anyWorld(t)
		f := c.facts()
		plans := map[string]traffic.Plan{}
		for _, region := range allRegions {
			plan, err := tryPlan(f, region)
			if err != nil {
				t.Fatal(err)
			}
			plans[region] = plan
			for _, in := range plan.Intents {
				withinCharter(t, plan, in)
				sums(t, in)
			}
		}
		neverOverrun(t, c, f, plans)
		if len(states) > 0 {
			othersStay(t, c, rapid.SampledFrom(states).Draw(t, "whose"), plans)
		}
	})
}

// withinCharter: no endpoint is where the charter does not have it, and a canary has none but the region's own.
func withinCharter(t *rapid.T, plan traffic.Plan, in traffic.Intent) {
	b, ok := plan.Charter[in.Service]
	if !ok {
		t.Fatalf("%s is not in the charter of %s", in.Service, plan.Region)
	}
	all := in.Stable.Localities
	if in.Failover != nil {
		all = append(slices.Clone(all), in.Failover.Localities...)
	}
	if in.Canary != nil {
		for _, l := range in.Canary.Localities {
			if l.Region != plan.Region {
				t.Fatalf("a canary of %s in %s", plan.Region, l.Region)
			}
		}
		all = append(slices.Clone(all), in.Canary.Localities...)
	}
	for _, l := range all {
		networks, may := b.Others[l.Region]
		if l.Region == plan.Region {
			networks, may = b.Own, !b.Closed
		}
		if !may || len(l.Endpoints) == 0 {
			t.Fatalf("%s in %s has %d endpoints in %s", in.Service, plan.Region, len(l.Endpoints), l.Region)
		}
		for _, e := range l.Endpoints {
			ip := netip.MustParseAddr(e.Host)
			if len(networks) > 0 && !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
				t.Fatalf("%s of %s is outside of %s", e.Host, in.Service, l.Region)
			}
			if where, is := b.Forbidden[netip.AddrPortFrom(ip, uint16(e.Port))]; is {
				t.Fatalf("%s of %s is known to be in %s", e.Host, in.Service, where)
			}
		}
	}
}

// sums: what a split is made of fits into a whole, and there are no copies beside a share.
func sums(t *rapid.T, in traffic.Intent) {
	if in.Weight > 0 && in.Shadow > 0 || in.Canary == nil && in.Weight+in.Shadow > 0 {
		t.Fatalf("weight %d, shadow %d, canary %v", in.Weight, in.Shadow, in.Canary)
	}
	if f := in.Failover; f != nil {
		if in.Weight+f.Shed > traffic.Whole || f.Admit > traffic.Whole {
			t.Fatalf("weight %d, shed %d, admit %d", in.Weight, f.Shed, f.Admit)
		}
		if f.Admit+f.Shed > 0 && (len(f.Localities) == 0 || f.Localities[0].Priority != 0) {
			t.Fatalf("%d admitted, %d shed, to nowhere: %+v", f.Admit, f.Shed, f.Localities)
		}
	}
}

// neverOverrun: if every region that leans on a neighbour had lost its endpoints, what they send there would fit beside the
// neighbour's own requests.
func neverOverrun(t *rapid.T, c *Controller, f *facts, plans map[string]traffic.Plan) {
	for name, s := range f.set.Services {
		landing := map[string]float64{}
		for _, region := range allRegions {
			in := intentOf(plans[region], name)
			if in.Failover == nil {
				continue
			}
			stable := float64(traffic.Whole - in.Weight)
			away := float64(in.Failover.Shed) + math.Floor((stable-float64(in.Failover.Shed))*float64(in.Failover.Admit)/traffic.Whole)
			var sum float64
			for _, l := range in.Failover.Localities {
				if l.Priority == 0 {
					sum += float64(weightOf(l))
				}
			}
			for _, l := range in.Failover.Localities {
				if l.Priority == 0 {
					landing[l.Region] += c.meter.demand(site{region, name}, now) * away / traffic.Whole * float64(weightOf(l)) / sum
				}
			}
		}
		for region, lands := range landing {
			spare := f.stable(s, region).In(region).Capacity - c.meter.demand(site{region, name}, now)
			if lands > max(0, spare)*(1+1e-9)+1e-9 {
				t.Fatalf("%v of %s land in %s, which has %v to spare", lands, name, region, spare)
			}
		}
	}
}

// othersStay: a region's rollout moves no other region's plan, but of those that fail over to where another version is
// stable now.
func othersStay(t *rapid.T, c *Controller, state rollout.State, plans map[string]traffic.Plan) {
	var regions []string
	for region := range state.Regions {
		regions = append(regions, region)
	}
	slices.Sort(regions)
	region := rapid.SampledFrom(regions).Draw(t, "where")
	before := c.facts().stable(c.set.Services[state.Service], region)
	c.states[state.Rollout] = in(state, region, anyPhase(t))
	f := c.facts()
	restabled := f.stable(f.set.Services[state.Service], region) != before
	for _, other := range allRegions {
		if other == region || restabled && slices.Contains(f.set.Regions[other].Failover, region) {
			continue
		}
		if !reflect.DeepEqual(plans[other], planRegion(f, other)) {
			t.Fatalf("%s in %s moved the plan of %s", state.Service, region, other)
		}
	}
}
