package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

const documents = `
apiVersion: aviary.dev/v1
kind: Region
metadata: {name: eu}
spec: {zones: [a]}
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.example]
  stable: v1
  versions:
    - name: v1
      digest: "sha256:1111"
      regions: [{region: eu, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8001"}]}]
    - name: v2
      digest: "sha256:2222"
      regions: [{region: eu, capacity: 1000, endpoints: [{zone: a, address: "127.0.0.1:8002"}]}]
---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: quick}
spec:
  availability: {target: "99.9%"}
  steps: [{share: "5%", hold: 3s}, {share: "50%", hold: 3s}]
---
apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop-v2}
spec: {service: shop, version: v2, policy: quick}
`

// world is a controller on a real store, with a clock and flushes of the test's making.
type world struct {
	t     *testing.T
	store *store.Store
	*Controller
	stop func()

	mu      sync.Mutex
	now     time.Time
	plans   []traffic.Plan
	renewed []string
	away    bool // no proxy has what was published
	// discover is Config.Discover.
	discover func([]string)
}

func (w *world) Publish(plan traffic.Plan, _ bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plans = append(w.plans, plan)
}

func (w *world) Renew(proxies []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewed = append(w.renewed, proxies...)
}

func (w *world) effect(_, _, _ string, weight, _ uint32) Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return Effect{Proxies: 1}
	}
	return Effect{Min: weight, Max: weight, Acked: 1, Proxies: 1}
}

func (w *world) leases() []Lease {
	now := w.clock()
	return []Lease{{Proxy: "p1", Renewed: now, Until: now.Add(10 * time.Second)}}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) intent() traffic.Intent {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.plans) == 0 || len(w.plans[len(w.plans)-1].Intents) == 0 {
		return traffic.Intent{}
	}
	return w.plans[len(w.plans)-1].Intents[0]
}

// intentIn is what a region's newest plan says of shop.
func (w *world) intentIn(region string) traffic.Intent {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range slices.Backward(w.plans) {
		if p.Region == region {
			return intentOf(p, "shop")
		}
	}
	return traffic.Intent{}
}

func newWorld(t *testing.T) *world { return newWorldOf(t, documents) }

func newWorldOf(t *testing.T, text string) *world {
	w := &world{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if w.store, err = store.OpenEmbedded(t.Context(), t.TempDir(), store.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	w.apply(text)
	return w
}

func (w *world) apply(text string) {
	w.t.Helper()
	revisions, at, err := w.store.Documents(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var stored []*aviaryv1.Document
	for _, r := range revisions {
		stored = append(stored, r.Document)
	}
	parsed, _, err := spec.Load(stored, []spec.Source{{File: "test.yaml", Content: []byte(text)}})
	if err != nil {
		w.t.Fatal(err)
	}
	var batch store.Batch
	for _, p := range parsed {
		batch.Documents = append(batch.Documents, store.Content{Document: p.Document, Hash: spec.Hash(p.Document)})
	}
	batch.Expected = at
	if _, _, err := w.store.Apply(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a controller; kill ends it without a hand-over being of use, quit with one.
func (w *world) start() {
	w.t.Helper()
	w.Controller = New(Config{Store: w.store, Delivery: w, Effect: w.effect, Leases: w.leases, Discover: w.discover, Now: w.clock, Log: slog.New(slog.DiscardHandler), Tick: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, 10*time.Second) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.stop = stop
	w.t.Cleanup(stop)
	select {
	case <-w.Ready():
	case <-time.After(30 * time.Second):
		w.t.Fatal("not ready")
	}
	w.until("elected", w.Leading)
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never %s; status %v, intent weight %d", what, w.region(), w.intent().Weight)
		}
	}
}

func (w *world) region() rollout.Region { return w.Regions()["shop-v2"]["eu"] }

// second lets a second pass in which the sidecar in eu reports these tries.
func (w *world) second(canary, canaryErrors uint64) {
	w.t.Helper()
	w.flush("eu", signal.Arm{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 100)}, Endpoints: 1, Healthy: 1},
		signal.Arm{Version: "v2", Outcomes: []signal.Outcome{outcome(200, canary-canaryErrors), outcome(500, canaryErrors)}, Endpoints: 1, Healthy: 1})
}

func outcome(status int, n uint64) signal.Outcome {
	return signal.Outcome{
		Class: signal.Class{Status: status, GRPC: -1}, Tries: n,
		Latency: signal.Histogram{{Edge: signal.EdgeOf(2000), Count: n}},
	}
}

// flush lets a second pass in which the sidecar of a region reports these arms of shop.
func (w *world) flush(region string, arms ...signal.Arm) {
	w.t.Helper()
	w.mu.Lock()
	w.now = w.now.Add(time.Second)
	now := w.now
	seen := len(w.renewed)
	w.mu.Unlock()
	for i := range arms {
		arms[i].Service = "shop"
	}
	w.Observe(signal.Flush{Proxy: region, Region: region, Service: "front", At: now, Span: 900 * time.Millisecond, Arms: arms})
	w.until("judged", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.renewed) > seen })
}

