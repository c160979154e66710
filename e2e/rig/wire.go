package rig

import (
	"testing"

	"github.com/aviary-mesh/aviary/internal/lab"
)

// NewWire opens a wire to an address; it closes with the test.
func NewWire(t testing.TB, to string) *lab.Wire {
	t.Helper()
	w, err := lab.NewWire(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// Network changes what wires do.
func Network(t testing.TB, n lab.Network, wires ...*lab.Wire) {
	t.Helper()
	for _, w := range wires {
		if err := w.Set(n); err != nil {
			t.Fatal(err)
		}
	}
}
