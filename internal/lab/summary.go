package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// summary is the end of a run: what the users saw, what each net caught, and what was held against limits.
func (p *printer) summary(r Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	say := func(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }
	u := r.Users
	say("\n%s, %.0f s, as its users saw it", r.Scenario, r.Took.Seconds())
	say("  requests   %d answered, %d failed%s, %d that could not start", u.Done, u.Failed, byMethod(u), u.Skipped)
	say("  latency    p50 %v, p99 %v, longest %v", u.Latency.Quantile(.5), u.Latency.Quantile(.99), u.Latency.Quantile(1))
	for _, text := range u.Errors[:min(len(u.Errors), 3)] {
		say("  failed     %s", text)
	}
	p.regions(r)
	p.nets(r)
	p.falls(r)
	p.holds(r.Holds)
	say("  expected   %d of %d expectations held", len(r.Checks)-r.failed(), len(r.Checks))
	for _, c := range r.Checks {
		if !c.OK {
			say("             FAILED, line %d: %s; measured %s", c.Line, c.Text, c.Measured)
		}
	}
	if n := r.broken(); n > 0 {
		say("  limits     %d BROKEN", n)
	}
}

// regions is what users behind the sidecars of each region were answered, by version; p.mu is held, here and below.
func (p *printer) regions(r Result) {
	rows := [][]string{{"users in", "version", "requests", "failed", "share", "answered elsewhere"}}
	for _, region := range slices.Sorted(maps.Keys(r.Regions)) {
		u := r.Regions[region]
		elsewhere := ""
		for _, other := range slices.Sorted(maps.Keys(u.Region)) {
			if other != "" && other != region {
				elsewhere += fmt.Sprintf("%d in %s ", u.Region[other], other)
			}
		}
		for _, v := range slices.Sorted(maps.Keys(u.Version)) {
			row := []string{region, v, fmt.Sprint(u.Version[v]), fmt.Sprint(u.FailedVersion[v]), percent(u.Share(v)), elsewhere}
			if v == "" {
				row[1], row[4], row[5] = "no answer", "", ""
			} else {
				elsewhere = ""
			}
			rows = append(rows, row)
		}
	}
	p.table(rows)
}

// nets says what each of them caught.
func (p *printer) nets(r Result) {
	say := func(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }
	bad := map[string]uint64{}
	for _, s := range r.Served {
		bad[s.Region] += s.Requests.Bad()
		if c := s.Copies; c.Received > 0 {
			say("  shadow     %s %s in %s: %d copies, %d failed, %d with what no copy may have%s", s.Service, s.Version, s.Region,
				c.Received, c.Bad(), c.Leaked, leaks(c))
		}
	}
	for _, x := range r.Reactions {
		say("  reaction   %s %s in %s: %v from its fault to its last request; %d of its tries failed",
			x.Service, x.Version, x.Region, x.Took.Round(time.Millisecond), x.Failed)
	}
	for _, region := range slices.Sorted(maps.Keys(bad)) {
		if bad[region] > 0 {
			say("  net 1      %s: %d tries failed at the services; %d requests failed for their users", region, bad[region], r.Regions[region].Failed)
		}
	}
	for _, region := range slices.Sorted(maps.Keys(r.Ejections)) {
		if r.Ejections[region] > 0 {
			say("  net 2      %s: %d ejections of endpoints by the sidecars themselves", region, r.Ejections[region])
		}
	}
	for _, f := range r.Falls {
		say("  net 3      %s: %s %s to 0 at %.2fs (%s, %s)", f.Region, f.Service, f.Version, (f.At + f.Decided).Seconds(), f.Phase, f.Reason)
	}
	for _, l := range r.Lapses {
		say("  net 4      %s: %s %s got its last request %v after the control plane was gone", l.Region, l.Service, l.Version,
			l.Took.Round(time.Millisecond))
	}
}

func leaks(c Counts) string {
	if len(c.Leaks) == 0 {
		return ""
	}
	return " (" + strings.Join(slices.Sorted(maps.Keys(c.Leaks)), ", ") + ")"
}

// falls are held against the time that the policy gives a rollback, or a lease.
func (p *printer) falls(r Result) {
	rows := [][]string{{"to zero in", "version", "asked by", "decided", "last try", "limit", ""}}
	for _, f := range r.Falls {
		cause, last := f.Cause, after(f.Last)
		if cause == "" {
			cause = f.Reason
		}
		if !f.Quiet {
			last = "not before the end"
		}
		rows = append(rows, []string{f.Region, f.Service + " " + f.Version, cause, after(f.Decided), last, f.Limit.String(), verdict(f.Broken())})
	}
	for _, l := range r.Lapses {
		rows = append(rows, []string{l.Region, l.Service + " " + l.Version, "no control plane", "by lease", after(l.Took), l.Lease.String(), verdict(l.Broken())})
	}
	p.table(rows)
}

// holds are held against the policy's steps.
func (p *printer) holds(all []Hold) {
	rows := [][]string{{"share in", "version", "share", "held", "declared", "then", ""}}
	for _, h := range all {
		share, declared, then := percent(float64(h.Weight)/10_000), "", h.Next.Phase
		if h.Shadow > 0 {
			share = "copies of " + percent(float64(h.Shadow)/10_000)
		}
		if h.Declared > 0 {
			declared = h.Declared.String()
		}
		switch {
		case h.Next.Weight > 0:
			then = percent(float64(h.Next.Weight) / 10_000)
		case then == "":
			then = "(the end)"
		case then != "Promoted":
			then += ", " + h.Next.Reason
		}
		if h.ByHand {
			then += ", by hand"
		}
		rows = append(rows, []string{h.Region, h.Version, share, h.Held.Round(10 * time.Millisecond).String(), declared, then, verdict(h.Broken())})
	}
	p.table(rows)
}

func after(d time.Duration) string { return "+" + d.Round(time.Millisecond).String() }

func verdict(broken bool) string {
	if broken {
		return "BROKEN"
	}
	return "ok"
}

// table writes rows in columns below their heading; without a row nothing.
func (p *printer) table(rows [][]string) {
	if len(rows) < 2 {
		return
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, "  "+strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	_ = t.Flush()
}

func byMethod(r Report) string {
	var parts []string
	for _, m := range slices.Sorted(maps.Keys(r.Methods)) {
		parts = append(parts, fmt.Sprintf("%s %d of %d", m, r.FailedMethods[m], r.Methods[m]))
	}
	return " (" + strings.Join(parts, ", ") + ")"
}
