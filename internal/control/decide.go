package control

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
)

// proposal is a rise on its way to the store: it is adopted when it is written, if the region still is where it was.
type proposal struct {
	number uint64
	from   rollout.Region
	to     rollout.Region
}

// decide lets each of the rollouts take one step on what its watches saw since the last one.
func (c *Controller) decide(names []string) {
	now := c.cfg.Now()
	for _, name := range names {
		in := map[string]rollout.Input{}
		for region := range c.states[name].Regions {
			if w := c.watches[place{name, region}]; w != nil {
				in[region] = c.known(name, region, w.take())
			}
		}
		c.await(name, now)
		state, known := c.states[name]
		if !known {
			state = rollout.State{Rollout: name}
		}
		next, events := rollout.Step(c.set, name, state, in, now)
		c.settle(next, events, in, nil)
	}
	c.adoptStable()
}

// known adds to what a watch saw what is known of the region beside it.
func (c *Controller) known(name, region string, in rollout.Input) rollout.Input {
	state := c.states[name]
	service := c.set.Services[state.Service]
	if service == nil {
		return in
	}
	in.Saturated = c.relief[site{region, service.Name}].Holds()
	if c.named[service.Name] {
		f := facts{index: c.index, addresses: c.addresses}
		here := state.Regions[region]
		in.CanaryEndpoints = orNone(f.endpoints(service, here.Version, region))
		in.StableEndpoints = orNone(f.endpoints(service, here.Stable.Version, region))
	}
	return in
}

// orNone says no endpoint as an Input does.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// await has the clock of a step begin when the first proxy has its share.
func (c *Controller) await(name string, now time.Time) {
	state := c.states[name]
	for region, here := range state.Regions {
		p := place{name, region}
		weight, waits := c.unseen[p]
		if !waits {
			continue
		}
		if uint32(here.Weight) != weight || c.cfg.Effect(region, state.Service, here.Version, weight, uint32(here.Shadow)).Acked > 0 {
			delete(c.unseen, p)
			continue
		}
		here.Since, here.WeightAt = now.UTC().Round(0), now.UTC().Round(0)
		state.Regions = maps.Clone(state.Regions)
		state.Regions[region] = here
	}
	if state.Rollout != "" {
		c.states[name] = state
	}
}

// settle puts a decision in force. What falls, or stays, is in force at once and persisted after; what rises is persisted
// first. done, if any, is told once for every region in which something was decided.
func (c *Controller) settle(next rollout.State, events []rollout.Event, in map[string]rollout.Input, done chan<- error) (waits int) {
	name := next.Rollout
	before := c.states[name]
	now := c.cfg.Now()
	changed, beginning := false, c.beginning(name)
	for region, to := range next.Regions {
		p := place{name, region}
		from := before.Regions[region]
		rising, underway := c.rising[p]
		for _, h := range to.Halts {
			if !slices.Contains(from.Halts, h) {
				c.writer.halt(h)
			}
		}
		if !material(from, to) {
			continue
		}
		if begins(from, to) && beginning {
			// Whether it is this region's turn is known when the one before is written.
			next.Regions[region] = fresher(from, to)
			continue
		}
		told := decision{Documents: c.at, From: from, Left: record{Service: next.Service, Region: to}}
		if !from.Begun || to.Phase == rollout.Halted {
			told.Beside = others(before, region, in)
		}
		j := job{place: p, service: next.Service, region: to, events: stored(events, region, in, told)}
		if done != nil {
			j.done = []chan<- error{done}
			waits++
		}
		switch {
		case rises(from, to) && underway && done == nil && rising.from.Phase == from.Phase && rising.to.Weight == to.Weight && rising.to.Shadow == to.Shadow && rising.to.Phase == to.Phase:
			// Proposed already; what is in force stays, but is seen to be fresh.
			next.Regions[region] = fresher(from, to)
		case rises(from, to):
			c.number++
			j.rise = c.number
			c.rising[p] = proposal{number: j.rise, from: from, to: to}
			c.writer.put(j)
			next.Regions[region] = fresher(from, to)
		default:
			changed = true
			delete(c.rising, p)
			c.fell(p, from, to, now)
			c.moved(region, from, to)
			c.writer.put(j)
			c.log(events, region)
		}
	}
	c.states[name] = next
	if changed {
		c.announce()
	}
	return waits
}

