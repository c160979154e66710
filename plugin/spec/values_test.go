package spec_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

func TestManyRegionsAsValues(t *testing.T) {
	set, err := spec.Build(whole(t, "regions"), nil)
	if err != nil {
		t.Fatal(err)
	}
	shop, pay := set.Services["shop"], set.Services["pay"]
	for name, c := range map[string]struct{ got, want any }{
		"a region": {*set.Regions["eu-west"], spec.Region{
			Name: "eu-west", Zones: []string{"a", "b"}, Jurisdiction: "EU", Failover: []string{"eu-north", "us-east"},
			Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")},
		}},
		"a placement": {*shop.Version("v1").In("eu-west"), spec.Placement{
			Region: "eu-west", Capacity: 1200,
			Endpoints: []spec.Endpoint{
				{Zone: "a", Host: "10.1.1.1", Port: 8080},
				{Zone: "a", Host: "shop-v1.eu-west.example", Port: 8080, Name: true},
				{Zone: "b", Host: "fd00:1::1", Port: 8080},
			},
			Weights: map[string]uint32{"b": 3},
		}},
		"a name of one label": {shop.Version("v1").In("eu-north").Endpoints, []spec.Endpoint{{Zone: "a", Host: "shop-v1", Port: 80, Name: true}}},
		"the residency":       {shop.Residency, []string{"EU"}},
		"what is copied": {shop.Mirror, spec.Mirror{
			Methods:      []string{"GET", "POST"},
			StripHeaders: []string{"authorization", "cookie", "proxy-authorization", "x-user"},
		}},
		"the nearest zone": {shop.NearestZone, true},
		"every zone":       {pay.NearestZone, false},
		"a relief": {*shop.Relief, spec.Relief{
			Pending: 50, InProgress: 500, Overflows: 2.5, After: time.Second, Until: time.Minute, Tighten: 5000, Shed: 2000,
		}},
		"a relief's defaults": {*pay.Relief, spec.Relief{
			Pending: 1, After: 2 * time.Second, Until: 30 * time.Second, Tighten: spec.Whole,
		}},
		"a shadow": {*set.Policies["wide"].Shadow, spec.Shadow{Share: 500, Hold: 5 * time.Minute, MinTries: 200}},
		"waves": {set.Policies["wide"].Waves, []spec.Wave{
			{Regions: []string{"eu-north", "us-east"}, Parallel: 1, Require: 5000, Bake: 30 * time.Minute},
			{Require: spec.Whole},
		}},
		"a pace": {set.Policies["wide"].StepsIn("us-east"), []spec.Step{
			{Share: 1000, Hold: time.Minute, MinTries: 5}, {Share: 5000, Hold: 2 * time.Minute, MinTries: 1},
		}},
		"no pace":                  {set.Policies["wide"].StepsIn("eu-west"), []spec.Step{{Share: 100, Hold: 10 * time.Minute, MinTries: 1}}},
		"the meaning of a halt":    {set.Policies["wide"].OnHalt, spec.HaltStops},
		"the time of a rollback":   {set.Policies["wide"].RollbackWithin, 5 * time.Second},
		"its default":              {set.Policies["plain"].RollbackWithin, 10 * time.Second},
		"the least endpoints":      {set.Policies["wide"].MinEndpoints, spec.Share(8000)},
		"their default":            {set.Policies["plain"].MinEndpoints, spec.Share(5000)},
		"the least regions":        {set.Policies["wide"].MinRegions, 1},
		"fallbacks in their order": {set.Rollouts["shop-v2"].Fallbacks, []string{"v1", "v0"}},
	} {
		if diff := cmp.Diff(c.want, c.got, values); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestMeaningsOfAHalt(t *testing.T) {
	for text, want := range map[string]spec.OnHalt{"continue": spec.HaltContinues, "hold": spec.HaltHolds, "stop": spec.HaltStops} {
		_, set, err := spec.Load(nil, []spec.Source{source("p.yaml", "Policy", "p",
			"{availability: {target: 99.9%}, steps: [{share: 5%, hold: 1m}], onHalt: "+text+"}")})
		if err != nil {
			t.Fatal(err)
		}
		if got := set.Policies["p"].OnHalt; got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}

func TestNetworksOfARegion(t *testing.T) {
	region := &spec.Region{Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}}
	for address, want := range map[string]bool{
		"10.1.255.255": true, "10.2.0.0": false, "fd00:1::1": true, "fd00:2::1": false,
		"::ffff:10.1.0.1": true, "::ffff:10.2.0.1": false,
	} {
		if got := region.Has(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
		if !new(spec.Region).Has(netip.MustParseAddr(address)) {
			t.Errorf("%s is outside of a region without networks", address)
		}
	}
}

func TestResidencyOfAService(t *testing.T) {
	eu, none := &spec.Region{Jurisdiction: "EU"}, &spec.Region{}
	bound, free := &spec.Service{Residency: []string{"CH", "EU"}}, &spec.Service{}
	for name, c := range map[string]struct {
		service *spec.Service
		region  *spec.Region
		want    bool
	}{
		"one of its jurisdictions":     {bound, eu, true},
		"another one":                  {bound, &spec.Region{Jurisdiction: "US"}, false},
		"none declared":                {bound, none, false},
		"no such region":               {bound, nil, false},
		"no residency":                 {free, eu, true},
		"no residency, none declared":  {free, none, true},
		"no residency, no such region": {free, nil, true},
	} {
		if got := c.service.MayReach(c.region); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWaveOfARegion(t *testing.T) {
	named := []spec.Wave{{Regions: []string{"a", "b"}}, {Regions: []string{"c"}}}
	rest := []spec.Wave{{}, {Regions: []string{"c"}}}
	for name, c := range map[string]struct {
		waves  []spec.Wave
		region string
		want   int
	}{
		"named":                            {named, "c", 1},
		"in none":                          {named, "d", -1},
		"in the rest":                      {rest, "d", 0},
		"named after the wave of the rest": {rest, "c", 1},
	} {
		if got := (&spec.Policy{Waves: c.waves}).WaveOf(c.region); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestRolloutOfARegion(t *testing.T) {
	set, err := spec.Build(whole(t, "regions"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]*spec.Set{"built": set, "a literal": {Rollouts: set.Rollouts}} {
		// Two regions by default of the rollout's own.
		for _, region := range []string{"eu-west", "eu-north"} {
			if got := set.RolloutOf("shop", region); got == nil || got != set.Rollouts["shop-v2"] {
				t.Errorf("%s: %s has %+v", name, region, got)
			}
		}
		for _, c := range [][2]string{{"shop", "us-east"}, {"pay", "eu-west"}, {"", ""}} {
			if got := set.RolloutOf(c[0], c[1]); got != nil {
				t.Errorf("%s: %s in %s has %+v", name, c[0], c[1], got)
			}
		}
	}
	if got := new(spec.Set).RolloutOf("shop", "eu-west"); got != nil {
		t.Errorf("an empty set has %+v", got)
	}
}

// A set that was built answers as one that is walked.
func TestRolloutsAreFoundAsByAWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		regions := []string{"r1", "r2", "r3"}
		var files []spec.Source
		for _, r := range regions {
			files = append(files, source(r, "Region", r, "{zones: [a]}"))
		}
		files = append(files, source("p", "Policy", "p", "{availability: {target: 99.9%}, steps: [{share: 5%, hold: 1m}]}"))
		for _, s := range []string{"s1", "s2"} {
			files = append(files, source(s, "Service", s, `{hosts: [`+s+`.example], stable: v1, versions: [
				{name: v1, digest: "sha256:01", regions: [{region: r1}, {region: r2}, {region: r3}]}]}`))
			for _, r := range regions {
				if rapid.Bool().Draw(t, s+r) {
					files = append(files, source(s+r, "Rollout", s+r, "{service: "+s+", version: v1, policy: p, regions: ["+r+"]}"))
				}
			}
		}
		_, set, err := spec.Load(nil, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"s1", "s2", "s3"} {
			for _, r := range slices.Concat(regions, []string{"r4"}) {
				if got, want := set.RolloutOf(s, r), (&spec.Set{Rollouts: set.Rollouts}).RolloutOf(s, r); got != want {
					t.Fatalf("%s in %s: %+v, want %+v", s, r, got, want)
				}
			}
		}
	})
}
