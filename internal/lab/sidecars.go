package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// sidecar is an Envoy of a scenario, with what it needs.
type sidecar struct {
	Sidecar
	port   *Port
	envoy  *Envoy
	egress string // where it listens for the service beside it
}

// crowd is the users of a group behind the sidecars of one region.
type crowd struct {
	region string
	part   float64 // of the group's rate
	*Users
}

// startSidecars starts all sidecars, each behind the wire of its region, and waits until each is ready and listens.
func (w *world) startSidecars(ctx context.Context, s *Scenario, cp ControlPlane) error {
	w.wires = map[string]*Wire{}
	for _, setup := range s.sidecars() {
		if w.wires[setup.Region] == nil {
			wire, err := NewWire(cp.Address())
			if err != nil {
				return err
			}
			w.wires[setup.Region] = wire
		}
		zones := s.Regions[setup.Region]
		for n := range max(setup.Count, 1) {
			port, err := NewPort()
			if err != nil {
				return err
			}
			w.sidecars = append(w.sidecars, &sidecar{port: port, Sidecar: Sidecar{
				ID:     fmt.Sprintf("%s-%s-%d", setup.Region, setup.Service, len(w.sidecars)),
				Region: setup.Region, Zone: zones[n%len(zones)], Service: setup.Service, Port: port.Number(), Flush: setup.Flush,
				Server: w.wires[setup.Region].Address(),
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
	// One worker: there are as many Envoys here as regions, and few cores.
	if c.envoy, err = StartEnvoy(ctx, Options{Name: c.ID, Bootstrap: bootstrap, Concurrency: 1}); err != nil {
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

// startUsers starts every group, a crowd in each region that has sidecars for it.
func (w *world) startUsers(ctx context.Context, s *Scenario) error {
	w.users = map[string][]crowd{}
	for name, setup := range s.Users {
		proxies, total := map[string][]string{}, 0
		for _, c := range w.sidecars {
			if setup.behind(SidecarSetup{Region: c.Region, Service: c.Service}) {
				proxies[c.Region] = append(proxies[c.Region], c.egress)
				total++
			}
		}
		for _, region := range slices.Sorted(maps.Keys(proxies)) {
			part := float64(len(proxies[region])) / float64(total)
			u, err := StartUsers(ctx, UsersOptions{
				Proxies: proxies[region], Host: setup.Host, Protocol: setup.Protocol, Path: setup.Path, Rate: part * setup.Rate,
				Poisson: setup.Poisson, Concurrency: setup.Concurrency, Users: setup.Users, UserHeader: setup.UserHeader,
				Cookies: setup.Cookies, Headers: setup.Headers, Testers: setup.Testers, TesterHeaders: setup.TesterHeaders,
				Posts: setup.Posts, Body: setup.Body, Timeout: setup.Timeout,
			})
			if err != nil {
				return fmt.Errorf("lab: users %s: %w", name, err)
			}
			w.users[name] = append(w.users[name], crowd{region, part, u})
		}
	}
	return nil
}

// stopUsers ends every group at the same time, and returns when no request is left.
func (w *world) stopUsers() {
	var all sync.WaitGroup
	for _, group := range w.users {
		for _, c := range group {
			all.Go(func() { c.Stop() })
		}
	}
	all.Wait()
}
