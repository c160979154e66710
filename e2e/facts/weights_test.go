package facts

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestALayerSetsTheWeights(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.at(0)
	if all := s.ask(ask{n: 500, users: 10}); all.of("v1") != 500 {
		t.Fatalf("at 0: %v", all)
	}
	updates := s.m.stat(t, "http.egress.rds.egress.config_reload")
	if updates == 0 {
		t.Fatal("no count of what the routes were loaded")
	}
	for _, weight := range []uint32{100, 2500, 10_000, 0} {
		before := s.m.srv.Stats()
		s.at(weight)
		after := s.m.srv.Stats()
		all := s.ask(ask{n: 2000, users: 10})
		got, want := all.of("v2"), int(weight)*2000/traffic.Whole
		t.Logf("weight %5d: %4d of 2000 requests on the canary, %d failed; the push and its ACK: %d bytes",
			weight, got, all.failed(), after.Bytes-before.Bytes)
		if slack := 130; got < want-slack || got > want+slack || (weight%traffic.Whole == 0) && got != want || weight > 0 && got == 0 || all.failed() > 0 {
			t.Errorf("weight %d: %v", weight, all)
		}
	}
	if now := s.m.stat(t, "http.egress.rds.egress.config_reload"); now != updates {
		t.Errorf("weights reloaded the routes %d times", now-updates)
	}
	t.Logf("from a publish to its ACK: median %v, 99 %% %v", s.m.srv.Stats().Kill.Quantile(.5), s.m.srv.Stats().Kill.Quantile(.99))
}

func TestAMissingKeyTakesItsValueFromTheRoutes(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.at(0)
	// Stable's 10,000 come from the routes: the canary has a third, not a half.
	s.layer(values(t, map[string]any{s.key(s.arm()): 5000}), 0)
	all := s.ask(ask{n: 3000, users: 10})
	t.Logf("canary 5000 in the layer and stable missing: %d of 3000 on the canary", all.of("v2"))
	if got := all.of("v2"); got < 850 || got > 1150 || all.failed() > 0 {
		t.Errorf("%v, want a third on the canary", all)
	}
	s.layer(values(t, map[string]any{s.key(s.stable()): 5000}), 0)
	if all := s.ask(ask{n: 500, users: 10}); all.of("v1") != 500 {
		t.Errorf("stable 5000 in the layer and the canary missing: %v", all)
	}
}

func TestAllZeroIsNotFound(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.at(0)
	s.layer(values(t, map[string]any{s.key(s.arm()): 0, s.key(s.stable()): 0}), 0)
	all := s.ask(ask{n: 100, users: 4})
	t.Logf("all keys of a split at 0: %v", all)
	for _, a := range all {
		if a.status != http.StatusNotFound {
			t.Fatalf("%v, want 404 alone", all)
		}
	}
}

func TestNobodyFallsOffACanaryThatWidens(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.StickyHeader = "x-user"
	const users = 300
	byUser := ask{n: users, users: 10, header: func(i int) http.Header { return http.Header{"X-User": {fmt.Sprint("user-", i)}} }}
	had := make([]bool, users)
	for _, weight := range []uint32{100, 500, 1000, 2500, 5000, 9000, 10_000} {
		s.at(weight)
		fell := 0
		all := s.ask(byUser)
		for i, a := range all {
			if had[i] && a.version != "v2" {
				fell++
			}
			had[i] = a.version == "v2"
		}
		t.Logf("weight %5d: %3d of %d users on the canary, %d fell off", weight, all.of("v2"), users, fell)
		if fell > 0 || all.failed() > 0 || weight >= 1000 && all.of("v2") == 0 || weight == 10_000 && all.of("v2") != users {
			t.Errorf("weight %d: %v", weight, all)
		}
	}
}

func TestFractionsOfALayer(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.HTTP)
	s.in.TesterHeader = "x-version-wanted"
	s.at(0)
	key := "aviary." + s.in.Service + ".testers"
	wanted := ask{n: 2000, users: 10, header: func(int) http.Header { return http.Header{"X-Version-Wanted": {"v2"}} }}
	for _, c := range []struct {
		name     string
		value    any
		min, max int
	}{
		{"{numerator: 500, denominator: TEN_THOUSAND}", map[string]any{"numerator": 500, "denominator": "TEN_THOUSAND"}, 55, 150},
		{"{numerator: 5, denominator: HUNDRED}", map[string]any{"numerator": 5, "denominator": "HUNDRED"}, 55, 150},
		{"5 (a bare integer is per cent)", 5, 55, 150},
		{"500 (more than all)", 500, 2000, 2000},
		{"{numerator: 10000, denominator: TEN_THOUSAND}", map[string]any{"numerator": 10_000, "denominator": "TEN_THOUSAND"}, 2000, 2000},
		{"{numerator: 0, denominator: TEN_THOUSAND}", map[string]any{"numerator": 0, "denominator": "TEN_THOUSAND"}, 0, 0},
	} {
		s.layer(values(t, map[string]any{key: c.value}), 0)
		all := s.ask(wanted)
		t.Logf("%-46s %4d of 2000 on the canary", c.name, all.of("v2"))
		if got := all.of("v2"); got < c.min || got > c.max || all.failed() > 0 {
			t.Errorf("%s: %v, want %d to %d", c.name, all, c.min, c.max)
		}
	}
}
