package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Resolve takes what the names of endpoints resolve to, sorted, all that is known. A name that is not there was not looked
// up yet, and keeps what it had. It never blocks; the newest wins. The caller does not change the map afterwards.
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
func (c *Controller) resolved(found map[string][]netip.Addr) {
	c.answers = found
	if !c.review() {
		return
	}
	c.admit(c.cfg.Now())
	c.publish()
}

// review takes over what names answer, and reports whether an address changed: then the plans that have it are out of date. A
// name that answers with an address that its service may not have there keeps what it had, and the refusal is shown.
func (c *Controller) review() bool {
	next, refused := map[string][]netip.Addr{}, map[string]string{}
	for _, name := range c.names {
		had, known := c.addresses[name]
		of, found := c.answers[name]
		if why := c.unlawful(name, of); why != "" {
			refused[name], found = why, false
			if c.refused[name] != why {
				c.cfg.Log.Error("what a name resolves to is refused; it keeps the addresses that it had", "name", name, "error", why, "addresses", had)
			}
		}
		switch {
		case found:
			next[name] = of
		case known && c.unlawful(name, had) == "": // documents that are new may forbid even those
			next[name] = had
		}
	}
	c.refused = refused
	for _, name := range c.names {
		if !slices.Equal(c.addresses[name], next[name]) {
			for _, u := range c.uses[name] {
				c.outdate(u.region)
				c.outdate(c.leaning[u.region]...)
			}
		}
	}
	if maps.EqualFunc(c.addresses, next, slices.Equal) {
		return false
	}
	c.addresses = next
	c.keep()
	return true
}

// unlawful says which of the addresses a name may not have; "" is none.
func (c *Controller) unlawful(name string, addresses []netip.Addr) string {
	f := facts{index: c.index}
	for _, u := range c.uses[name] {
		for _, ip := range addresses {
			if !f.lawful(u.service, f.set.Regions[u.region], ip, u.port) {
				return fmt.Sprintf("%v may not be an endpoint of %s in %s: it is outside of the region's networks, or in a region that the service may not reach", ip, u.service.Name, u.region)
			}
		}
	}
	return ""
}

// use puts documents in force, and has the names in them resolved when they are others than before.
func (c *Controller) use(d declared) {
	before := c.index.names
	c.index, c.at = indexOf(d.set), d.at
	c.outdateAll()
	c.restabled = true
	c.review()
	if c.cfg.Discover != nil && !slices.Equal(before, c.names) {
		c.cfg.Discover(c.names)
	}
}
