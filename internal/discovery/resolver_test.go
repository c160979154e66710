package discovery_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/aviary-mesh/aviary/internal/discovery"
	"github.com/aviary-mesh/aviary/internal/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a resolver that asks a server of its own, and what its sink was given.
type rig struct {
	*discovery.Resolver
	server *lab.DNS
	given  chan string
}

func start(t *testing.T, timeout time.Duration) rig {
	t.Helper()
	server, err := lab.StartDNS()
	if err != nil {
		t.Fatal(err)
	}
	r := rig{server: server, given: make(chan string)}
	ctx, stop := context.WithCancel(t.Context())
	r.Resolver = discovery.New(discovery.Config{
		Lookup: discovery.Server(r.server.Address()), Every: 5 * time.Millisecond, Timeout: timeout, Log: slog.New(slog.DiscardHandler),
		Sink: func(all map[string][]netip.Addr) {
			select {
			case r.given <- text(all):
			case <-ctx.Done():
			}
		},
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		server.Close()
	})
	return r
}

// at is an answer with addresses.
func at(addresses ...string) lab.Answer {
	var a lab.Answer
	for _, text := range addresses {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(text))
	}
	return a
}

// text writes what a sink was given: name=address,address name=…
func text(all map[string][]netip.Addr) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var addresses []string
		for _, a := range all[name] {
			addresses = append(addresses, a.String())
		}
		out = append(out, name+"="+strings.Join(addresses, ","))
	}
	return strings.Join(out, " ")
}

// next holds what the sink is given next against want.
func (r rig) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-r.given:
		if got != want {
			t.Fatalf("the sink is given %q, want %q", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the sink is not given %q", want)
	}
}

// once waits until the status of a name is so.
func (r rig) once(t *testing.T, name string, so func(discovery.Resolved) bool) discovery.Resolved {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		all := r.Status()
		i := slices.IndexFunc(all, func(s discovery.Resolved) bool { return s.Name == name })
		if i >= 0 && so(all[i]) {
			return all[i]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the status is %+v", all)
		}
	}
}

// asked waits until the server was asked that many times more, so that a whole lookup ended since.
func (r rig) asked(t *testing.T, name string, more int) {
	t.Helper()
	for from, deadline := r.server.Asked(name), time.Now().Add(30*time.Second); r.server.Asked(name) < from+more; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s was not asked for again", name)
		}
	}
}

func failed(s discovery.Resolved) bool { return s.Err != nil }

func TestOnlyAChangeIsTold(t *testing.T) {
	r := start(t, 30*time.Second)
	r.server.Say("shop.test", at("10.0.0.9", "fd00::2", "10.0.0.2", "fd00::1"))
	r.Watch([]string{"shop.test"})
	r.next(t, "shop.test=10.0.0.2,10.0.0.9,fd00::1,fd00::2")
	// Another order, and an address that is there twice, are no change.
	r.server.Say("shop.test", at("fd00::1", "10.0.0.2", "10.0.0.2", "fd00::2", "10.0.0.9"))
	r.asked(t, "shop.test", 6)
	r.server.Say("shop.test", at("10.0.0.3"))
	r.next(t, "shop.test=10.0.0.3")
	if s := r.once(t, "shop.test", func(discovery.Resolved) bool { return true }); s.Err != nil || s.At.IsZero() || len(s.Addresses) != 1 {
		t.Errorf("the status is %+v", s)
	}
}

func TestAFailureKeepsTheLastAddresses(t *testing.T) {
	for name, fails := range map[string]lab.Answer{
		"no such name":            {Code: dnsmessage.RCodeNameError},
		"the server fails":        {Code: dnsmessage.RCodeServerFailure},
		"the server says nothing": {Silent: true},
		"an empty answer":         {},
		"half an answer":          {Addresses: at("10.0.0.1").Addresses, Half: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 200*time.Millisecond)
			r.server.Say("shop.test", at("10.0.0.1", "fd00::1"))
			r.Watch([]string{"shop.test"})
			r.next(t, "shop.test=10.0.0.1,fd00::1")
			r.server.Say("shop.test", fails)
			first := r.once(t, "shop.test", failed)
			r.asked(t, "shop.test", 4)
			s := r.once(t, "shop.test", failed)
			if len(s.Addresses) != 2 || s.At.IsZero() || !s.At.Equal(first.At) {
				t.Errorf("the status is %+v, and was %+v", s, first)
			}
			// The next that the sink hears of is what is right again.
			r.server.Say("shop.test", at("10.0.0.2", "fd00::1"))
			r.next(t, "shop.test=10.0.0.2,fd00::1")
			if s := r.once(t, "shop.test", func(s discovery.Resolved) bool { return s.Err == nil }); !s.At.After(first.At) {
				t.Errorf("the status is %+v, and was %+v", s, first)
			}
		})
	}
}

func TestMoreAddressesThanADatagramHolds(t *testing.T) {
	r := start(t, 30*time.Second)
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprintf("10.0.%d.%d", i/250, i%250))
	}
	r.server.Say("shop.test", at(all...))
	r.Watch([]string{"shop.test"})
	r.next(t, "shop.test="+strings.Join(sorted(all), ","))
	if r.server.Streams() == 0 {
		t.Error("the answer fitted in a datagram: this test tests nothing")
	}
}

