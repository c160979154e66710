package clients

import (
	"testing"

	"github.com/aviary-mesh/aviary/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }
