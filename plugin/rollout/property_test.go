package rollout

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

var regions = []string{"eu", "us"}

// history is one random life of a rollout, with what the laws need to be remembered of it.
type history struct {
	t     *rapid.T
	world *world
	state State
	now   time.Time
	// old are states that a stale writer may put back, halts what was persisted.
	old   []State
	halts []Halt
	// bad are the digests that were halted in a region and that nobody retried since.
	bad map[string]map[string]bool
}

const name = "checkout-v2"

func TestLawsHoldInEveryHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{t: t, world: newWorld(), now: start, bad: map[string]map[string]bool{"eu": {}, "us": {}}}
		for _, doc := range [][]string{
			{"version", "v1", "digest=d1", "eu=1000", "us=1000"}, {"version", "v2", "digest=d2", "eu=1000", "us=1000"},
			{"version", "v3", "digest=d3", "eu=1000", "us=1000"}, {"rollout", "regions=eu,us"},
			{"policy", "steps=1%:2s:5,10%:2s:5,50%:2s:5", "hold=3s", "retreat=9s", "lease=7s"},
		} {
			h.edit(doc...)
		}
		h.step(nil)
		h.act(Action{Verb: Start})
		t.Repeat(map[string]func(*rapid.T){
			"healthy tick": func(*rapid.T) {
				for range rapid.IntRange(1, 8).Draw(h.t, "ticks") {
					h.tick(map[string]Input{"eu": healthy(), "us": healthy()})
				}
			},
			"tick": func(t *rapid.T) { h.tick(map[string]Input{"eu": anyInput(t), "us": anyInput(t)}) },
			"gap": func(t *rapid.T) {
				h.now = h.now.Add(time.Duration(rapid.IntRange(-5, 12).Draw(t, "seconds")) * time.Second)
			},
			"edit": func(t *rapid.T) {
				h.edit(anyEdit(t)...)
				h.step(nil)
			},
			"act": func(t *rapid.T) {
				h.act(Action{
					Verb:    rapid.SampledFrom([]Verb{Start, Pause, Continue, Abort, Promote, Rollback, Retry, Retry}).Draw(t, "verb"),
					Regions: rapid.SampledFrom([][]string{nil, {"eu"}, {"us"}}).Draw(t, "regions"), Author: "ana",
				})
			},
			"restart": func(t *rapid.T) {
				handover := rapid.Bool().Draw(t, "handover")
				before := h.state
				after, events := Resume(h.state, h.now, handover)
				h.changed(before, after, events)
				for _, region := range regions {
					if r := after.Regions[region]; !handover && r.on() {
						t.Fatalf("%s at %d after a restart", region, r.Weight)
					}
				}
			},
			"stale writer": func(t *rapid.T) {
				h.bad = map[string]map[string]bool{"eu": {}, "us": {}}
				h.state = Join(rapid.SampledFrom(append(h.old, State{Rollout: name})).Draw(t, "state"), h.halts)
				for _, halt := range h.halts { // but those that a person had retried when the old state was written
					if halt.Attempt >= h.state.Regions[halt.Region].Retries[halt.Digest] {
						h.bad[halt.Region][halt.Digest] = true
					}
				}
				h.check()
			},
		})
	})
}

func healthy() Input {
	return Input{Fresh: true, Rate: 100, Verdict: evidence.Verdict{CanaryTries: 5}}
}

func anyInput(t *rapid.T) Input {
	often := func(label string) bool { return rapid.IntRange(0, 9).Draw(t, label) == 0 }
	in := Input{Fresh: !often("stale"), AllotmentSpent: often("spent"), Ejected: often("ejected"), Saturated: often("saturated"), Unwell: often("unwell")}
	in.Verdict.CanaryTries = rapid.Uint64Range(0, 5).Draw(t, "tries")
	in.Rate = rapid.SampledFrom([]float64{0, 100, 1000, 1001, -1, math.NaN(), math.Inf(1)}).Draw(t, "rate")
	if often("judged") {
		in.Verdict.Finding = rapid.SampledFrom([]evidence.Finding{evidence.Worse, evidence.Slower, evidence.OverBudget, evidence.Outage, evidence.Suspected}).Draw(t, "finding")
	}
	if often("trial") {
		in.Trial = Trial{Digest: rapid.SampledFrom([]string{"d2", "d3"}).Draw(t, "digest"), Attempt: rapid.IntRange(0, 2).Draw(t, "attempt"), Shadow: rapid.Bool().Draw(t, "shadow")}
	}
	return in
}

