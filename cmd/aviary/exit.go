package main

// The exit codes.
const (
	exitOK = iota
	// The act was refused or failed; nothing was changed unless the message says so.
	exitFailed
	// The command line is wrong.
	exitUsage
	// No control plane answered.
	exitUnreachable
	// A wait ended before what was waited for.
	exitTimeout
	// What was waited for will not come: the rollout was halted, aborted or rolled back.
	exitEnded
)

const exitCodes = `Exit codes: 0 done; 1 refused or failed; 2 wrong command line; 3 no control plane answered;
4 the wait timed out; 5 the rollout that was waited for was halted, aborted or rolled back.`

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
