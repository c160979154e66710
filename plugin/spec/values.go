package spec

import (
	"net/netip"
	"slices"
	"time"
)

// Share is a part of requests in units of 1/10,000 (0.01 %).
type Share uint32

// Whole is all requests.
const Whole Share = 10_000

// Set is a whole, validated set of documents. It is never changed after it was made; names are keys.
type Set struct {
	Regions  map[string]*Region
	Services map[string]*Service
	Policies map[string]*Policy
	Rollouts map[string]*Rollout

	// claims are the rollouts by service and region; nil in a set that Build did not make.
	claims map[claim]*Rollout
}

// claim is what one rollout at most may have.
type claim struct{ service, region string }

// RolloutOf returns the rollout of a service in a region, nil when there is none.
func (s *Set) RolloutOf(service, region string) *Rollout {
	if s.claims != nil {
		return s.claims[claim{service, region}]
	}
	for _, r := range s.Rollouts {
		if r.Service == service && slices.Contains(r.Regions, region) {
			return r
		}
	}
	return nil
}

// Region is a place that serves traffic and fails on its own.
type Region struct {
	Name  string
	Zones []string
	// Jurisdiction is the law that it is under; "" is not declared.
	Jurisdiction string
	// Failover names the regions that take over stable traffic, the first one first.
	Failover []string
	// Networks hold every endpoint of the region; none is any.
	Networks []netip.Prefix
}

// Has reports whether an address may be in the region.
func (r *Region) Has(address netip.Addr) bool {
	address = address.Unmap() // an IPv4 address in IPv6's form is in no IPv4 network
	return len(r.Networks) == 0 || slices.ContainsFunc(r.Networks, func(n netip.Prefix) bool { return n.Contains(address) })
}

// Protocol is how the endpoints of a service speak.
type Protocol uint8

// The protocols.
const (
	HTTP Protocol = iota + 1
	HTTP2
	GRPC
)

// Service is something that is called, in one or more versions.
type Service struct {
	Name     string
	Hosts    []string
	Protocol Protocol
	// Stable is the version that serves where no rollout has promoted another.
	Stable   string
	Versions []Version
	Limits   Limits
	// Timeout bounds a request with its tries; 0 is no limit.
	Timeout time.Duration
	Retries Retries
	// HangLimit bounds a try on the canary; 0 is no limit.
	HangLimit  time.Duration
	Stickiness Stickiness
	// TesterHeader is the header that forces a version by name; "" is off.
	TesterHeader string
	// HealthCheck is nil when none is declared.
	HealthCheck *HealthCheck
	Calls       []string
	// Residency are the jurisdictions that its traffic may reach, sorted; none is everywhere.
	Residency []string
	Mirror    Mirror
	// NearestZone is whether a caller keeps to its own zone while that has healthy endpoints.
	NearestZone bool
	// Relief is nil when none is declared.
	Relief *Relief
}

// Mirror says which requests may be copied to a version in its shadow stage.
type Mirror struct {
	// Methods, sorted; none: nothing is copied.
	Methods []string
	// StripHeaders are taken off a copy: credentials and what is declared, sorted.
	StripHeaders []string
}

// Relief is what a region does that cannot keep up. Signs of 0 are not looked at.
type Relief struct {
	Pending, InProgress uint64
	// Overflows per second.
	Overflows    float64
	After, Until time.Duration
	// Tighten is what limits are cut to, Whole when they stay; Shed the part of stable's requests that goes elsewhere.
	Tighten, Shed Share
}

// MayReach reports whether the service's traffic may reach a region.
func (s *Service) MayReach(r *Region) bool {
	return len(s.Residency) == 0 || r != nil && slices.Contains(s.Residency, r.Jurisdiction)
}

// Version is one build of a service.
type Version struct {
	Name   string
	Digest string
	// Placements by region, sorted by region; at most one a region.
	Placements []Placement
}

// Placement is where a version runs in one region.
type Placement struct {
	Region string
	// Capacity in requests per second; 0 is not declared.
	Capacity  float64
	Endpoints []Endpoint
	// Weights of zones, by name; a zone that is not in it weighs as many as it has endpoints.
	Weights map[string]uint32
}

// Endpoint is one address of a version, or a name whose every address is one.
type Endpoint struct {
	Zone string
	// Host is an IP address, or a DNS name when Name is set.
	Host string
	Port uint32
	Name bool
}

// Limits are circuit breakers; 0 is Envoy's default, but for Retries, whose default is set here.
type Limits struct {
	Connections, Pending, Requests, Retries uint32
}

