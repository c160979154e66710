// Package rollout decides: Step takes the documents, the state of one rollout, what is known of each region and the time,
// and returns the new state with the events that tell why. It is a value machine: no clock, no I/O, no goroutine; the
// caller carries the state to the store and the weights to the proxies.
package rollout
