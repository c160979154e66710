// Package spec holds the documents that teams declare (Region, Service, Policy, Rollout) as plain values.
//
// It parses YAML and JSON strictly, sets defaults, validates each document and the references between them, and names
// file, line, field and what was expected in every error. Bytes and protos come in from a caller; values go out to every
// other room. It reads no file and no clock.
package spec