func sorted(addresses []string) []string {
	return slices.SortedFunc(slices.Values(addresses), func(a, b string) int {
		return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b))
	})
}

func TestASlowNameHoldsUpNoOther(t *testing.T) {
	r := start(t, time.Hour)
	r.server.Say("fast.test", at("10.0.0.1"))
	names := []string{"fast.test"}
	for i := range 20 {
		names = append(names, fmt.Sprintf("slow-%d.test", i))
		r.server.Say(names[i+1], lab.Answer{Silent: true})
	}
	r.Watch(names)
	r.next(t, "fast.test=10.0.0.1")
	r.server.Say("fast.test", at("10.0.0.2"))
	r.next(t, "fast.test=10.0.0.2")
}

func TestANameThatIsNotWatchedIsForgotten(t *testing.T) {
	r := start(t, 30*time.Second)
	r.server.Say("a.test", at("10.0.0.1"))
	r.server.Say("b.test", at("10.0.0.2"))
	r.Watch([]string{"a.test"})
	r.next(t, "a.test=10.0.0.1")
	r.Watch([]string{"a.test", "b.test"})
	r.next(t, "a.test=10.0.0.1 b.test=10.0.0.2")
	r.Watch([]string{"b.test", "never.test"})
	r.next(t, "b.test=10.0.0.2")
	r.once(t, "never.test", failed)
	if all := r.Status(); len(all) != 2 || all[0].Name != "b.test" || len(all[1].Addresses) != 0 || !all[1].At.IsZero() {
		t.Errorf("the status is %+v", all)
	}
	r.Watch(nil)
	r.next(t, "")
}

// Who watches is the control loop, which waits for nothing: neither for the sink, nor for Run to be there.
func TestWatchDoesNotWait(t *testing.T) {
	idle := discovery.New(discovery.Config{Sink: func(map[string][]netip.Addr) {}})
	for i := range 3 {
		idle.Watch([]string{fmt.Sprintf("%d.test", i)})
	}
	r := start(t, 30*time.Second)
	r.server.Say("a.test", at("10.0.0.1"))
	r.Watch([]string{"a.test"})
	r.once(t, "a.test", func(s discovery.Resolved) bool { return len(s.Addresses) > 0 })
	for i := range 3 { // nobody takes what the sink was given
		r.Watch([]string{"a.test", fmt.Sprintf("%d.test", i)})
	}
	r.next(t, "a.test=10.0.0.1")
}

// Its work grows with the names, and not with their square: the control loop does nothing else meanwhile.
func TestWatchOfManyNames(t *testing.T) {
	const n = 50_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%d.test", i)
	}
	idle := discovery.New(discovery.Config{Sink: func(map[string][]netip.Addr) {}})
	idle.Watch(names)
	began := time.Now()
	idle.Watch(names)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// A lookup without news makes no copy of all that is known.
func TestNoNewsIsCheap(t *testing.T) {
	many := make([]netip.Addr, 20_000)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	}
	const passes = 100
	var asked, askedMany atomic.Int64
	r := discovery.New(discovery.Config{
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			if name == "one.test" {
				asked.Add(1)
				return many[:1], nil
			}
			if askedMany.Add(1) > 1 { // the second lookup stays, as what it finds is a copy too
				<-ctx.Done()
			}
			return many, ctx.Err()
		},
		Every: time.Millisecond, Timeout: time.Minute, Sink: func(map[string][]netip.Addr) {}, Log: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	defer func() {
		stop()
		<-ended
	}()
	until := func(what string, ok func() bool) {
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	r.Watch([]string{"many.test", "one.test"})
	until("many.test is not asked for twice", func() bool { return askedMany.Load() > 1 })
	r.Settle(ctx)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	from := asked.Load()
	until("one.test is not asked for again", func() bool { return asked.Load() >= from+passes })
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / passes; per > uint64(len(many)) {
		t.Errorf("%d bytes for a lookup without news", per)
	}
}

func TestSettleWaitsForTheFirstLookupsAndTheSink(t *testing.T) {
	r := start(t, 30*time.Second)
	r.Settle(t.Context()) // nothing is watched
	r.server.Say("a.test", at("10.0.0.1"))
	r.server.Say("slow.test", lab.Answer{Silent: true})
	r.Watch([]string{"a.test", "never.test"})
	settled := make(chan struct{})
	go func() {
		r.Settle(t.Context())
		close(settled)
	}()
	r.once(t, "a.test", func(s discovery.Resolved) bool { return len(s.Addresses) > 0 })
	r.once(t, "never.test", failed)
	select {
	case <-settled:
		t.Fatal("it settled before the sink knew")
	case <-time.After(20 * time.Millisecond):
	}
	r.next(t, "a.test=10.0.0.1")
	<-settled

	r.Watch([]string{"a.test", "slow.test"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r.Settle(ctx)
	if ctx.Err() == nil {
		t.Error("it settled without an answer")
	}
}
