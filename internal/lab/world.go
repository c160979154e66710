package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
)

// arm is one version of one service, over all regions.
type arm struct{ service, version string }

func (a arm) String() string { return a.service + " " + a.version }

func compareArms(a, b arm) int { return strings.Compare(a.String(), b.String()) }

// world is everything that runs on the machine for a scenario, but for the control plane.
type world struct {
	instances map[arm]map[string][]*Instance // by region
	zones     map[*Instance]string
	sidecars  []*sidecar
	users     map[string]*Users
}

type sidecar struct {
	Sidecar
	port   *Port
	envoy  *Envoy
	egress string // where it listens for the service beside it
}

// startServices starts the instances of every version.
func (w *world) startServices(s *Scenario) error {
	w.instances, w.zones = map[arm]map[string][]*Instance{}, map[*Instance]string{}
	for name, service := range s.Services {
		for version, setup := range service.Versions {
			a := arm{name, version}
			w.instances[a] = map[string][]*Instance{}
			for region, zones := range s.Regions {
				for n := range max(setup.Endpoints, 1) {
					i, err := StartInstance(InstanceOptions{
						Service: name, Version: version, Protocol: service.Protocol, Behavior: setup.Behavior,
					})
					if err != nil {
						return err
					}
					w.instances[a][region] = append(w.instances[a][region], i)
					w.zones[i] = zones[n%len(zones)]
				}
			}
		}
	}
	return nil
}

// of returns the instances of a version in a region; "" is every region.
func (w *world) of(a arm, region string) []*Instance {
	if region != "" {
		return w.instances[a][region]
	}
	var all []*Instance
	for _, in := range w.instances[a] {
		all = append(all, in...)
	}
	return all
}

// fill executes a template of documents.
func (w *world) fill(text string) ([]byte, error) {
	t, err := template.New("documents").Funcs(template.FuncMap{"endpoints": w.endpoints}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("lab: documents: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, nil); err != nil {
		return nil, fmt.Errorf("lab: documents: %w", err)
	}
	return out.Bytes(), nil
}

// endpoints renders the endpoints of a version in a region as documents have them.
func (w *world) endpoints(service, version, region string) (string, error) {
	in := w.instances[arm{service, version}][region]
	if len(in) == 0 {
		return "", fmt.Errorf("no version %q of service %q in region %q", version, service, region)
	}
	list := make([]string, len(in))
	for n, i := range in {
		list[n] = fmt.Sprintf("{zone: %s, address: %q}", w.zones[i], i.Address())
	}
	return "[" + strings.Join(list, ", ") + "]", nil
}

// rolloutsIn returns the names of the rollouts that documents declare.
func rolloutsIn(documents []byte) []string {
	var names []string
	for decoder := yaml.NewDecoder(bytes.NewReader(documents)); ; {
		var d struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := decoder.Decode(&d); err != nil {
			return names // the control plane says what is wrong with them
		}
		if d.Kind == "Rollout" {
			names = append(names, d.Metadata.Name)
		}
	}
}

// startSidecars starts all sidecars and waits until each is ready and listens.
func (w *world) startSidecars(ctx context.Context, s *Scenario, cp ControlPlane) error {
	for _, setup := range s.Sidecars {
		zones := s.Regions[setup.Region]
		for n := range max(setup.Count, 1) {
			port, err := NewPort()
			if err != nil {
				return err
			}
			w.sidecars = append(w.sidecars, &sidecar{port: port, Sidecar: Sidecar{
				ID:     fmt.Sprintf("%s-%s-%d", setup.Region, setup.Service, len(w.sidecars)),
				Region: setup.Region, Zone: zones[n%len(zones)], Service: setup.Service, Port: port.Number(), Flush: setup.Flush,
			}})
		}
	}
	var all sync.WaitGroup
	errs := make([]error, len(w.sidecars))
	for n, c := range w.sidecars {
		all.Go(func() { errs[n] = c.start(ctx, cp) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *sidecar) start(ctx context.Context, cp ControlPlane) error {
	bootstrap, err := cp.Bootstrap(ctx, c.Sidecar)
	if err != nil {
		return fmt.Errorf("lab: bootstrap of %s: %w", c.ID, err)
	}
	if c.envoy, err = StartEnvoy(ctx, Options{Name: c.ID, Bootstrap: bootstrap}); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.envoy.WaitReady(wait); err != nil {
		return err
	}
	return c.envoy.await(wait, "listening", func() error {
		listeners, err := c.envoy.Listeners()
		if err != nil {
			return err
		}
		if len(listeners) == 0 {
			return errors.New("it has no listener")
		}
		c.egress = slices.Sorted(maps.Values(listeners))[0]
		for _, address := range listeners {
			if address == c.port.Address() {
				c.egress = address
			}
		}
		return nil
	})
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

// startUsers starts every group.
func (w *world) startUsers(ctx context.Context, s *Scenario) error {
	w.users = map[string]*Users{}
	for name, setup := range s.Users {
		o := UsersOptions{
			Host: setup.Host, Protocol: setup.Protocol, Path: setup.Path, Rate: setup.Rate, Poisson: setup.Poisson,
			Concurrency: setup.Concurrency, Users: setup.Users, UserHeader: setup.UserHeader, Cookies: setup.Cookies,
			Headers: setup.Headers, Testers: setup.Testers, TesterHeaders: setup.TesterHeaders, Posts: setup.Posts,
			Body: setup.Body, Timeout: setup.Timeout,
		}
		for _, c := range w.sidecars {
			if setup.behind(SidecarSetup{Region: c.Region, Service: c.Service}) {
				o.Proxies = append(o.Proxies, c.egress)
			}
		}
		u, err := StartUsers(ctx, o)
		if err != nil {
			return fmt.Errorf("lab: users %s: %w", name, err)
		}
		w.users[name] = u
	}
	return nil
}

// stopUsers ends every group at the same time, and returns when no request is left.
func (w *world) stopUsers() {
	var all sync.WaitGroup
	for _, u := range w.users {
		all.Go(func() { u.Stop() })
	}
	all.Wait()
}

// close ends everything.
func (w *world) close() {
	w.stopUsers()
	var all sync.WaitGroup
	for _, c := range w.sidecars {
		all.Go(func() {
			if c.envoy != nil {
				c.envoy.Kill()
			}
			c.port.Close()
		})
	}
	all.Wait()
	for _, regions := range w.instances {
		for _, in := range regions {
			for _, i := range in {
				i.Close()
			}
		}
	}
}

// report adds up what all users saw.
func (w *world) report() Report {
	sum := Report{At: time.Now()}
	for _, name := range slices.Sorted(maps.Keys(w.users)) {
		sum = sum.plus(w.users[name].Report())
	}
	return sum
}
