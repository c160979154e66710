// Package rollout decides: Step takes the documents, the state of one rollout, what is known of each region and the time,
// and returns the new state with the events that tell why; Act does the same for what a person asks. It is a value
// machine: no clock, no I/O, no goroutine; the caller carries the state and the halts to the store and the weights to
// the proxies. docs/rollout.md has the machine as a table.
//
// The caller's order: Resume once after a start; then, at every tick and every change of documents, Join the persisted
// halts, Adopt what other rollouts promoted, Step, publish shares, copies and testers, and only then persist.
//
// Three rules hold everywhere. A share rises only in Step, by one step, on evidence that is fresh in that call and that
// nothing speaks against. Whatever takes a share to zero comes first and asks nobody. A halt belongs to a Trial, one
// attempt at one digest; it is kept until a person retries, beats every other phase, and joins in any order.
package rollout
