package lab

import (
	"maps"
	"slices"
	"time"
)

// Report is what users saw up to a moment, or between two (Sub).
type Report struct {
	At time.Time
	// Due counts requests whose time had come: Started + Skipped. Skipped could not start because Concurrency was reached.
	Due, Started, Skipped uint64
	// Done ended with an answer or an error: OK + Failed. Aborted were cut by the end of the users themselves.
	Done, OK, Failed, Aborted uint64
	InFlight                  int64
	// Status counts ended requests by HTTP status, name of the gRPC status, "timeout" or "error".
	Status map[string]uint64
	// Version counts ended requests by the x-version of the answer, FailedVersion the failed ones; "" is none. Region counts
	// them by its x-region.
	Version, FailedVersion, Region map[string]uint64
	// Methods counts ended requests, FailedMethods the failed ones, by "GET", "POST" or, for gRPC, "CALL".
	Methods, FailedMethods map[string]uint64
	// Errors are the texts of the first failures.
	Errors []string
	// Switched counts users who were answered by more than one version since they began.
	Switched int
	// Latency of all ended requests, from the moment they were due.
	Latency Histogram
}

// Sub is what happened since an earlier report of the same users. Errors, InFlight and Switched are those of r.
func (r Report) Sub(before Report) Report {
	r.Due -= before.Due
	r.Started -= before.Started
	r.Skipped -= before.Skipped
	r.Done -= before.Done
	r.OK -= before.OK
	r.Failed -= before.Failed
	r.Aborted -= before.Aborted
	r.Status = less(r.Status, before.Status)
	r.Version = less(r.Version, before.Version)
	r.FailedVersion = less(r.FailedVersion, before.FailedVersion)
	r.Region = less(r.Region, before.Region)
	r.Methods = less(r.Methods, before.Methods)
	r.FailedMethods = less(r.FailedMethods, before.FailedMethods)
	r.Latency = r.Latency.Sub(before.Latency)
	return r
}

// Share is the part of the answers that named a version which came from this one; 0 when there were none.
func (r Report) Share(version string) float64 {
	var named uint64
	for v, n := range r.Version {
		if v != "" {
			named += n
		}
	}
	if named == 0 {
		return 0
	}
	return float64(r.Version[version]) / float64(named)
}

// plus adds the report of other users.
func (r Report) plus(o Report) Report {
	r.Due += o.Due
	r.Started += o.Started
	r.Skipped += o.Skipped
	r.Done += o.Done
	r.OK += o.OK
	r.Failed += o.Failed
	r.Aborted += o.Aborted
	r.InFlight += o.InFlight
	r.Switched += o.Switched
	r.Status = more(r.Status, o.Status)
	r.Version = more(r.Version, o.Version)
	r.FailedVersion = more(r.FailedVersion, o.FailedVersion)
	r.Region = more(r.Region, o.Region)
	r.Methods = more(r.Methods, o.Methods)
	r.FailedMethods = more(r.FailedMethods, o.FailedMethods)
	r.Errors = append(slices.Clone(r.Errors), o.Errors...)
	for bucket, k := range o.Latency.counts {
		r.Latency.counts[bucket] += k
	}
	r.Latency.n += o.Latency.n
	r.Latency.sum += o.Latency.sum
	return r
}

func less(a, b map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, n := range a {
		if n > b[k] {
			out[k] = n - b[k]
		}
	}
	return out
}

func more(a, b map[string]uint64) map[string]uint64 {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]uint64{}
	}
	for k, n := range b {
		out[k] += n
	}
	return out
}
