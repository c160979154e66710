package rollout

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/aviary-mesh/aviary/plugin/evidence"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts of testdata say now")

// TestScripts plays the stories of testdata. A story is blocks of lines to do, "----", and what is said: events, refusals
// and where each region stands. Lines to do (documents are edited with what world.edit knows):
//
//	apply                          the documents changed: a Step without evidence
//	tick 5 tries=10 eu:stale       five seconds of fresh evidence, for all regions or for one; see tickInput
//	idle 30s                       time passes, nobody looks
//	act start eu by=ana            a person asks
//	restart, handover              the process starts again, without and with a hand-over
//	save, forget, join             halts are persisted; the state is lost; the persisted halts are joined
//	copy, stale                    keeps a copy of the state; a writer puts that copy back
//	use NAME, adopt, stable        another rollout; rollouts learn of each other's promotions; what serves
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s (-written +said; -rewrite takes it over):\n%s", file, diff)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	p := &player{t: t, world: newWorld(), name: "checkout-v2", states: map[string]State{}, now: start}
	var out bytes.Buffer
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		fmt.Fprintln(&out, line)
		if line != "----" {
			if line != "" && !strings.HasPrefix(line, "#") {
				p.do(strings.Fields(line))
			}
			continue
		}
		for i+1 < len(lines) && lines[i+1] != "" {
			i++ // what was said before
		}
		p.status()
		out.WriteString(p.said.String())
		p.said.Reset()
	}
	return out.String()
}

type player struct {
	t      *testing.T
	world  *world
	name   string
	states map[string]State
	kept   State
	known  map[string]Input // of the last tick, for what a person asks
	halts  []Halt
	now    time.Time
	said   strings.Builder
}

func (p *player) do(words []string) {
	p.t.Helper()
	switch words[0] {
	case "apply":
		p.step(nil)
	case "tick":
		n, err := strconv.Atoi(words[1])
		if err != nil {
			p.t.Fatal(err)
		}
		for range n {
			p.now = p.now.Add(time.Second)
			in := map[string]Input{}
			for region := range p.states[p.name].Regions {
				in[region] = p.tickInput(region, words[2:])
			}
			p.known = in
			p.step(in)
		}
	case "idle":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = p.now.Add(d)
	case "act":
		a := Action{Verb: Verb(words[1])}
		for _, w := range words[2:] {
			if by, ok := strings.CutPrefix(w, "by="); ok {
				a.Author = by
			} else if why, ok := strings.CutPrefix(w, "why="); ok {
				a.Reason = why
			} else {
				a.Regions = strings.Split(w, ",")
			}
		}
		state, events, err := Act(p.world.set(), p.states[p.name], a, p.known, p.now)
		p.keep(state, events)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				fmt.Fprintln(&p.said, "refused:", line)
			}
		}
	case "restart", "handover":
		p.keep(Resume(p.states[p.name], p.now, words[0] == "handover"))
	case "save":
		p.halts = append(p.halts, Halts(p.states[p.name])...)
	case "forget":
		p.states[p.name] = State{Rollout: p.name}
	case "join":
		p.keep(Join(p.states[p.name], p.halts), nil)
	case "copy":
		p.kept = p.states[p.name]
	case "stale":
		p.states[p.name] = p.kept
	case "use":
		p.name = words[1]
	case "adopt":
		all := p.all()
		for i, s := range Adopt(p.world.set(), all) {
			p.states[all[i].Rollout] = s
		}
	case "stable":
		for _, region := range words[1:] {
			fmt.Fprintf(&p.said, "%s serves %v\n", region, Stable(p.world.set(), "checkout", region, p.all()))
		}
	default:
		if err := p.world.edit(words, p.name); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *player) all() []State {
	var all []State
	for _, s := range p.states {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b State) int { return strings.Compare(a.Rollout, b.Rollout) })
	return all
}

