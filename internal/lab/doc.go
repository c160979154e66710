// Package lab puts regions on one machine: real Envoy processes, sample services that fail on command, users at a fixed
// rate, and scenarios that say what is to happen and what must be seen. It knows nothing of Aviary: a scenario drives the
// control plane under test through the small interface ControlPlane, and judges it from outside, by what the services
// and the users counted themselves. Everything listens on loopback, and no process outlives the one that started it.
package lab
