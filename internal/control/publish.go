package control

import (
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// outdate says that the plans of regions may differ from those in force.
func (c *Controller) outdate(regions ...string) {
	for _, region := range regions {
		c.stale[region] = true
	}
}

// outdateAll says it of every region, and of those that are gone.
func (c *Controller) outdateAll() {
	for region := range c.set.Regions {
		c.stale[region] = true
	}
	for region := range c.plans {
		c.stale[region] = true
	}
}

// publish makes plans of what is in force and hands over those that changed. A region whose plan cannot be made keeps the
// last one, at no more than it may have now, and holds no other one up.
func (c *Controller) publish() {
	if len(c.stale) == 0 {
		return
	}
	f := c.facts()
	for _, region := range slices.Sorted(maps.Keys(c.stale)) {
		delete(c.stale, region)
		before, known := c.plans[region]
		if c.set.Regions[region] == nil {
			if known {
				delete(c.plans, region)
				c.cfg.Delivery.Publish(traffic.Plan{Region: region}, false)
			}
			continue
		}
		plan, err := tryPlan(f, region)
		if err != nil {
			c.cfg.Log.Error("a region's plan cannot be made; it keeps the last one", "region", region, "error", err)
			if !known {
				continue
			}
			plan = lowered(before, f)
		}
		sameRest := known && samePlan(flat(before), flat(plan))
		if sameRest && sameWeights(before, plan) {
			continue
		}
		c.plans[region] = plan
		c.meter.leans(plan)
		c.cfg.Delivery.Publish(plan, sameRest)
	}
}

// tryPlan makes a plan, or says why it could not be made.
func tryPlan(f *facts, region string) (plan traffic.Plan, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v\n%s", r, debug.Stack())
		}
	}()
	return planRegion(f, region), nil
}

// lowered is a plan in which no canary has more than where its rollout stands gives it.
func lowered(plan traffic.Plan, f *facts) traffic.Plan {
	plan.Intents = slices.Clone(plan.Intents)
	for i := range plan.Intents {
		in := &plan.Intents[i]
		if in.Canary == nil {
			continue
		}
		var weight, shadow uint32
		testers := false
		for _, st := range f.states[in.Service] {
			if here := st.Regions[plan.Region]; here.Version == in.Canary.Version && here.Digest == in.Canary.Digest {
				weight, shadow = max(weight, uint32(here.Weight)), max(shadow, uint32(here.Shadow))
				testers = testers || rollout.Testers(here)
			}
		}
		in.Weight, in.Shadow, in.Testers = min(in.Weight, weight), min(in.Shadow, shadow), in.Testers && testers
	}
	return plan
}

// flat is a plan without what is urgent: weights, shadows, what is shed, testers.
func flat(plan traffic.Plan) traffic.Plan {
	plan.Intents = slices.Clone(plan.Intents)
	for i := range plan.Intents {
		in := &plan.Intents[i]
		in.Weight, in.Shadow, in.Testers = 0, 0, false
		if in.Failover != nil {
			there := *in.Failover
			there.Shed = 0
			in.Failover = &there
		}
	}
	return plan
}

func samePlan(a, b traffic.Plan) bool { return reflect.DeepEqual(a, b) }

// sameWeights compares what flat leaves out, of plans that are the same without.
func sameWeights(a, b traffic.Plan) bool {
	return slices.EqualFunc(a.Intents, b.Intents, func(x, y traffic.Intent) bool {
		return x.Weight == y.Weight && x.Shadow == y.Shadow && x.Testers == y.Testers &&
			(x.Failover == nil || x.Failover.Shed == y.Failover.Shed)
	})
}
