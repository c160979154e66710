package lab

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// printer writes what a person follows; every line begins with the seconds since the users began.
type printer struct {
	mu      sync.Mutex
	w       io.Writer
	started time.Time
}

func (p *printer) begin(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = at
}

func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stamp := strings.Repeat(" ", 8)
	if !p.started.IsZero() {
		stamp = fmt.Sprintf("%7.2fs", time.Since(p.started).Seconds())
	}
	fmt.Fprintf(p.w, "%s  %s\n", stamp, fmt.Sprintf(format, args...))
}

func (p *printer) heading(text string) {
	p.mu.Lock()
	fmt.Fprintln(p.w)
	p.mu.Unlock()
	p.line("== %s", text)
}

func (p *printer) block(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "%s\n\n", strings.TrimSpace(text))
}

func (p *printer) transition(t Transition) {
	p.line("rollout %s in %s: %s at %s (%s)", t.Rollout, t.Region, t.To.Phase, percent(float64(t.To.Weight)/10_000), t.To.Reason)
}

func (p *printer) users(r Report, over time.Duration) {
	p.line("users: %.0f/s, %d failed, p99 %v; %s", float64(r.Done)/over.Seconds(), r.Failed,
		r.Latency.Quantile(.99).Round(100*time.Microsecond), versions(r))
}

func versions(r Report) string {
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(r.Version)) {
		if v != "" {
			parts = append(parts, v+" "+percent(r.Share(v)))
		}
	}
	return strings.Join(parts, ", ")
}

func percent(part float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", 100*part), "0"), ".") + " %"
}

func (p *printer) check(c Check) {
	verdict := "ok    "
	if !c.OK {
		verdict = "FAILED"
	}
	p.line("%s %s (measured %s after %v)", verdict, c.Text, c.Measured, c.Took.Round(time.Millisecond))
}

// describe says in words what a behavior is.
func describe(b Behavior) string {
	var parts []string
	if b.Refuse {
		parts = append(parts, "refuses connections")
	}
	if b.Unhealthy {
		parts = append(parts, "fails health checks")
	}
	for _, f := range b.Failures {
		what := string(f.Kind)
		switch {
		case f.Kind == FailStatus && f.GRPC != "":
			what = f.GRPC
		case f.Kind == FailStatus && f.Status != 0:
			what = fmt.Sprint(f.Status)
		case f.Kind == FailStatus:
			what = "errors"
		case f.Kind == FailSlow:
			what = fmt.Sprintf("%v slower", f.Delay)
		}
		parts = append(parts, fmt.Sprintf("%s for %s of requests", what, percent(f.Rate)))
	}
	if b.Latency.Multiplier > 0 {
		parts = append(parts, fmt.Sprintf("takes %g times as long", b.Latency.Multiplier))
	}
	if len(parts) == 0 {
		return "is well"
	}
	return strings.Join(parts, ", ")
}

// summary is the end of a run, from the users' side.
func (p *printer) summary(r Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	say := func(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }
	u := r.Users
	say("\n%s, %.0f s, as its users saw it", r.Scenario, r.Took.Seconds())
	say("  requests   %d answered, %d failed%s, %d that could not start", u.Done, u.Failed, byMethod(u), u.Skipped)
	say("  versions   %s", versions(u))
	say("  latency    p50 %v, p99 %v, longest %v", u.Latency.Quantile(.5), u.Latency.Quantile(.99), u.Latency.Quantile(1))
	for _, text := range u.Errors[:min(len(u.Errors), 3)] {
		say("  failed     %s", text)
	}
	var bad uint64
	for _, c := range r.Services {
		bad += c.Bad()
	}
	for _, x := range r.Reactions {
		say("  reaction   %s %s: %v from its fault to its last request; %d of its tries failed",
			x.Service, x.Version, x.Took.Round(time.Millisecond), x.Failed)
	}
	if bad > 0 {
		say("  net 1      %d tries failed at the services; %d requests failed for their users", bad, u.Failed)
	}
	if r.Ejections > 0 {
		say("  net 2      %d ejections of endpoints by the sidecars themselves", r.Ejections)
	}
	for _, t := range r.Transitions {
		if t.From.Weight > 0 && t.To.Weight == 0 && t.To.Phase != "Promoted" && t.To.Reason != "LeaseLapsed" {
			say("  net 3      %6.2fs %s in %s: from %s to 0 (%s, %s)", t.At.Seconds(), t.Rollout, t.Region,
				percent(float64(t.From.Weight)/10_000), t.To.Phase, t.To.Reason)
		}
	}
	for _, l := range r.Lapses {
		say("  net 4      %s %s got its last request %v after the control plane was gone", l.Service, l.Version, l.Took.Round(time.Millisecond))
	}
	failed := 0
	for _, c := range r.Checks {
		if !c.OK {
			failed++
		}
	}
	say("  expected   %d of %d expectations held", len(r.Checks)-failed, len(r.Checks))
	for _, c := range r.Checks {
		if !c.OK {
			say("             FAILED, line %d: %s; measured %s", c.Line, c.Text, c.Measured)
		}
	}
}

func byMethod(r Report) string {
	var parts []string
	for _, m := range slices.Sorted(maps.Keys(r.Methods)) {
		parts = append(parts, fmt.Sprintf("%s %d of %d", m, r.FailedMethods[m], r.Methods[m]))
	}
	return " (" + strings.Join(parts, ", ") + ")"
}
