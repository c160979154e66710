// Package resource turns a plan of plugin/traffic into Envoy resources: clusters and load assignments of each service,
// routes, listeners, and the values of the runtime layer that carries weights. It is pure: the same plan gives the same
// messages. Who is given which of them, and how, is delivery's business (xds/ads).
//
// A service with a canary has three clusters: its stable version, its canary version, and the arm, an aggregate of
// [canary, stable] to which the split sends the canary's share. A try of a retriable request that fails on the canary is
// tried again on stable within the same request.
package resource
