// Package control is the only loop: it reads documents and evidence, decides with plugin/rollout, latches what goes down,
// publishes it, and persists. What goes up is persisted first, fenced, and published after. Flushes, document changes,
// people's acts and the addresses of names come in over channels; plans go out to a Delivery, state and events to the store.
// One goroutine decides; it never waits for the store, a proxy or a region.
//
// A plan is made of values (facts.go, plan.go) and of nothing else: documents, where rollouts stand, addresses, the room
// that regions have for others (failover.go), and relief. Beside it goes the charter that it is proved against (charter.go),
// made without it.
package control
