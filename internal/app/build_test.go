package app

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/traffic"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// market is a region with services s0 to s9; caller ci calls si alone, and all calls every one.
func market() traffic.Plan {
	p := traffic.Plan{Region: "eu", Callers: map[string][]string{}, Charter: traffic.Charter{}}
	for i := range 10 {
		name := fmt.Sprintf("s%d", i)
		canary := arm("v2", "eu", fmt.Sprintf("10.1.%d.1", i))
		p.Intents = append(p.Intents, traffic.Intent{
			Service: name, Hosts: []string{name}, Stable: arm("v1", "eu", fmt.Sprintf("10.0.%d.1", i)), Canary: &canary,
		})
		p.Callers[fmt.Sprintf("c%d", i)] = []string{name}
		p.Callers["all"] = append(p.Callers["all"], name)
		p.Charter[name] = traffic.Bounds{}
	}
	return p
}

// edited is the market with one service changed.
func edited(i int, edit func(*traffic.Intent)) traffic.Plan {
	p := market()
	edit(&p.Intents[i])
	return p
}

func mustAssemble(t *testing.T, e edition, views map[string]resource.View, before *build) *build {
	t.Helper()
	b, err := assemble(e, views, before)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The work of a plan is that of what changed: the rest are the same bytes, and views that see nothing of it are the same.
func TestWhatDoesNotChangeIsNotBuilt(t *testing.T) {
	views := map[string]resource.View{
		"all": {Service: "all"}, "all@a": {Service: "all", Zone: "a"}, "all-unleased": {Service: "all", Weights: resource.InRoutes},
		"c1": {Service: "c1"}, "c2": {Service: "c2"},
	}
	first := mustAssemble(t, edition{market(), 1, 1}, views, nil)
	if !slices.Equal(first.views["all"].bundles, first.views["all@a"].bundles) || &first.views["all"].doors[0] != &first.views["all@a"].doors[0] {
		t.Error("views that differ in the zone alone share nothing")
	}
	for _, c := range []struct {
		name string
		next edition
		// whose snapshots are other ones, and how many resources of view "all" are.
		views []string
		built int
	}{
		{"nothing", edition{market(), 2, 2}, nil, 0},
		// Stable's, the canary's and the arm's clusters, two assignments, listener and routes.
		{"an endpoint of s1", edition{edited(1, func(in *traffic.Intent) { in.Stable = arm("v1", "eu", "10.0.1.2") }), 2, 2}, []string{"all", "all-unleased", "all@a", "c1"}, 7},
		{"a share of s1", edition{edited(1, func(in *traffic.Intent) { in.Weight = 100 }), 2, 1}, []string{"all-unleased"}, 0},
		{"a share of s1 beside an edit of s2", edition{func() traffic.Plan {
			p := edited(2, func(in *traffic.Intent) { in.Hosts = []string{"two"} })
			p.Intents[1].Weight = 100
			return p
		}(), 2, 2}, []string{"all", "all-unleased", "all@a", "c2"}, 7},
		{"what is allowed of s1", edition{func() traffic.Plan {
			p := market()
			p.Charter["s1"] = traffic.Bounds{Others: map[string][]netip.Prefix{"us": nil}}
			return p
		}(), 2, 2}, []string{"all", "all-unleased", "all@a", "c1"}, 7},
		{"c1 calls s2 too", edition{func() traffic.Plan {
			p := market()
			p.Callers["c1"] = []string{"s1", "s2"}
			return p
		}(), 2, 2}, []string{"c1"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := mustAssemble(t, c.next, views, first)
			var other []string
			for name, v := range next.views {
				if v.snapshot != first.views[name].snapshot {
					other = append(other, name)
				}
			}
			slices.Sort(other)
			if !slices.Equal(other, c.views) {
				t.Errorf("%q are built again, want %q", other, c.views)
			}
			kept := map[*ads.Resource]bool{}
			for _, r := range slices.Concat(first.views["all"].bundles, first.views["all"].doors) {
				kept[r] = true
			}
			built := 0
			for _, r := range slices.Concat(next.views["all"].bundles, next.views["all"].doors) {
				if !kept[r] {
					built++
				}
			}
			if built != c.built {
				t.Errorf("%d resources are built, want %d", built, c.built)
			}
		})
	}
}

// Where callers keep to their zone, each zone has endpoints of its own; elsewhere they share them.
func TestZonesAreApartOnlyWhereTheyDiffer(t *testing.T) {
	b := mustAssemble(t, edition{edited(1, func(in *traffic.Intent) { in.NearestZone = true }), 1, 1},
		map[string]resource.View{"all@a": {Service: "all", Zone: "a"}, "all@b": {Service: "all", Zone: "b"}}, nil)
	for _, c := range []struct {
		service string
		zones   []string
	}{{"s1", []string{"a", "b"}}, {"s2", []string{""}}} {
		var zones []string
		for name := range b.bundles {
			if name.service == c.service {
				zones = append(zones, name.zone)
			}
		}
		if slices.Sort(zones); !slices.Equal(zones, c.zones) {
			t.Errorf("%s is built for zones %q, want %q", c.service, zones, c.zones)
		}
	}
}

func TestAServiceThatIsGoneLeavesNothing(t *testing.T) {
	views := map[string]resource.View{"all": {Service: "all"}}
	first := mustAssemble(t, edition{market(), 1, 1}, views, nil)
	less := market()
	less.Intents = less.Intents[1:]
	next := mustAssemble(t, edition{less, 2, 2}, views, first)
	for name := range next.bundles {
		if name.service == "s0" {
			t.Error("the bundle of s0 is kept")
		}
	}
	if next.views["all"].snapshot.Get(ads.Cluster, resource.StableCluster("s0", "v1")) != nil {
		t.Error("the cluster of s0 is given")
	}
}

// A service that is not allowed stays as it was, or is left out when it never was; the others are as the plan says.
func TestAServiceThatIsNotAllowed(t *testing.T) {
	bad := edited(3, func(in *traffic.Intent) { in.Stable = arm("v1", "us", "10.0.3.1") })
	bad.Intents[2].Stable = arm("v1", "eu", "10.0.2.9")
	views := map[string]resource.View{"all": {Service: "all"}, "c2": {Service: "c2"}, "c3": {Service: "c3"}}
	first := mustAssemble(t, edition{market(), 1, 1}, views, nil)
	cluster, route := resource.StableCluster("s3", "v1"), resource.View{}.RouteName()
	for _, c := range []struct {
		name   string
		before *build
		want   string
	}{{"that was good", first, "service s3 stays as it was"}, {"that never was", nil, "service s3 is left out"}} {
		t.Run(c.name, func(t *testing.T) {
			b := mustAssemble(t, edition{bad, 2, 2}, views, c.before)
			if b.refused == nil || !strings.Contains(b.refused.Error(), c.want) || strings.Contains(b.refused.Error(), "s2") {
				t.Errorf("the refusal is %v", b.refused)
			}
			if b.views["c2"].snapshot == first.views["c2"].snapshot {
				t.Error("s2 waits for s3")
			}
			now, was := b.views["all"].snapshot.Get(ads.Endpoint, cluster), first.views["all"].snapshot.Get(ads.Endpoint, cluster)
			if c.before != nil && (now != was || b.views["c3"] != first.views["c3"]) || c.before == nil && now != nil {
				t.Errorf("s3 has %v", now)
			}
			if c.before == nil && b.views["all"].snapshot.Get(ads.Route, route).Version() == first.views["all"].snapshot.Get(ads.Route, route).Version() {
				t.Error("routes go to what is left out")
			}
			// It is looked at again whatever the next plan changes, and shares alone are no way around.
			if again := mustAssemble(t, edition{bad, 3, 2}, views, b); again.refused == nil {
				t.Error("it is given with the next shares")
			}
			if good := mustAssemble(t, edition{market(), 4, 4}, views, b); good.refused != nil || good.views["c3"].snapshot.Get(ads.Endpoint, cluster) == nil {
				t.Error("it does not come back")
			}
		})
	}
}

// What concerns routes is the refusal of the plan: here it says that shares alone differ, and names another version.
func TestRoutesThatAreNotAllowed(t *testing.T) {
	views := map[string]resource.View{"c3": {Service: "c3", Weights: resource.InRoutes}}
	first := mustAssemble(t, edition{market(), 1, 1}, views, nil)
	other := edited(3, func(in *traffic.Intent) { in.Stable.Version, in.Weight = "v9", 100 })
	if _, err := assemble(edition{other, 2, 1}, views, first); err == nil || !strings.Contains(err.Error(), "s3/stable/v9") {
		t.Errorf("the error is %v", err)
	}
}
