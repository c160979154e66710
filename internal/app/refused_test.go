package app

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// A service that is refused holds up no other: another one's rollback and edit are delivered, in layers and in routes, and its
// own shares still fall.
func TestARefusedServiceIsItsOwnAffair(t *testing.T) {
	r := deliver(t)
	two := func(shop traffic.Plan, timeout time.Duration, weight uint32) traffic.Plan {
		canary := arm("v2", "eu", "10.0.4.1")
		cart := shop.Intents[0]
		cart.Service, cart.Hosts, cart.Canary, cart.Weight, cart.Timeout = "cart", []string{"cart.internal"}, &canary, weight, timeout
		cart.Stable = arm("v1", "eu", "10.0.3.1")
		shop.Intents = []traffic.Intent{cart, shop.Intents[0]}
		shop.Callers = map[string][]string{"front": {"cart", "shop"}}
		shop.Charter["cart"] = shop.Charter["shop"]
		return shop
	}
	r.Publish(two(within("eu", "10.0.1.1", 1000), 0, 2000), false)
	r.clients("eu")
	_, _, before := r.has("eu")
	for _, step := range []struct {
		what                   string
		shop, cart             uint32
		weights                bool
		timeout                time.Duration
		shopBecomes, cartIsNow uint32
	}{
		{"an edit of cart beside", 1000, 2000, false, time.Second, 1000, 2000},
		{"cart falls", 1000, 0, true, time.Second, 1000, 0},
		{"cart rises, shop wants to", 3000, 500, true, time.Second, 1000, 500},
		{"shop falls, with another edit of cart", 300, 500, false, time.Minute, 300, 500},
		{"shop rises again", 700, 500, true, time.Minute, 700, 500},
	} {
		r.Publish(two(beyond("eu", step.shop), step.timeout, step.cart), step.weights)
		r.settle("eu")
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			layer, routes, endpoints := r.has("eu")
			shop, cart := resource.Weight(layer, "shop", "v2"), resource.Weight(layer, "cart", "v2")
			right := routes == routesOf(t, two(within("eu", "10.0.1.1", step.shopBecomes), step.timeout, step.cartIsNow))
			if shop == step.shopBecomes && cart == step.cartIsNow && right && endpoints == before {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: shop has %d, cart %d; the routes are right: %t, shop's endpoints stay: %t", step.what, shop, cart, right, endpoints == before)
			}
		}
	}
	if s := r.states()["eu"]; s.refusal == nil || !strings.HasPrefix(s.refusal.text, "service shop stays as it was") || s.accepted != 1 || s.refused != 5 {
		t.Errorf("the state is %+v", s)
	}
	r.Publish(two(within("eu", "10.0.1.2", 800), 0, 500), false)
	r.settle("eu")
	if s := r.states()["eu"]; s.refusal != nil || s.accepted != 2 {
		t.Errorf("once shop is good, the state is %+v", s)
	}
}

// Until something good is out, few endpoints are better than nothing. After that no plan takes the last ones away.
func TestTooFewEndpointsAtAColdStart(t *testing.T) {
	r := deliver(t)
	few := func(plan traffic.Plan) traffic.Plan {
		b := plan.Charter["shop"]
		b.MinEndpoints = 1
		plan.Charter["shop"] = b
		return plan
	}
	none := few(within("eu", "10.0.1.1", 0))
	none.Intents[0].Stable.Localities = nil
	r.Publish(none, false)
	r.clients("eu")
	if s := r.states()["eu"]; s.refusal != nil {
		t.Fatalf("the first plan is refused: %s", s.refusal.text)
	}
	// Another kind of client, and an edit, find it no worse than it was.
	grpc := resource.View{Service: "front", Weights: resource.InRoutes, GRPC: true}
	r.region("eu").see("eu/grpc", grpc)
	edit := none
	edit.Intents = slices.Clone(none.Intents)
	edit.Intents[0].Timeout = time.Second
	r.Publish(edit, false)
	r.settle("eu")
	if s := r.states()["eu"]; s.refusal != nil || len(r.out.of("eu/grpc", 0)) == 0 {
		t.Errorf("without endpoints as before, the state is %+v", s)
	}
	r.Publish(few(within("eu", "10.0.1.1", 0)), false)
	r.settle("eu")
	r.Publish(none, false)
	r.settle("eu")
	if s := r.states()["eu"]; s.refusal == nil || !strings.Contains(s.refusal.text, "at least 1") {
		t.Errorf("once there was one, the state is %+v", s)
	}

	other := deliver(t)
	other.Publish(few(beyond("eu", 0)), false)
	other.region("eu").see("eu/leased", leasedView)
	other.settle("eu")
	if s := other.states()["eu"]; s.refusal == nil || !strings.Contains(s.refusal.text, "192.0.2.1") {
		t.Errorf("an address that is not allowed, at the start: the state is %+v", s)
	}
}
