// Package rig puts one region of real parts on this machine for a test: `aviary serve` in a process of its own, Envoys,
// sample services and users. Everything ends with the test. It holds no expectations; the tests do.
package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/internal/app"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Region is the name of the one region.
const Region = "eu-west"

// Rig is the region of one test.
type Rig struct {
	t     testing.TB
	Plane *app.Child
	// Options as they are, with their defaults.
	Options Options
	// Instances by version of the service "shop".
	Instances map[string]*lab.Instance
	Sidecars  []*Sidecar
}

// Sidecar is an Envoy of the calling service "front", with its egress address.
type Sidecar struct {
	ID string
	*lab.Envoy
	Egress string
}

// Options of a rig.
type Options struct {
	// Protocol of the service; default HTTP.
	Protocol lab.Protocol
	// Versions of the service; default v1 and v2. The first is stable.
	Versions []string
	// Rollout is the version that the rollout names; default the last.
	Rollout string
	// More are further endpoints by version, beside the instance.
	More map[string][]string
	// Digests by version; default the version's name.
	Digests map[string]string
	// Sidecars; default 1. Flush is how often they report; default 100ms.
	Sidecars int
	Flush    time.Duration
	// Service and Policy are further fields of the specs, as YAML; default of Policy: a step of 10 % for ten minutes.
	Service, Policy string
}

var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "bin", "aviary")
	out, err := exec.Command("go", "build", "-o", path, "github.com/aviary-mesh/aviary/cmd/aviary").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// Main runs the tests of a package, with a directory of their own for temporary files, and fails when they left a process, a
