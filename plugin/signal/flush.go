package signal

import "time"

// Flush is what one proxy reported in one telemetry flush, as differences since its flush before.
// A Flush without arms is evidence too: the proxy is watched and saw nothing.
type Flush struct {
	// Proxy is the node id; Region and Service (the caller) are from its proven identity.
	Proxy, Region, Service string
	// At is when it arrived.
	At time.Time
	// Span is the time since this proxy's flush before; 0 when there is none to compare with (the first flush of a
	// proxy, or one after a reset), and then only gauges are given.
	Span time.Duration
	// Arms are sorted by Service, Version, Region and Shadow.
	Arms []Arm
}

// Arm is one version of one service as the proxy's tries met it.
type Arm struct {
	Service, Version string
	// Region is where the endpoints are; "" is the proxy's own region.
	Region string
	// Shadow is whether these are copies of requests, which answered nobody.
	Shadow bool
	// Outcomes are sorted by Class; counts are of completed tries in the flush.
	Outcomes []Outcome
	// InProgress and Pending are gauges: tries under way at the flush, and those of them that waited for a connection.
	InProgress, Pending uint64
	// Endpoints known, and of these those that outlier detection ejected, and those that are healthy (gauges).
	Endpoints, Ejected, Healthy uint64
	// Counts in the flush that never became a try with an outcome.
	Overflows, ConnectFailures, Ejections uint64
}

// Class is how a try ended.
type Class struct {
	// Status is the HTTP status, 0 when there was no answer.
	Status int
	// GRPC is the gRPC status, -1 when there was none.
	GRPC int
	// Flags are Envoy's response flags as printed ("UF,URX"), "" for none.
	Flags string
}

// Outcome counts the tries of one class with their latencies.
type Outcome struct {
	Class Class
	// Tries is exact (from a cumulative counter).
	Tries uint64
	// Latency of these tries; its total may be below Tries when a histogram was lost, never above.
	Latency Histogram
}
