package signal

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestEdges(t *testing.T) {
	if len(Edges) != EdgeCount || Edges[0] != 100 || Edges[EdgeCount-1] < 120e6 || !slices.IsSorted(Edges) {
		t.Fatalf("%d edges from %v to %v", len(Edges), Edges[0], Edges[len(Edges)-1])
	}
	for i := 1; i < EdgeCount; i++ {
		if step := Edges[i] / Edges[i-1]; step < 1.07 || step > 1.085 {
			t.Errorf("step %d is %v", i, step)
		}
	}
	for i, micros := range Edges {
		if got := EdgeOf(micros / 1000 * 1000); got != i {
			t.Errorf("an edge finds itself: %d, got %d", i, got)
		}
	}
	for micros, want := range map[float64]int{0: 0, 100: 0, 101: 1, 125: 3, 126: 4, 1e12: EdgeCount} {
		if got := EdgeOf(micros); got != want {
			t.Errorf("EdgeOf(%v) = %d, want %d", micros, got, want)
		}
	}
	for factor, want := range map[float64]int{1.05: 1, 1.25: 3, 1.26: 4, 1.5625: 6, 10: 31} {
		if got := StepsFor(factor); got != want {
			t.Errorf("StepsFor(%v) = %d, want %d", factor, got, want)
		}
	}
}

func histograms() *rapid.Generator[Histogram] {
	return rapid.Custom(func(t *rapid.T) Histogram {
		var h Histogram
		for range rapid.IntRange(0, 6).Draw(t, "buckets") {
			h = h.Add(rapid.IntRange(0, EdgeCount).Draw(t, "edge"), rapid.Uint64Range(0, 9).Draw(t, "count"))
		}
		return h
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := histograms().Draw(t, "a"), histograms().Draw(t, "b"), histograms().Draw(t, "c")
		ab := a.Merge(b)
		if !slices.Equal(ab, b.Merge(a)) || !slices.Equal(ab.Merge(c), a.Merge(b.Merge(c))) {
			t.Fatal("the order of merging matters")
		}
		if ab.Total() != a.Total()+b.Total() {
			t.Fatal("a merge loses latencies")
		}
		if !slices.IsSortedFunc(ab, func(x, y Bucket) int { return x.Edge - y.Edge }) {
			t.Fatalf("not sorted: %v", ab)
		}
		edge := rapid.IntRange(0, EdgeCount).Draw(t, "above")
		if ab.Above(edge) != a.Above(edge)+b.Above(edge) {
			t.Fatal("Above is not additive")
		}
		q := rapid.Float64Range(0.01, 0.99).Draw(t, "q")
		if at, ok := ab.Quantile(q); ok != (ab.Total() > 0) {
			t.Fatal("a quantile of nothing")
		} else if ok {
			total := float64(ab.Total())
			below := func(edge int) float64 { return total - float64(ab.Above(edge)) }
			if below(at) < q*total-1e-6 || below(at-1) >= q*total+1e-6 {
				t.Fatalf("quantile %v of %v is not %d", q, ab, at)
			}
		}
		if edge < EdgeCount {
			d := time.Duration(Edges[edge]) * time.Microsecond
			if in := ab.Within(d).Total(); in != ab.Total()-ab.Above(edge) {
				t.Fatalf("within %v: %d of %v", d, in, ab)
			}
			if !slices.Equal(ab.Within(d-1), ab.Within(time.Duration(0)).Merge(ab.Within(d-1))) ||
				ab.Within(d-1).Above(edge-1) != 0 {
				t.Fatal("a bucket counts before its upper edge has passed")
			}
		}
	})
}

func failed(c Class) bool { return c.Status == 0 || c.Status >= 500 }

func TestSampleComparesTheSameStarts(t *testing.T) {
	second := EdgeOf(1e6)
	arm := Arm{
		Outcomes: []Outcome{
			{Class{0, -1, "UT"}, 10, Histogram{{EdgeOf(15e6), 10}}},
			{Class{200, -1, ""}, 100, Histogram{{0, 60}, {second, 30}}}, // ten were lost
			{Class{500, -1, ""}, 7, Histogram{{0, 5}, {EdgeCount, 2}}},
		},
		Overflows: 1, ConnectFailures: 2, Ejections: 4,
	}
	for _, c := range []struct {
		name                   string
		since                  time.Duration
		tries, errors, latency uint64
	}{
		{"before the change", -time.Second, 0, 0, 0},
		{"at the change", 0, 5, 5, 0},
		{"a moment after", time.Millisecond, 60 + 5 + 5, 5 + 5, 65},
		{"an edge not yet passed", time.Second, 60 + 5 + 5, 5 + 5, 65},
		{"an edge passed", 1200 * time.Millisecond, 90 + 5 + 5, 5 + 5, 95},
		{"connections had their time", 5 * time.Second, 90 + 5 + 7, 5 + 7, 95},
		{"time-outs begin to count", 16 * time.Second, 10 + 90 + 5 + 7, 10 + 5 + 7, 105},
		{"all but the unknown", Settled - 1, 10 + 90 + 5 + 7, 10 + 5 + 7, 105},
		{"settled", Settled, 10 + 100 + 7 + 7, 10 + 7 + 7, 107},
		{"always", Always, 10 + 100 + 7 + 7, 10 + 7 + 7, 107},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := arm.Sample(failed, c.since, 0)
			if s.Tries != c.tries || s.Errors != c.errors || s.Latency.Total() != c.latency {
				t.Errorf("got %d tries, %d errors, %d latencies; want %d, %d, %d",
					s.Tries, s.Errors, s.Latency.Total(), c.tries, c.errors, c.latency)
			}
		})
	}
}

func TestArmsAreNamedByFour(t *testing.T) {
	arms := []Arm{
		{Service: "a", Version: "v2"},
		{Service: "b", Version: "v1"},
		{Service: "b", Version: "v1", Shadow: true},
		{Service: "b", Version: "v1", Region: Elsewhere},
		{Service: "b", Version: "v1", Region: "eu"},
		{Service: "b", Version: "v1", Region: "us"},
		{Service: "b", Version: "v2"},
	}
	for i, a := range arms {
		for j, b := range arms {
			if got, want := a.Compare(b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%+v and %+v: %d, want %d", a, b, got, want)
			}
		}
	}
}