// Retries say which failed tries of the canary are tried again on stable.
type Retries struct {
	// On holds names as Envoy's retry_on knows them ("5xx", "connect-failure", …), sorted.
	On []string
	// Methods that may be retried, sorted; none: nothing is retried.
	Methods []string
}

// Stickiness keeps a user on one version; at most one of Header and Cookie is set.
type Stickiness struct {
	Header string
	Cookie string
	// CookieTTL of 0 is a session cookie.
	CookieTTL time.Duration
}

// HealthCheck is an active check of every endpoint.
type HealthCheck struct {
	// Path of an HTTP check; "" is a TCP connection, or the gRPC health service for a GRPC service.
	Path                         string
	Interval, Timeout            time.Duration
	UnhealthyAfter, HealthyAfter uint32
}

// Policy says how a version becomes the stable one and what stops it.
type Policy struct {
	Name string
	// Target is the objective's share of good requests, in (0,1).
	Target float64
	// Window is the budget's window.
	Window time.Duration
	Errors ErrorClasses
	// Steps have rising shares.
	Steps    []Step
	Analysis Analysis
	// BudgetShare is the part of the remaining budget one canary may spend, in (0,1].
	BudgetShare float64
	// HoldAfter and RetreatAfter without evidence stop the step's time, and take the canary to zero.
	HoldAfter, RetreatAfter time.Duration
	// LeaseTTL is how long a sidecar keeps a share that nobody renews.
	LeaseTTL time.Duration
	// Shadow is the stage before the first step; nil is none.
	Shadow *Shadow
	// Waves, in their order; never empty after defaults.
	Waves []Wave
	// Paces are steps by region, where they differ from Steps.
	Paces  map[string][]Step
	OnHalt OnHalt
	// RollbackWithin is how soon every proxy must have given up a version.
	RollbackWithin time.Duration
	// MinEndpoints is the part of a region's endpoints that a promotion must leave, MinRegions how many regions have one
	// version alone at any time.
	MinEndpoints Share
	MinRegions   int
}

// StepsIn returns the steps of a region.
func (p *Policy) StepsIn(region string) []Step {
	if own, ok := p.Paces[region]; ok {
		return own
	}
	return p.Steps
}

// WaveOf returns the index of a region's wave; -1 when it is in none.
func (p *Policy) WaveOf(region string) int {
	rest := -1
	for i, w := range p.Waves {
		if slices.Contains(w.Regions, region) {
			return i
		}
		if len(w.Regions) == 0 {
			rest = i
		}
	}
	return rest
}

// Shadow is a stage in which requests are copied.
type Shadow struct {
	Share    Share
	Hold     time.Duration
	MinTries uint64
}

// Wave is regions that go together.
type Wave struct {
	// Regions, sorted; none is every region that no other wave names.
	Regions []string
	// Parallel is how many may be under way at once; 0 is all.
	Parallel int
	// Require is the part of the regions that must be promoted before the next wave, Bake how long to wait then.
	Require Share
	Bake    time.Duration
}

// OnHalt is what a halted region means for the others.
type OnHalt uint8

// The meanings.
const (
	// HaltContinues: the others go on; the halted region does not count in its wave.
	HaltContinues OnHalt = iota + 1
	// HaltHolds: regions that have begun go on; no other one begins.
	HaltHolds
	// HaltStops: every region is halted.
	HaltStops
)

// ErrorClasses say which tries are errors.
type ErrorClasses struct {
	// HTTP holds codes (500) and classes (5 for 5xx), sorted.
	HTTP []int
	// GRPC holds status codes, sorted.
	GRPC []int
	// Flags holds Envoy's response flags, sorted.
	Flags []string
}

// Step is a share that is held.
type Step struct {
	Share    Share
	Hold     time.Duration
	MinTries uint64
}

// Analysis holds the parameters of the tests; see plugin/evidence.
type Analysis struct {
	Alpha, ToleratedRatio, ToleratedDifference, LatencyFactor float64
}

// Rollout takes one version of a service to the stable one.
type Rollout struct {
	Name, Service, Version, Policy string
	// Regions, sorted; never empty after defaults.
	Regions []string
	// Fallbacks are versions that a rollback goes on to, the first one first.
	Fallbacks []string
}

// Version returns the version with that name, nil when there is none.
func (s *Service) Version(name string) *Version {
	for i := range s.Versions {
		if s.Versions[i].Name == name {
			return &s.Versions[i]
		}
	}
	return nil
}

// In returns the placement in a region, nil when there is none.
func (v *Version) In(region string) *Placement {
	for i := range v.Placements {
		if v.Placements[i].Region == region {
			return &v.Placements[i]
		}
	}
	return nil
}
