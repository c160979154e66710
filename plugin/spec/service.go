package spec

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Defaults of a Service.
const (
	defaultTimeout        = 15 * time.Second
	defaultArmRetries     = 10_000
	defaultCheckInterval  = 5 * time.Second
	defaultCheckTimeout   = time.Second
	defaultUnhealthyAfter = 3
	defaultHealthyAfter   = 2
)

// makeService sets the defaults of a service and checks what its fields mean together.
func (r *report) makeService(name string, d *aviaryv1.ServiceSpec) *Service {
	s := &Service{
		Name:         name,
		Hosts:        slices.Clone(d.GetHosts()),
		Protocol:     protocol(d.GetProtocol()),
		Stable:       d.GetStable(),
		Limits:       limits(d.GetLimits()),
		TesterHeader: d.GetTesterHeader(),
		Stickiness: Stickiness{
			Header:    d.GetStickiness().GetHeader(),
			Cookie:    d.GetStickiness().GetCookie().GetName(),
			CookieTTL: d.GetStickiness().GetCookie().GetTtl().AsDuration(),
		},
		Calls: slices.Clone(d.GetCalls()),
	}
	r.versions(s, d.GetVersions())
	r.limitsOfTime(s, d)
	r.retries(s, d.GetRetries())
	if h := d.GetHealthCheck(); h != nil {
		s.HealthCheck = &HealthCheck{
			Path:           h.GetPath(),
			Interval:       seconds(h.GetInterval(), defaultCheckInterval),
			Timeout:        seconds(h.GetTimeout(), defaultCheckTimeout),
			UnhealthyAfter: orDefault(h.UnhealthyAfter, defaultUnhealthyAfter),
			HealthyAfter:   orDefault(h.HealthyAfter, defaultHealthyAfter),
		}
	}
	return s
}

func protocol(p aviaryv1.Protocol) Protocol {
	switch p {
	case aviaryv1.Protocol_PROTOCOL_HTTP2:
		return HTTP2
	case aviaryv1.Protocol_PROTOCOL_GRPC:
		return GRPC
	}
	return HTTP
}

func limits(d *aviaryv1.Limits) Limits {
	return Limits{
		Connections: d.GetConnections(),
		Pending:     d.GetPending(),
		Requests:    d.GetRequests(),
		Retries:     cmp.Or(d.GetRetries(), defaultArmRetries),
	}
}

// limitsOfTime sets Timeout and HangLimit. A hang limit that is not below the timeout would never save a request.
func (r *report) limitsOfTime(s *Service, d *aviaryv1.ServiceSpec) {
	s.Timeout = seconds(d.GetTimeout(), defaultTimeout)
	s.HangLimit = seconds(d.GetHangLimit(), s.Timeout/2)
	if s.Timeout > 0 && s.HangLimit >= s.Timeout && d.GetHangLimit() != nil && !r.wrong("spec.timeout") {
		note := ""
		if d.GetTimeout() == nil {
			note = " (its default)"
		}
		r.fault("spec.hangLimit", "expected less than timeout, which is %s%s, found %s",
			formatDuration(s.Timeout), note, formatDuration(s.HangLimit))
	}
}

