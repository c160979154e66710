package rig

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Weight is the share of a version, of 10,000, that stands in the sidecar's runtime; 0 when nothing does.
func (s *Sidecar) Weight(version string) (uint32, error) {
	body, err := s.Admin("/runtime")
	if err != nil {
		return 0, err
	}
	var runtime struct {
		Entries map[string]struct {
			Final string `json:"final_value"`
		}
	}
	if err := json.Unmarshal(body, &runtime); err != nil {
		return 0, fmt.Errorf("runtime of %s: %w", s.ID, err)
	}
	entry, ok := runtime.Entries["aviary.shop.shop/arm/"+version]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(entry.Final, 10, 32)
	return uint32(n), err
}

// Change of a share at one sidecar.
type Change struct {
	At      time.Time
	Sidecar string
	Weight  uint32
}

// Weights follows a version's share at every sidecar.
type Weights struct {
	quit chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	changes map[string][]Change
	failed  error
}

// Follow looks at every sidecar's runtime every few milliseconds, from now until Stop or the test's end.
func (r *Rig) Follow(version string) *Weights {
	w := &Weights{quit: make(chan struct{}), changes: map[string][]Change{}}
	for _, s := range r.Sidecars {
		w.done.Go(func() { w.follow(s, version) })
	}
	r.t.Cleanup(w.Stop)
	return w
}

func (w *Weights) follow(s *Sidecar, version string) {
	for {
		weight, err := s.Weight(version)
		at := time.Now()
		w.mu.Lock()
		if seen := w.changes[s.ID]; err != nil {
			w.failed = err
		} else if len(seen) == 0 || seen[len(seen)-1].Weight != weight {
			w.changes[s.ID] = append(seen, Change{at, s.ID, weight})
		}
		w.mu.Unlock()
		select {
		case <-w.quit:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop ends the looking.
func (w *Weights) Stop() {
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.done.Wait()
}

// Of a sidecar: its changes so far, the first being what it had at the beginning.
func (w *Weights) Of(sidecar string) []Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Change(nil), w.changes[sidecar]...)
}

// At reports whether the last share that was seen at a sidecar is this one.
func (w *Weights) At(sidecar string, weight uint32) bool {
	all := w.Of(sidecar)
	return len(all) > 0 && all[len(all)-1].Weight == weight
}

// Err is the last failure to look at a sidecar.
func (w *Weights) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// String is one line a sidecar, with times since the beginning.
func (w *Weights) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for id, changes := range w.changes {
		line := id + ":"
		for _, c := range changes {
			line += fmt.Sprintf(" %d@%v", c.Weight, c.At.Sub(changes[0].At).Round(time.Millisecond))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}
