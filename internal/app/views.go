package app

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/control"
	"github.com/aviary-mesh/aviary/plugin/traffic"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
	"github.com/aviary-mesh/aviary/xds/ads"
	"github.com/aviary-mesh/aviary/xds/resource"
)

// viewOf says what kind of client a node is: what its bootstrap says of itself (metadata "aviary"), and what its user agent
// says of what it can do.
func viewOf(node *corev3.Node, id identity) (resource.View, error) {
	v := resource.View{Service: id.service, Zone: node.GetLocality().GetZone(), Weights: resource.InRoutes}
	if strings.HasPrefix(node.GetUserAgentName(), "gRPC") {
		v.GRPC = true
		return v, nil
	}
	ours := node.GetMetadata().GetFields()["aviary"].GetStructValue().GetFields()
	if ours["lease"].GetBoolValue() {
		v.Weights = resource.InLayer
	}
	v.Gateway = ours["gateway"].GetBoolValue()
	port := ours["port"].GetNumberValue()
	if port != float64(uint16(port)) {
		return resource.View{}, fmt.Errorf("node.metadata.aviary.port %v is not a port", port)
	}
	v.Port = uint32(port)
	return v, nil
}

// kind names a kind of client within a region and a service.
func kind(v resource.View) string {
	name := "/sidecar"
	switch {
	case v.GRPC:
		name = "/grpc"
	case v.Gateway:
		name = "/gateway"
	}
	if v.Weights == resource.InRoutes && !v.GRPC {
		name += "-unleased"
	}
	if v.Port != 0 {
		name += fmt.Sprintf(":%d", v.Port)
	}
	if v.Zone != "" {
		name += "@" + v.Zone
	}
	return name
}

// zoneless is the view that a view shares all with but the endpoints of services that keep to zones.
func zoneless(v resource.View) resource.View {
	v.Zone = ""
	return v
}

// hasZone reports whether an endpoint of a plan's region is in a zone. A zone without one makes no difference to a client.
func hasZone(plan traffic.Plan, zone string) bool {
	in := func(a traffic.Arm) bool {
		return slices.ContainsFunc(a.Localities, func(l traffic.Locality) bool { return l.Region == plan.Region && l.Zone == zone })
	}
	return slices.ContainsFunc(plan.Intents, func(i traffic.Intent) bool { return in(i.Stable) || i.Canary != nil && in(*i.Canary) })
}

// lacks names what a kind of client goes without; of shadows and failover, when one of the services that it sees has it now.
func lacks(v resource.View, sees []traffic.Intent) []string {
	var all []string
	if len(sees) == 0 {
		all = append(all, "services") // the caller is not declared, or calls nothing
	}
	if v.Weights == resource.InRoutes {
		all = append(all, "lease") // its weights stay when the control plane is gone
	}
	if v.GRPC {
		all = append(all, "retry-on-stable", "exact-counts") // it reports loads
	}
	if v.Weights == resource.InRoutes && slices.ContainsFunc(sees, func(in traffic.Intent) bool { return in.Shadow > 0 }) {
		all = append(all, "shadow") // copies are under the lease
	}
	if v.GRPC && slices.ContainsFunc(sees, func(in traffic.Intent) bool { return in.Failover != nil && in.Failover.Admit < traffic.Whole }) {
		all = append(all, "failover") // it could send the neighbours all or nothing
	}
	return all
}

// effect says what the proxies of a region acknowledged for the canary of a service.
func (d *delivery) effect(regionName, service, version string, weight, shadow uint32) control.Effect {
	var e control.Effect
	for _, p := range d.ads.ProxiesIn(regionName) {
		has, copies, routes := d.effective(p, service, version)
		if !routes {
			continue
		}
		if e.Proxies == 0 {
			e.Min = has
		}
		e.Min, e.Max = min(e.Min, has), max(e.Max, has)
		e.Proxies++
		if has == weight && copies <= shadow {
			e.Acked++
		}
	}
	return e
}

// effective is the canary's share that a proxy acknowledged, and the part of the requests that it copies; routes is false when
// the proxy has no route to the service.
func (d *delivery) effective(p ads.ProxyStatus, service, version string) (has, copies uint32, routes bool) {
	view, sees := d.sees(p)
	for _, in := range sees {
		if in.Service != service {
			continue
		}
		synced := slices.ContainsFunc(p.Types, func(t ads.TypeStatus) bool { return t.Type == ads.Route && t.State == ads.Synced })
		switch {
		case synced && in.Canary == nil: // whatever the layer says, no route splits
			return 0, 0, true
		case view.Weights == resource.InLayer:
			return resource.Weight(p.Effective, service, version), resource.Shadow(p.Effective, service), true
		case synced:
			return in.Weight, 0, true
		}
		return 0, 0, true
	}
	return 0, 0, false
}

// sees is a proxy's view, and what its routes say, shares included.
func (d *delivery) sees(p ads.ProxyStatus) (resource.View, []traffic.Intent) {
	r := d.region(p.Region)
	if r == nil {
		return resource.View{}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	view, ok := r.views[p.View]
	if !ok {
		return resource.View{}, nil
	}
	return view, resource.Intents(r.shown, view)
}

// leases are those that proxies hold now.
func (d *delivery) leases() []control.Lease {
	var held []control.Lease
	for _, p := range d.ads.Proxies() {
		if p.Lease == ads.LeaseHeld {
			held = append(held, control.Lease{Proxy: p.Proxy, Renewed: p.Renewed, Until: p.LeaseUntil})
		}
	}
	return held
}

var syncStates = map[ads.SyncState]aviaryv1.SyncState{
	ads.Waiting: aviaryv1.SyncState_SYNC_STATE_NOT_SENT,
	ads.Synced:  aviaryv1.SyncState_SYNC_STATE_SYNCED,
	ads.Stale:   aviaryv1.SyncState_SYNC_STATE_STALE,
	ads.Nacked:  aviaryv1.SyncState_SYNC_STATE_NACKED,
}

var typeNames = map[ads.Type]string{
	ads.Cluster: "cluster", ads.Endpoint: "endpoint", ads.Listener: "listener", ads.Route: "route", ads.Runtime: "runtime",
}

// proxies is the state of every connected proxy, for the admin API.
func (d *delivery) proxies() []*aviaryv1.ProxyStatus {
	var all []*aviaryv1.ProxyStatus
	for _, p := range d.ads.Proxies() {
		out := &aviaryv1.ProxyStatus{
			Name: p.Node, Region: p.Region, Service: p.Service, Transport: string(p.Transport),
			Agent: p.UserAgent + "/" + p.UserAgentVersion, Connected: timestamppb.New(p.Connected),
		}
		view, sees := d.sees(p)
		out.Gateway, out.Lacks = view.Gateway, lacks(view, sees)
		if p.Lease == ads.LeaseHeld {
			out.LeaseUntil = timestamppb.New(p.LeaseUntil)
		}
		for _, t := range p.Types {
			if t.State == ads.Unasked {
				continue
			}
			status := &aviaryv1.TypeStatus{
				Type: typeNames[t.Type], State: syncStates[t.State], SentVersion: t.Sent, AckedVersion: t.Acked, Nack: t.Nack,
			}
			if !t.NackedAt.IsZero() {
				status.Nacked = timestamppb.New(t.NackedAt)
			}
			out.Types = append(out.Types, status)
		}
		slices.SortFunc(out.Types, func(a, b *aviaryv1.TypeStatus) int { return strings.Compare(a.Type, b.Type) })
		all = append(all, out)
	}
	return all
}
