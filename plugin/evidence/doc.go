// Package evidence holds the anytime-valid tests that judge a canary: errors against stable, errors against what it may
// spend, latency against stable. Counts by tick come in as values (plugin/signal), a Verdict goes out; nothing here reads
// a clock or does I/O. Every test is a non-negative process that starts at 1 and does not grow in mean while its null
// holds, so that looking at every tick costs nothing (Ville's inequality).
package evidence