// beginning reports whether a region of a rollout is about to begin, once the store knows it.
func (c *Controller) beginning(name string) bool {
	for p, r := range c.rising {
		if p.rollout == name && begins(r.from, r.to) {
			return true
		}
	}
	return false
}

func begins(from, to rollout.Region) bool { return !from.Begun && to.Begun }

// moved says which plans a change of a region's state may change: its own, and when another version is stable there,
// those of the regions that lean on it.
func (c *Controller) moved(region string, from, to rollout.Region) {
	c.outdate(region)
	if from.Stable != to.Stable || !from.StableSince.Equal(to.StableSince) {
		c.outdate(c.leaning[region]...)
		c.restabled = true
	}
}

// settleSaved adopts a rise that was written, or forgets one that was refused.
func (c *Controller) settleSaved(s saved) {
	if len(s.halts) > 0 {
		c.join(c.states[s.rollout], s.halts)
		c.publish()
	}
	r, ok := c.rising[s.place]
	if !ok || r.number != s.rise {
		return // it was overtaken
	}
	delete(c.rising, s.place)
	if s.err != nil {
		c.cfg.Log.Warn("an advance was refused", "rollout", s.rollout, "region", s.place.region, "error", s.err)
		return
	}
	state := c.states[s.rollout]
	here := state.Regions[s.place.region]
	if here.Phase != r.from.Phase || here.Step != r.from.Step || here.Weight != r.from.Weight || here.Trial() != r.from.Trial() ||
		begins(here, r.to) && rollout.Held(c.set, state) { // by a halt that came meanwhile
		return
	}
	to := fresher(r.to, here)
	to.WeightAt = c.cfg.Now() // from now on proxies are told
	c.fell(s.place, here, to, to.WeightAt)
	if c.cfg.Effect != nil && to.Weight > 0 {
		c.unseen[s.place] = uint32(to.Weight)
	}
	state.Regions = maps.Clone(state.Regions)
	state.Regions[s.place.region] = to
	c.states[s.rollout] = state
	c.moved(s.place.region, here, to)
	for _, e := range s.events {
		c.cfg.Log.Info(cmp.Or(e.Message, e.Reason), "rollout", s.rollout, "region", e.Region, "reason", e.Reason, "phase", to.Phase, "weight", to.Weight)
	}
	c.adoptStable()
	c.publish()
	c.announce()
}

// rises reports whether a decision gives a new version more than it has: that must be written before it takes effect.
func rises(from, to rollout.Region) bool {
	return to.Weight > from.Weight || to.Shadow > from.Shadow || to.Phase == rollout.Promoted && from.Phase != rollout.Promoted && from.Phase != ""
}

// material reports whether two states differ in what has to be kept.
func material(a, b rollout.Region) bool {
	return a.Phase != b.Phase || a.Reason != b.Reason || a.Step != b.Step || a.Weight != b.Weight || a.Shadow != b.Shadow || a.Shadowed != b.Shadowed || a.Trial() != b.Trial() ||
		a.Version != b.Version || a.Started != b.Started || a.Begun != b.Begun || a.Stable != b.Stable || a.Previous != b.Previous ||
		!a.UnwellAt.Truncate(unwellEvery).Equal(b.UnwellAt.Truncate(unwellEvery)) || !slices.Equal(a.Halts, b.Halts)
}

// unwellEvery is how finely the time is kept at which a promoted region was last unwell: it moves on every tick, and after a
// restart a bake may be that much too short.
const unwellEvery = 10 * time.Second

// fresher is a region with what b knows of its evidence.
func fresher(a, b rollout.Region) rollout.Region {
	a.SeenAt, a.Rate = b.SeenAt, b.Rate
	return a
}

