// Package regions holds what many regions promise against real Envoys where a scenario of the lab cannot: with a store and
// a name server that a test has in hand.
package regions

import (
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// soon bounds what takes well under a second on a machine that does nothing else; climb a way up of a few short steps.
const (
	soon  = 20 * time.Second
	climb = 60 * time.Second
)
