package lab

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"
)

// place is one version of one service in one region.
type place struct{ service, version, region string }

func (p place) String() string {
	return strings.TrimSpace(strings.Join([]string{p.service, p.version, p.region}, " "))
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.version, b.version), cmp.Compare(a.region, b.region))
}

// in says whether the place is the other one, whose region "" is every region.
func (p place) in(of place) bool {
	return p.service == of.service && p.version == of.version && (of.region == "" || p.region == of.region)
}

// world is everything that runs on the machine for a scenario, but for the control plane.
type world struct {
	instances map[place][]*Instance
	places    []place // sorted
	zones     map[*Instance]string
	wires     map[string]*Wire // by region
	sidecars  []*sidecar
	users     map[string][]crowd
}

// counts is what the instances of a place did.
type counts struct{ requests, copies Counts }

// RegionHost is the loopback address of the n-th region on this machine, from 0: 127.0.1.1, 127.0.2.1, …; where a system
// has no such address (Linux has), 127.0.0.1.
func RegionHost(n int) string {
	host := fmt.Sprintf("127.0.%d.1", n+1)
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return loopback
	}
	_ = l.Close()
	return host
}

// networkOf is the network around a region's address.
func networkOf(host string) string {
	return host[:strings.LastIndexByte(host, '.')] + ".0/24"
}

// startServices starts the instances of every version, those that others need before them.
func (w *world) startServices(s *Scenario) error {
	w.instances, w.zones = map[place][]*Instance{}, map[*Instance]string{}
	hosts := map[string]string{}
	for n, region := range s.regions() {
		hosts[region] = RegionHost(n)
	}
	for _, name := range s.inOrder() {
		service := s.Services[name]
		for version, setup := range service.Versions {
			for _, region := range s.regionsOf(setup) {
				p := place{name, version, region}
				var needs []string
				for q, in := range w.instances {
					for _, i := range in {
						if q.service == setup.Needs && q.region == region {
							needs = append(needs, i.Address())
						}
					}
				}
				for n := range max(setup.Endpoints, 1) {
					i, err := StartInstance(InstanceOptions{
						Service: name, Version: version, Protocol: service.Protocol, Behavior: setup.Behavior, Region: region,
						Host: hosts[region], Needs: needs, Personal: service.Personal,
					})
					if err != nil {
						return err
					}
					w.instances[p] = append(w.instances[p], i)
					w.zones[i] = s.Regions[region][n%len(s.Regions[region])]
				}
			}
		}
	}
	w.places = slices.SortedFunc(maps.Keys(w.instances), comparePlaces)
	return nil
}

// inOrder returns the services so that each comes after those that it needs.
func (s *Scenario) inOrder() []string {
	var order []string
	var add func(name string)
	add = func(name string) {
		if slices.Contains(order, name) {
			return
		}
		for _, v := range s.Services[name].Versions {
			if v.Needs != "" {
				add(v.Needs)
			}
		}
		order = append(order, name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		add(name)
	}
	return order
}

// counts returns what was done at every place.
func (w *world) counts() map[place]counts {
	all := map[place]counts{}
	for p, in := range w.instances {
		c := counts{}
		for _, i := range in {
			c.requests = c.requests.plus(i.Counts())
			c.copies = c.copies.plus(i.Copies())
		}
		all[p] = c
	}
	return all
}

// sum adds up what was done at a place, whose region "" is every region.
func sum(all map[place]counts, of place) counts {
	var c counts
	for p, o := range all {
		if p.in(of) {
			c.requests, c.copies = c.requests.plus(o.requests), c.copies.plus(o.copies)
		}
	}
	return c
}

// fill executes a template of documents.
func (w *world) fill(text string) ([]byte, error) {
	t, err := template.New("documents").Funcs(template.FuncMap{
		"endpoints": w.endpoints, "placements": w.placements, "network": w.network,
	}).Parse(text)
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
	in := w.instances[place{service, version, region}]
	if len(in) == 0 {
		return "", fmt.Errorf("no version %q of service %q in region %q", version, service, region)
	}
	list := make([]string, len(in))
	for n, i := range in {
		list[n] = fmt.Sprintf("{zone: %s, address: %q}", w.zones[i], i.Address())
	}
	return "[" + strings.Join(list, ", ") + "]", nil
}

// placements renders the regions of a version as documents have them.
func (w *world) placements(service, version string, capacity float64) (string, error) {
	var list []string
	for _, p := range w.places {
		if !p.in(place{service, version, ""}) {
			continue
		}
		endpoints, err := w.endpoints(service, version, p.region)
		if err != nil {
			return "", err
		}
		list = append(list, fmt.Sprintf("{region: %s, capacity: %g, endpoints: %s}", p.region, capacity, endpoints))
	}
	if len(list) == 0 {
		return "", fmt.Errorf("no version %q of service %q", version, service)
	}
	return "[" + strings.Join(list, ", ") + "]", nil
}

// network renders the network of a region's instances.
func (w *world) network(region string) (string, error) {
	for p, in := range w.instances {
		if p.region == region {
			return networkOf(in[0].port.host), nil
		}
	}
	return "", fmt.Errorf("no instance in region %q", region)
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
	for _, wire := range w.wires {
		wire.Close()
	}
	for _, in := range w.instances {
		for _, i := range in {
			i.Close()
		}
	}
}

// report adds up what all users saw; in a region those behind its sidecars, "" is every region.
func (w *world) report(region string) Report {
	sum := Report{At: time.Now()}
	for _, name := range slices.Sorted(maps.Keys(w.users)) {
		sum = sum.plus(w.reportOf(name, region))
	}
	return sum
}

// reportOf is report of one group.
func (w *world) reportOf(name, region string) Report {
	sum := Report{At: time.Now()}
	for _, c := range w.users[name] {
		if region == "" || c.region == region {
			sum = sum.plus(c.Report())
		}
	}
	return sum
}
