package control

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// kept is a Delivery that keeps what it was given: "eu urgent", "us".
type kept struct {
	said  []string
	plans map[string]traffic.Plan
}

func (k *kept) Publish(p traffic.Plan, weights bool) {
	text := p.Region
	if weights {
		text += " urgent"
	}
	k.said, k.plans[p.Region] = append(k.said, text), p
}
func (k *kept) Renew([]string) {}

func (k *kept) take() []string {
	said := k.said
	k.said = nil
	return said
}

func keeping(set *spec.Set, states ...rollout.State) (*Controller, *kept) {
	c := still(set, states...)
	k := &kept{plans: map[string]traffic.Plan{}}
	c.cfg.Delivery = k
	c.publish()
	return c, k
}

// What takes traffic from somewhere is urgent, and nothing else; what did not change is not handed over.
func TestLanes(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""}, []string{"ap", ""})
	set.Policies["careful"].Shadow = &spec.Shadow{Share: 2500}
	s := add(set, "shop", "eu", "us", "ap")
	s.Relief = &spec.Relief{Pending: 1, Tighten: spec.Whole, Shed: 1000}
	s.Versions[0].Placements[2].Endpoints = []spec.Endpoint{{Zone: "a", Host: "ap.example", Port: 80, Name: true}}
	state := in(rollOut(set, "shop", "eu", "us"), "eu", progressing(500))
	c, k := keeping(set, state)
	if said := k.take(); !slices.Equal(said, []string{"ap", "eu", "us"}) {
		t.Fatalf("at first: %v", said)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"nothing", func() {}, nil},
		{"a weight", func() { c.states["shop-v2"] = in(state, "eu", progressing(100)) }, []string{"eu urgent"}},
		{"a shadow", func() { c.states["shop-v2"] = in(state, "eu", shadowing(2500)) }, []string{"eu urgent"}},
		{"no shadow", func() { c.states["shop-v2"] = in(state, "eu", shadowing(0)) }, []string{"eu urgent"}},
		{"what is shed", func() { c.relief[site{"eu", "shop"}] = relief.State{Active: true} }, []string{"eu urgent"}},
		{"what is admitted", func() { c.room[site{"us", "shop"}] = 5000 }, []string{"eu"}},
		{"addresses", func() {
			c.addresses = map[string][]netip.Addr{"ap.example": {netip.MustParseAddr("10.3.9.9")}}
		}, []string{"ap"}},
		{"limits", func() { s.Relief.Tighten = 5000 }, []string{"eu"}},
		{"stable where another one leans", func() { c.states["shop-v2"] = in(c.states["shop-v2"], "us", promoted) }, []string{"eu", "us"}},
		{"documents that say the same", func() { c.use(declared{set, 2}) }, nil},
		{"a region is gone", func() { delete(set.Regions, "ap"); c.use(declared{set, 3}) }, []string{"ap", "eu", "us"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.change()
			c.outdateAll()
			c.publish()
			if diff := cmp.Diff(step.want, k.take()); diff != "" {
				t.Errorf("handed over (-want +got):\n%s", diff)
			}
		})
	}
	if len(k.plans["ap"].Intents) != 0 {
		t.Errorf("a region that is gone has %+v", k.plans["ap"].Intents)
	}
}

// A decision outdates its own region, and those that lean on it when another version is stable there.
func TestOnlyWhoIsConcernedIsPlannedAnew(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""}, []string{"ap", ""})
	add(set, "shop", "eu", "us", "ap")
	state := rollOut(set, "shop", "eu", "us", "ap")
	c, _ := keeping(set, state)
	us := state.Regions["us"]
	step, up := us, us
	progressing(500)(&step)
	promoted(&up)
	c.moved("us", us, step)
	if len(c.stale) != 1 || !c.stale["us"] {
		t.Errorf("a step: %v", c.stale)
	}
	c.moved("us", step, up)
	if len(c.stale) != 2 || !c.stale["eu"] {
		t.Errorf("a promotion: %v", c.stale)
	}
}

// Law 7: a region whose plan cannot be made keeps the last one at what it may have now, and holds up no other region.
func TestAPlanThatCannotBeMadeHoldsUpNobody(t *testing.T) {
	set := newSet([]string{"eu", ""}, []string{"us", ""})
	add(set, "shop", "eu", "us")
	add(set, "cart", "eu", "us")
	shop, cart := in(rollOut(set, "shop", "eu"), "eu", progressing(5000)), in(rollOut(set, "cart", "us"), "us", progressing(5000))
	c, k := keeping(set, shop, cart)
	k.take()
	before := k.plans["eu"]
	// No document can do this: a rollout without its policy is none. In eu alone.
	set.Rollouts["shop-v2"].Policy = "gone"
	c.states["shop-v2"] = in(shop, "eu", func(r *rollout.Region) { r.Phase, r.Weight = rollout.Halted, 0 })
	c.states["cart-v2"] = in(cart, "us", progressing(500))
	c.outdateAll()
	c.publish()
	if said := k.take(); !slices.Equal(said, []string{"eu urgent", "us urgent"}) {
		t.Fatalf("handed over %v", said)
	}
	if w := intentOf(k.plans["us"], "cart").Weight; w != 500 {
		t.Errorf("us has %d", w)
	}
	eu := intentOf(k.plans["eu"], "shop")
	if eu.Weight != 0 || eu.Testers || !samePlan(flat(before), flat(k.plans["eu"])) {
		t.Errorf("eu has %+v", eu)
	}
	c.states["shop-v2"] = in(shop, "eu", progressing(9000))
	c.outdateAll()
	c.publish()
	if w := intentOf(k.plans["eu"], "shop").Weight; w != 0 {
		t.Errorf("eu rose to %d by a plan that could not be made", w)
	}
}

func ExampleController_Resolve() {
	c := New(Config{})
	c.Resolve(map[string][]netip.Addr{"shop.example": {netip.MustParseAddr("192.0.2.1")}})
	c.Resolve(map[string][]netip.Addr{"shop.example": {netip.MustParseAddr("192.0.2.2")}}) // nobody waits
	fmt.Println(<-c.found)
	// Output: map[shop.example:[192.0.2.2]]
}
