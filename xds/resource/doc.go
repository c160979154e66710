// Package resource turns a plan of plugin/traffic into Envoy resources: clusters and load assignments of each service,
// routes, listeners, and the values of the runtime layer that carries weights. It is pure: the same plan gives the same
// messages. Who is given which of them, and how, is delivery's business (xds/ads).
//
// The clusters of a service are named service/role/version:
//
//	stable      its stable version in the own region; there is always this one
//	canary      its canary version there
//	arm         [canary, stable], which the split sends the canary's share to: a try of a retriable request that fails on
//	            the canary is tried again on stable within the same request
//	shadow      the canary's endpoints again, for copies of requests
//	remote      stable in other regions, with failover
//	everywhere  [stable, remote], which the split sends the part to that the neighbours have room for
//	shed        [remote, stable], which the split sends to that a region cannot keep up with
//
// Check proves what was built against the charter of a plan, apart from the code that built it.
package resource
