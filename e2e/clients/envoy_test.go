package clients

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// envoy starts a sidecar of "front" with a changed bootstrap, and returns it with its egress address.
func envoy(t *testing.T, r *rig.Rig, id string, change func(bootstrap map[string]any)) (*lab.Envoy, string) {
	t.Helper()
	port, err := lab.NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	text, err := r.Plane.Bootstrap(t.Context(), lab.Sidecar{
		ID: id, Region: rig.Region, Zone: "a", Service: "front", Port: port.Number(), Flush: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	var bootstrap map[string]any
	if err := json.Unmarshal(text, &bootstrap); err != nil {
		t.Fatal(err)
	}
	change(bootstrap)
	if text, err = json.Marshal(bootstrap); err != nil {
		t.Fatal(err)
	}
	e, err := lab.StartEnvoy(context.Background(), lab.Options{Name: id, Bootstrap: text})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Kill)
	return e, port.Address()
}

func proxy(t *testing.T, r *rig.Rig, name string) *aviaryv1.ProxyStatus {
	t.Helper()
	resp, err := r.Plane.API().ListProxies(t.Context(), &aviaryv1.ListProxiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Proxies {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func TestAnEnvoyWithoutTheLayerGetsItsWeightsInRoutes(t *testing.T) {
	r := rig.New(t, rig.Options{Policy: `steps: [{share: "50%", hold: 10m}]`})
	e, egress := envoy(t, r, "foreign", func(b map[string]any) {
		delete(b, "layered_runtime")
		delete(b, "layeredRuntime")
		b["node"].(map[string]any)["metadata"].(map[string]any)["aviary"].(map[string]any)["lease"] = false
	})
	ready, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := e.WaitReady(ready); err != nil {
		t.Fatal(err)
	}
	r.Until("it listens", 10*time.Second, func() bool { all, err := e.Listeners(); return err == nil && len(all) > 0 })
	users := r.Users(lab.UsersOptions{Rate: 100, Proxies: []string{egress}})
	r.Act("start")
	r.UntilWeight(5000, 20*time.Second)
	before := users.Report()
	r.Until("400 answers", 20*time.Second, func() bool { return users.Report().Sub(before).Done >= 400 })
	got := users.Report().Sub(before)
	if s := got.Share("v2"); s < .35 || s > .65 || got.Failed > 0 {
		t.Errorf("at 50 %% v2 answered %.0f %%, %d failed", 100*s, got.Failed)
	}
	p := proxy(t, r, "foreign")
	if p == nil || len(p.Lacks) != 1 || p.Lacks[0] != "lease" {
		t.Errorf("it lacks %v, want the lease", p.GetLacks())
	}
	r.Act("abort")
	r.UntilWeight(0, 5*time.Second)
	before = users.Report()
	r.Until("100 answers", 20*time.Second, func() bool { return users.Report().Sub(before).Done >= 150 })
	if got := users.Report().Sub(before); got.Version["v2"] > 20 || got.Failed > 0 { // those that were under way
		t.Errorf("after the abort: %v, %d failed", got.Version, got.Failed)
	}
}

func TestARefusedListenerIsShownAndNotSentAgain(t *testing.T) {
	r := rig.New(t, rig.Options{})
	var taken net.Listener
	_, _ = envoy(t, r, "refuser", func(b map[string]any) {
		port := b["node"].(map[string]any)["metadata"].(map[string]any)["aviary"].(map[string]any)["port"].(float64)
		var err error
		// Without SO_REUSEPORT, so that Envoy cannot bind it too.
		if taken, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = taken.Close() })
	nack := func() *aviaryv1.TypeStatus {
		for _, s := range proxy(t, r, "refuser").GetTypes() {
			if s.Type == "listener" {
				return s
			}
		}
		return nil
	}
	r.Until("NACKed", 20*time.Second, func() bool { return nack().GetState() == aviaryv1.SyncState_SYNC_STATE_NACKED })
	first := nack()
	if !strings.Contains(first.Nack, "Address already in use") {
		t.Errorf("the text of the NACK is %q", first.Nack)
	}
	t.Logf("NACK: %s", first.Nack)
	// A share that is published a few times over must not bring the listener up again.
	for range 3 {
		o := r.Options
		o.Service = "timeout: 4s"
		r.Apply(r.Documents(o))
		o.Service = "timeout: 5s"
		r.Apply(r.Documents(o))
	}
	if again := nack(); again.State != aviaryv1.SyncState_SYNC_STATE_NACKED || !again.Nacked.AsTime().Equal(first.Nacked.AsTime()) {
		t.Errorf("it was sent again: %v, then %v", first, again)
	}
}