func (w *world) act(verb rollout.Verb) {
	w.t.Helper()
	if err := w.Act(w.t.Context(), "shop-v2", rollout.Action{Verb: verb, Author: "ann"}); err != nil {
		w.t.Fatal(err)
	}
}

// climb starts the rollout and waits for a share.
func (w *world) climb(share uint32) {
	w.t.Helper()
	w.act(rollout.Start)
	w.secondsUntil("at its share", func() bool { return w.intent().Weight == share })
}

func (w *world) secondsUntil(what string, ok func() bool) {
	w.t.Helper()
	for range 40 {
		w.second(5, 0)
		for range 20 { // a rise takes effect when the store has it
			if ok() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	w.until(what, ok)
}

func TestAHealthyCanaryIsPromoted(t *testing.T) {
	w := newWorld(t)
	w.start()
	if in := w.intent(); in.Canary == nil || in.Weight != 0 {
		t.Fatalf("before the start: %+v", in)
	}
	w.climb(500)
	w.secondsUntil("at 50 %", func() bool { return w.intent().Weight == 5000 })
	w.secondsUntil("promoted", func() bool { return w.region().Phase == rollout.Promoted })
	if in := w.intent(); in.Stable.Version != "v2" || in.Canary != nil {
		t.Errorf("after the promotion: %+v", in)
	}
}

func TestABadCanaryIsHaltedForGood(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.second(20, 20)
	w.second(20, 20)
	// It is in force as soon as it was judged, whatever the store does.
	if in := w.intent(); in.Weight != 0 || in.Testers {
		t.Fatalf("after the breach: weight %d, testers %v", in.Weight, in.Testers)
	}
	if err := w.Act(t.Context(), "shop-v2", rollout.Action{Verb: rollout.Continue, Author: "ann"}); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("resume of a halted region: %v", err)
	}
	w.stop()
	w.start()
	for range 10 {
		w.second(5, 0)
	}
	if r := w.region(); r.Phase != rollout.Halted || w.intent().Weight != 0 {
		t.Errorf("after a restart: %+v", r)
	}
	events, err := w.store.Events(t.Context(), "shop-v2", 0)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e store.Event) bool {
		return e.Type == string(rollout.Halted) && strings.Contains(string(e.Data), `"read"`)
	}) {
		t.Errorf("no event tells of the halt with what was read: %+v", events)
	}
	w.act(rollout.Retry)
	w.secondsUntil("climbing again", func() bool { return w.intent().Weight == 500 })
}

// Every decision on evidence can be made again out of what its event recorded.
func TestDecisionsReplay(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.secondsUntil("at 50 %", func() bool { return w.intent().Weight == 5000 })
	w.second(20, 20)
	w.second(20, 20)
	w.until("halted", func() bool { return w.region().Phase == rollout.Halted })
	w.stop()
	replayed := w.replay()
	if replayed[rollout.Progressing] < 2 || replayed[rollout.Halted] != 1 {
		t.Errorf("replayed %v", replayed)
	}
}

