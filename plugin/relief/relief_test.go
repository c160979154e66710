package relief

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts of testdata say now")

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// TestScripts plays the stories of testdata: a first line with the rule, then lines of how long the samples after it are
// taken, one a second, and what is in them ("3s pending=5 overflows=0.5"). Every change of state is said under its line.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 4 {
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
	var out bytes.Buffer
	var rule *spec.Relief
	var s State
	now := start
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // what was said before
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#":
		case words[0] == "rule":
			rule = &spec.Relief{Tighten: spec.Whole}
			for _, w := range words[1:] {
				key, value, _ := strings.Cut(w, "=")
				switch key {
				case "after":
					rule.After = duration(t, value)
				case "until":
					rule.Until = duration(t, value)
				case "tighten":
					if _, err := fmt.Sscanf(value, "%d", &rule.Tighten); err != nil {
						t.Fatal(err)
					}
				default:
					x := sample(t, w)
					rule.Pending, rule.InProgress, rule.Overflows = rule.Pending+x.Pending, rule.InProgress+x.InProgress, rule.Overflows+x.Overflows
				}
			}
		default:
			for end := now.Add(duration(t, words[0])); now.Before(end); {
				now = now.Add(time.Second)
				before := s
				s = Step(rule, s, sample(t, words[1:]...), now)
				if s.Saturated != before.Saturated || s.Active != before.Active {
					fmt.Fprintf(&out, "  %v: saturated %v, active %v\n", now.Sub(start), s.Saturated, s.Active)
				}
			}
		}
	}
	return out.String()
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func sample(t *testing.T, words ...string) (x Sample) {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, err := strconv.ParseFloat(value, 64)
		switch key {
		case "pending":
			x.Pending = uint64(n)
		case "progress":
			x.InProgress = uint64(n)
		case "overflows":
			x.Overflows = n
		default:
			err = fmt.Errorf("what is %q?", w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// Saturated at the first sign, never relieved before After, relieved until Until passed without a sign, and no longer.
func TestReliefKeepsToItsTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := func(low, high int, label string) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(t, label)) * time.Second
		}
		rule := &spec.Relief{
			Pending: rapid.Uint64Range(0, 2).Draw(t, "pending"), InProgress: rapid.Uint64Range(0, 2).Draw(t, "progress"),
			Overflows: rapid.SampledFrom([]float64{0, 0.5, 2}).Draw(t, "overflows"),
			After:     seconds(0, 4, "after"), Until: seconds(1, 6, "until"), Tighten: spec.Whole,
		}
		var s State
		now := start
		var began, last time.Time // of the signs without a pause, and the last one
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(seconds(0, 3, "pass"))
			x := Sample{
				Pending: rapid.Uint64Range(0, 3).Draw(t, "p"), InProgress: rapid.Uint64Range(0, 3).Draw(t, "i"),
				Overflows: rapid.SampledFrom([]float64{0, 0.5, 3}).Draw(t, "o"),
			}
			sign := rule.Pending > 0 && x.Pending >= rule.Pending || rule.InProgress > 0 && x.InProgress >= rule.InProgress ||
				rule.Overflows > 0 && x.Overflows >= rule.Overflows
			if sign && began.IsZero() {
				began = now
			}
			if sign {
				last = now
			} else {
				began = time.Time{}
			}
			was := s
			s = Step(rule, s, x, now)
			switch {
			case s.Saturated != sign:
				t.Fatalf("saturated %v, sign %v", s.Saturated, sign)
			case !was.Active && s.Active && (began.IsZero() || now.Sub(began) < rule.After):
				t.Fatalf("active %v after the first sign, not %v", now.Sub(began), rule.After)
			case sign && now.Sub(began) >= rule.After && !s.Active:
				t.Fatalf("not active %v after the first sign", now.Sub(began))
			case was.Active && !s.Active && now.Sub(last) < rule.Until:
				t.Fatalf("ended %v after the last sign, not %v", now.Sub(last), rule.Until)
			case s.Active && !sign && now.Sub(last) >= rule.Until:
				t.Fatalf("active %v after the last sign", now.Sub(last))
			case s.Holds() != (s.Saturated || s.Active):
				t.Fatalf("holds %v", s.Holds())
			}
		}
	})
}

func TestAClockThatWasSetBackEndsNothingEarly(t *testing.T) {
	rule := &spec.Relief{Pending: 1, After: 2 * time.Second, Until: 10 * time.Second}
	s := Step(rule, State{}, Sample{Pending: 1}, start)
	s = Step(rule, s, Sample{Pending: 1}, start.Add(-time.Hour))
	if s.Active || !s.Saturated {
		t.Errorf("after no time at all: %+v", s)
	}
	s = Step(rule, s, Sample{Pending: 1}, start.Add(-time.Hour+2*time.Second))
	if !s.Active {
		t.Errorf("two seconds later: %+v", s)
	}
	if s = Step(rule, s, Sample{}, start.Add(-time.Hour+12*time.Second)); s.Active || !s.Holds() {
		t.Errorf("ten seconds without a sign: %+v", s)
	}
	if s = Step(rule, s, Sample{}, start.Add(-time.Hour+17*time.Second)); s.Holds() {
		t.Errorf("settled: %+v", s)
	}
}

func TestWithoutARuleThereIsNoRelief(t *testing.T) {
	if s := Step(nil, State{Saturated: true, Active: true, Since: start, Last: start}, Sample{Pending: 9}, start); s != (State{}) {
		t.Errorf("got %+v", s)
	}
}

func TestTighten(t *testing.T) {
	for _, c := range []struct {
		name    string
		tighten spec.Share
		from    spec.Limits
		want    spec.Limits
	}{
		{"they stay", spec.Whole, spec.Limits{Pending: 3}, spec.Limits{Pending: 3}},
		{"a half", 5000, spec.Limits{Connections: 10, Pending: 7, Requests: 100, Retries: 10_000}, spec.Limits{Connections: 5, Pending: 3, Requests: 50, Retries: 5000}},
		{"what is not declared is Envoy's", 2500, spec.Limits{Requests: 8, Retries: 4}, spec.Limits{Connections: 256, Pending: 256, Requests: 2, Retries: 1}},
		{"never to nothing", 1, spec.Limits{Connections: 1, Pending: 1, Requests: 5000, Retries: 9999}, spec.Limits{Connections: 1, Pending: 1, Requests: 1, Retries: 1}},
		{"no overflow", 9999, spec.Limits{Connections: 4_294_967_295, Pending: 1, Requests: 1, Retries: 1}, spec.Limits{Connections: 4_294_537_798, Pending: 1, Requests: 1, Retries: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Tighten(&spec.Relief{Tighten: c.tighten}, c.from); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