func (r *report) retries(s *Service, d *aviaryv1.Retries) {
	for i, class := range d.GetOn() {
		value := class.Descriptor().Values().ByNumber(class.Number())
		if value == nil {
			continue // the rule beside the field has refused it
		}
		name := enumName(value)
		grpc, isGRPC := strings.CutPrefix(name, "grpc-")
		if isGRPC && s.Protocol != GRPC {
			r.fault(fmt.Sprintf("spec.retries.on[%d]", i), "expected a class that %s answers can have, found %q, which needs protocol: grpc",
				protocolName(s.Protocol), name)
		}
		s.Retries.On = append(s.Retries.On, grpc)
	}
	if len(s.Retries.On) == 0 {
		s.Retries.On = []string{"5xx", "reset", "connect-failure", "refused-stream"}
		if s.Protocol == GRPC {
			s.Retries.On = append(s.Retries.On, "cancelled", "internal", "unavailable")
		}
	}
	for i, method := range d.GetMethods() {
		if s.Protocol == GRPC && method != "POST" {
			r.fault(fmt.Sprintf("spec.retries.methods[%d]", i), "expected POST, the method of every grpc call, found %s", quote(method))
		}
	}
	if s.Protocol == GRPC && len(d.GetOn()) > 0 && len(d.GetMethods()) == 0 {
		r.fault("spec.retries.methods", "missing: expected [POST] beside on, for no grpc call is retried without it")
	}
	s.Retries.Methods = slices.Clone(d.GetMethods())
	if len(s.Retries.Methods) == 0 && s.Protocol != GRPC {
		s.Retries.Methods = []string{"GET", "HEAD", "OPTIONS"}
	}
	slices.Sort(s.Retries.On)
	slices.Sort(s.Retries.Methods)
}

func protocolName(p Protocol) string {
	return enumName(aviaryv1.Protocol(p).Descriptor().Values().ByNumber(aviaryv1.Protocol(p).Number()))
}

func (r *report) versions(s *Service, declared []*aviaryv1.Version) {
	first := map[string]int{}
	for i, d := range declared {
		path := fmt.Sprintf("spec.versions[%d]", i)
		if j, ok := first[d.GetName()]; ok && d.GetName() != "" {
			r.fault(path+".name", "expected each version once, found the name %q of versions[%d]", d.GetName(), j)
		} else {
			first[d.GetName()] = i
		}
		s.Versions = append(s.Versions, Version{
			Name: d.GetName(), Digest: d.GetDigest(), Placements: r.placements(path, d.GetRegions()),
		})
	}
	if s.Stable != "" && s.Version(s.Stable) == nil && !r.wrong("spec.versions") {
		r.fault("spec.stable", "no version %q%s", clip(s.Stable), instead(s.Stable, keys(first)))
	}
}

func (r *report) placements(path string, declared []*aviaryv1.Placement) []Placement {
	var out []Placement
	first, taken := map[string]int{}, map[netip.AddrPort]string{}
	for i, d := range declared {
		at := fmt.Sprintf("%s.regions[%d]", path, i)
		if j, ok := first[d.GetRegion()]; ok && d.GetRegion() != "" {
			r.fault(at+".region", "expected each region once, found %q of regions[%d]", clip(d.GetRegion()), j)
		} else {
			first[d.GetRegion()] = i
		}
		p := Placement{Region: d.GetRegion(), Capacity: d.GetCapacity()}
		for j, e := range d.GetEndpoints() {
			field := fmt.Sprintf("%s.endpoints[%d].address", at, j)
			address, err := parseAddress(e.GetAddress())
			if err != nil {
				r.fault(field, "expected %s, found %s: %v", texts["aviary.v1.Endpoint.address"], quote(e.GetAddress()), err)
				continue
			}
			if before, ok := taken[address]; ok {
				r.fault(field, "expected each address once in a version, found %s of %s", address, before)
			} else {
				taken[address] = strings.TrimSuffix(strings.TrimPrefix(field, path+"."), ".address")
			}
			p.Endpoints = append(p.Endpoints, Endpoint{
				Zone: e.GetZone(), Host: address.Addr().String(), Port: uint32(address.Port()),
			})
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b Placement) int { return cmp.Compare(a.Region, b.Region) })
	return out
}

// parseAddress reads "IP:port" and says what is wrong with one that nobody can connect to.
func parseAddress(text string) (netip.AddrPort, error) {
	address, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return address, errors.New("not IP:port")
	case address.Port() == 0:
		return address, errors.New("port 0 cannot be connected to")
	case address.Addr().Zone() != "":
		return address, errors.New("an interface means nothing on another machine")
	case address.Addr().IsUnspecified() || address.Addr().IsMulticast():
		return address, errors.New("no host has this address")
	}
	return address, nil
}
