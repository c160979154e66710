package control

import (
	"math"
	"sort"
	"strings"
	"time"

	"github.com/aviary-mesh/aviary/plugin/relief"
	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// silentAfter is how long the gauges of a proxy's newest flush count.
const silentAfter = 10 * time.Second

// signSeconds are the whole seconds over which overflows are a rate.
const signSeconds = 2

// site is a service as it is called in a region.
type site struct{ region, service string }

// meter measures every site, whether there is a rollout or not. Its work on a flush grows with what is in the flush, and
// with nothing else.
type meter struct {
	sites   map[site]*gauge
	proxies map[string]*report
}

// gauge is what is measured of one site.
type gauge struct {
	requests, overflows rate
	// Of the proxies' newest flushes: requests that wait and that are under way in the own region, how many proxies know
	// endpoints of the stable version here, and how many of these see no healthy one.
	pending, inProgress uint64
	knowing, without    int
	// lean is what is known of the plan in force.
	lean lean
	// held is the demand that was measured last.
	held float64
}

// lean is how a site leans on other regions by the plan in force.
type lean struct {
	stable string
	// homeless: the plan has no endpoint of stable in the own region.
	homeless bool
	// each is how many requests one stands for that is tried in another region while no endpoint is left in the own one: the
	// others fail before they are tried, and no proxy counts them. 0: none goes there, and nothing tells how many there are.
	each float64
}

// report is a proxy's newest flush.
type report struct {
	at   time.Time
	says []says
}

// says is what a proxy's newest flush says of a site.
type says struct {
	of                  *gauge
	pending, inProgress uint64
	knows, without      bool
}

func newMeter() *meter { return &meter{sites: map[site]*gauge{}, proxies: map[string]*report{}} }

func (m *meter) at(s site) *gauge {
	g := m.sites[s]
	if g == nil {
		g = &gauge{lean: lean{each: 1}}
		m.sites[s] = g
	}
	return g
}

// take counts a flush. known says which services are declared: what else a proxy speaks of is not kept.
func (m *meter) take(f signal.Flush, known func(service string) bool, now time.Time) {
	r := m.proxies[f.Proxy]
	if r == nil {
		r = &report{}
		m.proxies[f.Proxy] = r
	}
	r.forget()
	r.at = now
	for arms := f.Arms; len(arms) > 0; {
		of := armsOf(arms, arms[0].Service)
		arms = arms[len(of):]
		if known(of[0].Service) {
			r.says = append(r.says, m.at(site{f.Region, of[0].Service}).take(of, now))
		}
	}
	for _, s := range r.says {
		s.of.pending += s.pending
		s.of.inProgress += s.inProgress
		s.of.knowing += count(s.knows)
		s.of.without += count(s.without)
	}
}

// take counts the arms of one service in one flush. Copies are no requests, and nobody waits for one.
func (g *gauge) take(arms []signal.Arm, now time.Time) says {
	s := says{of: g}
	var here, elsewhere, overflows uint64
	for _, a := range arms {
		switch {
		case a.Shadow:
			continue
		case a.Region == "":
			here += tries(a)
			overflows += a.Overflows + overLimit(a)
			s.pending += a.Pending
			s.inProgress += a.InProgress
			if a.Version == g.lean.stable && a.Endpoints > 0 {
				s.knows, s.without = true, a.Healthy == 0
			}
		default:
			elsewhere += tries(a)
		}
	}
	each := 1.0
	if s.without || g.lean.homeless {
		each = max(1, g.lean.each)
	}
	g.requests.add(float64(here)+each*float64(elsewhere), now)
	if overflows > 0 {
		g.overflows.add(float64(overflows), now)
	}
	return s
}

// tries of an arm, those that a limit, a refused connection or an ejection ended before they began included.
func tries(a signal.Arm) uint64 {
	n := a.Overflows + a.ConnectFailures + a.Ejections
	for _, o := range a.Outcomes {
		n += o.Tries
	}
	return n
}

// overLimit counts the tries that the limit of requests refused: they had met an endpoint, and are outcomes.
func overLimit(a signal.Arm) uint64 {
	n := uint64(0)
	for _, o := range a.Outcomes {
		for flag := range strings.SplitSeq(o.Class.Flags, ",") {
			if flag == "UO" {
				n += o.Tries
			}
		}
	}
	return n
}

// forget takes back what a proxy's newest flush said.
func (r *report) forget() {
	for _, s := range r.says {
		s.of.pending -= s.pending
		s.of.inProgress -= s.inProgress
		s.of.knowing -= count(s.knows)
		s.of.without -= count(s.without)
	}
	clear(r.says)
	r.says = r.says[:0]
}

// sweep forgets the gauges of proxies that fell silent, and the sites that are not declared any more.
func (m *meter) sweep(declared func(site) bool, now time.Time) {
	for proxy, r := range m.proxies {
		if now.Sub(r.at) > silentAfter {
			r.forget()
			delete(m.proxies, proxy)
		}
	}
	for s := range m.sites {
		if !declared(s) {
			delete(m.sites, s)
		}
	}
}

// perSecond is the rate of requests that the region's callers make, negative when it is not measured.
func (m *meter) perSecond(s site, now time.Time) float64 {
	if g := m.sites[s]; g != nil {
		return g.requests.perSecond(now)
	}
	return -1
}

// demand is what other regions would have to take over: the rate, 0 when it is not measured. It is the last that was known
// while no endpoint is left and no other region takes a request, as then none is counted.
func (m *meter) demand(s site, now time.Time) float64 {
	g := m.sites[s]
	if g == nil {
		return 0
	}
	if !g.out() || g.lean.each > 0 {
		g.held = max(0, g.requests.perSecond(now))
	}
	return g.held
}

// out reports whether every proxy that knows the region's own endpoints of the stable version sees none that is healthy,
// or there is none by the plan.
func (g *gauge) out() bool { return g.lean.homeless || g.knowing > 0 && g.without == g.knowing }

func (m *meter) out(s site) bool {
	g := m.sites[s]
	return g != nil && g.out()
}

// sample of a site for its relief.
func (m *meter) sample(s site, now time.Time) relief.Sample {
	g := m.sites[s]
	if g == nil {
		return relief.Sample{}
	}
	return relief.Sample{Pending: g.pending, InProgress: g.inProgress, Overflows: g.overflows.lately(signSeconds, now)}
}

// leans tells the meter of the plan in force.
func (m *meter) leans(plan traffic.Plan) {
	for _, in := range plan.Intents {
		l := lean{stable: in.Stable.Version, homeless: len(in.Stable.Localities) == 0, each: 1}
		if f := in.Failover; f != nil {
			stable := traffic.Whole - in.Weight
			there := f.Shed + (stable-f.Shed)*f.Admit/traffic.Whole
			l.each = 0
			if there > 0 {
				l.each = float64(stable) / float64(there)
			}
		}
		m.at(site{plan.Region, in.Service}).lean = l
	}
}

// rates are those that are measured, by region and service, for the next process.
func (m *meter) rates(now time.Time) map[string]map[string]float64 {
	all := map[string]map[string]float64{}
	for s, g := range m.sites {
		if r := g.requests.perSecond(now); r > 0 {
			if all[s.region] == nil {
				all[s.region] = map[string]float64{}
			}
			all[s.region][s.service] = math.Round(r*1000) / 1000
		}
	}
	return all
}

// resume takes up the rates that another process measured.
func (m *meter) resume(rates map[string]map[string]float64, now time.Time) {
	for region, services := range rates {
		for service, r := range services {
			m.at(site{region, service}).requests = rateOf(r, now)
		}
	}
}

// armsOf are the arms of one service. They are sorted by it.
func armsOf(arms []signal.Arm, service string) []signal.Arm {
	from := sort.Search(len(arms), func(i int) bool { return arms[i].Service >= service })
	to := from
	for to < len(arms) && arms[to].Service == service {
		to++
	}
	return arms[from:to]
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
