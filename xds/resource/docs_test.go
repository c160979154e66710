package resource

import (
	"os"
	"strings"
	"testing"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

// docs/regions.md says of every cluster what is in it.
func TestTheDocsNameEveryCluster(t *testing.T) {
	text, err := os.ReadFile("../../docs/regions.md")
	if err != nil {
		t.Fatal(err)
	}
	in := traffic.Intent{
		Service: "SERVICE", Stable: traffic.Arm{Version: "VERSION"}, Canary: &traffic.Arm{Version: "VERSION"},
		ShadowMethods: []string{"GET"}, Failover: &traffic.Failover{},
	}
	all := Clusters(in, View{})
	for _, c := range all {
		if !strings.Contains(string(text), "\n| `"+c.Name+"` |") {
			t.Errorf("%s is not there", c.Name)
		}
	}
	if n := strings.Count(string(text), "\n| `SERVICE/"); n != len(all) {
		t.Errorf("it has %d clusters, not %d", n, len(all))
	}
}
