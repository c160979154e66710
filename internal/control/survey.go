package control

import (
	"time"

	"github.com/aviary-mesh/aviary/plugin/relief"
)

// surveyEvery is how often room, gauges and falls are looked at.
const surveyEvery = time.Second

// survey looks at what no single flush tells: whether regions keep up, and at times what room each has for others, which
// proxies fell silent, and which did not follow a fall.
func (c *Controller) survey() {
	now := c.cfg.Now()
	c.relieve(now)
	if since := now.Sub(c.surveyed); since >= 0 && since < surveyEvery {
		return
	}
	c.surveyed = now
	c.meter.sweep(func(s site) bool { return c.set.Regions[s.region] != nil && c.set.Services[s.service] != nil }, now)
	c.admit(now)
	c.overdue(now)
}

// relieve steps the relief of every site that has a rule.
func (c *Controller) relieve(now time.Time) {
	for name, service := range c.set.Services {
		if service.Relief == nil {
			continue
		}
		for region := range c.set.Regions {
			s := site{region, name}
			before := c.relief[s]
			after := relief.Step(service.Relief, before, c.meter.sample(s, now), now)
			if after == before {
				continue
			}
			c.keepRelief(s, after)
			if after.Active != before.Active {
				c.outdate(region)
				c.cfg.Log.Info("relief", "region", region, "service", name, "active", after.Active)
			}
		}
	}
	for s := range c.relief {
		if service := c.set.Services[s.service]; service == nil || service.Relief == nil || c.set.Regions[s.region] == nil {
			c.keepRelief(s, relief.State{})
		}
	}
}

func (c *Controller) keepRelief(s site, state relief.State) {
	if state == (relief.State{}) {
		delete(c.relief, s)
		return
	}
	c.relief[s] = state
}

// admit tells anew what room each region has for those that lean on it. A region that is without a healthy endpoint, or
// that needs relief itself, has none.
func (c *Controller) admit(now time.Time) {
	f, changed := c.facts(), false
	for name, service := range c.set.Services {
		capacity, leaning, unmeasured := map[string]float64{}, map[string]float64{}, map[string]bool{}
		var by map[string][]string
		for region := range c.set.Regions {
			for _, n := range f.neighbours(service, region) {
				if by == nil {
					by = map[string][]string{}
				}
				capacity[n.region] = n.capacity
				leaning[n.region] += c.meter.demand(site{region, name}, now)
				unmeasured[n.region] = unmeasured[n.region] || c.meter.perSecond(site{region, name}, now) < 0
				by[n.region] = append(by[n.region], region)
			}
		}
		for region := range c.set.Regions {
			s := site{region, name}
			if by[region] == nil {
				if _, had := c.room[s]; had {
					delete(c.room, s)
					changed = true
				}
				continue
			}
			carries := capacity[region]
			if c.meter.out(s) || c.relief[s].Active {
				carries = 0
			}
			before, known := c.room[s]
			room := roomOf(carries, c.meter.demand(s, now), leaning[region], before, known)
			if known && room > before && now.Sub(c.began) < unsure && (unmeasured[region] || c.meter.perSecond(s, now) < 0) {
				continue
			}
			if !known || room != before {
				c.room[s], changed = room, true
				c.outdate(by[region]...)
			}
		}
	}
	for s := range c.room {
		if c.set.Regions[s.region] == nil || c.set.Services[s.service] == nil {
			delete(c.room, s)
			changed = true
		}
	}
	if changed {
		c.keep()
	}
}
