// Package counting holds what is counted against what happened, on a real Envoy.
package counting

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/aviary-mesh/aviary/internal/lab"
	"github.com/aviary-mesh/aviary/plugin/policy"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// isError is a policy's default.
var isError = policy.Classifier(spec.ErrorClasses{
	HTTP: []int{5}, GRPC: []int{2, 4, 12, 13, 14, 15},
	Flags: []string{"LR", "SI", "UC", "UF", "UH", "UMSDR", "UO", "UPE", "UR", "URX", "UT"},
})

// fault is one way in which a version fails, and how it is counted.
type fault struct {
	name     string
	version  string // where it is; v1 has no arm, no retries and no limit of a try
	behavior func(lab.Protocol) lab.Behavior
	class    map[lab.Protocol]signal.Class // of every failed try
	// patience of the users; 0 is ample.
	patience time.Duration
	// atLeast and atMost bound the latency of every failed (or slow) try.
	atLeast, atMost time.Duration
	// unseen: the tries do not reach the service.
	unseen bool
	// good: the tries are no errors.
	good bool
	// some: only a part of the tries fails.
	some bool
}

func same(c signal.Class) map[lab.Protocol]signal.Class {
	return map[lab.Protocol]signal.Class{lab.HTTP: c, lab.HTTP2: c, lab.GRPC: c}
}

func unanswered(flags string) map[lab.Protocol]signal.Class {
	return same(signal.Class{GRPC: -1, Flags: flags})
}

func failing(kind lab.Kind) func(lab.Protocol) lab.Behavior {
	return func(lab.Protocol) lab.Behavior {
		return lab.Behavior{Body: 20_000, Failures: []lab.Failure{{Kind: kind, Rate: 1}}}
	}
}

func status(code int) func(lab.Protocol) lab.Behavior {
	return func(p lab.Protocol) lab.Behavior {
		return lab.Behavior{Failures: []lab.Failure{{Kind: lab.FailStatus, Rate: 1, Status: code, GRPC: "UNAVAILABLE"}}}
	}
}

const delay = 60 * time.Millisecond

func slow(lab.Protocol) lab.Behavior {
	return lab.Behavior{Failures: []lab.Failure{{Kind: lab.FailSlow, Rate: 1, Delay: delay}}}
}

