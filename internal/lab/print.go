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
	at := percent(float64(t.To.Weight) / 10_000)
	if t.To.Shadow > 0 {
		at += " and copies of " + percent(float64(t.To.Shadow)/10_000)
	}
	p.line("rollout %s in %s: %s at %s (%s)", t.Rollout, t.Region, t.To.Phase, at, t.To.Reason)
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
