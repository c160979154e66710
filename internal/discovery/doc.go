// Package discovery looks up the names of endpoints in DNS, beside the control loop, and hands over what they resolve to
// as one value whenever that changed. A lookup that fails, or finds nothing, leaves the addresses that were found last:
// a resolver that is down must not take endpoints away. It knows no document and no region.
package discovery