var faults = []fault{
	{name: "none", version: "v2", behavior: func(lab.Protocol) lab.Behavior { return lab.Behavior{} }, good: true,
		class: map[lab.Protocol]signal.Class{lab.HTTP: {Status: 200, GRPC: -1}, lab.HTTP2: {Status: 200, GRPC: -1}, lab.GRPC: {Status: 200, GRPC: 0}}},
	{name: "500", version: "v2", behavior: status(500),
		class: map[lab.Protocol]signal.Class{lab.HTTP: {Status: 500, GRPC: -1}, lab.HTTP2: {Status: 500, GRPC: -1}, lab.GRPC: {Status: 500, GRPC: 14}}},
	{name: "503", version: "v2", behavior: status(503),
		class: map[lab.Protocol]signal.Class{lab.HTTP: {Status: 503, GRPC: -1}, lab.HTTP2: {Status: 503, GRPC: -1}, lab.GRPC: {Status: 503, GRPC: 14}}},
	{name: "gRPC status", version: "v2", behavior: func(lab.Protocol) lab.Behavior { return lab.GRPCErrors(1, codes.Internal) },
		class: map[lab.Protocol]signal.Class{lab.GRPC: {Status: 200, GRPC: 13}}},
	{name: "gRPC trailer", version: "v2", behavior: failing(lab.FailTrailer),
		class: map[lab.Protocol]signal.Class{lab.GRPC: {Status: 200, GRPC: 13}}},
	{name: "slow", version: "v2", behavior: slow, good: true, atLeast: delay,
		class: map[lab.Protocol]signal.Class{lab.HTTP: {Status: 200, GRPC: -1}, lab.HTTP2: {Status: 200, GRPC: -1}, lab.GRPC: {Status: 200, GRPC: 0}}},
	{name: "hang", version: "v2", behavior: failing(lab.FailHang), class: unanswered("UMSDR"), atLeast: hangLimit},
	{name: "refused", version: "v2", behavior: func(lab.Protocol) lab.Behavior { return lab.Behavior{Refuse: true} },
		class: unanswered("UF"), unseen: true},
	{name: "broken mid-body", version: "v2", behavior: failing(lab.FailBreak),
		class: map[lab.Protocol]signal.Class{
			lab.HTTP: {Status: 200, GRPC: -1, Flags: "UPE"}, lab.HTTP2: {Status: 200, GRPC: -1, Flags: "UR"}, lab.GRPC: {Status: 200, GRPC: 2, Flags: "UR"}}},
	{name: "reset", version: "v2", behavior: failing(lab.FailReset),
		class: map[lab.Protocol]signal.Class{lab.HTTP: {GRPC: -1, Flags: "UC"}, lab.HTTP2: {GRPC: -1, Flags: "UR"}, lab.GRPC: {GRPC: -1, Flags: "UR"}}},
	{name: "over the limit", version: "v3", behavior: slow, class: unanswered("UO"), unseen: true, some: true},
	{name: "hang, route's timeout", version: "v1", behavior: failing(lab.FailHang), class: unanswered("UT"), atLeast: routeTimeout},
	{name: "hang, caller leaves", version: "v1", behavior: failing(lab.FailHang), patience: 100 * time.Millisecond, good: true,
		class:   map[lab.Protocol]signal.Class{lab.HTTP: {GRPC: -1, Flags: "DC"}, lab.HTTP2: {GRPC: -1, Flags: "DR"}, lab.GRPC: {GRPC: -1, Flags: "DR"}},
		atLeast: 80 * time.Millisecond, atMost: 400 * time.Millisecond},
}

const (
	rate   = 400.0
	period = 300 * time.Millisecond
)

// TestCounting makes every fault happen on every protocol and compares, to the last one, the tries, errors and latencies
// that telemetry gives for each version with what the services and the users counted themselves.
func TestCounting(t *testing.T) {
	var report strings.Builder
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "protocol\tfault\tusers' requests\tfailed\treceived\ttries\toverflows\terrors\tlatencies\tp50\tclass\tstable received\tstable tries\t")
	for _, protocol := range []lab.Protocol{lab.HTTP, lab.HTTP2, lab.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			m := newMesh(t, protocol, nil)
			for _, f := range faults {
				if _, possible := f.class[protocol]; !possible {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					m.t = t
					fmt.Fprintf(table, "%s\t%s\t%s\t\n", protocol, f.name, m.run(f, false))
				})
			}
		})
	}
	table.Flush()
	fmt.Fprintf(os.Stderr, "\nCounting first: tries of the version with the fault (v2 canary, v3 canary with room for one, v1 stable)\n%s\n", report.String())
}

