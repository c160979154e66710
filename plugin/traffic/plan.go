package traffic

import "time"

// Whole is the total of the weights of a split.
const Whole = 10_000

// Plan is what the traffic of one region should be.
type Plan struct {
	Region string
	// Intents are sorted by Service.
	Intents []Intent
	// Callers says which services each caller may reach (sorted), by the caller's service name.
	Callers map[string][]string
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
	// Testers is whether a tester's header may reach the canary; false when the canary was halted.
	Testers bool
	// Lease is how long a sidecar keeps Weight when nobody renews it.
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
	Priority     uint32
	Endpoints    []Endpoint
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
