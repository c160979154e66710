package facts

import (
	"context"
	"testing"
	"time"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestStreamsStayOnACanaryThatIsAtZero(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.GRPC)
	s.in.Timeout = 0
	s.at(5000)
	conn := s.dial()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var streams []*stream
	onCanary := func() (n int) {
		for _, st := range streams {
			if st.version == "v2" {
				n++
			}
		}
		return n
	}
	for onCanary() < 5 {
		st, err := open(ctx, conn)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
		if len(streams) > 200 {
			t.Fatal("no streams on the canary at 50 %")
		}
	}
	s.at(0)
	before := s.v2.Counts().Received
	for range 100 {
		if v, err := call(conn); err != nil || v != "v1" {
			t.Fatalf("a new call after the halt: %q, %v", v, err)
		}
	}
	alive := 0
	for _, st := range streams {
		if err := st.say(); err != nil {
			t.Errorf("a stream on %s: %v", st.version, err)
		} else if st.version == "v2" {
			alive++
		}
	}
	t.Logf("at 0: 0 of 100 new calls on the canary, and %d of %d streams go on there", alive, onCanary())
	if alive != onCanary() || s.v2.Counts().InFlight != int64(alive) || s.v2.Counts().Received != before {
		t.Errorf("%d of %d streams are alive; the canary: %+v", alive, onCanary(), s.v2.Counts())
	}
}

func TestAHangLimitBoundsStreams(t *testing.T) {
	s := newShop(t, theMesh(t), traffic.GRPC)
	s.in.Timeout, s.in.HangLimit = 0, 300*time.Millisecond
	s.at(traffic.Whole)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	st, err := open(ctx, s.dial())
	if err != nil || st.version != "v2" {
		t.Fatalf("%+v, %v", st, err)
	}
	for err == nil {
		err = st.say()
	}
	t.Logf("a stream that was answered all along ended after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if ctx.Err() != nil || time.Since(began) < s.in.HangLimit/2 {
		t.Errorf("it ended after %v", time.Since(began))
	}
}