func anyEdit(t *rapid.T) []string {
	return rapid.SampledFrom([][]string{
		{"policy", "steps=1%:2s:5,10%:2s:5,50%:2s:5"}, {"policy", "steps=5%:0s:0,20%:0s:0"}, {"policy", "steps=100%:1s:0"},
		{"policy", "steps=0.01%:1s:1,1%:1s:1,2%:1s:1,3%:1s:1,10%:1s:1"}, {"policy", "hold=1s", "retreat=2s", "lease=1s"},
		{"policy", "hold=3s", "retreat=9s", "lease=7s"}, {"service", "timeout=3s"}, {"service", "stable=v1"},
		{"service", "stable=v2"}, {"version", "v2", "digest=d2"}, {"version", "v2", "digest=d3"}, {"version", "v1", "digest=d1b"},
		{"rollout", "version=v3"}, {"rollout", "version=v2"}, {"rollout", "version=v9"}, {"version", "v2", "eu=none"},
		{"version", "v2", "eu=1000"}, {"version", "v3", "us=gone"}, {"version", "v3", "us=1000"}, {"version", "v1", "eu=none", "us=0"},
		{"version", "v1", "eu=1000", "us=1000"}, {"rollout", "regions=eu"}, {"rollout", "regions=eu,us"}, {"delete"},
		{"rollout", "regions=eu,us"}, {"undeclare", "v2"}, {"policy", "shadow=10%:2s:5"}, {"policy", "shadow=5%:2s:5"}, {"policy", "shadow=none"},
		{"policy", "waves=eu|us"}, {"policy", "waves=us:bake=2s|eu"}, {"policy", "waves=rest:parallel=1"}, {"policy", "waves=rest"},
		{"policy", "onHalt=stop"}, {"policy", "onHalt=hold"}, {"policy", "onHalt=continue"}, {"policy", "minRegions=1"}, {"policy", "minRegions=0"},
		{"rollout", "fallbacks=v3,v1"}, {"policy", "minEndpoints=50%"}, {"version", "v2", "digest=d2", "eu=1000", "us=1000"},
	}).Draw(t, "edit")
}

func (h *history) edit(words ...string) {
	if err := h.world.edit(words, name); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) tick(in map[string]Input) {
	h.now = h.now.Add(time.Second)
	h.step(in)
}

func (h *history) step(in map[string]Input) {
	before, set := h.state, h.world.set()
	text := asJSON(h.t, before)
	after, events := Step(set, name, before, in, h.now)
	again, eventsAgain := Step(set, name, before, in, h.now)
	if diff := cmp.Diff(after, again) + cmp.Diff(events, eventsAgain); diff != "" {
		h.t.Fatalf("the same call gave another answer:\n%s", diff)
	}
	if text != asJSON(h.t, before) {
		h.t.Fatal("Step changed the state that it was given")
	}
	h.changed(before, after, events)

	policy, rollout := set.Policies["careful"], set.Rollouts[name]
	for _, region := range regions {
		was, is, input := before.Regions[region], after.Regions[region], in[region]
		if is.Weight > 0 {
			if rollout == nil || !slices.Contains(rollout.Regions, region) {
				h.t.Fatalf("%s has a share that no rollout declares", region)
			}
			if is.Step >= len(policy.Steps) || is.Weight > policy.Steps[is.Step].Share {
				h.t.Fatalf("%s: %d is above step %d", region, is.Weight, is.Step)
			}
		}
		if is.Weight > was.Weight {
			h.rose(set, region, was, is, input)
		}
		if is.Shadow > was.Shadow && (!input.Fresh || input.Saturated || policy.Shadow == nil || is.Shadow != policy.Shadow.Share) {
			h.t.Fatalf("%s copies %s, and before %s, on %+v", region, is.Shadow, was.Shadow, input)
		}
		if is.on() && !was.on() && !was.Begun {
			h.began(policy, region, before, after)
		}
		if policy.OnHalt == spec.HaltStops && is.on() && rollout != nil {
			for _, other := range rollout.Regions {
				if o := after.Regions[other]; o.Phase == Halted && o.Reason != HaltedElsewhere {
					h.t.Fatalf("%s is on, and %s is halted: %+v", region, other, is)
				}
			}
		}
		if was.Phase != Promoted && is.Phase == Promoted && (was.Weight == 0 || !input.Fresh) {
			h.t.Fatalf("%s was promoted from %d, fresh %v", region, was.Weight, input.Fresh)
		}
		ours := input.Trial == (Trial{}) || input.Trial == is.Trial()
		if ours && is.Weight > 0 && (input.Verdict.Finding != evidence.Collecting || input.AllotmentSpent || input.Ejected) {
			h.t.Fatalf("%s has a share against %+v", region, input)
		}
		if limit := min(policy.RetreatAfter, policy.LeaseTTL); was.on() && h.now.Sub(was.SeenAt) >= limit && is.on() {
			h.t.Fatalf("%s kept a share over a gap of %v", region, h.now.Sub(was.SeenAt))
		}
	}
}

