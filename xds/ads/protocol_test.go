package ads

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

type opener = func(r *rig, node *corev3.Node) *peer

func TestFirstAnswers(t *testing.T) {
	inBoth(t, func(t *testing.T, open opener) {
		r := newRig(t, Config{})
		r.Publish("v", snap("cds:a", "cds:b", "eds:a", "eds:b", "lds:l", "rds:r"), Routine)
		p := open(r, node("p"))
		p.subscribe(Cluster)
		p.accept("CDS +a,b")
		p.subscribe(Endpoint, "a", "b")
		p.accept("EDS +a,b")
		p.subscribe(Listener)
		p.accept("LDS +l")
		p.subscribe(Route, "r")
		p.accept("RDS +r")
		for _, s := range r.status("p").Types[:4] {
			if s.State != Synced || s.Acked == "" || s.Acked != s.Sent || s.Acked != s.Intended {
				t.Errorf("%+v", s)
			}
		}
	})
}