// adoptStable tells each rollout what the latest promotion of its service left stable.
func (c *Controller) adoptStable() {
	if !c.restabled {
		return
	}
	c.restabled = false
	names := slices.Sorted(maps.Keys(c.states))
	states := make([]rollout.State, len(names))
	for i, name := range names {
		states[i] = c.states[name]
	}
	for _, s := range rollout.Adopt(c.set, states) {
		c.states[s.Rollout] = s
	}
}

// shareHalts tells a rollout that has not begun what was judged of its build under another rollout's name: it is no better
// for a new name, and only a person's retry tries it again.
func (c *Controller) shareHalts() {
	for _, name := range c.all() {
		state := c.states[name]
		var known []rollout.Halt
		for other, of := range c.states {
			if other == name || of.Service != state.Service {
				continue
			}
			for _, h := range rollout.Halts(of) {
				if h.Attempt >= of.Regions[h.Region].Retries[h.Digest] && state.Regions[h.Region].Phase == rollout.Pending {
					if !strings.HasPrefix(h.Message, judgedAs) {
						h.Message = judgedAs + other + ": " + h.Message
					}
					h.Rollout = name
					known = append(known, h)
				}
			}
		}
		if len(known) > 0 {
			c.join(state, known)
		}
	}
}

// judgedAs begins the message of a halt that another rollout of the build was given.
const judgedAs = "judged as rollout "

// join lets halts that were judged elsewhere be in force, and tells of the regions that they halted.
func (c *Controller) join(before rollout.State, halts []rollout.Halt) {
	after := rollout.Join(before, halts)
	var events []rollout.Event
	for _, region := range slices.Sorted(maps.Keys(after.Regions)) {
		was, is := before.Regions[region], after.Regions[region]
		if is.Phase == rollout.Halted && was.Phase != rollout.Halted {
			events = append(events, rollout.Event{
				At: c.cfg.Now().UTC(), Rollout: after.Rollout, Region: region, Reason: is.Reason, From: was.Phase, To: is.Phase, Message: is.Message,
			})
		}
	}
	c.settle(after, events, nil, nil)
}

// announce wakes whoever waits for a change of a state.
func (c *Controller) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// decision is what an event carries for those who ask why: all that was read and what became of it. With the documents of
// that store revision, rollout.Step makes Left out of From, Read and Beside again.
type decision struct {
	Documents int64          `json:"documents"`
	From      rollout.Region `json:"from"`
	Read      *rollout.Input `json:"read,omitempty"`
	// Beside are the other regions of the rollout, where the decision may have looked at them: whether the region begins, and
	// a halt that is of all.
	Beside map[string]seen `json:"beside,omitempty"`
	Left   record          `json:"left"`
}

// seen is another region as it was before the decision.
type seen struct {
	From rollout.Region `json:"from"`
	Read *rollout.Input `json:"read,omitempty"`
}

func others(state rollout.State, region string, in map[string]rollout.Input) map[string]seen {
	all := map[string]seen{}
	for name, r := range state.Regions {
		if name == region {
			continue
		}
		one := seen{From: r}
		if read, ok := in[name]; ok {
			one.Read = &read
		}
		all[name] = one
	}
	return all
}

func stored(events []rollout.Event, region string, in map[string]rollout.Input, d decision) []store.Event {
	var out []store.Event
	for _, e := range events {
		if e.Region != region {
			continue
		}
		if read, ok := in[region]; ok {
			d.Read = &read
		}
		data, _ := json.Marshal(d)          // plain values: it cannot fail
		if len(data) > store.MaxEvent*3/4 { // better without the other regions than not at all
			d.Beside = nil
			data, _ = json.Marshal(d)
		}
		out = append(out, store.Event{
			Rollout: e.Rollout, Region: region, At: e.At, Type: string(e.To), Reason: string(e.Reason),
			Message: e.Message, By: e.Author, Data: data,
		})
	}
	return out
}

func (c *Controller) log(events []rollout.Event, region string) {
	for _, e := range events {
		if e.Region == region {
			c.cfg.Log.Info(cmp.Or(e.Message, string(e.Reason)), "rollout", e.Rollout, "region", region, "reason", e.Reason, "from", e.From, "to", e.To, "weight", e.Weight, "by", e.Author)
		}
	}
}
