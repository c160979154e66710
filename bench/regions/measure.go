package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

type options struct{ regions, envoys, proxies, runs int }

const (
	service, caller = "shop", "front"
	weightKey       = "aviary.shop.shop/arm/v2"
	flush           = 100 * time.Millisecond
	half            = 5000 // the share that is held, of 10,000
)

// world is everything that runs.
type world struct {
	o       options
	plane   *app.Child
	shops   map[string]map[string]*lab.Instance // by region and version
	envoys  map[string]*lab.Envoy
	users   []*lab.Users
	proxies map[string][]*proxy
	failed  chan error
	close   []func()
}

func measure(ctx context.Context, o options, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &world{o: o, shops: map[string]map[string]*lab.Instance{}, envoys: map[string]*lab.Envoy{}, proxies: map[string][]*proxy{}, failed: make(chan error, 1)}
	defer func() {
		cancel()
		for _, f := range slices.Backward(w.close) {
			f()
		}
	}()
	if err := w.start(ctx); err != nil {
		return err
	}
	if err := w.plane.Act(ctx, "start", service, nil); err != nil {
		return err
	}
	began := time.Now()
	if err := w.until(ctx, "half in every region", func() bool { return w.have(half, w.regions()...) }); err != nil {
		return err
	}
	climbed := time.Since(began)
	before, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	steady := 10 * time.Second
	if err := sleep(ctx, steady); err != nil {
		return err
	}
	after, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	t := table{out: out}
	t.row("what", "median", "worst")
	t.row("---", "---:", "---:")
	t.row(fmt.Sprintf("a tick, over %.0f s of %.0f ticks", steady.Seconds(), after.ticks-before.ticks),
		micro(after.tick(before, .5)), micro(after.tick(before, 1)))
	t.row("the control plane's CPU meanwhile, of one core", fmt.Sprintf("%.0f %%", 100*(after.cpu-before.cpu)/steady.Seconds()), "")
	t.row("its memory", fmt.Sprintf("%.0f MB", after.rss/1e6), "")
	t.row(fmt.Sprintf("from the start to half in all %d regions, by two steps of 2 s", o.regions), seconds(climbed), "")
	one, err := w.breakOne(ctx)
	if err != nil {
		return err
	}
	t.row(fmt.Sprintf("first bad answer → decided, one region of %d, %d runs", o.regions, o.runs), milli(one.decided, .5), milli(one.decided, 1))
	t.row("first bad answer → its last request there", milli(one.last, .5), milli(one.last, 1))
	all, err := w.abortAll(ctx)
	if err != nil {
		return err
	}
	t.row(fmt.Sprintf("abort everywhere → zero at each of %d proxies", len(all)), milli(all, .5), milli(all, 1))
	final, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	t.row("publish of weights → a proxy's ACK, all of the run", micro(final.ack(before, .5)), micro(final.ack(before, 1)))
	return nil
}

func (w *world) regions() []string {
	var all []string
	for n := range w.o.regions {
		all = append(all, region(n))
	}
	return all
}

func region(n int) string { return fmt.Sprintf("r%02d", n) }

// real are the regions with an Envoy.
func (w *world) real() []string { return w.regions()[:w.o.envoys] }

func (w *world) start(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "aviary-regions-")
	if err != nil {
		return err
	}
	w.close = append(w.close, func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "aviary")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/aviary-mesh/aviary/cmd/aviary").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, text)
	}
	for _, name := range w.regions() {
		w.shops[name] = map[string]*lab.Instance{}
		for _, version := range []string{"v1", "v2"} {
			i, err := lab.StartInstance(lab.InstanceOptions{Service: service, Version: version})
			if err != nil {
				return err
			}
			w.close = append(w.close, i.Close)
			w.shops[name][version] = i
		}
	}
	w.plane, err = app.NewChild(binary, filepath.Join(dir, "data"), io.Discard)
	if err != nil {
		return err
	}
	w.close = append(w.close, w.plane.Close)
	if err := w.plane.Start(ctx); err != nil {
		return err
	}
	if err := w.plane.Apply(ctx, w.documents(0)); err != nil {
		return err
	}
	for _, name := range w.real() {
		if err := w.envoy(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range w.regions()[w.o.envoys:] {
		for n := range w.o.proxies {
			p := &proxy{id: fmt.Sprintf("%s-%d", name, n), region: name, flush: time.Second}
			w.proxies[name] = append(w.proxies[name], p)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if err := p.run(ctx, w.plane.Address()); err != nil {
					select {
					case w.failed <- err:
					default:
					}
				}
			}()
			w.close = append(w.close, func() { <-done })
		}
	}
	return nil
}

// envoy starts a sidecar in a region, and its users.
func (w *world) envoy(ctx context.Context, name string) error {
	port, err := lab.NewPort()
	if err != nil {
		return err
	}
	w.close = append(w.close, port.Close)
	bootstrap, err := w.plane.Bootstrap(ctx, lab.Sidecar{ID: name + "-envoy", Region: name, Zone: "a", Service: caller, Port: port.Number(), Flush: flush})
	if err != nil {
		return err
	}
	e, err := lab.StartEnvoy(context.WithoutCancel(ctx), lab.Options{Name: name, Bootstrap: bootstrap, Concurrency: 1})
	if err != nil {
		return err
	}
	w.close = append(w.close, e.Kill)
	w.envoys[name] = e
	if err := e.WaitReady(ctx); err != nil {
		return err
	}
	u, err := lab.StartUsers(ctx, lab.UsersOptions{Proxies: []string{port.Address()}, Host: "shop.example", Rate: 50})
	if err != nil {
		return err
	}
	w.users = append(w.users, u)
	w.close = append(w.close, func() { u.Stop() })
	return nil
}

