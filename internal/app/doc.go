// Package app wires the rooms into one process: New and Run. It holds what belongs to no room alone: who a client is
// (identity), how a plan becomes what each client of its region sees (delivery, region, build) and what holds until it does
// (lower), which sockets are open, and the order of start and stop.
package app
