// Package quickstart plays the quick start of the README as it is written, with a real Envoy, and holds what is seen
// against what the README says one will see.
package quickstart
