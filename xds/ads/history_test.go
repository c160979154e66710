package ads

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestHistories drives a client like Envoy through random publishes, refusals, subscriptions and slowness, and checks after
// each quiet moment that it holds exactly what the view has for it, and at every moment that no route it holds names a
// cluster that it lacks.
func TestHistories(t *testing.T) {
	for _, transport := range []Transport{Delta, Sotw} {
		t.Run(string(transport), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				synctest.Test(t, func(t *testing.T) { history(t, rt, transport) })
			})
		})
	}
}

// model is the state of a client: by type and name, the version that it holds.
type model struct {
	p     *peer
	have  [numTypes]map[string]bool
	route string // the cluster that route r names
}

func history(t *testing.T, rt *rapid.T, transport Transport) {
	r := newRig(t, Config{Debounce: -1})
	m := &model{p: r.dial(transport, node("p"))}
	for i := range m.have {
		m.have[i] = map[string]bool{}
	}
	names := []string{"a", "b", "c", "d"}
	var current []string
	publish := func() {
		clusters := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 4, rapid.ID).Draw(rt, "clusters")
		current = nil
		for _, c := range clusters {
			current = append(current, fmt.Sprintf("cds:%s=%s", c, rapid.SampledFrom([]string{"1", "22"}).Draw(rt, "variant")), "eds:"+c)
		}
		current = append(current, "lds:l", "rds:r="+rapid.SampledFrom(clusters).Draw(rt, "route"))
		urgency := Urgency(rapid.IntRange(0, 1).Draw(rt, "urgency"))
		r.Publish("v", snap(current...), urgency)
	}
	publish()
	m.p.subscribe(Cluster)
	m.step(rt)
	m.p.subscribe(Listener)
	m.p.subscribe(Route, "r")
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		switch rapid.IntRange(0, 3).Draw(rt, "what") {
		case 0, 1:
			publish()
		case 2:
			m.step(rt)
		case 3:
			time.Sleep(100 * time.Millisecond)
		}
	}
	for m.step(rt) {
	}
	for typ := Cluster; typ <= Route; typ++ {
		var want []string
		for _, s := range current {
			if res(s).Type() == typ {
				want = append(want, res(s).Name())
			}
		}
		slices.Sort(want)
		have := slices.Sorted(maps.Keys(m.have[typ]))
		if transport == Sotw && typ == Endpoint {
			continue // cannot be taken away
		}
		if !slices.Equal(have, want) {
			rt.Fatalf("%s: has %v, wants %v", typ, have, want)
		}
	}
	for _, s := range r.status("p").Types[:4] {
		if s.State != Synced || s.Acked != s.Intended {
			rt.Fatalf("%+v", s)
		}
	}
}

// step takes what came, answers it, asks for what it then lacks, and says whether anything came.
func (m *model) step(rt *rapid.T) bool {
	all := m.p.drain()
	for _, g := range all {
		if m.p.transport == Sotw && g.Type.fullSet() {
			clear(m.have[g.Type])
		}
		for _, n := range g.Names {
			// What was on its way when the name was given up is nothing to the client, as it is to Envoy.
			m.have[g.Type][n] = g.Type != Endpoint || slices.Contains(m.p.asked, n)
			if !m.have[g.Type][n] {
				delete(m.have[g.Type], n)
			}
		}
		for _, n := range g.Removed {
			delete(m.have[g.Type], n)
		}
		if g.Type == Route && g.Header != "" {
			m.route = g.Header[1:]
		}
		if m.route != "" && !m.have[Cluster][m.route] {
			rt.Fatalf("%s: the route names cluster %q, which is not there", g, m.route)
		}
		m.p.ack(g)
		if g.Type != Cluster {
			continue
		}
		for _, n := range g.Names {
			if !slices.Contains(m.p.asked, n) {
				m.p.asked = append(m.p.asked, n)
				m.p.subscribe(Endpoint, n)
			}
		}
		var drop []string
		for _, n := range m.p.asked {
			if !m.have[Cluster][n] {
				drop = append(drop, n)
				delete(m.have[Endpoint], n)
			}
		}
		if len(drop) > 0 {
			m.p.asked = slices.DeleteFunc(m.p.asked, func(n string) bool { return slices.Contains(drop, n) })
			m.p.unsubscribe(Endpoint, drop...)
		}
	}
	return len(all) > 0
}
