package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/signal"
)

// BenchmarkTick is one turn of the loop over 20 regions with 50 services, each with a rollout in every region, and 20 proxies
// a region that route to all of them: a flush of one proxy; a flush that takes a canary to zero; a tick without any; and
// what is done once a second.
func BenchmarkTick(b *testing.B) {
	const regions, services, proxies = 20, 50, 20
	var declared20 [][]string
	var names []string
	for r := range regions {
		name := fmt.Sprintf("r%02d", r)
		nets[name] = 100 + r
		names = append(names, name)
		declared20 = append(declared20, []string{name, "", fmt.Sprintf("r%02d", (r+1)%regions), fmt.Sprintf("r%02d", (r+2)%regions)})
	}
	set := newSet(declared20...)
	var states []rollout.State
	var arms, bad []signal.Arm
	for s := range services {
		name := fmt.Sprintf("s%02d", s)
		add(set, name, names...)
		state := rollOut(set, name, names...)
		for _, r := range names {
			state = in(state, r, progressing(500))
		}
		states = append(states, state)
		for v := range 2 {
			a := signal.Arm{Service: name, Version: fmt.Sprintf("v%d", v+1), Outcomes: []signal.Outcome{outcome(200, 20)}, Endpoints: 2, Healthy: 2}
			arms = append(arms, a)
			if s == 0 && v == 1 {
				a.Healthy = 0
			}
			bad = append(bad, a)
		}
	}
	at := now
	tick := func() { at = at.Add(time.Millisecond) }
	world := func() *Controller {
		at = now
		c := still(set, states...)
		c.cfg.Now = func() time.Time { return at }
		c.publish()
		for r := range names {
			for p := range proxies {
				tick()
				c.observe([]signal.Flush{{Proxy: fmt.Sprintf("%s/%d", names[r], p), Region: names[r], At: at, Span: time.Second, Arms: arms}}, at)
			}
		}
		return c
	}
	flush := func(i int, arms []signal.Arm) []signal.Flush {
		region := names[i%regions]
		return []signal.Flush{{Proxy: fmt.Sprintf("%s/%d", region, i/regions%proxies), Region: region, At: at, Span: time.Second, Arms: arms}}
	}
	b.Run("flush", func(b *testing.B) {
		c := world()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			tick()
			c.observe(flush(i, arms), at)
		}
	})
	b.Run("flush of all", func(b *testing.B) {
		c := world()
		b.ReportAllocs()
		for b.Loop() {
			tick()
			var batch []signal.Flush
			for i := range regions * proxies {
				batch = append(batch, flush(i, arms)...)
			}
			c.observe(batch, at)
		}
	})
	b.Run("breach", func(b *testing.B) {
		c := world()
		well := c.states["s00-v2"]
		for b.Loop() {
			b.StopTimer()
			c.states["s00-v2"] = well
			delete(c.watches, place{"s00-v2", "r00"})
			c.outdate("r00")
			c.publish()
			tick()
			b.StartTimer()
			c.observe(flush(0, bad), at)
			if w := intentOf(c.plans["r00"], "s00").Weight; w != 0 {
				b.Fatalf("still at %d", w)
			}
		}
	})
	b.Run("quiet", func(b *testing.B) {
		c := world()
		b.ReportAllocs()
		for b.Loop() {
			tick()
			c.decide(c.all())
			c.publish()
		}
	})
	b.Run("survey", func(b *testing.B) {
		c := world()
		b.ReportAllocs()
		for b.Loop() {
			at = at.Add(time.Second)
			c.survey()
		}
	})
	b.Run("all plans", func(b *testing.B) {
		c := world()
		b.ReportAllocs()
		for b.Loop() {
			c.outdateAll()
			c.publish()
		}
	})
}
