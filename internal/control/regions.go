package control

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Resolve takes the addresses of names.
func (c *Controller) Resolve(map[string][]netip.Addr) {}

// RegionStates are the regions, sorted by name.
func (c *Controller) RegionStates(ctx context.Context) ([]*aviaryv1.RegionState, error) {
	var all []*aviaryv1.RegionState
	err := c.call(ctx, func() {
		for _, name := range slices.Sorted(maps.Keys(c.set.Regions)) {
			all = append(all, &aviaryv1.RegionState{Name: name, Jurisdiction: c.set.Regions[name].Jurisdiction})
		}
	})
	return all, err
}
