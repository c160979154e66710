// Package relief says when a region cannot keep up with a service and what is done about it then, from the service's rule
// and what the region's proxies count. Samples come in as values with the time they were taken; states go out. Nothing is
// kept, reads a clock or does I/O. internal/control counts the samples and puts the answer into plans.
//
// Silence is no sign: a region whose proxies report nothing is relieved of what it was under, in the time that its rule
// says. A limit that is cut below what is asked for refuses requests for as long as it is asked, so where overflows are the
// sign, relief that tightens goes on until the demand is below the cut limit.
package relief
