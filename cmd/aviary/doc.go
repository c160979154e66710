// Command aviary is the whole product in one binary: the control plane, and the verbs with which people and programs
// talk to one. A verb is a file here; data goes to standard output, talk to standard error, and the exit code says how it
// ended (see exit.go).
package main
