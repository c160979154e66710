// Package deadman takes the control plane away under a healthy canary, in every way, and its telemetry alone: the sidecars go
// back to stable by themselves within the lease, nothing fails, and nothing that was acknowledged is lost.
package deadman
