// Package aviary has no code: it is the tour of the house, in the order in which data flows.
//
//	documents          proto/aviary/v1, plugin/spec      what a team declares, parsed strictly, as values
//	→ store            internal/store                    immutable revisions, rollout state, halts, in etcd
//	→ control          internal/control                  the only loop: read, decide, latch, publish, persist
//	     decides with  plugin/evidence, plugin/budget    tests that are valid at every look; error budgets
//	                   plugin/rollout                    Step(documents, state, evidence, now) → state, events
//	→ plan             plugin/traffic                    what the traffic of one region should be
//	→ resources        xds/resource                      plan → Envoy's clusters, endpoints, routes, listeners, runtime
//	→ Envoy            xds/ads                           ADS, ACK/NACK, leases
//	← telemetry        xds/telemetry, plugin/signal      tries, errors, latency by version, as differences
//	← names            internal/discovery                DNS names of endpoints, as addresses
//
// Around it: internal/admin (gRPC API), cmd/aviary (the command), internal/app (wiring), internal/lab (regions on one
// machine), xds/bootstrap (what a sidecar starts with), e2e (real Envoys). What a package may import is a test, beside
// this file.
package aviary
