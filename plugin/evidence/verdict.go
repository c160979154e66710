package evidence

// Finding is what the tests say of a canary so far.
type Finding uint8

// The findings. Only Worse, Slower and OverBudget halt.
const (
	// Collecting: nothing is known against the canary. That is not a proof that it is safe.
	Collecting Finding = iota
	// Worse: the canary errs more than the stable version beside it.
	Worse
	// Slower: the canary is slower than the stable version beside it.
	Slower
	// OverBudget: the canary errs more than it may spend while stable does not.
	OverBudget
	// Outage: stable itself errs more than the objective allows; nobody can tell the canary's part.
	Outage
)

// Verdict is the finding of one tick with what it stands on.
type Verdict struct {
	Finding Finding
	// Metric that decided, or that is nearest to its threshold: "errors", "budget", "latency".
	Metric string
	// LogE is the natural logarithm of the evidence against the canary on that metric; it trips at LogThreshold.
	LogE, LogThreshold float64
	// Tries and errors of the tick that were compared.
	CanaryTries, CanaryErrors, StableTries, StableErrors uint64
}