// Whether a region begins is decided by the others too: they are recorded.
func TestABeginningReplays(t *testing.T) {
	text := strings.Replace(twoRegions, "regions: [eu]", "regions: [eu, us]", 1)
	w := newWorldOf(t, strings.Replace(text, `  steps:`, `  waves: [{regions: [eu], bake: 2s}, {regions: [us]}]
  steps:`, 1))
	w.start()
	w.act(rollout.Start)
	w.secondsUntil("promoted in eu", func() bool { return w.region().Phase == rollout.Promoted })
	healthy := []signal.Arm{
		{Version: "v1", Outcomes: []signal.Outcome{outcome(200, 100)}, Endpoints: 1, Healthy: 1},
		{Version: "v2", Outcomes: []signal.Outcome{outcome(200, 5)}, Endpoints: 1, Healthy: 1},
	}
	us := func() rollout.Region { return w.Regions()["shop-v2"]["us"] }
	for range 10 {
		w.flush("us", slices.Clone(healthy)...)
		if us().Begun {
			break
		}
		w.second(5, 0)
	}
	w.until("begun in us", func() bool { return us().Phase == rollout.Progressing })
	w.stop()
	w.replay()
	events, err := w.store.Events(t.Context(), "shop-v2", 0)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(events, func(e store.Event) bool { return e.Region == "us" && e.Type == string(rollout.Progressing) })
	var d decision
	if err := json.Unmarshal(events[i].Data, &d); err != nil {
		t.Fatal(err)
	}
	if eu := d.Beside["eu"]; len(d.Beside) != 1 || eu.From.Phase != rollout.Promoted {
		t.Errorf("us began beside %+v", d.Beside)
	}
}

// replay makes every decision on evidence again, and returns how many led to each phase.
func (w *world) replay() map[rollout.Phase]int {
	w.t.Helper()
	events, err := w.store.Events(w.t.Context(), "shop-v2", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	replayed := map[rollout.Phase]int{}
	for _, e := range events {
		var d decision
		if err := json.Unmarshal(e.Data, &d); err != nil {
			w.t.Fatal(err)
		}
		if d.Read == nil {
			continue // a person's act, or a document's change
		}
		if d.Documents == 0 {
			w.t.Errorf("%s: no store revision of the documents", e.Reason)
		}
		before := rollout.State{Rollout: "shop-v2", Service: "shop", Started: true, Regions: map[string]rollout.Region{e.Region: d.From}}
		in := map[string]rollout.Input{e.Region: *d.Read}
		for name, other := range d.Beside {
			before.Regions[name] = other.From
			if other.Read != nil {
				in[name] = *other.Read
			}
		}
		after, _ := rollout.Step(w.set, "shop-v2", before, in, e.At)
		if diff := cmp.Diff(d.Left.Region, after.Regions[e.Region], cmpopts.EquateEmpty()); diff != "" {
			w.t.Errorf("%s at %s replays to something else:\n%s", e.Reason, e.At, diff)
		}
		replayed[after.Regions[e.Region].Phase]++
	}
	return replayed
}

func TestAHaltedBuildIsNoBetterUnderAnotherName(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.second(20, 20)
	w.second(20, 20)
	w.until("halted", func() bool { return w.region().Phase == rollout.Halted })
	revisions, at, err := w.store.Documents(t.Context())
	if err != nil || len(revisions) == 0 {
		t.Fatal(err)
	}
	if _, _, err := w.store.Delete(t.Context(), store.Key{Kind: store.Rollout, Name: "shop-v2"}, "ann", "", at); err != nil {
		t.Fatal(err)
	}
	w.apply(strings.Replace(documents, "name: shop-v2", "name: again", 1))
	w.until("halted from the start", func() bool { return w.Regions()["again"]["eu"].Phase == rollout.Halted })
	if err := w.Act(t.Context(), "again", rollout.Action{Verb: rollout.Start, Author: "ann"}); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("start: %v", err)
	}
	if err := w.Act(t.Context(), "again", rollout.Action{Verb: rollout.Retry, Author: "ann"}); err != nil {
		t.Error(err)
	}
	w.secondsUntil("climbing by a person's will", func() bool { return w.intent().Weight == 500 })
}

