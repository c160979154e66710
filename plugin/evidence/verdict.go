package evidence

import (
	"fmt"
	"math"
)

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
	// Outage: stable itself errs more than the objective allows the canary; nobody can tell the canary's part. It lasts until
	// stable is shown to be well again.
	Outage
	// Suspected: the canary errs more than it may spend, and it cannot be told yet whether stable does so too. It goes to
	// zero at once; then stable has the traffic and tells, and this becomes Outage or OverBudget.
	Suspected
)

var findings = [...]string{"Collecting", "Worse", "Slower", "OverBudget", "Outage", "Suspected"}

// String is the finding's name.
func (f Finding) String() string {
	if int(f) < len(findings) {
		return findings[f]
	}
	return fmt.Sprintf("Finding(%d)", uint8(f))
}

// MarshalText writes the name.
func (f Finding) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads a name.
func (f *Finding) UnmarshalText(text []byte) error {
	for i, name := range findings {
		if name == string(text) {
			*f = Finding(i)
			return nil
		}
	}
	return fmt.Errorf("evidence: no finding is named %q", text)
}

// Halts is whether the finding is a judgement on the canary.
func (f Finding) Halts() bool { return f == Worse || f == Slower || f == OverBudget }

// Verdict is the finding of one tick with what it stands on. A finding that halts is final: the Judge repeats it.
type Verdict struct {
	Finding Finding
	// Metric that decided, or that is nearest to its threshold: "errors", "budget", "latency". In an outage
	// "recovery", but "budget" while the canary is over its own and nothing speaks against stable.
	Metric string
	// LogE is the natural logarithm of the evidence against the canary on that metric; it trips at LogThreshold. For
	// "recovery": of the evidence that stable is well again, and the outage ends there.
	LogE, LogThreshold float64
	// Tries and errors of the tick that were compared.
	CanaryTries, CanaryErrors, StableTries, StableErrors uint64
	// Logs are the natural logarithms of every process after the tick, for those who want to know why.
	Logs Logs
}

// Logs are the natural logarithms of the processes' values.
type Logs struct {
	// Errors against stable; Canary and Stable each against the budget b; Budget is the average of Errors and Canary.
	Errors, Canary, Stable, Budget float64
	// Latency is the average over the quantiles.
	Latency float64
	// Recovery of stable in an outage, else 0.
	Recovery float64
	// Threshold at which Errors, Budget, Latency and (see OverBudgetProven) Canary trip.
	Threshold float64
}

// OverBudgetProven is the gate of the fast loop over burn rates (plugin/budget): the canary's own budget process reached its
// threshold, there is no outage, and it is the canary's failure as it must be for OverBudget.
func (v Verdict) OverBudgetProven() bool {
	l := v.Logs
	return v.Finding != Outage && v.Finding != Suspected && l.Threshold > 0 && l.Canary >= l.Threshold &&
		l.Errors >= math.Log(apart) && l.Stable < math.Log(doubt)
}
