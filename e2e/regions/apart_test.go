package regions

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/signal"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
	"github.com/aviary-mesh/aviary/xds/bootstrap"
)

const flush = 100 * time.Millisecond

var names = []string{"ap", "eu", "us"}

// mesh is three regions with a sidecar, users and two versions each. The endpoints in ap have names.
type mesh struct {
	t     *testing.T
	plane *plane
	shops map[string]map[string]*lab.Instance // by region and version
	users map[string]*lab.Users
}

func newMesh(t *testing.T, p *plane, dns *lab.DNS) *mesh {
	m := &mesh{t: t, plane: p, shops: map[string]map[string]*lab.Instance{}, users: map[string]*lab.Users{}}
	for n, region := range names {
		m.shops[region] = map[string]*lab.Instance{}
		for _, version := range []string{"v1", "v2"} {
			i, err := lab.StartInstance(lab.InstanceOptions{
				Service: "shop", Version: version, Region: region, Host: lab.RegionHost(n),
				Behavior: lab.Behavior{Latency: lab.Latency{Median: 3 * time.Millisecond, Sigma: 0.3}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(i.Close)
			m.shops[region][version] = i
		}
	}
	for _, version := range []string{"v1", "v2"} {
		dns.Say(version+".ap.example", lab.Answer{Addresses: []netip.Addr{m.address("ap", version).Addr()}})
	}
	m.apply(m.documents())
	for _, region := range names {
		m.sidecar(region)
	}
	return m
}

func (m *mesh) apply(documents string) {
	m.t.Helper()
	if _, err := m.plane.api.Apply(m.t.Context(), &aviaryv1.ApplyRequest{Files: []*aviaryv1.File{{Name: "mesh", Content: []byte(documents)}}}); err != nil {
		m.t.Fatal(err)
	}
}

// region is the document of a region with a network.
func region(name string, network netip.Prefix) string {
	return fmt.Sprintf("apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: %s}\nspec: {zones: [a], networks: [%q]}\n", name, network)
}

// network is the one that a region's instances are in.
func (m *mesh) network(region string) netip.Prefix {
	return netip.PrefixFrom(m.address(region, "v1").Addr(), 24).Masked()
}

func (m *mesh) address(region, version string) netip.AddrPort {
	return netip.MustParseAddrPort(m.shops[region][version].Address())
}

func (m *mesh) documents() string {
	var all strings.Builder
	placed := map[string][]string{}
	for _, name := range names {
		all.WriteString(region(name, m.network(name)) + "---\n")
		for _, version := range []string{"v1", "v2"} {
			at := m.address(name, version).String()
			if name == "ap" {
				at = fmt.Sprintf("%s.ap.example:%d", version, m.address(name, version).Port())
			}
			placed[version] = append(placed[version], fmt.Sprintf("{region: %s, capacity: 1000, endpoints: [{zone: a, address: %q}]}", name, at))
		}
	}
	fmt.Fprintf(&all, `apiVersion: aviary.dev/v1
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
  - {name: v1, digest: "sha256:v1", regions: [%s]}
  - {name: v2, digest: "sha256:v2", regions: [%s]}
---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: quick}
spec:
  availability: {target: 99.9%%, window: 1h}
  steps: [{share: 10%%, hold: 1s}, {share: 25%%, hold: 4s}, {share: 50%%, hold: 10m}]
  lease: {ttl: 3s}
---
apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop}
spec: {service: shop, version: v2, policy: quick}
`, strings.Join(placed["v1"], ", "), strings.Join(placed["v2"], ", "))
	return all.String()
}

func (m *mesh) sidecar(region string) {
	m.t.Helper()
	port, err := lab.NewPort()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(port.Close)
	text, err := bootstrap.Render(bootstrap.Options{
		ID: region + "-1", Service: "front", Region: region, Zone: "a", Port: port.Number(), Flush: flush, Edges: signal.Edges,
		Servers: []string{m.plane.xds}, Admin: "127.0.0.1:0",
	})
	if err != nil {
		m.t.Fatal(err)
	}
	e, err := lab.StartEnvoy(context.Background(), lab.Options{Name: region, Bootstrap: text, Concurrency: 1})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(e.Kill)
	ready, cancel := context.WithTimeout(m.t.Context(), climb)
	defer cancel()
	if err := e.WaitReady(ready); err != nil {
		m.t.Fatal(err)
	}
	m.until(region+" listens", func() bool { all, err := e.Listeners(); return err == nil && len(all) > 0 })
	u, err := lab.StartUsers(m.t.Context(), lab.UsersOptions{Proxies: []string{port.Address()}, Host: "shop.example", Rate: 100})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { u.Stop() })
	m.users[region] = u
}

func (m *mesh) status(region string) *aviaryv1.RegionStatus {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	resp, err := m.plane.api.GetRollout(ctx, &aviaryv1.GetRolloutRequest{Rollout: "shop"})
	if err != nil {
		return nil
	}
	for _, r := range resp.GetRollout().GetRegions() {
		if r.GetRegion() == region {
			return r
		}
	}
	return nil
}

// refused is why a region's newest plan is not in force, and misled why what one of its names answers is not.
func (m *mesh) refused(region string) (plan, misled string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	resp, err := m.plane.api.ListRegions(ctx, &aviaryv1.ListRegionsRequest{})
	if err != nil {
		return "", ""
	}
	for _, r := range resp.GetRegions() {
		if r.GetName() != region {
			continue
		}
		plan = r.GetRefused()
		for _, s := range r.GetServices() {
			for _, n := range s.GetNames() {
				misled = cmp.Or(misled, n.GetError())
			}
		}
	}
	return plan, misled
}

func (m *mesh) until(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(climb); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("not within %v: %s; %v, %v, %v", climb, what, m.status("ap"), m.status("eu"), m.status("us"))
		}
	}
}

