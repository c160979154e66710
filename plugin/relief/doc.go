// Package relief says when a region cannot keep up with a service and what is done about it then, from the service's rule
// and what the region's proxies count. Samples come in as values with the time they were taken; states go out. Nothing is
// kept, reads a clock or does I/O. internal/control counts the samples and puts the answer into plans.
//
// Silence is no sign: a region whose proxies report nothing is relieved of what it was under, in the time that its rule
// says. A limit that is cut below what is asked for refuses requests for as long as it is asked: while limits are cut, and
// until proxies have the declared ones again, overflows are no sign, as relief would keep itself up. A demand that is above
// the declared limits is seen when these hold again, and relieved anew.
package relief
