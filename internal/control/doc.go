// Package control is the only loop: it reads documents and evidence, decides with plugin/rollout, latches what goes down,
// publishes it, and persists. What goes up is persisted first, fenced, and published after. Flushes, document changes and
// people's acts come in over channels; plans go out to a Delivery, state and events to the store. One goroutine decides;
// it never waits for the store, a proxy or a region.
package control
