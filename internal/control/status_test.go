package control

import "testing"

func TestTheStatusIsOfTheRegionsThatARolloutNames(t *testing.T) {
	set := newSet([]string{"eu", ""}, []string{"us", ""})
	add(set, "shop", "eu", "us")
	state := in(rollOut(set, "shop", "eu", "us"), "us", promoted)
	set.Rollouts["shop-v2"].Regions = []string{"eu"}
	c := still(set, state)
	if s := c.status("shop-v2"); len(s.Regions) != 1 || s.Regions[0].Region != "eu" {
		t.Errorf("got %v", s.Regions)
	}
	// Of a rollout that is not declared any more it is all that is remembered.
	delete(set.Rollouts, "shop-v2")
	if s := c.status("shop-v2"); len(s.Regions) != 2 {
		t.Errorf("got %v", s.Regions)
	}
}