// began checks that it was the region's turn.
func (h *history) began(policy *spec.Policy, region string, before, after State) {
	wave := policy.WaveOf(region)
	for _, other := range regions {
		was, is := before.Regions[other], after.Regions[other]
		if other == region || !slices.Contains(h.world.rollouts[name].Regions, other) {
			continue
		}
		if is.Phase == Halted && policy.OnHalt != spec.HaltContinues {
			h.t.Fatalf("%s began though %s is halted", region, other)
		}
		underWay := was.Begun && was.on() && is.on()
		if wave >= 0 && policy.Waves[wave].Parallel == 1 && policy.WaveOf(other) == wave && underWay {
			h.t.Fatalf("%s began beside %s, one at a time is the policy", region, other)
		}
		if wave > policy.WaveOf(other) && !is.serves() {
			h.t.Fatalf("%s began before its wave: %+v", region, is)
		}
		if policy.MinRegions == 1 && after.Regions[region].Weight > 0 && is.Weight > 0 {
			h.t.Fatalf("%s began, and no region has one version alone", region)
		}
	}
}

// rose checks what every rise of a share needs.
func (h *history) rose(set *spec.Set, region string, was, is Region, in Input) {
	if !in.Fresh || in.Saturated {
		h.t.Fatalf("%s rose on %+v", region, in)
	}
	if s := set.Policies["careful"].Shadow; was.Shadow > 0 && (s == nil || is.Weight > set.Policies["careful"].Steps[0].Share) {
		h.t.Fatalf("%s came out of its shadow at %s", region, is.Weight)
	}
	for _, s := range set.Policies["careful"].Steps {
		if s.Share > was.Weight {
			if is.Weight != s.Share {
				h.t.Fatalf("%s rose from %d to %d, the next step is %d", region, was.Weight, is.Weight, s.Share)
			}
			break
		}
	}
	stable := set.Services["checkout"].Version(is.Stable.Version).In(region)
	if stable == nil || len(stable.Endpoints) == 0 || !(stable.Capacity >= in.Rate) || in.Rate < 0 {
		h.t.Fatalf("%s rose though stable %v does not carry %v", region, stable, in.Rate)
	}
	if is.Phase != Progressing {
		h.t.Fatalf("%s rose in %s", region, is.Phase)
	}
}

func (h *history) act(a Action) {
	before := h.state
	text := asJSON(h.t, before)
	after, events, err := Act(h.world.set(), before, a, nil, h.now)
	if text != asJSON(h.t, before) {
		h.t.Fatal("Act changed the state that it was given")
	}
	if err != nil && a.Verb != Abort && a.Verb != Rollback && (len(events) > 0 || asJSON(h.t, after) != text) {
		h.t.Fatalf("%s was refused and done: %v", a.Verb, err)
	}
	if a.Verb == Retry {
		for region, r := range after.Regions {
			if r.Reason == Retried {
				delete(h.bad[region], r.Digest)
			}
		}
	}
	h.changed(before, after, events)
	for region, r := range after.Regions {
		if r.Weight > before.Regions[region].Weight {
			h.t.Fatalf("%s raised %s", a.Verb, region)
		}
		if a.Verb == Abort && (a.Regions == nil || slices.Contains(a.Regions, region)) && r.Weight != 0 {
			h.t.Fatalf("%s has %d after an abort", region, r.Weight)
		}
	}
}

// changed takes a new state over and checks that the events tell of it.
func (h *history) changed(before, after State, events []Event) {
	last := map[string]Event{}
	for _, e := range events {
		last[e.Region] = e
	}
	for region, is := range after.Regions {
		was, e := before.Regions[region], last[region]
		if (was.Phase != is.Phase || was.Weight != is.Weight) && (e.To != is.Phase || e.Weight != is.Weight) {
			h.t.Fatalf("%s went from %s %d to %s %d, the last event is %+v", region, was.Phase, was.Weight, is.Phase, is.Weight, e)
		}
	}
	h.old = append(h.old, after)
	if len(h.old) > 20 {
		h.old = h.old[1:]
	}
	h.state = after
	h.check()
}

