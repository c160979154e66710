// Package evidence holds the anytime-valid tests that judge a canary: errors against stable, errors against what it may
// spend, latency against stable. Counts by tick come in as values (plugin/signal), a Verdict goes out; nothing here reads
// a clock or does I/O. Every test is a non-negative process that starts at 1 and does not grow in mean while its null
// holds, so that looking at every tick costs nothing (Ville's inequality: it ever reaches 1/α with a chance of at most α).
//
// A Judge is one canary (one digest) in one region. It is not restarted at steps: what was learnt at 1 % holds at 50 %. It
// is made anew for another digest, and when a person retries a halted canary. docs/analysis.md explains the tests and
// holds the tables that `go run ./bench/analysis` prints.
package evidence