func (m *mesh) has(region string, weight uint32) bool {
	s := m.status(region)
	return s.GetWeight() == weight && s.GetProxies() > 0 && s.GetEffectiveMin() == weight && s.GetEffectiveMax() == weight
}

// TestRegionsFailApart halts one region while another is in the middle of a step, the store is slow, and the plan of a
// third is refused: none of that holds up the halt, and none of them moves.
func TestRegionsFailApart(t *testing.T) {
	dns, err := lab.StartDNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dns.Close)
	wire := rig.NewWire(t, etcd(t))
	open := func(ctx context.Context) (*store.Store, error) {
		return store.OpenExternal(ctx, []string{wire.Address()}, nil, store.Options{Logger: slog.New(slog.DiscardHandler)})
	}
	p := start(t, open, dns.Address())
	m := newMesh(t, p, dns)
	if _, err := p.api.StartRollout(t.Context(), &aviaryv1.StartRolloutRequest{Rollout: "shop", Author: "test"}); err != nil {
		t.Fatal(err)
	}
	m.until("a quarter in ap", func() bool { return m.has("ap", 2500) })
	if _, err := p.api.PromoteRollout(t.Context(), &aviaryv1.PromoteRolloutRequest{Rollout: "shop", Regions: []string{"ap"}, Author: "test"}); err != nil {
		t.Fatal(err)
	}
	for _, region := range []string{"eu", "us"} {
		m.until("a quarter in "+region, func() bool { return m.has(region, 2500) })
	}
	m.until("ap is served by v2 alone", func() bool {
		return m.shops["ap"]["v2"].Counts().LastReceived.Sub(m.shops["ap"]["v1"].Counts().LastReceived) > 300*time.Millisecond
	})

	// A name of ap answers with an address of us: that crosses a line, and the name keeps what it had.
	dns.Say("v2.ap.example", lab.Answer{Addresses: []netip.Addr{m.address("us", "v1").Addr()}})
	m.until("the name is refused", func() bool {
		_, misled := m.refused("ap")
		return strings.Contains(misled, m.address("us", "v1").Addr().String())
	})
	// Then ap is said to be elsewhere: nothing that is known of v2, which was promoted, may be given.
	m.apply(region("ap", netip.MustParsePrefix("127.99.0.0/24")))
	m.until("ap's plan is refused", func() bool { plan, _ := m.refused("ap"); return plan != "" })
	if plan, _ := m.refused("ap"); !strings.Contains(plan, "service shop stays as it was") {
		t.Errorf("the refusal says %q", plan)
	}
	rig.Network(t, lab.Network{Delay: 2 * time.Second}, wire) // from now on the store takes four seconds for an answer
	bad := m.shops["us"]["v2"]
	if err := bad.Set(lab.Behavior{Failures: []lab.Failure{{Kind: lab.FailBreak, Rate: 1}}}); err != nil {
		t.Fatal(err)
	}
	m.until("us is at zero", func() bool { return m.status("us").GetWeight() == 0 })
	m.until("us is quiet", func() bool {
		return m.shops["us"]["v1"].Counts().LastReceived.Sub(bad.Counts().LastReceived) > time.Second
	})
	counts := bad.Counts()
	reaction := counts.LastReceived.Sub(counts.FirstBad)
	plan, _ := m.refused("ap")
	t.Logf("us: first bad answer → last request %v, with %d tries that failed; ap: %s", reaction.Round(time.Millisecond), counts.Bad(), plan)
	if reaction > 2*time.Second { // a flush and a little, on a machine that does nothing else
		t.Errorf("the canary got requests for %v after its first bad answer", reaction)
	}
	m.until("us is halted", func() bool { return m.status("us").GetPhase() == aviaryv1.Phase_PHASE_HALTED })
	if s := m.status("eu"); s.GetWeight() < 2500 || s.GetPhase() != aviaryv1.Phase_PHASE_PROGRESSING {
		t.Errorf("eu moved: %v", s)
	}
	for _, name := range []string{"ap", "eu"} {
		if r := m.users[name].Report(); r.Failed > 0 || r.Region["us"] > 0 {
			t.Errorf("%s: %d of %d requests failed, answered by %v: %q", name, r.Failed, r.Done, r.Region, r.Errors)
		}
	}

	// The store is quick again: what was decided is kept, and eu goes on. What was wrong with ap is mended.
	rig.Network(t, lab.Network{}, wire)
	m.until("half in eu", func() bool { return m.has("eu", 5000) })
	dns.Say("v2.ap.example", lab.Answer{Addresses: []netip.Addr{m.address("ap", "v2").Addr()}})
	m.apply(region("ap", m.network("ap")))
	m.until("ap's plan is good", func() bool { plan, misled := m.refused("ap"); return plan == "" && misled == "" })
	p.stop()
	m.plane = start(t, open, dns.Address())
	m.until("us is halted after a restart", func() bool { return m.status("us").GetPhase() == aviaryv1.Phase_PHASE_HALTED })
	if n := bad.Counts().Received - counts.Received; n > 0 {
		t.Errorf("%d requests went to the halted canary", n)
	}
	if r := m.users["ap"].Report(); r.Failed > 0 {
		t.Errorf("ap: %d of %d requests failed: %q", r.Failed, r.Done, r.Errors)
	}
}
