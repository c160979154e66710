package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// Judge watches one canary in one region. It is a value (a copy goes its own way) and its JSON is its whole state, for
// whoever takes over. The zero Judge is of no use; see New.
type Judge struct{ s state }

// layout changes with the meaning of a state; see ErrLayout.
const layout = 1

type state struct {
	Layout int    `json:"layout"`
	Config Config `json:"config"`
	// Errors compares the arms; Canary and Stable hold each arm against b.
	Errors wealth `json:"errors"`
	Canary wealth `json:"canary"`
	Stable wealth `json:"stable"`
	// Latency by quantile, and what stable's latencies were.
	Latency [len(quantiles)]wealth `json:"latency"`
	Past    past                   `json:"past"`
	// Outage lasts until Recovery (a logarithm) says otherwise.
	Outage   bool    `json:"outage"`
	Recovery float64 `json:"recovery"`
	// Halt is the first verdict that halts; Collecting until then.
	Halt Verdict `json:"halt"`
}

// New returns the Judge of a canary of which nothing is known. The error wraps ErrConfig.
func New(c Config) (Judge, error) {
	if err := c.check(); err != nil {
		return Judge{}, err
	}
	w := fresh(c.Stage > 0)
	return Judge{state{
		Layout: layout, Config: c, Errors: w, Canary: w, Stable: w,
		Latency: [len(quantiles)]wealth{w, w, w},
	}}, nil
}

// Config returns what the Judge was made with, with the budget that holds now.
func (j *Judge) Config() Config { return j.s.Config }

// SetBudget sets b, in (0,1), for the ticks to come. It may follow everything that was seen so far, as each tick's factor has a mean
// of at most 1 given the past, whatever b was fixed before the tick: the null is then that the canary is within
// the b of each tick. The alternatives are multiples of b, so bets keep their meaning. The error wraps ErrConfig.
func (j *Judge) SetBudget(b float64) error {
	c := j.s.Config
	c.Budget = b
	if err := c.check(); err != nil {
		return err
	}
	j.s.Config = c
	return nil
}

// Tick takes in the tries of one tick, which took length, and says what is known now. A tick without tries is fine; one in
// which an arm has none compares nothing. In this order:
//
//  1. errors against stable reach their threshold: Worse, whatever stable does;
//  2. stable by itself is over b: Outage, unless latency shows the canary to be slower: Slower;
//  3. the average of errors against stable and the canary's errors against b reaches its threshold: OverBudget;
//  4. latency against stable reaches its threshold: Slower.
//
// It allocates nothing.
func (j *Judge) Tick(length time.Duration, canary, stable signal.Sample) Verdict {
	s := &j.s
	nc, kc := float64(canary.Tries), float64(min(canary.Errors, canary.Tries))
	ns, ks := float64(stable.Tries), float64(min(stable.Errors, stable.Tries))

	h := s.Config.move(length)
	s.Errors.move(h)
	s.Canary.move(h)
	s.Stable.move(h)
	s.Errors.compare(nc, kc, ns, ks, s.Config.ToleratedRatio, s.Config.ToleratedDifference)
	// In an outage the canary is not held against its budget, and stable is asked only whether it is well again.
	if !s.Outage {
		s.Canary.against(nc, kc, s.Config.Budget)
		s.Stable.against(ns, ks, s.Config.Budget)
	}
	s.latency(h, length, canary.Latency, stable.Latency)

	l := s.outage(ns, ks, s.logs())
	v := s.decide(l)
	v.CanaryTries, v.CanaryErrors = canary.Tries, canary.Errors
	v.StableTries, v.StableErrors = stable.Tries, stable.Errors
	v.Logs = l
	if v.Finding.Halts() && !s.Halt.Finding.Halts() {
		s.Halt = v
	}
	return v
}

func (s *state) logs() Logs {
	l := Logs{Errors: s.Errors.logE(), Canary: s.Canary.logE(), Stable: s.Stable.logE(), Recovery: s.Recovery}
	l.Budget = logAdd(l.Errors, l.Canary) - math.Ln2
	l.Latency = logAdd(logAdd(s.Latency[0].logE(), s.Latency[1].logE()), s.Latency[2].logE()) - math.Log(3)
	return l
}

