package control

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A process that comes up after a crash, with no name server and no rates, gives its proxies what the one before did.
func TestWhatPlansAreMadeOfOutlivesACrash(t *testing.T) {
	w := newWorld(t)
	before := New(Config{Store: w.store, Delivery: w, Now: w.clock})
	before.index = &index{names: []string{"shop.example"}}
	addresses := map[string][]netip.Addr{"shop.example": {netip.MustParseAddr("10.0.0.1")}}
	before.answers, before.room[site{"us", "shop"}] = addresses, 3000
	before.review()
	if !before.writer.drain(t.Context()) {
		t.Fatal("not written")
	}
	next := New(Config{Store: w.store, Delivery: w, Now: w.clock})
	if err := next.recall(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := next.addresses["shop.example"]; !slices.Equal(got, addresses["shop.example"]) {
		t.Errorf("addresses %v", next.addresses)
	}
	if got := next.room[site{"us", "shop"}]; got != 3000 {
		t.Errorf("room %d", got)
	}
}

func TestRoomDoesNotGrowOnRatesThatAreNotMeasured(t *testing.T) {
	set := newSet([]string{"eu", "", "us"}, []string{"us", ""})
	add(set, "shop", "eu", "us")
	c := still(set)
	at := site{"us", "shop"}
	c.began, c.room[at] = now, 3000
	for after, want := range map[time.Duration]uint32{time.Second: 3000, 2 * unsure: 10_000} {
		c.room[at] = 3000
		c.admit(now.Add(after))
		if got := c.room[at]; got != want {
			t.Errorf("%v after the start: room %d, want %d", after, got, want)
		}
	}
	// What is measured counts at once.
	c.room[at] = 3000
	c.meter.resume(map[string]map[string]float64{"eu": {"shop": 10}, "us": {"shop": 10}}, now)
	if c.admit(now.Add(time.Second)); c.room[at] != 10_000 {
		t.Errorf("measured: room %d", c.room[at])
	}
}
