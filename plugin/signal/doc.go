// Package signal holds telemetry as values: what one proxy said in one flush, as differences, by service, version and
// outcome; the sum of many proxies' flushes (Merge); and what of it may be put before the tests (Arm.Sample).
// xds/telemetry makes these values; evidence and control read them. It imports nothing of ours, and does no I/O.
package signal
