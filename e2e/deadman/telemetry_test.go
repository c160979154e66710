package deadman

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
	"github.com/aviary-mesh/aviary/internal/lab"
)

// over has a sidecar report its telemetry by a wire of its own, while all else stays as it is.
func over(t *testing.T, w *lab.Wire) func([]byte) []byte {
	return func(bootstrap []byte) []byte {
		var b map[string]any
		if err := json.Unmarshal(bootstrap, &b); err != nil {
			t.Fatal(err)
		}
		static := b["static_resources"].(map[string]any)
		clusters := static["clusters"].([]any)
		text, err := json.Marshal(clusters[0])
		if err != nil {
			t.Fatal(err)
		}
		var wired map[string]any
		if err := json.Unmarshal(text, &wired); err != nil {
			t.Fatal(err)
		}
		wired["name"] = "wire"
		if set(wired, "port_value", w.Port())+set(wired, "cluster_name", "wire") != 2 {
			t.Fatalf("a cluster of another shape: %s", text)
		}
		static["clusters"] = append(clusters, wired)
		if set(b["stats_sinks"], "cluster_name", "wire") != 1 {
			t.Fatalf("sinks of another shape: %v", b["stats_sinks"])
		}
		out, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// set gives every field of a name a value, and returns how many there were.
func set(v any, name string, value any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for k, in := range v {
			if k == name {
				v[k], n = value, n+1
			} else {
				n += set(in, name, value)
			}
		}
	case []any:
		for _, in := range v {
			n += set(in, name, value)
		}
	}
	return n
}

// TestTelemetryCut cuts the telemetry of one sidecar, and then of both, while the ADS streams live: who is not watched has no
// canary. A restart does not help; mended telemetry does.
func TestTelemetryCut(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	r := rig.New(t, rig.Options{Policy: steps("2s")})
	well := lab.Behavior{Latency: lab.Latency{Median: 3 * time.Millisecond, Sigma: 0.3}}
	r.Set("v1", well)
	r.Set("v2", well)
	wires := []*lab.Wire{rig.NewWire(t, r.Plane.Address()), rig.NewWire(t, r.Plane.Address())}
	r.Sidecars[0].Kill() // the rig's own has no wire
	r.Sidecars = []*rig.Sidecar{
		r.SidecarWith("wired-0", r.Options.Flush, over(t, wires[0])), r.SidecarWith("wired-1", r.Options.Flush, over(t, wires[1])),
	}
	users := r.Users(lab.UsersOptions{Rate: 150})
	r.Act("start")
	both := func(want ...uint32) func() bool {
		return func() bool {
			var got []uint32
			for _, s := range r.Sidecars {
				w, err := s.Weight("v2")
				if err != nil {
					return false
				}
				got = append(got, w)
			}
			return slices.Equal(got, want)
		}
	}
	r.Until("both have a half", climb, both(second, second))
	served(r, "v2", 50)

	follow := r.Follow("v2")
	served(r, "v2", 10)
	cut := time.Now()
	rig.Network(t, lab.Network{Cut: true}, wires[0])
	r.Until("the unwatched sidecar is at stable, the other is not", soon, both(0, second))
	one := time.Since(cut)
	if one > ttl+slack {
		t.Errorf("at stable after %v, the lease is %v", one, ttl)
	}
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !both(0, second)() {
			t.Fatalf("one is watched: %v", follow)
		}
	}
	served(r, "v2", 20) // by the other
	connected, err := r.Sidecars[0].Stat("control_plane.connected_state")
	if err != nil || connected != 1 {
		t.Errorf("the unwatched sidecar is not connected (%v): this test is wrong", err)
	}
	rig.Network(t, lab.Network{}, wires[0])
	r.Until("both have a half again", climb, both(second, second))
	mended := time.Now()
	follow.Stop()
	t.Logf("telemetry of one sidecar cut: at stable after %v; %v", one.Round(time.Millisecond), follow)

	rig.Network(t, lab.Network{Cut: true}, wires...)
	r.Until("both are at stable", soon, both(0, 0))
	all := time.Since(mended)
	up := r.Follow("v2")
	if err := r.Plane.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Plane.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	received := r.Instances["v2"].Counts().Received
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s := r.Status(); s == nil || s.Weight != 0 {
			t.Fatalf("nobody is watched: %v", s)
		}
	}
	served(r, "v1", 50)
	if n := r.Instances["v2"].Counts().Received; n != received {
		t.Errorf("nobody is watched, and the canary got %d requests", n-received)
	}
	rig.Network(t, lab.Network{}, wires...)
	r.UntilWeight(second, climb)
	served(r, "v2", 20)
	climbs(t, r, up)
	noneFailed(t, users)
	t.Logf("telemetry of both cut: at stable after %v", all.Round(time.Millisecond))
}
