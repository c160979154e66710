package rollout

import (
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Phase is where a region stands in a rollout.
type Phase string

// The phases.
const (
	// Pending: declared, not started (or waiting for its version's endpoints). No canary traffic.
	Pending Phase = "Pending"
	// Progressing: the canary has the share of the current step.
	Progressing Phase = "Progressing"
	// Paused: a person stopped the clock; the share stays while evidence is fresh.
	Paused Phase = "Paused"
	// Retreated: at zero for a reason that may pass (outage, no data, no endpoint, lapsed lease); climbs again from the
	// first step by itself on fresh evidence.
	Retreated Phase = "Retreated"
	// Halted: at zero because the canary was judged bad. Stays until a person retries or the digest changes.
	Halted Phase = "Halted"
	// Aborted: at zero because a person said so. Stays until a person starts it again or the digest changes.
	Aborted Phase = "Aborted"
	// Promoted: the version is the region's stable version.
	Promoted Phase = "Promoted"
	// RolledBack: a person took the region back to the last known-good version.
	RolledBack Phase = "RolledBack"
)

// State is all that is kept of one rollout. It is a value: Step copies before it changes.
type State struct {
	Rollout string `json:"rollout"`
	// Started is whether a person started it.
	Started bool              `json:"started"`
	Regions map[string]Region `json:"regions"`
}

// Region is the state of a rollout in one region.
type Region struct {
	Phase  Phase  `json:"phase"`
	Reason Reason `json:"reason"`
	// Version and Digest the state is about.
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Step is the index of the current step; Weight the intended share of the canary (0 unless Progressing or Paused).
	Step   int        `json:"step"`
	Weight spec.Share `json:"weight"`
	// Since is when the phase or step was entered.
	Since time.Time `json:"since"`
	// Held is how long this step was held on fresh evidence, and Tries the completed canary tries in it.
	Held  time.Duration `json:"held"`
	Tries uint64        `json:"tries"`
	// SeenAt is when evidence was last fresh.
	SeenAt time.Time `json:"seenAt"`
	// Stable is the version that serves as stable in this region, and Previous the last known-good one before it, by
	// name and digest. Both outlive promotions.
	Stable   Known `json:"stable"`
	Previous Known `json:"previous"`
}

// Known names a version by what it was when it served.
type Known struct {
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

// Input is what is known of one region at one tick.
type Input struct {
	// Fresh is whether flushes of the region's proxies arrived and were judged since the last tick, even empty ones.
	Fresh   bool             `json:"fresh"`
	Verdict evidence.Verdict `json:"verdict"`
	// AllotmentSpent is a hard fact: the canary spent what it may spend of the region's budget.
	AllotmentSpent bool `json:"allotmentSpent"`
	// Ejected: outlier detection or health checks took every canary endpoint out, at some proxy, while stable had some.
	Ejected bool `json:"ejected"`
	// Rate is the region's requests per second to the service, all versions, over the last minute.
	Rate float64 `json:"rate"`
}
