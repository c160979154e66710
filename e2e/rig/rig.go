// Package rig puts regions of real parts on this machine for a test, one unless it asks for more: `aviary serve` in a process
// of its own, Envoys, sample services and users. Everything ends with the test. It holds no expectations; the tests do.
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

// Region is the name of the one region of a test that names none. What says nothing of a region is in the first.
const Region = "eu-west"

// Rig is the regions of one test.
type Rig struct {
	t     testing.TB
	Plane *app.Child
	// Options as they are, with their defaults.
	Options Options
	// Instances by version of the service "shop" in the first region; In has those of the others.
	Instances map[string]*lab.Instance
	instances map[string]map[string]*lab.Instance // by region
	// Sidecars of all regions.
	Sidecars []*Sidecar
	// Wires by region are the way from its sidecars to the control plane, when Options.Wired.
	Wires map[string]*lab.Wire
}

// Sidecar is an Envoy of the calling service "front", with its egress address.
type Sidecar struct {
	ID, Region string
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
	// Sidecars of a region; default 1. Flush is how often they report; default 100ms.
	Sidecars int
	Flush    time.Duration
	// Service and Policy are further fields of the specs, as YAML; default of Policy: a step of 10 % for ten minutes.
	Service, Policy string
	// Regions have an instance of every version and sidecars of their own; default Region.
	Regions []string
	// Wired puts a wire between the sidecars of each region and the control plane.
	Wired bool
	// Region is further fields of the spec of a region, as YAML, by its name; Capacity what each version declares there, by
	// its name, default 100,000.
	Region   map[string]string
	Capacity map[string]float64
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

// New starts the regions: the control plane, an instance of each version in each, documents with a rollout "shop" of the last
// version under a policy "canary", and sidecars that are ready.
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
	if len(o.Regions) == 0 {
		o.Regions = []string{Region}
	}
	r := &Rig{t: t, Options: o, instances: map[string]map[string]*lab.Instance{}, Wires: map[string]*lab.Wire{}}
	for n, region := range o.Regions {
		r.instances[region] = map[string]*lab.Instance{}
		for _, version := range o.Versions {
			i, err := lab.StartInstance(lab.InstanceOptions{
				Service: "shop", Version: version, Protocol: o.Protocol, Region: region, Host: lab.RegionHost(n),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(i.Close)
			r.instances[region][version] = i
		}
	}
	r.Instances = r.instances[o.Regions[0]]
	r.Plane = Plane(t)
	r.Apply(r.Documents(o))
	for n, region := range o.Regions {
		if o.Wired {
			r.Wires[region] = NewWire(t, r.Plane.Address())
		}
		for k := range max(o.Sidecars, 1) {
			r.Sidecars = append(r.Sidecars, r.SidecarIn(region, fmt.Sprintf("front-%d", n*max(o.Sidecars, 1)+k), o.Flush))
		}
	}
	return r
}

// In is the instance of a version in a region.
func (r *Rig) In(region, version string) *lab.Instance {
	r.t.Helper()
	i := r.instances[region][version]
	if i == nil {
		r.t.Fatalf("no version %s in region %s", version, region)
	}
	return i
}

// Apply declares documents.
func (r *Rig) Apply(documents string) {
	r.t.Helper()
	if err := r.Plane.Apply(r.t.Context(), []byte(documents)); err != nil {
		r.t.Fatal(err)
	}
}

// SidecarIn is Sidecar in a region.
func (r *Rig) SidecarIn(region, id string, flush time.Duration) *Sidecar {
	r.t.Helper()
	return r.sidecar(region, id, flush, func(bootstrap []byte) []byte { return bootstrap })
}

// SidecarWith is Sidecar with a change of its bootstrap.
func (r *Rig) SidecarWith(id string, flush time.Duration, change func(bootstrap []byte) []byte) *Sidecar {
	r.t.Helper()
	return r.sidecar(r.Options.Regions[0], id, flush, change)
}

func (r *Rig) sidecar(region, id string, flush time.Duration, change func(bootstrap []byte) []byte) *Sidecar {
	r.t.Helper()
	port, err := lab.NewPort()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(port.Close)
	sidecar := lab.Sidecar{ID: id, Region: region, Zone: "a", Service: "front", Port: port.Number(), Flush: flush}
	if w := r.Wires[region]; w != nil {
		sidecar.Server = w.Address()
	}
	bootstrap, err := r.Plane.Bootstrap(r.t.Context(), sidecar)
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
	s := &Sidecar{ID: id, Region: region, Envoy: envoy, Egress: port.Address()}
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

// Act does a verb to the rollout "shop", in some regions or in all.
func (r *Rig) Act(verb string, regions ...string) {
	r.t.Helper()
	if err := r.Plane.Act(r.t.Context(), verb, "shop", regions); err != nil {
		r.t.Fatalf("%s: %v", verb, err)
	}
}

// Set changes what a version does in some regions, or in all.
func (r *Rig) Set(version string, b lab.Behavior, regions ...string) {
	r.t.Helper()
	if len(regions) == 0 {
		regions = r.Options.Regions
	}
	for _, region := range regions {
		if err := r.In(region, version).Set(b); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Status of the rollout in the first region; nil when the control plane does not answer.
func (r *Rig) Status() *aviaryv1.RegionStatus { return r.StatusIn(r.Options.Regions[0]) }

// StatusIn is Status in a region.
func (r *Rig) StatusIn(region string) *aviaryv1.RegionStatus {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	resp, err := r.Plane.API().GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: "shop"})
	if err != nil {
		return nil
	}
	for _, s := range resp.GetRollout().GetRegions() {
		if s.GetRegion() == region {
			return s
		}
	}
	return nil
}

// Until waits until ok, and fails the test after the time.
func (r *Rig) Until(what string, within time.Duration, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			var all []*aviaryv1.RegionStatus
			for _, region := range r.Options.Regions {
				all = append(all, r.StatusIn(region))
			}
			r.t.Fatalf("not within %v: %s; status %v", within, what, all)
		}
	}
}

// UntilWeight waits until the rollout intends a share in a region, by default the first, and every proxy there has it.
func (r *Rig) UntilWeight(weight uint32, within time.Duration, regions ...string) {
	r.t.Helper()
	for _, region := range r.orFirst(regions) {
		r.Until(fmt.Sprintf("weight %d in %s", weight, region), within, func() bool {
			s := r.StatusIn(region)
			return s != nil && s.Weight == weight && s.EffectiveMin == weight && s.EffectiveMax == weight
		})
	}
}

// UntilPhase waits until the rollout is in a phase in a region, by default the first.
func (r *Rig) UntilPhase(phase aviaryv1.Phase, within time.Duration, regions ...string) {
	r.t.Helper()
	for _, region := range r.orFirst(regions) {
		r.Until(fmt.Sprintf("%v in %s", phase, region), within, func() bool {
			s := r.StatusIn(region)
			return s != nil && s.Phase == phase
		})
	}
}

func (r *Rig) orFirst(regions []string) []string {
	if len(regions) == 0 {
		return r.Options.Regions[:1]
	}
	return regions
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
