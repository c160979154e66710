package facts

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/internal/lab"
)

func TestAnEnvoyWithoutAControlPlaneWaitsAndListensToNobody(t *testing.T) {
	server, err := lab.NewPort() // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	const wait = 2 * time.Second // Envoy's own is 15 s, for each of the three
	text, err := render(server.Address(), 1, func(b map[string]any) {
		dynamic := b["dynamic_resources"].(map[string]any)
		dynamic["cds_config"].(map[string]any)["initial_fetch_timeout"] = "1s"
		dynamic["lds_config"].(map[string]any)["initial_fetch_timeout"] = "1s"
		layers := b["layered_runtime"].(map[string]any)["layers"].([]any)
		layers[0].(map[string]any)["rtds_layer"].(map[string]any)["rtds_config"].(map[string]any)["initial_fetch_timeout"] = "1s"
	})
	if err != nil {
		t.Fatal(err)
	}
	envoy, err := lab.StartEnvoy(context.Background(), lab.Options{Name: proxyID, Bootstrap: text})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(envoy.Kill)
	if _, err := envoy.Admin("/ready"); err == nil {
		t.Error("it is ready at once")
	}
	began := time.Now()
	ready, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := envoy.WaitReady(ready); err != nil {
		t.Fatal(err)
	}
	if err := envoy.WaitLive(ready); err != nil {
		t.Fatal(err)
	}
	listeners, err := envoy.Admin("/listeners?format=json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Listeners []any `json:"listener_statuses"`
	}
	if err := json.Unmarshal(listeners, &all); err != nil {
		t.Fatal(err)
	}
	waited := time.Since(began)
	t.Logf("it waited %v, and is live with %d listeners", waited.Round(time.Millisecond), len(all.Listeners))
	if len(all.Listeners) != 0 || waited < wait/4 {
		t.Errorf("it waited %v: %s", waited, listeners)
	}
}
