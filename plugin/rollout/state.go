package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/aviary-mesh/aviary/plugin/evidence"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// Phase is where a region stands in a rollout.
type Phase string

// The phases. Only Progressing and Paused have a weight, and only Shadowing and Paused have a shadow; never both.
const (
	// Pending: declared and at zero; waits for a person to start it, or, started, for fresh evidence, endpoints and room.
	Pending Phase = "Pending"
	// Progressing: the canary has the share of the current step.
	Progressing Phase = "Progressing"
	// Paused: a person stopped the clock. The share, or the copies, stay while evidence is fresh; a paused region that has to retreat
	// waits at zero, still Paused, until a person resumes it.
	Paused Phase = "Paused"
	// Retreated: at zero for a reason that may pass (outage, no data, no endpoint, lapsed lease); climbs again from the
	// first step by itself once the reason is gone and evidence was fresh for the policy's HoldAfter.
	Retreated Phase = "Retreated"
	// Halted: at zero because the canary was judged bad. Stays until a person retries or the digest changes.
	Halted Phase = "Halted"
	// Aborted: at zero because a person said so. Stays until a person retries or the digest changes.
	Aborted Phase = "Aborted"
	// Promoted: the version is the region's stable version.
	Promoted Phase = "Promoted"
	// Shadowing: the version gets copies of requests and answers nobody.
	Shadowing Phase = "Shadowing"
	// RolledBack: a person took the region back to the last known-good version. Stays until a person retries or the
	// digest changes.
	RolledBack Phase = "RolledBack"
)

// State is all that is kept of one rollout. It is a value: Step, Act, Join and Resume copy before they change. It is
// kept when its rollout is deleted, because halts and promotions outlive the document.
type State struct {
	Rollout string `json:"rollout"`
	// Service is the service that the rollout is about.
	Service string `json:"service,omitempty"`
	// Started is whether a person started it in some region.
	Started bool `json:"started"`
	// Deleted is whether the rollout is no longer declared.
	Deleted bool              `json:"deleted,omitempty"`
	Regions map[string]Region `json:"regions"`
}

// Region is the state of a rollout in one region.
type Region struct {
	Phase  Phase  `json:"phase"`
	Reason Reason `json:"reason"`
	// Message is what the reason stood on when it was given, in words.
	Message string `json:"message,omitempty"`
	// Version and Digest the state is about.
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Started is whether a person started the rollout in this region.
	Started bool `json:"started,omitempty"`
	// Step is the index of the current step; Weight the intended share of the canary (0 unless Progressing or Paused).
	// Weight is the step's share, or less when the steps were edited and none of them was as low as the weight.
	Step   int        `json:"step"`
	Weight spec.Share `json:"weight"`
	// Shadow is the part of the requests that is copied to the version (0 unless Shadowing, or Paused in that stage).
	Shadow spec.Share `json:"shadow,omitempty"`
	// Begun is whether the trial had copies or a share here, so that no wave keeps it from going on. Shadowed is whether it
	// passed its shadow stage, or needed none.
	Begun    bool `json:"begun,omitempty"`
	Shadowed bool `json:"shadowed,omitempty"`
	// Since is when the phase or step was entered, WeightAt when the weight last changed.
	Since    time.Time `json:"since"`
	WeightAt time.Time `json:"weightAt,omitzero"`
	// Held is how long this step was held on fresh evidence (Retreated: how long the reason has been gone on fresh
	// evidence), and Tries the completed canary tries in the step.
	Held  time.Duration `json:"held"`
	Tries uint64        `json:"tries"`
	// SeenAt is when evidence was last fresh, Rate the requests per second it told of; negative is not measured.
	SeenAt time.Time `json:"seenAt"`
	Rate   float64   `json:"rate,omitempty"`
	// Stable is the version that serves as stable in this region, and Previous the one before it, which a rollback goes
	// back to, by name and digest. Both outlive promotions. Stable is what the service's document declares as long as no
	// rollout promoted or rolled back (StableSince is zero). After that the promotion holds, whatever the document's
	// stable is edited to, until its version is no longer declared with endpoints in the region; then the document
	// speaks again.
	Stable      Known     `json:"stable"`
	Previous    Known     `json:"previous"`
	StableSince time.Time `json:"stableSince,omitzero"`
	// UnwellAt is when a promoted region was last not known to be well: a bake counts from there.
	UnwellAt time.Time `json:"unwellAt,omitzero"`
	// Halts in force, at most one a digest, sorted by digest; they outlive edits of the version and its return.
	Halts []Halt `json:"halts,omitempty"`
	// Retries counts, by digest, how often a person asked for another attempt. It never falls.
	Retries map[string]int `json:"retries,omitempty"`
}

