package spec

import (
	"cmp"
	"fmt"
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
	defaultReliefAfter    = 2 * time.Second
	defaultReliefUntil    = 30 * time.Second
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
		Calls:       slices.Clone(d.GetCalls()),
		Residency:   slices.Sorted(slices.Values(d.GetResidency())),
		NearestZone: d.GetZones() == aviaryv1.Zones_ZONES_NEAREST,
		Relief:      r.relief(d.GetRelief()),
	}
	r.versions(s, d.GetVersions())
	r.limitsOfTime(s, d)
	r.retries(s, d.GetRetries())
	r.mirror(s, d.GetMirror())
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
	s.Retries.Methods = r.methods("spec.retries.methods", s.Protocol, d.GetMethods())
	if s.Protocol == GRPC && len(d.GetOn()) > 0 && len(d.GetMethods()) == 0 {
		r.fault("spec.retries.methods", "missing: expected [POST] beside on, for no grpc call is retried without it")
	}
	slices.Sort(s.Retries.On)
}

// methods are the declared ones, sorted, or those that change nothing: of grpc, whose every call is a POST, none.
func (r *report) methods(field string, p Protocol, declared []string) []string {
	for i, method := range declared {
		if p == GRPC && method != "POST" {
			r.fault(fmt.Sprintf("%s[%d]", field, i), "expected POST, the method of every grpc call, found %s", quote(method))
		}
	}
	if len(declared) == 0 && p != GRPC {
		return []string{"GET", "HEAD", "OPTIONS"}
	}
	return slices.Sorted(slices.Values(declared))
}

// credentials are taken off every copy.
var credentials = []string{"authorization", "cookie", "proxy-authorization"}

func (r *report) mirror(s *Service, d *aviaryv1.Mirror) {
	for i, header := range d.GetStripHeaders() {
		if header == "host" || header == "x-aviary-shadow" {
			r.fault(fmt.Sprintf("spec.mirror.stripHeaders[%d]", i), "expected a header that a copy can go without, found %s", quote(header))
		}
	}
	s.Mirror = Mirror{
		Methods:      r.methods("spec.mirror.methods", s.Protocol, d.GetMethods()),
		StripHeaders: slices.Compact(slices.Sorted(slices.Values(slices.Concat(credentials, d.GetStripHeaders())))),
	}
}

func (r *report) relief(d *aviaryv1.Relief) *Relief {
	if d == nil {
		return nil
	}
	if d.Pending == nil && d.InProgress == nil && d.Overflows == nil {
		r.fault("spec.relief", "missing: expected at least one of pending, inProgress, overflows")
	}
	return &Relief{
		Pending:    uint64(d.GetPending()),
		InProgress: uint64(d.GetInProgress()),
		Overflows:  d.GetOverflows(),
		After:      seconds(d.GetAfter(), defaultReliefAfter),
		Until:      seconds(d.GetUntil(), defaultReliefUntil),
		Tighten:    r.share("spec.relief.tighten", d.GetTighten(), least, Whole),
		Shed:       r.share("spec.relief.shed", d.GetShed(), 0, 0),
	}
}

func protocolName(p Protocol) string {
	return enumName(aviaryv1.Protocol(p).Descriptor().Values().ByNumber(aviaryv1.Protocol(p).Number()))
}
