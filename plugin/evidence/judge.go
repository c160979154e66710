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
	// Outage lasts until Recovery (a logarithm) says otherwise. Accused: it began with a canary over its budget, and
	// nothing speaks against stable.
	Outage   bool    `json:"outage"`
	Accused  bool    `json:"accused"`
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
//  3. the average of errors against stable and the canary's errors against b reaches its threshold: OverBudget when the
//     arms can be told apart, else Outage until stable shows itself to be well (OverBudget) or over b (Outage);
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
	s.Stable.against(ns, ks, s.Config.Budget)
	if !s.Outage { // in an outage the canary is not held against its budget
		s.Canary.against(nc, kc, s.Config.Budget)
	}
	s.latency(h, length, canary.Latency, stable.Latency)

	l := s.logs()
	overBudget := s.outage(ns, ks, &l)
	v := s.decide(l, overBudget)
	v.CanaryTries, v.CanaryErrors = canary.Tries, canary.Errors
	v.StableTries, v.StableErrors = stable.Tries, stable.Errors
	v.Logs = l
	if v.Finding.Halts() && !s.Halt.Finding.Halts() {
		s.Halt = v
	}
	return v
}

func (s *state) logs() Logs {
	l := Logs{
		Errors: s.Errors.logE(), Canary: s.Canary.logE(), Stable: s.Stable.logE(),
		Recovery: s.Recovery, Threshold: s.Config.logThreshold(),
	}
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

// outage decides whether one begins or ends, and whether the canary is over its budget while stable is not.
//
// One begins when stable's own process says that stable is over b. One begins too when the canary is over its budget and it is not known
// that stable is not: at an even split, or where the canary has most of the traffic, the canary is as likely as stable to be found first in a
// failure that both share, and then a halt would be unfair. So a halt needs the arms told apart; the way to zero does not wait.
//
// It ends when stable is shown to be well: the hypothesis that it errs at 2b or more is refuted, 20 to 1, in favour of b/2.
// That evidence is from the latest fresh start (whenever it falls below 1 it starts again at 1), so that what it was like in
// the outage is no burden, and silence ends nothing. About 2/b tries without an error do it. Where nothing speaks
// against stable, b itself must be refuted (6/b tries), and then it was the canary.
//
// Afterwards the budget processes have at most 1: what an outage did to them is forgotten. That gives wealth away, never
// adds any, so the canary's stays valid over the whole rollout, however many outages there are.
func (s *state) outage(ns, ks float64, l *Logs) (overBudget bool) {
	doubted := l.Stable >= math.Log(doubt)
	apart := l.Errors >= math.Log(apart)
	if !s.Outage {
		over := l.Budget >= l.Threshold
		switch {
		case l.Stable >= s.Config.logOutage(), over && doubted:
			s.Outage = true
		case over && apart:
			return true
		case over:
			s.Outage, s.Accused = true, true
		}
		return false
	}
	b := s.Config.Budget
	ill := min(2*b, (1+b)/2)
	if s.Accused = s.Accused && !doubted; s.Accused {
		ill = b
	}
	s.Recovery = max(0, s.Recovery+likelihood(ns, ks, b/2, ill))
	l.Recovery = s.Recovery
	well := s.Recovery >= math.Log(recovered)
	if s.Accused && (well || apart) {
		s.Outage, s.Accused, s.Recovery = false, false, 0
		return true
	}
	if well {
		s.Outage, s.Recovery = false, 0
		for _, w := range []*wealth{&s.Canary, &s.Stable} {
			if w.logE() > 0 {
				*w = fresh(s.Config.Stage > 0)
			}
		}
		*l = s.logs()
	}
	return false
}

func (s *state) decide(l Logs, overBudget bool) Verdict {
	at := l.Threshold
	say := func(f Finding, metric string, logE float64) Verdict {
		return Verdict{Finding: f, Metric: metric, LogE: logE, LogThreshold: at}
	}
	switch {
	case s.Halt.Finding.Halts():
		return say(s.Halt.Finding, s.Halt.Metric, s.Halt.LogE)
	case l.Errors >= at:
		return say(Worse, "errors", l.Errors)
	case overBudget:
		return say(OverBudget, "budget", max(at, l.Budget)) // it was there when the outage began
	case l.Latency >= at:
		return say(Slower, "latency", l.Latency)
	case s.Accused:
		return say(Suspected, "budget", max(at, l.Budget))
	case s.Outage:
		return Verdict{Finding: Outage, Metric: "recovery", LogE: s.Recovery, LogThreshold: math.Log(recovered)}
	}
	v := say(Collecting, "errors", l.Errors)
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
