// Package signal holds telemetry as values: what one proxy said in one flush, as differences, by service, version, region
// and outcome, copies of requests apart; and what of it may be put before the tests (Arm.Sample).
// xds/telemetry makes these values; evidence and control read them. It imports nothing of ours, and does no I/O.
package signal
