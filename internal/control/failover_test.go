package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/aviary-mesh/aviary/plugin/traffic"
)

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		name                    string
		capacity, rate, leaning float64
		before                  uint32
		known                   bool
		want                    uint32
	}{
		{name: "all of one region's requests", capacity: 1000, rate: 400, leaning: 600, want: 10_000},
		{name: "half of them", capacity: 1000, rate: 400, leaning: 1200, want: 5000},
		{name: "rounded down to a step", capacity: 1000, rate: 400, leaning: 1110, want: 5000},
		{name: "less than a step is nothing", capacity: 1000, rate: 990, leaning: 1000, want: 0},
		{name: "no spare", capacity: 1000, rate: 1000, leaning: 10, want: 0},
		{name: "overrun", capacity: 1000, rate: 2000, leaning: 10, want: 0},
		{name: "none that is declared", capacity: 0, rate: 0, leaning: 10, want: 0},
		{name: "rates that are not measured count as none", capacity: 1000, rate: 0, leaning: 0, want: 10_000},
		{name: "and need some room still", capacity: 1000, rate: 1000, leaning: 0, want: 0},
		{name: "falls at once", capacity: 1000, rate: 400, leaning: 1250, before: 5000, known: true, want: 4500},
		{name: "stays within a step", capacity: 1000, rate: 400, leaning: 1100, before: 4500, known: true, want: 4500},
		{name: "rises with a step to spare", capacity: 1000, rate: 400, leaning: 1000, before: 4500, known: true, want: 5500},
		{name: "to all of them too", capacity: 1000, rate: 400, leaning: 500, before: 9500, known: true, want: 10_000},
		{name: "but not with less than a step to spare", capacity: 1000, rate: 400, leaning: 600, before: 9500, known: true, want: 9500},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := roomOf(c.capacity, c.rate, c.leaning, c.before, c.known); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// Whatever was told before, what is told never overruns the neighbour, is in steps, and does not follow a rate that wavers.
func TestRoomNeverOverruns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := func(label string) float64 { return rapid.Float64Range(0, 10_000).Draw(t, label) }
		capacity, own, leaning := rate("capacity"), rate("own"), rate("leaning")
		before := rapid.Uint32Range(0, 20).Draw(t, "before") * admitStep
		known := rapid.Bool().Draw(t, "known")
		got := roomOf(capacity, own, leaning, before, known)
		if got%admitStep != 0 || got > traffic.Whole {
			t.Fatalf("got %d", got)
		}
		if landing := leaning * float64(got) / traffic.Whole; landing > max(0, capacity-own)*(1+1e-9) {
			t.Fatalf("%v lands where %v is spare", landing, capacity-own)
		}
		for range 5 { // a rate that wavers by less than a step's worth
			wavers := leaning * rapid.Float64Range(1, 1.02).Draw(t, "wavers")
			next := roomOf(capacity, own, wavers, got, true)
			if next > got {
				t.Fatalf("told %d, then %d", got, next)
			}
			if again := roomOf(capacity, own, leaning, next, true); next < got && again > next {
				t.Fatalf("%d, %d and %d again", got, next, again)
			}
			got = next
		}
	})
}

func TestFill(t *testing.T) {
	for _, c := range []struct {
		name  string
		room  []uint32
		parts []uint32
		sum   uint32
	}{
		{"nobody", nil, []uint32{}, 0},
		{"one", []uint32{7000}, []uint32{7000}, 7000},
		{"the second takes what the first leaves", []uint32{7000, 10_000}, []uint32{7000, 3000}, 10_000},
		{"not enough", []uint32{2000, 0, 1500}, []uint32{2000, 0, 1500}, 3500},
		{"the third is not needed", []uint32{5000, 5000, 5000}, []uint32{5000, 5000, 0}, 10_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts, sum := fill(c.room)
			if diff := cmp.Diff(c.parts, parts); diff != "" || sum != c.sum {
				t.Errorf("got %v, %d, want %v, %d", parts, sum, c.parts, c.sum)
			}
		})
	}
}

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		name                     string
		admitted, shed, weight   uint32
		wantAdmit, wantShedOfAll uint32
	}{
		{"nothing shed", 5000, 0, 500, 5000, 0},
		{"shed takes room", 5000, 2000, 0, 3750, 2000},
		{"all is admitted", 10_000, 2000, 0, 10_000, 2000},
		{"no more is shed than is admitted", 1000, 2000, 0, 0, 1000},
		{"all is shed", 10_000, 10_000, 0, 10_000, 10_000},
		{"of stable's requests", 10_000, 5000, 8000, 10_000, 1000},
		{"of which there are none", 10_000, 5000, 10_000, 10_000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if admit, shed := divide(c.admitted, c.shed, c.weight); admit != c.wantAdmit || shed != c.wantShedOfAll {
				t.Errorf("got %d, %d, want %d, %d", admit, shed, c.wantAdmit, c.wantShedOfAll)
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		share := func(label string) uint32 { return rapid.Uint32Range(0, traffic.Whole).Draw(t, label) }
		admitted, weight := share("admitted"), share("weight")
		admit, shed := divide(admitted, share("shed"), weight)
		if admit > traffic.Whole || shed+weight > traffic.Whole {
			t.Fatalf("admit %d, shed %d beside %d", admit, shed, weight)
		}
		rest := traffic.Whole - shed - weight
		if away, most := shed+rest*admit/traffic.Whole, float64(traffic.Whole-weight)*float64(admitted)/traffic.Whole; float64(away) > most+1 {
			t.Fatalf("%d go away, %v are admitted", away, most)
		}
	})
}