// check holds after whatever happened.
func (h *history) check() {
	var back State
	if err := json.Unmarshal([]byte(asJSON(h.t, h.state)), &back); err != nil {
		h.t.Fatal(err)
	}
	if diff := cmp.Diff(h.state, back); diff != "" {
		h.t.Fatalf("JSON loses something:\n%s", diff)
	}
	for _, halt := range Halts(h.state) {
		h.bad[halt.Region][halt.Digest] = true
	}
	for region, r := range h.state.Regions {
		if r.Phase == Halted && r.halted(r.Digest) < 0 {
			h.t.Fatalf("%s is halted, but no halt is kept", region)
		}
		if r.Weight != 0 && r.Phase != Progressing && r.Phase != Paused {
			h.t.Fatalf("%s is %s at %d", region, r.Phase, r.Weight)
		}
		if r.Shadow != 0 && (r.Weight != 0 || r.Phase != Shadowing && r.Phase != Paused) {
			h.t.Fatalf("%s is %s at %d and copies %d", region, r.Phase, r.Weight, r.Shadow)
		}
		if r.Phase == Shadowing && r.Shadow == 0 {
			h.t.Fatalf("%s is shadowing nothing", region)
		}
		if r.on() && h.bad[region][r.Digest] {
			h.t.Fatalf("%s gives %d to %s, which was halted and not retried", region, r.Weight, r.Digest)
		}
		if Testers(r) && h.bad[region][r.Digest] {
			h.t.Fatalf("%s lets testers reach %s, which was halted and not retried", region, r.Digest)
		}
	}
	h.halts = append(h.halts, Halts(h.state)...)
	h.state = back
}

func asJSON(t *rapid.T, s State) string {
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJoinKnowsNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		any := rapid.Custom(func(t *rapid.T) Halt {
			return Halt{
				Rollout: rapid.SampledFrom([]string{name, "other"}).Draw(t, "rollout"), Region: rapid.SampledFrom(regions).Draw(t, "region"),
				Trial:  Trial{Digest: rapid.SampledFrom([]string{"d2", "d3"}).Draw(t, "digest"), Attempt: rapid.IntRange(0, 2).Draw(t, "attempt")},
				Reason: rapid.SampledFrom([]Reason{CanaryWorse, CanarySlower}).Draw(t, "reason"),
				At:     start.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "at"))),
			}
		})
		region := Region{
			Phase:   rapid.SampledFrom([]Phase{Pending, Progressing, Paused, Retreated, Halted, Aborted, Promoted, RolledBack, Shadowing}).Draw(t, "phase"),
			Version: "v2", Digest: "d2", Stable: Known{"v2", "d2"}, Previous: Known{"v1", "d1"}, StableSince: start, Since: start,
			Retries: map[string]int{"d2": rapid.IntRange(1, 2).Draw(t, "retries")},
		}
		if region.Phase == Progressing || region.Phase == Paused {
			region.Weight, region.Stable, region.Previous = 100, Known{"v1", "d1"}, Known{}
		}
		if region.Phase == Shadowing {
			region.Shadow, region.Stable, region.Previous = 100, Known{"v1", "d1"}, Known{}
		}
		if region.Phase == Halted {
			h := Halt{Rollout: name, Region: "eu", Trial: region.Trial(), Reason: OverBudget, At: start.Add(1)}
			region.Halts, region.Reason, region.Since = []Halt{h}, h.Reason, h.At
		}
		state := State{Rollout: name, Regions: map[string]Region{"eu": region}}
		halts := rapid.SliceOfN(any, 0, 6).Draw(t, "halts")
		other := rapid.Permutation(halts).Draw(t, "other order")
		cut := rapid.IntRange(0, len(other)).Draw(t, "cut")

		once := Join(state, halts)
		if diff := cmp.Diff(once, Join(Join(Join(state, other[cut:]), other), other[:cut])); diff != "" {
			t.Fatalf("another order gave another state:\n%s", diff)
		}
		for _, h := range halts {
			r := once.Regions[h.Region]
			if h.Rollout == name && r.Digest == h.Digest && h.Attempt >= region.Retries[h.Digest] && h.Region == "eu" && (r.on() || r.Stable.Digest == h.Digest && region.Phase == Promoted) {
				t.Fatalf("%+v did not win: %+v", h, r)
			}
		}
	})
}

func TestHaltsAreValuesOfTheState(t *testing.T) {
	w := newWorld()
	for _, doc := range []string{"version v1 digest=d1 eu=1000", "version v2 digest=d2 eu=1000", "rollout version=v2"} {
		if err := w.edit(strings.Fields(doc), name); err != nil {
			t.Fatal(err)
		}
	}
	state, _ := Step(w.set(), name, State{}, nil, start)
	state, _, err := Act(w.set(), state, Action{Verb: Start}, nil, start)
	if err != nil {
		t.Fatal(err)
	}
	for i, in := range []Input{healthy(), {Verdict: evidence.Verdict{Finding: evidence.Slower, Metric: "latency"}}} {
		state, _ = Step(w.set(), name, state, map[string]Input{"eu": in}, start.Add(time.Duration(i+1)*time.Second))
	}
	want := []Halt{{Rollout: name, Region: "eu", Trial: Trial{Digest: "d2"}, Reason: CanarySlower, At: start.Add(2 * time.Second), Message: "latency: canary 0 of 0 tries, stable 0 of 0 in the last flush"}}
	if diff := cmp.Diff(want, Halts(state)); diff != "" {
		t.Fatal(diff)
	}
	if w := state.Regions["eu"].Weight; w != 0 {
		t.Fatal(w)
	}
}
