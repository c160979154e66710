// Package traffic says what the traffic of one region should be: a Plan of Intents, one a service. It knows weights,
// versions, localities and limits, and neither Envoy nor Kubernetes. internal/control makes plans from documents and
// rollout state; xds/resource and the other renderers turn them into what a mesh understands.
package traffic
