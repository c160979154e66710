package control

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// rollbackOverdue is the reason of the event that tells of proxies which did not follow a fall in time.
const rollbackOverdue = "RollbackOverdue"

// fall is a share, or a shadow, that fell.
type fall struct {
	at time.Time
	// late is whether it took longer than the policy allows, told is whether an event says so.
	late, told bool
}

// fell notes a fall, and that a rise makes an earlier one meaningless. A promotion takes nothing from the version.
func (c *Controller) fell(p place, from, to rollout.Region, now time.Time) {
	switch {
	case c.cfg.Effect == nil:
	case rises(from, to):
		delete(c.falls, p)
	case to.Weight < from.Weight || to.Shadow < from.Shadow:
		c.falls[p] = fall{at: now}
	}
}

// overdue looks at the falls whose time is over, and tells once of each that some proxy did not follow.
func (c *Controller) overdue(now time.Time) {
	for p, f := range c.falls {
		state := c.states[p.rollout]
		r := c.set.Rollouts[p.rollout]
		if r == nil {
			delete(c.falls, p)
			continue
		}
		within := c.set.Policies[r.Policy].RollbackWithin
		if now.Sub(f.at) < within {
			continue
		}
		here := state.Regions[p.region]
		e := c.cfg.Effect(p.region, state.Service, here.Version, uint32(here.Weight), uint32(here.Shadow))
		if e.Acked >= e.Proxies {
			delete(c.falls, p)
			continue
		}
		f.late = true
		// While a rise is on its way to the store, an event about the region would take its turn.
		if _, rising := c.rising[p]; !f.told && !rising {
			f.told = true
			c.tellOverdue(p, here, e, within, now)
		}
		c.falls[p] = f
	}
}

func (c *Controller) tellOverdue(p place, here rollout.Region, e Effect, within time.Duration, now time.Time) {
	message := fmt.Sprintf("%d of %d proxies have not followed to %s within %v", e.Proxies-e.Acked, e.Proxies, here.Weight, within)
	if e.Max > 0 {
		message += fmt.Sprintf("; the most that one has is %s", spec.Share(e.Max))
	}
	service := c.states[p.rollout].Service
	data, _ := json.Marshal(decision{Documents: c.at, From: here, Left: record{Service: service, Region: here}}) // plain values: it cannot fail
	c.writer.put(job{place: p, service: service, region: here, events: []store.Event{{
		Rollout: p.rollout, Region: p.region, At: now.UTC(), Type: string(here.Phase), Reason: rollbackOverdue, Message: message, Data: data,
	}}})
	c.cfg.Log.Error("proxies are overdue", "rollout", p.rollout, "region", p.region, "detail", message)
	c.announce()
}
