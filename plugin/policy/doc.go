// Package policy applies what a Policy says to what was measured: which tries are errors. Values of spec and signal come
// in, answers go out; it keeps nothing, reads no clock and does no I/O.
package policy
