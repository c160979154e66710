package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
)

// keptName is the key of what plans are made of beside documents and states, as it was last.
const keptName = "plans"

// lastKnown is that: without it a process that comes up after a crash would give its proxies less than they have, while a name
// server is out, or send neighbours more than they can take, until rates are measured.
type lastKnown struct {
	// Addresses of names that are in force.
	Addresses map[string][]netip.Addr `json:"addresses,omitempty"`
	// Room by region and service.
	Room map[string]map[string]uint32 `json:"room,omitempty"`
}

// keep has the store know it.
func (c *Controller) keep() {
	k := lastKnown{Addresses: c.addresses, Room: map[string]map[string]uint32{}}
	for s, room := range c.room {
		if k.Room[s.region] == nil {
			k.Room[s.region] = map[string]uint32{}
		}
		k.Room[s.region][s.service] = room
	}
	data, err := json.Marshal(k)
	if err != nil {
		c.cfg.Log.Error("what plans are made of is not kept", "error", err)
		return
	}
	c.writer.keep(data)
}

// recall reads it at the start.
func (c *Controller) recall(ctx context.Context) error {
	data, err := c.cfg.Store.Kept(ctx, keptName)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what plans are made of: %w", err)
	}
	var k lastKnown
	if err := json.Unmarshal(data, &k); err != nil {
		c.cfg.Log.Warn("what plans were made of is not readable", "error", err)
		return nil
	}
	c.addresses = k.Addresses
	for region, services := range k.Room {
		for service, room := range services {
			c.room[site{region, service}] = room
		}
	}
	return nil
}

// unsure is how long after the start a neighbour's room does not grow on the word of rates that were not measured yet.
const unsure = time.Minute
