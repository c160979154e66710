package app

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func shop(stable string, canary *traffic.Arm, weight uint32) traffic.Plan {
	return traffic.Plan{Region: "eu", Intents: []traffic.Intent{{
		Service: "shop", Stable: traffic.Arm{Version: stable, Digest: "d-" + stable}, Canary: canary, Weight: weight,
	}}}
}

// A promoted canary's shares stay in the layer until something else takes their place.
func TestKeepPromoted(t *testing.T) {
	v2, v3 := &traffic.Arm{Version: "v2", Digest: "d-v2"}, &traffic.Arm{Version: "v3", Digest: "d-v3"}
	kept, before := map[string]traffic.Intent{}, traffic.Plan{}
	for _, step := range []struct {
		what string
		plan traffic.Plan
		want uint32 // the share that is kept
	}{
		{"a canary at half", shop("v1", v2, 5000), 0},
		{"is promoted", shop("v2", nil, 0), 5000},
		{"and an edit comes", shop("v2", nil, 0), 5000},
		{"and the next canary", shop("v2", v3, 100), 0},
		{"which is aborted", shop("v2", v3, 0), 0},
		{"and withdrawn", shop("v2", nil, 0), 0},
		{"another build by that name", shop("v1", v2, 100), 0},
		{"is not what was promoted", traffic.Plan{Intents: []traffic.Intent{{Service: "shop", Stable: traffic.Arm{Version: "v2", Digest: "other"}}}}, 0},
	} {
		kept = keepPromoted(kept, before, step.plan)
		before = step.plan
		if got := kept["shop"].Weight; got != step.want {
			t.Errorf("%s: %d is kept, want %d", step.what, got, step.want)
		}
	}
}

func TestLowered(t *testing.T) {
	v2, rebuilt, v3 := &traffic.Arm{Version: "v2", Digest: "d-v2"}, &traffic.Arm{Version: "v2", Digest: "other"}, &traffic.Arm{Version: "v3", Digest: "d-v3"}
	with := func(p traffic.Plan, shadow uint32, testers bool, f *traffic.Failover) traffic.Plan {
		p.Intents[0].Shadow, p.Intents[0].Testers, p.Intents[0].Failover = shadow, testers, f
		return p
	}
	over := func(admit, shed uint32) *traffic.Failover { return &traffic.Failover{Admit: admit, Shed: shed} }
	for _, c := range []struct {
		name        string
		good, newer traffic.Plan
		want        share
	}{
		{"less", with(shop("v1", v2, 1000), 0, true, nil), with(shop("v1", v2, 300), 0, true, nil), share{weight: 300, testers: true}},
		{"more", with(shop("v1", v2, 1000), 0, false, nil), with(shop("v1", v2, 3000), 0, true, nil), share{weight: 1000}},
		{"testers are shut out", with(shop("v1", v2, 1000), 0, true, nil), with(shop("v1", v2, 1000), 0, false, nil), share{weight: 1000}},
		{"less of a shadow", with(shop("v1", v2, 0), 1000, false, nil), with(shop("v1", v2, 0), 200, false, nil), share{shadow: 200}},
		{"a shadow that goes live", with(shop("v1", v2, 0), 1000, false, nil), with(shop("v1", v2, 100), 0, false, nil), share{}},
		{"the canary is withdrawn", with(shop("v1", v2, 1000), 500, true, nil), shop("v1", nil, 0), share{}},
		{"another canary", with(shop("v1", v2, 1000), 500, true, nil), with(shop("v1", v3, 2000), 500, true, nil), share{}},
		{"another build by that name", with(shop("v1", v2, 1000), 0, true, nil), with(shop("v1", rebuilt, 2000), 0, true, nil), share{}},
		{"the service is gone", with(shop("v1", v2, 1000), 500, true, over(5000, 500)), traffic.Plan{Region: "eu"}, share{}},
		{"the canary is promoted", with(shop("v1", v2, 1000), 0, true, nil), shop("v2", nil, 0), share{weight: 1000, testers: true}},
		{"and the next one is there", with(shop("v1", v2, 1000), 0, true, nil), shop("v2", v3, 500), share{weight: 1000, testers: true}},
		{"another build is promoted", with(shop("v1", v2, 1000), 0, true, nil), traffic.Plan{Intents: []traffic.Intent{{Service: "shop", Stable: *rebuilt}}}, share{}},
		{"neighbours take less", with(shop("v1", nil, 0), 0, false, over(8000, 500)), with(shop("v1", nil, 0), 0, false, over(2000, 1000)), share{admit: 2000, shed: 500}},
		{"nothing is shed any more", with(shop("v1", nil, 0), 0, false, over(8000, 500)), with(shop("v1", nil, 0), 0, false, over(9000, 0)), share{admit: 8000}},
		{"neighbours are out of reach", with(shop("v1", v2, 100), 0, false, over(8000, 500)), shop("v1", v2, 100), share{weight: 100}},
		{"neighbours are new", with(shop("v1", v2, 100), 0, false, nil), with(shop("v1", v2, 100), 0, false, over(8000, 0)), share{weight: 100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := shareOf(c.good.Intents[0])
			low := lowered(c.good, c.newer)
			if got := shareOf(low.Intents[0]); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if diff := cmp.Diff(bare(c.good.Intents[0]), bare(low.Intents[0])); diff != "" {
				t.Errorf("more than shares differs:\n%s", diff)
			}
			if shareOf(c.good.Intents[0]) != before {
				t.Error("the good plan is another one")
			}
		})
	}
}