// documents of the build that is tried for the n-th time.
func (w *world) documents(build int) []byte {
	var regions, v1, v2 []string
	for _, name := range w.regions() {
		regions = append(regions, fmt.Sprintf("apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: %s}\nspec: {zones: [a]}\n---\n", name))
		place := func(version string) string {
			return fmt.Sprintf(`{region: %s, capacity: 100000, endpoints: [{zone: a, address: "%s"}]}`, name, w.shops[name][version].Address())
		}
		v1, v2 = append(v1, place("v1")), append(v2, place("v2"))
	}
	return fmt.Appendf(nil, `%sapiVersion: aviary.dev/v1
kind: Service
metadata: {name: front}
spec:
  hosts: [front.example]
  stable: v1
  versions: [{name: v1, digest: "sha256:front"}]
  calls: [shop]
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.example]
  stable: v1
  versions:
  - {name: v1, digest: "sha256:shop1", regions: [%s]}
  - {name: v2, digest: "sha256:shop2-%d", regions: [%s]}
---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: quick}
spec:
  availability: {target: 99.9%%}
  steps: [{share: 10%%, hold: 2s}, {share: 20%%, hold: 2s}, {share: 50%%, hold: 1h}]
  onHalt: continue
---
apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop}
spec: {service: shop, version: v2, policy: quick}
`, strings.Join(regions, ""), strings.Join(v1, ", "), build, strings.Join(v2, ", "))
}

// have reports whether every proxy of the regions was told a share.
func (w *world) have(weight uint32, regions ...string) bool {
	status, err := w.status(context.Background())
	if err != nil {
		return false
	}
	for _, name := range regions {
		for _, p := range w.proxies[name] {
			if has, _ := p.told(); has != weight {
				return false
			}
		}
		if r := status[name]; r.GetWeight() != weight || r.GetProxies() == 0 || r.GetEffectiveMin() != weight || r.GetEffectiveMax() != weight {
			return false
		}
	}
	return true
}

func (w *world) status(ctx context.Context) (map[string]*aviaryv1.RegionStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := w.plane.API().GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: service})
	if err != nil {
		return nil, err
	}
	out := map[string]*aviaryv1.RegionStatus{}
	for _, r := range resp.GetRollout().GetRegions() {
		out[r.GetRegion()] = r
	}
	return out, nil
}

// until waits a minute for something.
func (w *world) until(ctx context.Context, what string, ok func() bool) error {
	for deadline := time.Now().Add(time.Minute); !ok(); {
		select {
		case err := <-w.failed:
			return err
		default:
		}
		if time.Now().After(deadline) {
			status, err := w.status(ctx)
			return errors.Join(fmt.Errorf("not within a minute: %s; %v", what, status), err)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reactions to a version that breaks in one region.
type reactions struct{ decided, last []time.Duration }

// breakOne breaks the version in the first region, again and again, while the others hold their share.
func (w *world) breakOne(ctx context.Context) (reactions, error) {
	var out reactions
	name := w.real()[0]
	others := w.regions()[1:]
	v2 := w.shops[name]["v2"]
	for n := range w.o.runs {
		if n > 0 {
			if _, err := w.plane.API().RetryRollout(ctx, &aviaryv1.RetryRolloutRequest{Rollout: service, Regions: []string{name}, Author: "bench"}); err != nil {
				return out, err
			}
			if err := w.until(ctx, "half again in "+name, func() bool { return w.have(half, name) }); err != nil {
				return out, err
			}
		}
		v2.ResetCounts()
		if err := sleep(ctx, 3*flush); err != nil {
			return out, err
		}
		// The answer breaks off in the middle: no net before the control plane's sees it.
		if err := v2.Set(lab.Behavior{Failures: []lab.Failure{{Kind: lab.FailBreak, Rate: 1}}}); err != nil {
			return out, err
		}
		var decided time.Time
		if err := w.until(ctx, "zero, and halted in "+name, func() bool {
			s, err := w.status(ctx)
			if err == nil && decided.IsZero() && s[name].GetWeight() == 0 {
				decided = s[name].GetSince().AsTime()
			}
			return err == nil && s[name].GetPhase() == aviaryv1.Phase_PHASE_HALTED
		}); err != nil {
			return out, err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return out, err
		}
		c := v2.Counts()
		out.decided = append(out.decided, decided.Sub(c.FirstBad))
		out.last = append(out.last, c.LastReceived.Sub(c.FirstBad))
		if err := v2.Set(lab.Behavior{}); err != nil {
			return out, err
		}
		if !w.have(half, others...) {
			return out, fmt.Errorf("another region lost its share when %s was halted", name)
		}
	}
	return out, nil
}

// abortAll aborts the rollout and returns how long it took to each proxy: until a simulated one was told zero, until an
// Envoy's service got its last request.
func (w *world) abortAll(ctx context.Context) ([]time.Duration, error) {
	begin := time.Now()
	if err := w.plane.Act(ctx, "abort", service, nil); err != nil {
		return nil, err
	}
	if err := w.until(ctx, "zero everywhere", func() bool { return w.have(0, w.regions()...) }); err != nil {
		return nil, err
	}
	if err := sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	var all []time.Duration
	for _, name := range w.regions() {
		for _, p := range w.proxies[name] {
			_, at := p.told()
			all = append(all, at.Sub(begin))
		}
	}
	for _, name := range w.real()[1:] { // the first is halted
		all = append(all, max(0, w.shops[name]["v2"].Counts().LastReceived.Sub(begin)))
	}
	return all, nil
}
