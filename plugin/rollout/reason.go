package rollout

// Reason names why a region is where it is. Every decision has one.
type Reason string

// NotStarted: declared and waiting for a person to start it.
const NotStarted Reason = "NotStarted"
