package evidence

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Metrics is M, in how many ways a region can be halted by a test: by errors against stable, by the average of that and
// the canary's budget, by that budget alone (see OverBudgetProven), and by latency.
const Metrics = 4

// Config is what a Judge is made with.
type Config struct {
	// Alpha is the chance, in (0,1), that the tests ever halt a canary which is no worse than its stable, in the whole
	// rollout.
	Alpha float64 `json:"alpha"`
	// Regions of the rollout, at least 1; they share Alpha.
	Regions int `json:"regions"`
	// ToleratedRatio (ψ0 > 0) and ToleratedDifference (δ ≥ 0): error rates up to ψ0·stable + δ are no worse.
	ToleratedRatio      float64 `json:"toleratedRatio"`
	ToleratedDifference float64 `json:"toleratedDifference"`
	// Budget (b, in (0,1)) is the error rate that the objective allows the canary; see SetBudget.
	Budget float64 `json:"budget"`
	// LatencyFactor (f > 1) is how many times slower at the same quantile is no slower. It acts in steps of 7.7 %
	// (signal.StepsFor).
	LatencyFactor float64 `json:"latencyFactor"`
	// Stage is the time over which cash is bet (at each tick tick/Stage of what is left): about how long the rollout
	// takes. 0 keeps no cash: all is bet at the start, which finds what is bad from the start soonest and what turns bad late
	// slowly.
	Stage time.Duration `json:"stage"`
}

// ErrConfig is what New and SetBudget wrap when a value is out of its range.
var ErrConfig = errors.New("evidence: value out of range")

func (c Config) check() error {
	for _, p := range []struct {
		name string
		ok   bool
		is   any
	}{
		{"alpha", c.Alpha > 0 && c.Alpha < 1, c.Alpha},
		{"regions", c.Regions > 0, c.Regions},
		{"tolerated ratio", c.ToleratedRatio > 0 && !math.IsInf(c.ToleratedRatio, 0), c.ToleratedRatio},
		{"tolerated difference", c.ToleratedDifference >= 0 && c.ToleratedDifference <= 1, c.ToleratedDifference},
		{"budget", c.Budget > 0 && c.Budget < 1, c.Budget},
		{"latency factor", c.LatencyFactor > 1 && !math.IsInf(c.LatencyFactor, 0), c.LatencyFactor},
		{"stage", c.Stage >= 0, c.Stage},
	} {
		if !p.ok {
			return fmt.Errorf("%w: %s is %v", ErrConfig, p.name, p.is)
		}
	}
	return nil
}

// logThreshold is where each test of a region trips. Half of α names regions (the other half is kept for evidence over all
// regions), in equal parts to each region and metric.
func (c Config) logThreshold() float64 {
	return math.Log(2 * float64(c.Regions) * Metrics / c.Alpha)
}

// Levels that halt nothing by themselves, so they take nothing from the ledger.
const (
	// doubt of stable makes a canary that is over its budget an outage: both look bad.
	doubt = 10
	// apart is the evidence of errors against stable at which a canary that is over its budget is halted at once. In a
	// failure that both arms share alike it is reached with a chance of at most 1 in 100.
	apart = 100
	// recovered ends an outage.
	recovered = 20
)

// logOutage is where stable is over b by itself: a false outage comes with a chance of at most α.
func (c Config) logOutage() float64 { return -math.Log(c.Alpha) }
