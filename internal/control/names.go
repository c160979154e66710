package control

import (
	"maps"
	"net/netip"
	"slices"
)

// Resolve takes what the names of endpoints resolve to, sorted, in place of all that was known before. It never blocks; the
// newest wins. The caller does not change the map afterwards.
func (c *Controller) Resolve(addresses map[string][]netip.Addr) {
	for {
		select {
		case c.found <- addresses:
			return
		default:
		}
		select {
		case <-c.found: // nobody took the one before
		default:
		}
	}
}

// resolved puts addresses in force.
func (c *Controller) resolved(addresses map[string][]netip.Addr) {
	if maps.EqualFunc(c.addresses, addresses, slices.Equal) {
		return
	}
	c.addresses = addresses
	c.outdateAll()
	c.admit(c.cfg.Now())
	c.publish()
}

// use puts documents in force, and has the names in them resolved when they are others than before.
func (c *Controller) use(d declared) {
	before := c.index.names
	c.index, c.at = indexOf(d.set), d.at
	c.outdateAll()
	c.restabled = true
	if c.cfg.Discover != nil && !slices.Equal(before, c.names) {
		c.cfg.Discover(c.names)
	}
}