func TestAPlannedRestartKeepsTheShareAndACrashDoesNot(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.stop()
	w.start()
	if len(w.HandedOver()) == 0 || w.intent().Weight != 500 {
		t.Fatalf("after a planned restart: weight %d, leases %v", w.intent().Weight, w.HandedOver())
	}
	// What a crash leaves is a state without a hand-over.
	w.stop()
	if _, err := w.store.TakeHandover(t.Context(), handoverName); err != nil {
		t.Fatal(err)
	}
	w.start()
	if r := w.region(); w.intent().Weight != 0 || r.Reason != rollout.LeaseLapsed {
		t.Fatalf("after a crash: weight %d, %+v", w.intent().Weight, r)
	}
	w.secondsUntil("climbing again", func() bool { return w.intent().Weight == 500 })
}

func TestAnEditOfTheServiceNeverRaisesAWeight(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.climb(500)
	w.apply(strings.Replace(documents, "stable: v1", "stable: v1\n  timeout: 3s", 1))
	w.until("edited", func() bool { return w.intent().Timeout == 3*time.Second })
	if in := w.intent(); in.Weight != 500 || in.Canary == nil {
		t.Errorf("after the edit: %+v", in)
	}
	w.apply(strings.Replace(documents, "sha256:2222", "sha256:3333", 1))
	w.until("at zero for the new digest", func() bool { return w.intent().Weight == 0 })
}

// Flushes of a proxy that does not route to the service are no evidence about it.
func TestAProxyOfAnotherServiceIsNoEvidence(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.act(rollout.Start)
	for range 5 {
		w.mu.Lock()
		w.now = w.now.Add(time.Second)
		now, seen := w.now, len(w.renewed)
		w.mu.Unlock()
		w.Observe(signal.Flush{Proxy: "idle", Region: "eu", Service: "idle", At: now, Span: time.Second})
		w.until("judged", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.renewed) > seen })
	}
	if r := w.region(); r.Weight != 0 || !r.SeenAt.IsZero() {
		t.Errorf("on the word of a proxy without a route: %+v", r)
	}
}

// A share that no proxy has is not held, however fresh the evidence is.
func TestAStepBeginsWhenAProxyHasIt(t *testing.T) {
	w := newWorld(t)
	w.away = true
	w.start()
	w.climb(500)
	for range 10 {
		w.second(5, 0)
	}
	if r := w.region(); r.Weight != 500 || r.Held != 0 || r.Phase != rollout.Progressing {
		t.Fatalf("a share that nobody has: %+v", r)
	}
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	w.second(5, 0)
	w.second(5, 0)
	if r := w.region(); r.Weight != 500 || r.Held == 0 || r.Held > 2*time.Second {
		t.Fatalf("just acknowledged: %+v", r)
	}
	w.secondsUntil("at 50 %", func() bool { return w.intent().Weight == 5000 })
}

func TestActsSayWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	w.start()
	if err := w.Act(t.Context(), "nope", rollout.Action{Verb: rollout.Start}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown rollout: %v", err)
	}
	if err := w.Act(t.Context(), "shop-v2", rollout.Action{Verb: rollout.Pause}); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("pause before the start: %v", err)
	}
	w.stop()
	if err := w.Act(t.Context(), "shop-v2", rollout.Action{Verb: rollout.Start}); !errors.Is(err, ErrStopped) {
		t.Errorf("after the stop: %v", err)
	}
}
