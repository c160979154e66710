package signal

import (
	"cmp"
	"time"
)

// Elsewhere, as the region of an arm, is all other regions together: a cluster of theirs does not count them apart. Such
// an arm has gauges and counts and never a try, is known by the version that is stable here, and says nothing about it.
const Elsewhere = "*"

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
	// Arms are sorted as Arm.Compare has them, each once.
	Arms []Arm
}

// Arm is one version of one service as the proxy's tries met it.
type Arm struct {
	Service, Version string
	// Region is where the endpoints are; "" is the proxy's own region. See Elsewhere.
	Region string
	// Shadow is whether these are copies of requests, which answered nobody.
	Shadow bool
	// Outcomes are sorted by Class; counts are of completed tries in the flush.
	Outcomes []Outcome
	// InProgress and Pending are gauges: tries under way at the flush, and those beside them that wait for a connection.
	InProgress, Pending uint64
	// Endpoints known, and of these those that outlier detection ejected, and those that are healthy (gauges).
	Endpoints, Ejected, Healthy uint64
	// Counts in the flush that never became a try with an outcome.
	Overflows, ConnectFailures, Ejections uint64
}

// Compare orders arms by Service, Version, Region and Shadow, which name one: live tries before copies.
func (a Arm) Compare(o Arm) int {
	shadow := func(a Arm) int {
		if a.Shadow {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Service, o.Service), cmp.Compare(a.Version, o.Version), cmp.Compare(a.Region, o.Region),
		cmp.Compare(shadow(a), shadow(o)))
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

// Compare orders classes by status, gRPC status and flags.
func (c Class) Compare(o Class) int {
	return cmp.Or(cmp.Compare(c.Status, o.Status), cmp.Compare(c.GRPC, o.GRPC), cmp.Compare(c.Flags, o.Flags))
}

// Outcome counts the tries of one class with their latencies.
type Outcome struct {
	Class Class
	// Tries is exact (from a cumulative counter).
	Tries uint64
	// Latency of these tries; its total may be below Tries when a histogram was lost, never above.
	Latency Histogram
}
