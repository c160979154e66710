package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Result is what a run showed.
type Result struct {
	Scenario string
	Took     time.Duration
	// Users is what all users together saw, Groups each group by name.
	Users  Report
	Groups map[string]Report
	// Services holds what every version did, by "service version".
	Services map[string]Counts
	// Transitions of rollouts in the order in which they were seen.
	Transitions []Transition
	// Reactions to behaviors that were set to fail, in the order of the timeline.
	Reactions []Reaction
	// Lapses say how canaries outlived a control plane that was gone.
	Lapses []Lapse
	// Ejections counts hosts that outlier detection took out, over all sidecars.
	Ejections uint64
	// Checks are the expectations in the order of the timeline.
	Checks []Check
}

// OK says whether every expectation held.
func (r Result) OK() bool {
	for _, c := range r.Checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// Transition is a change of a rollout in a region, seen within about 50 ms.
type Transition struct {
	At              time.Duration // after the users began
	Rollout, Region string
	From, To        RegionStatus
}

// Reaction is the time between a version's first failure, or the change that made it slow, and the last request that it
// was sent. A version that still got requests at the end has none.
type Reaction struct {
	Service, Version string
	// Took is 0 when no request came afterwards.
	Took time.Duration
	// Tries that failed at the service.
	Failed uint64
}

// Lapse is how long a version that then got no more requests still got some after the control plane was gone.
type Lapse struct {
	Service, Version string
	Took             time.Duration
}

// Check is an expectation with what was measured.
type Check struct {
	Line     int
	Text     string
	OK       bool
	Measured string
	Took     time.Duration
}

// Run plays a scenario against a control plane, which it starts and, in the end, stops, and prints on out what a person
// would want to follow. The error is about the lab itself or the control plane's commands; whether expectations held is
// in the result, which is valid as far as the run came. When Run returns, nothing that it started is left.
func Run(ctx context.Context, s *Scenario, cp ControlPlane, out io.Writer) (result Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{
		s: s, cp: cp, out: &printer{w: out}, world: new(world), marks: map[string]mark{},
		set: map[arm]time.Time{}, result: Result{Scenario: s.Name},
	}
	defer func() {
		r.world.close()
		err = errors.Join(err, cp.Stop())
	}()
	if s.About != "" {
		r.out.block(s.About)
	}
	if err := r.world.startServices(s); err != nil {
		return r.result, err
	}
	documents, err := r.world.fill(s.Documents)
	if err != nil {
		return r.result, err
	}
	if err := cp.Start(ctx); err != nil {
		return r.result, fmt.Errorf("lab: start the control plane: %w", err)
	}
	if err := cp.Apply(ctx, documents); err != nil {
		return r.result, fmt.Errorf("lab: apply the documents: %w", err)
	}
	if err := r.world.startSidecars(ctx, s, cp); err != nil {
		return r.result, err
	}
	r.begin = time.Now()
	r.out.begin(r.begin)
	if err := r.world.startUsers(ctx, s); err != nil {
		return r.result, err
	}
	r.marks[""] = mark{at: r.begin}
	r.out.line("%d sidecars of %s are ready; users begin", len(r.world.sidecars), cp.Address())

	stopWatching := r.watch(ctx, rolloutsIn(documents))
	err = r.timeline(ctx)
	for _, c := range r.world.sidecars {
		if !c.envoy.Running() && ctx.Err() == nil {
			err = errors.Join(err, fmt.Errorf("lab: sidecar %s is gone: %w", c.ID, c.envoy.Err()))
		}
	}
	r.world.stopUsers()
	stopWatching()
	r.finish()
	r.out.summary(r.result)
	return r.result, err
}

type run struct {
	s      *Scenario
	cp     ControlPlane
	out    *printer
	world  *world
	begin  time.Time
	marks  map[string]mark
	set    map[arm]time.Time // when a behavior was last set
	order  []arm             // of set
	gone   time.Time         // when the control plane was last stopped, killed or paused
	down   bool              // whether it still is
	result Result
	watcher
}

// mark is what had been counted at a moment.
type mark struct {
	at       time.Time
	users    map[string]Report
	services map[arm]Counts
}

func (r *run) mark() mark {
	m := mark{at: time.Now(), users: map[string]Report{}, services: map[arm]Counts{}}
	for name, u := range r.world.users {
		m.users[name] = u.Report()
	}
	for a := range r.world.instances {
		m.services[a] = Total(r.world.of(a, "")...)
	}
	return m
}

func (r *run) timeline(ctx context.Context) error {
	for n := range r.s.Timeline {
		step := &r.s.Timeline[n]
		if err := sleep(ctx, time.Until(r.begin.Add(step.At))); err != nil {
			return err
		}
		if err := r.step(ctx, step); err != nil {
			if errors.Is(err, errUntil) {
				r.out.line("the timeline ends here: what follows stands on that")
				return nil
			}
			return fmt.Errorf("lab: %s, line %d: %w", r.s.Name, step.line, err)
		}
	}
	return nil
}

var errUntil = errors.New("what the timeline waited for did not come")

func (r *run) step(ctx context.Context, step *Step) error {
	switch {
	case step.Say != "":
		r.out.heading(step.Say)
	case step.Wait != 0:
		return sleep(ctx, step.Wait)
	case step.Set != nil:
		return r.setBehavior(step.Set)
	case step.Act != "":
		r.out.line("%s %s", step.Act, step.Rollout)
		return r.cp.Act(ctx, step.Act, step.Rollout)
	case step.Apply != "":
		documents, err := r.world.fill(step.Apply)
		if err != nil {
			return err
		}
		r.out.line("apply documents")
		if err := r.cp.Apply(ctx, documents); err != nil {
			return err
		}
		r.follow(rolloutsIn(documents))
	case step.ControlPlane != "":
		return r.controlPlane(ctx, step.ControlPlane)
	case step.Rate != nil:
		for name, rate := range step.Rate {
			r.out.line("users %s: %g requests a second", name, rate)
			r.world.users[name].SetRate(rate)
		}
	case step.Mark != "":
		r.marks[step.Mark] = r.mark()
	default:
		if ok := r.check(ctx, step); !ok && step.Until != "" {
			return errUntil
		}
	}
	return ctx.Err()
}

func (r *run) setBehavior(set *SetStep) error {
	a := arm{set.Service, set.Version}
	r.out.line("%s: %s", a, describe(set.Behavior))
	r.set[a] = time.Now()
	r.order = append(r.order, a)
	for _, i := range r.world.of(a, set.Region) {
		i.tally.firstBad.Store(0)
		if err := i.Set(set.Behavior); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) controlPlane(ctx context.Context, what string) error {
	r.out.line("%s the control plane", what)
	switch what {
	case "start":
		r.lapses()
		return r.cp.Start(ctx)
	case "continue":
		r.lapses()
		return r.cp.Continue()
	}
	r.gone, r.down = time.Now(), true
	switch what {
	case "stop":
		return r.cp.Stop()
	case "kill":
		return r.cp.Kill()
	}
	return r.cp.Pause()
}

// lapses notes which versions went quiet while the control plane was gone.
func (r *run) lapses() {
	if !r.down {
		return
	}
	r.down = false
	counts := map[arm]Counts{}
	var newest time.Time
	for a := range r.world.instances {
		counts[a] = Total(r.world.of(a, "")...)
		newest = later(newest, counts[a].LastReceived)
	}
	for _, a := range slices.SortedFunc(maps.Keys(counts), compareArms) {
		if last := counts[a].LastReceived; last.After(r.gone) && newest.Sub(last) > quiet {
			r.result.Lapses = append(r.result.Lapses, Lapse{a.service, a.version, last.Sub(r.gone)})
		}
	}
}

// quiet is how long others must have got requests when a version got none, for it to count as taken out.
const quiet = 500 * time.Millisecond

// check waits for an expectation and records it.
func (r *run) check(ctx context.Context, step *Step) bool {
	e, begin := step.expectation, time.Now()
	poll := func(until func(bool) bool, limit time.Duration) (measured, error, bool) {
		for {
			m, err := r.measure(ctx, e.path, step.Since)
			holds := err == nil && e.holds(m)
			if until(holds) || time.Since(begin) >= limit || sleep(ctx, 10*time.Millisecond) != nil {
				return m, err, holds
			}
		}
	}
	m, err, ok := poll(func(holds bool) bool { return holds }, step.Within)
	took := time.Since(begin)
	if ok && step.For > 0 {
		m, err, ok = poll(func(holds bool) bool { return !holds }, took+step.For)
		took = time.Since(begin)
	}
	c := Check{Line: step.line, Text: e.text, OK: ok, Measured: m.String(), Took: took}
	if step.Since != "" {
		c.Text += " since " + step.Since
	}
	if step.Within > 0 {
		c.Text += " within " + step.Within.String()
	}
	if step.For > 0 {
		c.Text += " for " + step.For.String()
	}
	if err != nil {
		c.Measured = err.Error()
	}
	r.result.Checks = append(r.result.Checks, c)
	r.out.check(c)
	return ok
}

// measure reads the value of a measure now.
func (r *run) measure(ctx context.Context, path []string, since string) (measured, error) {
	m := r.marks[since]
	switch path[0] {
	case "users":
		if u, group := r.world.users[path[1]]; group {
			return ofReport(path[2:], u.Report().Sub(m.users[path[1]])), nil
		}
		sum := Report{}
		for name, u := range r.world.users {
			sum = sum.plus(u.Report().Sub(m.users[name]))
		}
		return ofReport(path[1:], sum), nil
	case "service":
		a := arm{path[1], path[2]}
		return r.ofService(a, path[3:], Total(r.world.of(a, "")...), m)
	}
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	regions, err := r.cp.Rollout(limited, path[1])
	if err != nil {
		return measured{}, err
	}
	status, ok := regions[path[2]]
	if !ok {
		return measured{}, fmt.Errorf("rollout %s has no region %s", path[1], path[2])
	}
	switch path[3] {
	case "phase":
		return measured{unit: word, text: status.Phase}, nil
	case "reason":
		return measured{unit: word, text: status.Reason}, nil
	}
	return measured{unit: share, number: float64(status.Weight) / 10_000}, nil
}

func (r *run) ofService(a arm, path []string, c Counts, m mark) (measured, error) {
	before := m.services[a]
	number := func(n, before uint64) (measured, error) { return measured{number: float64(n - before)}, nil }
	between := func(from time.Time) (measured, error) {
		return measured{unit: duration, number: max(c.LastReceived.Sub(from), 0).Seconds()}, nil
	}
	switch path[0] {
	case "received":
		return number(c.Received, before.Received)
	case "good":
		return number(c.Good(), before.Good())
	case "bad":
		return number(c.Bad(), before.Bad())
	case "health":
		return number(c.Health, before.Health)
	case "outcome":
		return number(c.Outcomes[path[1]], before.Outcomes[path[1]])
	case "inflight":
		return measured{number: float64(c.InFlight)}, nil
	case "idle":
		return measured{unit: duration, number: time.Since(later(c.LastReceived, r.begin)).Seconds()}, nil
	case "outlived":
		if r.gone.IsZero() {
			return measured{}, errors.New("the control plane was never gone")
		}
		return between(r.gone)
	}
	from := c.FirstBad
	if from.IsZero() {
		from = r.set[a]
	}
	if from.IsZero() {
		return measured{}, errors.New("nothing was set, and nothing failed")
	}
	return between(from)
}

// finish collects what the result holds.
func (r *run) finish() {
	r.lapses()
	r.result.Took = time.Since(r.begin)
	r.result.Transitions = r.seen()
	r.result.Users = r.world.report()
	r.result.Groups, r.result.Services = map[string]Report{}, map[string]Counts{}
	for name, u := range r.world.users {
		r.result.Groups[name] = u.Report()
	}
	for a := range r.world.instances {
		r.result.Services[a.String()] = Total(r.world.of(a, "")...)
	}
	var newest time.Time
	for _, c := range r.result.Services {
		newest = later(newest, c.LastReceived)
	}
	for n, a := range r.order {
		c := r.result.Services[a.String()]
		from := c.FirstBad
		if from.IsZero() {
			from = r.set[a]
		}
		// One that still got requests was not taken out, or came back.
		if slices.Contains(r.order[:n], a) || newest.Sub(c.LastReceived) <= quiet {
			continue
		}
		r.result.Reactions = append(r.result.Reactions, Reaction{a.service, a.version, max(c.LastReceived.Sub(from), 0), c.Bad()})
	}
	for _, c := range r.world.sidecars {
		stats, err := c.envoy.Stats(`outlier_detection\.ejections_enforced_total$`)
		if err != nil {
			continue // a sidecar that was killed has nothing to say
		}
		for _, n := range stats {
			r.result.Ejections += n
		}
	}
}

// sleep waits for d, or until ctx ends, which is its error.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