// tickInput is healthy, fresh evidence with 10 canary tries and 100 requests a second, but for what the words say.
func (p *player) tickInput(region string, words []string) Input {
	in := Input{Fresh: true, Rate: 100, Verdict: evidence.Verdict{Metric: "errors", CanaryTries: 10, StableTries: 90}}
	for _, w := range words {
		if of, rest, ok := strings.Cut(w, ":"); ok {
			if of != region {
				continue
			}
			w = rest
		}
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "stale":
			in = Input{}
		case "spent":
			in.AllotmentSpent = true
		case "ejected":
			in.Ejected = true
		case "unwell":
			in.Unwell = true
		case "saturated":
			in.Saturated = true
		case "endpoints": // canary/stable
			_, err = fmt.Sscanf(value, "%d/%d", &in.CanaryEndpoints, &in.StableEndpoints)
		case "tries":
			in.Verdict.CanaryTries, err = strconv.ParseUint(value, 10, 64)
		case "doubt":
			in.Verdict.Metric, in.Verdict.LogE = "errors", 3
		case "rate":
			in.Rate, err = strconv.ParseFloat(value, 64)
		case "trial":
			digest, attempt, _ := strings.Cut(value, "/")
			attempt, in.Trial.Shadow = strings.CutSuffix(attempt, "/shadow")
			in.Trial.Digest = digest
			in.Trial.Attempt, err = strconv.Atoi(attempt)
		case "worse", "slower", "overbudget", "outage", "suspected":
			in.Verdict.Finding = map[string]evidence.Finding{
				"worse": evidence.Worse, "slower": evidence.Slower, "overbudget": evidence.OverBudget, "outage": evidence.Outage, "suspected": evidence.Suspected,
			}[key]
			in.Verdict.CanaryErrors = 3
			if key == "slower" {
				in.Verdict.Metric = "latency"
			}
		default:
			err = fmt.Errorf("what is %q?", w)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return in
}

func (p *player) step(in map[string]Input) {
	p.keep(Step(p.world.set(), p.name, p.states[p.name], in, p.now))
}

func (p *player) keep(state State, events []Event) {
	p.t.Helper()
	text, err := json.Marshal(state) // what the store does
	if err != nil {
		p.t.Fatal(err)
	}
	var back State
	if err := json.Unmarshal(text, &back); err != nil {
		p.t.Fatal(err)
	}
	p.states[p.name] = back
	for _, e := range events {
		line := fmt.Sprintf("%v %s %s: %s → %s %s", e.At.Sub(start), e.Region, e.Reason, e.From, e.To, e.Weight)
		if e.Message != "" {
			line += ", " + e.Message
		}
		if e.Author != "" {
			line += " (" + e.Author + ")"
		}
		fmt.Fprintln(&p.said, line)
	}
}

// waits are the reasons whose message is kept up to date without an event.
var waits = map[Reason]bool{WaitingForWave: true, Baking: true, WaitingForTurn: true, HeldByHalt: true, TooFewRegions: true, TooFewEndpoints: true}

func (p *player) status() {
	s := p.states[p.name]
	if s.Deleted {
		fmt.Fprintln(&p.said, "deleted")
	}
	for _, name := range s.names() {
		r := s.Regions[name]
		fmt.Fprintf(&p.said, "  %s: %s %s", name, r.Phase, r.Weight)
		if r.Weight > 0 {
			fmt.Fprintf(&p.said, ", step %d held %v with %d tries", r.Step+1, r.Held, r.Tries)
		}
		if r.Shadow > 0 {
			fmt.Fprintf(&p.said, ", %s copied for %v with %d tries", r.Shadow, r.Held, r.Tries)
		}
		fmt.Fprintf(&p.said, " (%s), stable %s", r.Reason, r.Stable.Version)
		if waits[r.Reason] {
			fmt.Fprintf(&p.said, ", %s", r.Message)
		}
		if Testers(r) {
			p.said.WriteString(", testers")
		}
		p.said.WriteString("\n")
	}
}
