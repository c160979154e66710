// Package bootstrap renders what a sidecar or gateway starts with: who it is, where its control planes are, the lease
// layer of its runtime and the statistics it sends back. Listeners, clusters, routes and endpoints are not here; they
// come over ADS. The package is pure: options in, bytes out; it reads no file and imports nothing of ours.
package bootstrap