// Known names a version by what it was when it served.
type Known struct {
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

// String is "version (digest)".
func (k Known) String() string { return k.Version + " (" + k.Digest + ")" }

// Trial names one attempt at one digest. Evidence belongs to a trial: whoever gathers it starts anew when it changes.
type Trial struct {
	Digest string `json:"digest,omitempty"`
	// Attempt is 0 until a person retries.
	Attempt int `json:"attempt,omitempty"`
	// Shadow is whether the evidence is of copies. A halt is of the attempt, whatever it stood on: there it is false.
	Shadow bool `json:"shadow,omitempty"`
}

// Trial that the region is at.
func (r Region) Trial() Trial {
	// The stage and not the moment: what was seen of copies is remembered at zero, until they are made again.
	return Trial{Digest: r.Digest, Attempt: r.Retries[r.Digest], Shadow: r.Begun && !r.Shadowed}
}

// Input is what is known of one region at one tick. The zero Input is no evidence.
type Input struct {
	// Trial that the evidence is about; evidence about another trial than the region's counts as none. Zero is the
	// region's, whatever it is.
	Trial Trial `json:"trial,omitzero"`
	// Fresh is whether flushes of the region's proxies arrived and were judged since the last tick, even empty ones.
	Fresh   bool             `json:"fresh"`
	Verdict evidence.Verdict `json:"verdict"`
	// AllotmentSpent is a hard fact: the canary spent what it may spend of the region's budget.
	AllotmentSpent bool `json:"allotmentSpent"`
	// Ejected: outlier detection or health checks took every canary endpoint out, at some proxy, while stable had some.
	Ejected bool `json:"ejected"`
	// Rate is the region's requests per second to the service, all versions, over the last minute; negative or NaN when
	// it is not measured yet, and then no share rises.
	Rate float64 `json:"rate"`
	// Saturated: the region cannot keep up with what it has; no share rises.
	Saturated bool `json:"saturated,omitempty"`
	// Unwell: the region's own version errs more than its objective allows, by a burn rate; no other region begins on the
	// word of this one.
	Unwell bool `json:"unwell,omitempty"`
	// CanaryEndpoints and StableEndpoints are how many there are in the region now, names resolved: negative is none, 0 is what
	// the documents say.
	CanaryEndpoints int `json:"canaryEndpoints,omitempty"`
	StableEndpoints int `json:"stableEndpoints,omitempty"`
}

// Event tells of one decision: a change of phase or weight, or a new reason to stay.
type Event struct {
	At      time.Time `json:"at"`
	Rollout string    `json:"rollout"`
	Region  string    `json:"region"`
	Reason  Reason    `json:"reason"`
	From    Phase     `json:"from"`
	To      Phase     `json:"to"`
	// Weight of the canary after it.
	Weight spec.Share `json:"weight"`
	// Message is what the reason stands on, in words.
	Message string `json:"message,omitempty"`
	// Author is the person who asked for it; "" when nobody did.
	Author string `json:"author,omitempty"`
}

// Canary returns the version that the region has beside stable, even at weight zero, so that its arm can be built before
// it gets a share; false when there is none: promoted, withdrawn from the documents, or stable already. Whether it has
// endpoints is in the documents.
func Canary(r Region) (Known, bool) {
	withdrawn := r.Reason == RolloutDeleted || r.Reason == RegionRemoved
	if r.Phase == "" || r.Phase == Promoted || r.Version == r.Stable.Version || withdrawn {
		return Known{}, false
	}
	return Known{Version: r.Version, Digest: r.Digest}, true
}

// Testers reports whether a request that asks for the canary by name may reach it: before the start and while it has
// a share or copies. Whatever takes those to zero takes the testers off as well.
func Testers(r Region) bool {
	_, has := Canary(r)
	return has && (r.Phase == Pending || r.on())
}

// on reports whether the version gets anything of the region's requests.
func (r *Region) on() bool { return r.Weight > 0 || r.Shadow > 0 }

// serves reports whether the version is what serves alone.
func (r *Region) serves() bool { return r.Version != "" && r.Version == r.Stable.Version }

func (s State) clone() State {
	regions := make(map[string]Region, len(s.Regions))
	for name, r := range s.Regions {
		r.Halts = slices.Clone(r.Halts)
		r.Retries = maps.Clone(r.Retries)
		regions[name] = r
	}
	s.Regions = regions
	return s
}

func (s State) names() []string { return slices.Sorted(maps.Keys(s.Regions)) }