// move is the part of the cash that is bet in a tick.
func (c Config) move(length time.Duration) float64 {
	if c.Stage == 0 || length <= 0 {
		return 0
	}
	return min(1, float64(length)/float64(c.Stage))
}

// latency compares how many are slower than τ in stable and than f·τ in the canary. τ is stable's quantile over earlier
// ticks alone, so it is fixed before the tick as the test needs it; few stable tries make it a poor τ, which costs power and not
// validity. The factor is the tolerance, so the error test's tolerances do not act here.
func (s *state) latency(h float64, length time.Duration, canary, stable signal.Histogram) {
	steps := signal.StepsFor(s.Config.LatencyFactor)
	nc, ns := float64(canary.Total()), float64(stable.Total())
	for i, tau := range s.Past.thresholds() {
		s.Latency[i].move(h)
		if tau+steps < signal.EdgeCount {
			s.Latency[i].compare(nc, float64(canary.Above(tau+steps)), ns, float64(stable.Above(tau)), 1, 0)
		}
	}
	s.Past.take(length, stable)
}

// outage begins when stable's own process says that it is over b, or when both arms look bad; and ends when stable is
// shown to be well: the hypothesis that it still errs at 2b or more is refuted, 20 to 1, in favour of b/2. That evidence is
// from the latest fresh start (whenever it falls below 1 it starts again at 1), so that what it was like in the outage is no
// burden, and silence ends nothing. About 2/b tries without an error do it.
//
// Afterwards both budget processes have at most 1: what an outage did to them is forgotten. That gives wealth away, never
// adds any, so the canary's stays valid over the whole rollout, however many outages there are.
func (s *state) outage(ns, ks float64, l Logs) Logs {
	b := s.Config.Budget
	if !s.Outage {
		both := l.Budget >= s.Config.logThreshold() && l.Stable >= math.Log(suspicion)
		s.Outage = both || l.Stable >= s.Config.logOutage()
		return l
	}
	s.Recovery = max(0, s.Recovery+likelihood(ns, ks, b/2, min(2*b, (1+b)/2)))
	l.Recovery = s.Recovery
	if s.Recovery < math.Log(recovered) {
		return l
	}
	s.Outage, s.Recovery = false, 0
	for _, w := range []*wealth{&s.Canary, &s.Stable} {
		if w.logE() > 0 {
			*w = fresh(s.Config.Stage > 0)
		}
	}
	return s.logs()
}

func (s *state) decide(l Logs) Verdict {
	at := s.Config.logThreshold()
	halt := func(f Finding, metric string, logE float64) Verdict {
		return Verdict{Finding: f, Metric: metric, LogE: logE, LogThreshold: at}
	}
	switch {
	case s.Halt.Finding.Halts():
		return halt(s.Halt.Finding, s.Halt.Metric, s.Halt.LogE)
	case l.Errors >= at:
		return halt(Worse, "errors", l.Errors)
	case s.Outage && l.Latency >= at:
		return halt(Slower, "latency", l.Latency)
	case s.Outage:
		return Verdict{Finding: Outage, Metric: "recovery", LogE: s.Recovery, LogThreshold: math.Log(recovered)}
	case l.Budget >= at:
		return halt(OverBudget, "budget", l.Budget)
	case l.Latency >= at:
		return halt(Slower, "latency", l.Latency)
	}
	v := halt(Collecting, "errors", l.Errors)
	if l.Budget > v.LogE {
		v.Metric, v.LogE = "budget", l.Budget
	}
	if l.Latency > v.LogE {
		v.Metric, v.LogE = "latency", l.Latency
	}
	return v
}

// ErrLayout is what reading a Judge wraps when its JSON is not a state that this version understands. Its canary is to be
// judged anew, from the first step.
var ErrLayout = errors.New("evidence: not a state of this version")

// MarshalJSON writes the whole state.
func (j Judge) MarshalJSON() ([]byte, error) { return json.Marshal(j.s) }

// UnmarshalJSON reads a state. The error wraps ErrLayout.
func (j *Judge) UnmarshalJSON(data []byte) error {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if s.Layout != layout {
		return fmt.Errorf("%w: layout %d, not %d", ErrLayout, s.Layout, layout)
	}
	if err := s.Config.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrLayout, err)
	}
	j.s = s
	return nil
}
