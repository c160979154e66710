// Package admin serves the admin API (proto/aviary/v1/admin.proto) over gRPC, with reflection and health.
//
// Documents go through plugin/spec to the store, in one transaction against what they were validated with. Acts on
// rollouts go to whoever decides, through Rollouts, and come back as a status; nothing is decided here. Every error
// leaves as a gRPC status whose message says what is wrong and what would work.
package admin