// file or a goroutine behind.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "aviary-e2e-")
	if err == nil {
		err = os.Setenv("TMPDIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	_ = os.RemoveAll(filepath.Join(dir, "bin"))
	if left := leftovers(dir); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind:\n%s\n", strings.Join(left, "\n"))
		code = max(code, 1)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Binary is the aviary command, built once a test binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Plane starts a control plane on loopback with a data directory of its own.
func Plane(t testing.TB) *app.Child {
	t.Helper()
	log := new(Log)
	plane, err := app.NewChild(Binary(t), t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		plane.Close()
		if t.Failed() {
			t.Logf("control plane:\n%s", log)
		}
	})
	if err := plane.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return plane
}

// New starts a region: the control plane, an instance of each version, documents with a rollout "shop" of the last version
// under a policy "canary", and sidecars that are ready.
func New(t testing.TB, o Options) *Rig {
	t.Helper()
	if len(o.Versions) == 0 {
		o.Versions = []string{"v1", "v2"}
	}
	if o.Rollout == "" {
		o.Rollout = o.Versions[len(o.Versions)-1]
	}
	if o.Protocol == "" {
		o.Protocol = lab.HTTP
	}
	if o.Policy == "" {
		o.Policy = `steps: [{share: "10%", hold: 10m}]`
	}
	if o.Flush == 0 {
		o.Flush = 100 * time.Millisecond
	}
	r := &Rig{t: t, Options: o, Instances: map[string]*lab.Instance{}}
	for _, version := range o.Versions {
		i, err := lab.StartInstance(lab.InstanceOptions{Service: "shop", Version: version, Protocol: o.Protocol})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		r.Instances[version] = i
	}
	r.Plane = Plane(t)
	r.Apply(r.Documents(o))
	for n := range max(o.Sidecars, 1) {
		r.Sidecars = append(r.Sidecars, r.Sidecar(fmt.Sprintf("front-%d", n), o.Flush))
	}
	return r
}

// Documents of a rig.
func (r *Rig) Documents(o Options) string {
	var versions strings.Builder
	for _, version := range o.Versions {
		endpoints := fmt.Sprintf("{zone: a, address: %q}", r.Instances[version].Address())
		for _, address := range o.More[version] {
			endpoints += fmt.Sprintf(", {zone: a, address: %q}", address)
		}
		digest := version
		if o.Digests[version] != "" {
			digest = o.Digests[version]
		}
		fmt.Fprintf(&versions, `    - name: %s
      digest: "sha256:%s"
      regions: [{region: %s, capacity: 100000, endpoints: [%s]}]
`, version, digest, Region, endpoints)
	}
	return fmt.Sprintf(`apiVersion: aviary.dev/v1
kind: Region
metadata: {name: %s}
spec: {zones: [a]}
---
apiVersion: aviary.dev/v1
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
  protocol: %s
  stable: %s
%s  versions:
%s---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: canary}
spec:
  availability: {target: "99.9%%"}
%s---
%s`, Region, o.Protocol, o.Versions[0], indent(o.Service), versions.String(), indent(o.Policy), Rollout(o.Rollout))
}

func indent(fields string) string {
	if fields = strings.TrimSpace(fields); fields == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(fields, "\n", "\n  ") + "\n"
}

// Apply declares documents.
func (r *Rig) Apply(documents string) {
	r.t.Helper()
	if err := r.Plane.Apply(r.t.Context(), []byte(documents)); err != nil {
		r.t.Fatal(err)
	}
}

// Sidecar starts an Envoy of "front" and waits until it listens.
func (r *Rig) Sidecar(id string, flush time.Duration) *Sidecar {
	r.t.Helper()
	return r.SidecarWith(id, flush, func(bootstrap []byte) []byte { return bootstrap })
}

// SidecarWith is Sidecar with a change of its bootstrap.
func (r *Rig) SidecarWith(id string, flush time.Duration, change func(bootstrap []byte) []byte) *Sidecar {
	r.t.Helper()
	port, err := lab.NewPort()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(port.Close)
	bootstrap, err := r.Plane.Bootstrap(r.t.Context(), lab.Sidecar{
		ID: id, Region: Region, Zone: "a", Service: "front", Port: port.Number(), Flush: flush,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	log := new(Log)
	envoy, err := lab.StartEnvoy(context.Background(), lab.Options{Name: id, Bootstrap: change(bootstrap), Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		envoy.Kill()
		if r.t.Failed() {
			r.t.Logf("%s:\n%s", id, log)
		}
	})
	ready, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	if err := envoy.WaitReady(ready); err != nil {
		r.t.Fatal(err)
	}
	s := &Sidecar{ID: id, Envoy: envoy, Egress: port.Address()}
	r.Until(id+" listens", 30*time.Second, func() bool {
		all, err := envoy.Listeners()
		return err == nil && len(all) > 0
	})
	return s
}

// Users send to all sidecars until the test ends, unless o names other proxies.
func (r *Rig) Users(o lab.UsersOptions) *lab.Users {
	r.t.Helper()
	if len(o.Proxies) == 0 {
		for _, s := range r.Sidecars {
			o.Proxies = append(o.Proxies, s.Egress)
		}
	}
	if o.Host == "" {
		o.Host = "shop.example"
	}
	u, err := lab.StartUsers(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { u.Stop() })
	return u
}

// Act does a verb to the rollout "shop".
func (r *Rig) Act(verb string) {
	r.t.Helper()
	if err := r.Plane.Act(r.t.Context(), verb, "shop"); err != nil {
		r.t.Fatalf("%s: %v", verb, err)
	}
}

// Set changes what a version does.
func (r *Rig) Set(version string, b lab.Behavior) {
	r.t.Helper()
	if err := r.Instances[version].Set(b); err != nil {
		r.t.Fatal(err)
	}
}

// Status of the rollout in the region; nil when the control plane does not answer.
func (r *Rig) Status() *aviaryv1.RegionStatus {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	resp, err := r.Plane.API().GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: "shop"})
	if err != nil || len(resp.GetRollout().GetRegions()) == 0 {
		return nil
	}
	return resp.GetRollout().GetRegions()[0]
}

// Until waits until ok, and fails the test after the time.
func (r *Rig) Until(what string, within time.Duration, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s; status %v", within, what, r.Status())
		}
	}
}

// UntilWeight waits until the rollout intends a share and every proxy has it.
func (r *Rig) UntilWeight(weight uint32, within time.Duration) {
	r.t.Helper()
	r.Until(fmt.Sprintf("weight %d", weight), within, func() bool {
		s := r.Status()
		return s != nil && s.Weight == weight && s.EffectiveMin == weight && s.EffectiveMax == weight
	})
}

// UntilPhase waits until the rollout is in a phase.
func (r *Rig) UntilPhase(phase aviaryv1.Phase, within time.Duration) {
	r.t.Helper()
	r.Until(phase.String(), within, func() bool { s := r.Status(); return s != nil && s.Phase == phase })
}

// Log is what a process writes and a test reads.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *Log) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *Log) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Rollout is the document of the rollout "shop" to a version.
func Rollout(version string) string {
	return fmt.Sprintf(`apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop}
spec: {service: shop, version: %s, policy: canary}
`, version)
}