// run makes a fault happen to requests for a version, or to copies of requests to stable, and checks what is counted.
func (m *mesh) run(f fault, shadow bool) string {
	t := m.t
	t.Helper()
	for v, i := range m.instances {
		b := lab.Behavior{}
		if v == f.version {
			b = f.behavior(m.protocol)
		}
		if err := i.Set(b); err != nil {
			t.Fatal(err)
		}
		i.ResetCounts()
	}
	m.seen.reset()
	options := lab.UsersOptions{Proxies: []string{m.address}, Protocol: m.protocol, Rate: rate, Timeout: f.patience}
	name := armName{version: f.version, shadow: shadow}
	switch {
	case shadow:
		options.Headers = map[string]string{shadowHeader: f.version}
	case f.version != "v1":
		options.Headers = map[string]string{armHeader: f.version}
	}
	users, err := lab.StartUsers(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(period) // the users' time; nothing is waited for
	report := users.Stop()

	class := f.class[m.protocol]
	instance, stable := m.instances[f.version], m.instances["v1"]
	// Every request tries the version that it asks for exactly once.
	want := report.Done
	wait(t, "end of the tries at the services", func() bool { return instance.Counts().InFlight == 0 && stable.Counts().InFlight == 0 })
	deadline := time.Now().Add(patience)
	for met(m.seen.of(name)) < want && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	m.seen.flushes(t, 3) // more must not come
	arm, rescue := m.seen.of(name), m.seen.arm("v1")
	received := instance.Counts()

	var errors, known uint64
	var latency signal.Histogram
	for _, o := range arm.Outcomes {
		if isError(o.Class) {
			errors += o.Tries
		}
		known += o.Latency.Total()
		if o.Class == class {
			latency = o.Latency
		} else if !f.some {
			t.Errorf("%d tries of class %+v, want all of class %+v", o.Tries, o.Class, class)
		}
	}
	if got := met(arm); got != want {
		t.Errorf("%d tries, overflows and connect failures, want %d", got, want)
	}
	failed := uint64(0)
	switch {
	case f.some: // what the service did not receive was refused before it
		failed = want - received.Received
		if failed == 0 || failed == want {
			t.Errorf("%d of %d tries were over the limit: that shows nothing", failed, want)
		}
	case !f.unseen && received.Received != want:
		t.Errorf("the service received %d tries, want %d", received.Received, want)
	case !f.good:
		failed = want
	}
	if errors += arm.Overflows + arm.ConnectFailures; errors != failed {
		t.Errorf("%d errors, want %d", errors, failed)
	}
	if known != tries(arm) {
		t.Errorf("%d latencies of %d tries", known, tries(arm))
	}
	if f.version != "v1" {
		if got := stable.Counts().Received; tries(rescue) != got {
			t.Errorf("%d tries on stable, and it received %d", tries(rescue), got)
		}
	}
	if live := m.seen.arm(f.version); shadow && (met(live) > 0 || report.Failed > 0 || tries(rescue) != want) {
		t.Errorf("%d of %d users failed, stable met %d, copies taken for requests: %+v", report.Failed, want, tries(rescue), live)
	}
	if arm.ConnectFailures+arm.Ejections > 0 || arm.Overflows > 0 && !f.some {
		t.Errorf("beside the tries: %+v", arm)
	}
	for _, b := range latency {
		// Envoy keeps latencies to two digits and spreads what falls between two edges: a bucket may be one off.
		if f.atLeast > 0 && upper(b.Edge+1) < f.atLeast {
			t.Errorf("%d tries took at most %v, want at least %v", b.Count, upper(b.Edge), f.atLeast)
		}
		if f.atMost > 0 && b.Edge > 0 && upper(b.Edge-1) > f.atMost {
			t.Errorf("%d tries took over %v, want at most %v", b.Count, upper(b.Edge-1), f.atMost)
		}
	}
	for _, text := range m.seen.bad {
		t.Error(text)
	}
	p50 := "–"
	if edge, ok := latency.Quantile(0.5); ok {
		p50 = fmt.Sprint("≤ ", upper(edge).Round(10*time.Microsecond))
	}
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d %d %s\t%d\t%d", report.Done, report.Failed, received.Received, tries(arm), arm.Overflows, errors, known, p50,
		class.Status, class.GRPC, class.Flags, stable.Counts().Received, tries(rescue))
}

// met is what the version met: its tries, and the requests for it that were turned away before they became one.
func met(a signal.Arm) uint64 { return tries(a) + a.Overflows + a.ConnectFailures }

func upper(edge int) time.Duration {
	if edge >= signal.EdgeCount {
		return time.Hour
	}
	return time.Duration(signal.Edges[edge] * float64(time.Microsecond))
}
