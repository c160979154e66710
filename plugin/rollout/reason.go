package rollout

// Reason names why a region is where it is. Every decision has one.
type Reason string

// Reasons to wait before the first step.
const (
	// NotStarted: declared and waiting for a person to start it.
	NotStarted Reason = "NotStarted"
	// Started: a person started it; the first step comes with the first fresh, un-objected evidence.
	Started Reason = "Started"
	// Retried: a person asked for another attempt after a halt, an abort or a rollback.
	Retried Reason = "Retried"
)

// Reasons why a region that was started has to wait for others. They never keep a share from falling.
const (
	// WaitingForWave: a wave before the region's own is not done.
	WaitingForWave Reason = "WaitingForWave"
	// Baking: the wave before is done, and its bake is not over.
	Baking Reason = "Baking"
	// WaitingForTurn: as many regions of the wave are under way as the policy lets.
	WaitingForTurn Reason = "WaitingForTurn"
	// HeldByHalt: a region of the rollout is halted, and the policy lets no other one begin.
	HeldByHalt Reason = "HeldByHalt"
)

// Reasons of a region that has a share or copies.
const (
	// ShadowReached: requests are copied to the version from now on.
	ShadowReached Reason = "ShadowReached"
	// StepReached: the share rose to that of the next step.
	StepReached Reason = "StepReached"
	// ClimbingAgain: the reason of the retreat is gone and evidence was fresh for long enough: the first step again.
	ClimbingAgain Reason = "ClimbingAgain"
	// HoldingForEvidence: the step's time is over, but it did not see its minimum of canary tries.
	HoldingForEvidence Reason = "HoldingForEvidence"
	// HoldingOnDoubt: the step's time is over, but the evidence against the canary stands at ten to one or more: not enough to
	// halt it, and too much to give it more.
	HoldingOnDoubt Reason = "HoldingOnDoubt"
	// EvidenceBack: evidence is fresh again before it came to a retreat; the step's clock runs on.
	EvidenceBack Reason = "EvidenceBack"
	// StepsEdited: the policy's steps changed under a share; it stays or falls to the largest step that is not above it.
	StepsEdited Reason = "StepsEdited"
	// StepsDone: the last step was held: the version is the region's stable version now.
	StepsDone Reason = "StepsDone"
)

// Reasons that keep a share from rising. They never keep it from falling.
const (
	// RegionSaturated: the region cannot keep up with what it has.
	RegionSaturated Reason = "RegionSaturated"
	// TooFewRegions: with this region fewer than the policy's number of others would have one version alone.
	TooFewRegions Reason = "TooFewRegions"
	// TooFewEndpoints: the version has fewer than the policy's part of stable's endpoints. Only promotion asks.
	TooFewEndpoints Reason = "TooFewEndpoints"
	// StableCapacityUnproved: stable declares no capacity in the region, or the region's rate was not measured, so that
	// nothing proves that stable can take everything back.
	StableCapacityUnproved Reason = "StableCapacityUnproved"
	// StableCapacityTooLow: stable's declared capacity is below the region's rate.
	StableCapacityTooLow Reason = "StableCapacityTooLow"
	// CanaryCapacityUnproved: the version declares no capacity in the region, so that nothing proves that it can serve
	// alone. Only promotion asks.
	CanaryCapacityUnproved Reason = "CanaryCapacityUnproved"
	// CanaryCapacityTooLow: the version's declared capacity is below the region's rate. Only promotion asks.
	CanaryCapacityTooLow Reason = "CanaryCapacityTooLow"
)

// Reasons to be at zero that may pass.
const (
	// NoData: no fresh evidence. After the policy's HoldAfter the step's clock stops, after RetreatAfter the share is zero.
	NoData Reason = "NoData"
	// LeaseLapsed: no fresh evidence for as long as the lease lasts, or a restart without a hand-over: the sidecars went
	// back to stable by themselves.
	LeaseLapsed Reason = "LeaseLapsed"
	// RegionOutage: stable errs more than the objective allows as well; nobody can tell the canary's part.
	RegionOutage Reason = "RegionOutage"
	// CanarySuspected: the canary errs more than it may spend, and it cannot be told yet whether stable does so too.
	CanarySuspected Reason = "CanarySuspected"
	// NoCanaryEndpoints: the version has no endpoint in the region.
	NoCanaryEndpoints Reason = "NoCanaryEndpoints"
	// NewDigest: the rollout names another build than before; what was known of the old one does not count.
	NewDigest Reason = "NewDigest"
	// AlreadyStable: the version serves as stable by another rollout or by the documents; there is nothing to compare.
	AlreadyStable Reason = "AlreadyStable"
	// RolloutDeleted: the rollout is not declared any more, or names what is not declared.
	RolloutDeleted Reason = "RolloutDeleted"
	// RegionRemoved: the rollout does not name the region any more.
	RegionRemoved Reason = "RegionRemoved"
)

// Reasons to halt. AllotmentSpent and CanaryEjected halt a canary that has a share, and keep one at zero from climbing.
const (
	// CanaryWorse: the canary errs more than stable beside it.
	CanaryWorse Reason = "CanaryWorse"
	// CanarySlower: the canary is slower than stable beside it.
	CanarySlower Reason = "CanarySlower"
	// OverBudget: the canary errs more than it may spend while stable does not.
	OverBudget Reason = "OverBudget"
	// AllotmentSpent: the canary spent what it may spend of the region's error budget.
	AllotmentSpent Reason = "AllotmentSpent"
	// CanaryEjected: outlier detection or health checks took every canary endpoint out while stable had some.
	CanaryEjected Reason = "CanaryEjected"
	// HaltedElsewhere: another region of the rollout was halted, and the policy stops them all.
	HaltedElsewhere Reason = "HaltedElsewhere"
)

// What people did.
const (
	// PausedByHand: a person stopped the step's clock.
	PausedByHand Reason = "PausedByHand"
	// ResumedByHand: a person let the step's clock run on.
	ResumedByHand Reason = "ResumedByHand"
	// AbortedByHand: a person took the canary to zero.
	AbortedByHand Reason = "AbortedByHand"
	// PromotedByHand: a person skipped the remaining steps.
	PromotedByHand Reason = "PromotedByHand"
	// RolledBackByHand: a person took the region back to the last known-good version.
	RolledBackByHand Reason = "RolledBackByHand"
)

// What happened to the stable version.
const (
	// StableEdited: the documents declare another stable version for the region, or the promoted one is not declared there
	// any more.
	StableEdited Reason = "StableEdited"
	// Superseded: another rollout promoted another version after this one.
	Superseded Reason = "Superseded"
	// StableAgain: what superseded the version was rolled back; the version serves again.
	StableAgain Reason = "StableAgain"
)
