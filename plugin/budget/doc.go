// Package budget counts error budgets: what a region's objective allows in its window and what is left (Region), what one
// canary may spend of that and what it spent (Canary), and how fast it burns. Counts come in as values with the time they
// arrived; nothing here reads a clock or does I/O. Every value has a bounded size and is its own JSON.
//
// A spent budget is a count and not a test: it is true on the tick it happens. The tests are in plugin/evidence.
package budget
