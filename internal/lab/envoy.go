package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ErrNoEnvoy is in the error of FindEnvoy when there is no Envoy on this machine.
var ErrNoEnvoy = errors.New("no Envoy found: run `make envoy`, or set AVIARY_ENVOY to the binary")

// FindEnvoy returns the path of the Envoy binary: $AVIARY_ENVOY, else `envoy` on PATH, else .tools/envoy/envoy beside the
// go.mod of the working directory or of a parent of it.
func FindEnvoy() (string, error) {
	if path := os.Getenv("AVIARY_ENVOY"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("lab: AVIARY_ENVOY: %w (%w)", ErrNoEnvoy, err)
		}
		return filepath.Abs(found)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(path)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("lab: find Envoy: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, ".tools", "envoy", "envoy")
			if _, err := exec.LookPath(path); err == nil {
				return path, nil
			}
			return "", fmt.Errorf("lab: %w (looked at %s)", ErrNoEnvoy, path)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("lab: %w", ErrNoEnvoy)
		}
	}
}

// Options say how an Envoy is started.
type Options struct {
	// Name is what errors call it; default "envoy".
	Name string
	// Binary is the path of Envoy; default FindEnvoy.
	Binary string
	// Bootstrap is YAML or JSON. Without an admin section it gets one on a free loopback port.
	Bootstrap []byte
	// Args are added to the command line.
	Args []string
	// Log gets what Envoy writes; nil: nothing.
	Log io.Writer
	// LogLevel is Envoy's; default "warning".
	LogLevel string
	// Concurrency is the number of worker threads; default 2.
	Concurrency int
}

// Envoy is a running Envoy process.
type Envoy struct {
	*Process
	admin  string
	client *http.Client
}

// StartEnvoy starts an Envoy and returns when its admin interface answers, or with an error that holds Envoy's last lines.
// It does not wait for readiness. The process is killed when ctx ends.
func StartEnvoy(ctx context.Context, o Options) (*Envoy, error) {
	if o.Name == "" {
		o.Name = "envoy"
	}
	if o.LogLevel == "" {
		o.LogLevel = "warning"
	}
	if o.Concurrency == 0 {
		o.Concurrency = 2
	}
	if o.Binary == "" {
		path, err := FindEnvoy()
		if err != nil {
			return nil, err
		}
		o.Binary = path
	}
	var top map[string]any
	if err := yaml.Unmarshal(o.Bootstrap, &top); err != nil {
		return nil, fmt.Errorf("lab: bootstrap of %s: %w", o.Name, err)
	}
	dir, err := os.MkdirTemp("", "aviary-envoy-")
	if err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", o.Name, err)
	}
	e := &Envoy{client: &http.Client{Transport: &http.Transport{}}}
	// Envoy reads the files before its admin answers, so nothing is left on the disk whatever happens afterwards.
	defer os.RemoveAll(dir)
	bootstrap, address := filepath.Join(dir, "bootstrap.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(bootstrap, o.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", o.Name, err)
	}
	args := []string{
		"--config-path", bootstrap, "--admin-address-path", address, "--disable-hot-restart",
		"--concurrency", strconv.Itoa(o.Concurrency), "--log-level", o.LogLevel,
	}
	if _, has := top["admin"]; !has {
		args = append(args, "--config-yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}")
	}
	e.Process, err = StartProcess(ctx, Command{Name: o.Name, Path: o.Binary, Args: append(args, o.Args...), Log: o.Log})
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = e.await(wait, "started", func() error {
		text, err := os.ReadFile(address)
		if err != nil {
			return err
		}
		e.admin = strings.TrimSpace(string(text))
		_, err = e.get(wait, "/server_info")
		return err
	})
	if err != nil {
		e.Kill()
		return nil, err
	}
	return e, nil
}

// AdminAddress is host and port of the admin interface.
func (e *Envoy) AdminAddress() string { return e.admin }

// WaitLive waits until the server is initialised: LIVE in /server_info.
func (e *Envoy) WaitLive(ctx context.Context) error {
	return e.await(ctx, "live", func() error {
		body, err := e.get(ctx, "/server_info")
		if err != nil {
			return err
		}
		var info struct{ State string }
		if err := json.Unmarshal(body, &info); err != nil {
			return err
		}
		if info.State != "LIVE" {
			return fmt.Errorf("state is %s", info.State)
		}
		return nil
	})
}

// WaitReady waits until /ready answers 200.
func (e *Envoy) WaitReady(ctx context.Context) error {
	return e.await(ctx, "ready", func() error {
		_, err := e.get(ctx, "/ready")
		return err
	})
}

// Stop asks Envoy to end, as Process.Stop, with five seconds of grace.
func (e *Envoy) Stop() error {
	e.client.CloseIdleConnections()
	return e.Process.Stop(5 * time.Second)
}

// Kill ends Envoy at once.
func (e *Envoy) Kill() {
	e.client.CloseIdleConnections()
	e.Process.Kill()
}

// Admin gets a path of the admin interface, such as "/clusters?format=json"; any answer but 200 is an error with its body.
// A paused Envoy makes it fail after five seconds.
func (e *Envoy) Admin(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return e.do(ctx, http.MethodGet, path)
}

// AdminPost posts to a path of the admin interface, such as "/runtime_modify?a=b" or "/logging?level=debug".
func (e *Envoy) AdminPost(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return e.do(ctx, http.MethodPost, path)
}

func (e *Envoy) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return e.do(ctx, http.MethodGet, path)
}

func (e *Envoy) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.admin+path, nil)
	if err != nil {
		return nil, fmt.Errorf("lab: %s admin: %w", e.name, err)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("lab: %s admin: %w", e.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("lab: %s admin %s: %w", e.name, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("lab: %s admin %s: %s: %s", e.name, path, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// Stats returns the counters and gauges whose names match a regular expression (RE2, anywhere in the name), by name.
func (e *Envoy) Stats(pattern string) (map[string]uint64, error) {
	body, err := e.Admin("/stats?filter=" + url.QueryEscape(pattern))
	if err != nil {
		return nil, err
	}
	stats := map[string]uint64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			stats[name] = n
		}
	}
	return stats, nil
}

// Stat returns one counter or gauge by its exact name; 0 when Envoy does not have it (yet).
func (e *Envoy) Stat(name string) (uint64, error) {
	stats, err := e.Stats("^" + regexp.QuoteMeta(name) + "$")
	return stats[name], err
}

// ConfigDump returns /config_dump as JSON; resource such as "dynamic_active_clusters" or "dynamic_route_configs" asks for
// that part alone, "" for everything with endpoints.
func (e *Envoy) ConfigDump(resource string) ([]byte, error) {
	if resource == "" {
		return e.Admin("/config_dump?include_eds")
	}
	return e.Admin("/config_dump?resource=" + url.QueryEscape(resource))
}

// Listeners returns the addresses (host:port) that Envoy listens on, by the listener's name.
func (e *Envoy) Listeners() (map[string]string, error) {
	body, err := e.Admin("/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("lab: %s: listeners: %w", e.name, err)
	}
	listeners := map[string]string{}
	for _, l := range answer.Statuses {
		if l.Local.Socket.Port != 0 {
			listeners[l.Name] = fmt.Sprintf("%s:%d", l.Local.Socket.Address, l.Local.Socket.Port)
		}
	}
	return listeners, nil
}
