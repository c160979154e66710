package traffic

import (
	"net/netip"
	"time"
)

// Whole is the total of the weights of a split.
const Whole = 10_000

// Plan is what the traffic of one region should be.
type Plan struct {
	Region string
	// Intents are sorted by Service.
	Intents []Intent
	// Callers says which services each caller may reach (sorted), by the caller's service name.
	Callers map[string][]string
	// Charter is what the region's proxies may be given, whatever Intents say.
	Charter Charter
}

// Charter bounds what may be given to the proxies of a region, by service. It is made from the documents apart from the
// intents, so that a guard can hold one against the other.
type Charter map[string]Bounds

// Bounds of one service in one region.
type Bounds struct {
	// Own are the address ranges of the plan's region, Others those of the regions that the service's traffic may reach
	// beside it, by name. An empty list is any address; a region that is not there may not be reached.
	Own    []netip.Prefix
	Others map[string][]netip.Prefix
	// Closed is whether the service's traffic may not stay in the plan's region: no endpoint of it may be given.
	Closed bool
	// Forbidden are addresses known to be in regions that may not be reached.
	Forbidden map[netip.AddrPort]string
	// MinEndpoints is how many endpoints stable must have in the plan's region; 0 is no bound.
	MinEndpoints int
}

// Protocol is how endpoints speak.
type Protocol uint8

// The protocols.
const (
	HTTP Protocol = iota + 1
	HTTP2
	GRPC
)

// Intent is what the traffic to one service in one region should be.
type Intent struct {
	Service  string
	Hosts    []string
	Protocol Protocol
	Stable   Arm
	// Canary is nil when there is none, and then Weight is 0.
	Canary *Arm
	// Weight is the canary's part of Whole; stable has the rest.
	Weight uint32
	// Shadow is the part of Whole that is copied to the canary, of requests with ShadowMethods; 0 unless Weight is 0. Copies
	// go without StripHeaders. Without ShadowMethods there is no way for copies at all.
	Shadow                      uint32
	ShadowMethods, StripHeaders []string
	// Failover is where stable's requests go beside its own region; nil is nowhere.
	Failover *Failover
	// NearestZone is whether a caller keeps to its own zone while that has healthy endpoints.
	NearestZone bool
	// Testers is whether a tester's header may reach the canary; false when the canary was halted.
	Testers bool
	// Lease is how long a sidecar keeps Weight and Shadow when nobody renews them.
	Lease time.Duration

	// Timeout of a request with its tries, and HangLimit of a try on the canary; 0 is none.
	Timeout, HangLimit time.Duration
	// RetryOn are Envoy's retry_on names; RetryMethods the methods that may be retried. Either empty: no retry.
	RetryOn, RetryMethods []string
	// StickyHeader or StickyCookie names what a user is known by; both "" is none.
	StickyHeader, StickyCookie string
	// CookieTTL of 0 is a session cookie.
	CookieTTL time.Duration
	// TesterHeader forces a version by name; "" is off.
	TesterHeader string
	Health       *Health
	Limits       Limits
	// Tight are the limits of stable, here and elsewhere, while the region is relieved; nil: Limits. The canary and its copies
	// keep Limits.
	Tight *Limits
}

// Failover is stable in other regions.
type Failover struct {
	// Localities are sorted by Priority, Region, Zone; the lowest priority is tried first.
	Localities []Locality
	// Admit is the part of Whole of stable's requests that goes there when no endpoint is left in the own region; the rest
	// fails, so that the others are not overrun.
	Admit uint32
	// Shed is the part of Whole of all requests that goes there though the own region has endpoints.
	Shed uint32
}

// Arm is one version as a target of traffic.
type Arm struct {
	Version, Digest string
	// Endpoints by locality, sorted by Priority, Region, Zone.
	Localities []Locality
}

// Locality groups endpoints.
type Locality struct {
	Region, Zone string
	// Version that runs there; "" is the arm's. In another region stable may be another one than here.
	Version  string
	Priority uint32
	// Weight among the localities of its priority; 0 is the number of endpoints.
	Weight    uint32
	Endpoints []Endpoint
}

// Endpoint is an IP address and port.
type Endpoint struct {
	Host string
	Port uint32
}

// Health is an active check; Path "" is a TCP connection, or the gRPC health service for GRPC.
type Health struct {
	Path                         string
	Interval, Timeout            time.Duration
	UnhealthyAfter, HealthyAfter uint32
}

// Limits are circuit breakers; 0 is Envoy's default.
type Limits struct {
	Connections, Pending, Requests, Retries uint32
}
