package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// static is a bootstrap with one listener that routes everything to one endpoint.
func static(port int, endpoint string, protocol Protocol) []byte {
	host, p, _ := strings.Cut(endpoint, ":")
	options := ""
	if protocol != HTTP {
		options = `
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}`
	}
	return fmt.Appendf(nil, `
node: {id: test, cluster: test}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: cart
              domains: ["cart.example"]
              routes: [{match: {prefix: /}, route: {cluster: cart}}]
  clusters:
  - name: cart
    load_assignment:
      cluster_name: cart
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]%s
`, port, host, p, options)
}

// startStatic starts an Envoy in front of one endpoint and returns it with the address of its listener.
func startStatic(t *testing.T, endpoint string, protocol Protocol) (*Envoy, string) {
	t.Helper()
	if _, err := FindEnvoy(); errors.Is(err, ErrNoEnvoy) {
		t.Fatal(err)
	}
	port, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	e, err := StartEnvoy(t.Context(), Options{Name: "front", Bootstrap: static(port.Number(), endpoint, protocol), Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := errors.Join(e.WaitLive(ctx), e.WaitReady(ctx)); err != nil {
		t.Fatal(err)
	}
	return e, port.Address()
}

func TestEnvoyStaticPauseStop(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	i := instance(t, HTTP, Behavior{})
	e, address := startStatic(t, i.Address(), HTTP)
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	client := plain(t, HTTP)
	client.Timeout = time.Second
	get := func() error {
		req, err := http.NewRequest(http.MethodGet, "http://"+address, nil)
		if err != nil {
			return err
		}
		req.Host = "cart.example"
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != 200 {
				err = errors.New(resp.Status)
			}
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	if n, err := e.Stat("cluster.cart.upstream_rq_total"); err != nil || n != 1 {
		t.Errorf("upstream_rq_total %d, %v", n, err)
	}
	if dump, err := e.ConfigDump("static_clusters"); err != nil || !strings.Contains(string(dump), `"cart"`) {
		t.Errorf("config dump: %v\n%s", err, dump)
	}
	if err := e.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := get(); err == nil {
		t.Error("a paused Envoy answered")
	}
	if err := e.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	if e.Running() || e.Err() != nil {
		t.Errorf("after stop: running %v, %v", e.Running(), e.Err())
	}
}

func TestEnvoyThatCannotStart(t *testing.T) {
	_, err := StartEnvoy(t.Context(), Options{Name: "broken", Bootstrap: []byte("static_resources: {listeners: 7}")})
	if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "listeners") {
		t.Errorf("got %v, want an error with what Envoy said", err)
	}
	if _, err := StartEnvoy(t.Context(), Options{Bootstrap: []byte("a: [")}); err == nil {
		t.Error("a bootstrap that is no YAML was taken")
	}
}

func TestFindEnvoySaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("AVIARY_ENVOY", "")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(below)
	if _, err := FindEnvoy(); !errors.Is(err, ErrNoEnvoy) || !strings.Contains(err.Error(), "make envoy") {
		t.Errorf("got %v", err)
	}
	binary := filepath.Join(dir, ".tools", "envoy", "envoy")
	if err := os.MkdirAll(filepath.Dir(binary), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := FindEnvoy(); err != nil || got != binary {
		t.Errorf("got %s, %v", got, err)
	}
	t.Setenv("AVIARY_ENVOY", filepath.Join(dir, "none"))
	if _, err := FindEnvoy(); !errors.Is(err, ErrNoEnvoy) {
		t.Errorf("a wrong AVIARY_ENVOY: %v", err)
	}
}
