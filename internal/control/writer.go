package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
)

const election = "coordinator"

// errSuperseded: a newer decision about the same place took this one's turn before it was written.
var errSuperseded = fmt.Errorf("%w: a newer decision came first", rollout.ErrRefused)

// record is what is stored of a rollout in a region.
type record struct {
	Service string         `json:"service"`
	Region  rollout.Region `json:"region"`
}

// job is one decision on its way to the store.
type job struct {
	place
	service string
	region  rollout.Region
	events  []store.Event
	// rise is the number of a decision that takes effect only when it is written; 0 is one that is in force already.
	rise uint64
	done []chan<- error
}

// saved tells the loop how the write of a rise ended.
type saved struct {
	job
	err error
	// halts are set when the store knows of halts that the loop does not.
	halts []rollout.Halt
}

// writer takes decisions to the store behind the loop's back, the newest of each place, in the order in which places
// came. Halts go first and need no leadership; states are fenced with it.
type writer struct {
	store *store.Store
	name  string
	log   *slog.Logger
	saved chan saved

	mu     sync.Mutex
	halts  []rollout.Halt
	kept   []byte // the newest; nil is none
	jobs   map[place]job
	order  []place
	busy   bool
	leader *store.Leadership
	wake   chan struct{} // of capacity 1
	idle   chan struct{} // closed and replaced whenever everything is written
}

func newWriter(s *store.Store, name string, log *slog.Logger) *writer {
	return &writer{
		store: s, name: name, log: log,
		saved: make(chan saved, 64),
		jobs:  map[place]job{},
		wake:  make(chan struct{}, 1),
		idle:  make(chan struct{}),
	}
}

// halt queues a halt.
func (w *writer) halt(h rollout.Halt) {
	w.mu.Lock()
	w.halts = append(w.halts, h)
	w.mu.Unlock()
	w.nudge()
}

// keep queues what plans are made of; it takes the turn of an older one.
func (w *writer) keep(data []byte) {
	w.mu.Lock()
	w.kept = data
	w.mu.Unlock()
	w.nudge()
}

// put queues a decision; it takes the turn of an older one about the same place.
func (w *writer) put(j job) {
	w.mu.Lock()
	if before, ok := w.jobs[j.place]; ok {
		j.after(before)
	} else {
		w.order = append(w.order, j.place)
	}
	w.jobs[j.place] = j
	w.mu.Unlock()
	w.nudge()
}

// after takes over what an older decision still owes. A rise that was not to be owes nothing but an answer.
func (j *job) after(before job) {
	if before.rise != 0 {
		for _, done := range before.done {
			done <- errSuperseded
		}
		return
	}
	j.events = append(before.events, j.events...)
	j.done = append(before.done, j.done...)
}

func (w *writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *writer) leading() bool { return w.lead() != nil }

func (w *writer) lead() *store.Leadership {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leader != nil {
		select {
		case <-w.leader.Done():
			w.leader = nil
		default:
		}
	}
	return w.leader
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	var campaign sync.WaitGroup
	campaign.Go(func() { w.campaign(ctx) })
	defer campaign.Wait()
	retry := time.NewTimer(0)
	defer retry.Stop()
	pause := 10 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-retry.C:
		}
		if w.drain(ctx) {
			pause = 10 * time.Millisecond
			continue
		}
		retry.Reset(pause)
		pause = min(2*pause, time.Second)
	}
}

// drain writes what is queued and reports whether all of it could be.
func (w *writer) drain(ctx context.Context) bool {
	for {
		w.mu.Lock()
		halts := w.halts
		w.halts = nil
		w.mu.Unlock()
		for i, h := range halts {
			if err := w.writeHalt(ctx, h); err != nil {
				w.log.Error("a halt is in force but not yet persisted", "rollout", h.Rollout, "region", h.Region, "error", err)
				w.mu.Lock()
				w.halts = append(slices.Clone(halts[i:]), w.halts...)
				w.mu.Unlock()
				return false
			}
		}
		leader := w.lead()
		w.mu.Lock()
		if len(w.order) == 0 {
			if kept := w.kept; kept != nil && len(w.halts) == 0 { // after all that somebody waits for
				w.kept = nil
				w.mu.Unlock()
				if !w.writeKept(ctx, kept) {
					return false
				}
				continue
			}
			if len(w.halts) == 0 {
				close(w.idle)
				w.idle = make(chan struct{})
			}
			w.mu.Unlock()
			return true
		}
		if leader == nil {
			w.mu.Unlock()
			return false
		}
		p := w.order[0]
		j := w.jobs[p]
		w.order = w.order[1:]
		delete(w.jobs, p)
		w.busy = true
		w.mu.Unlock()

		err := w.write(ctx, leader, j)
		w.mu.Lock()
		w.busy = false
		w.mu.Unlock()
		if errors.Is(err, store.ErrFenced) {
			w.resign(ctx) // and be a candidate again
		}
		if again := err != nil && !errors.Is(err, store.ErrHalted) && !errors.Is(err, store.ErrTooLarge) && ctx.Err() == nil; again {
			w.log.Warn("state is not persisted yet", "rollout", j.rollout, "region", j.place.region, "error", err)
			w.requeue(j)
			return false
		}
		w.report(ctx, j, err)
	}
}

// requeue puts back what could not be written, unless something newer came meanwhile.
func (w *writer) requeue(j job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if newer, ok := w.jobs[j.place]; ok {
		newer.after(j)
		w.jobs[j.place] = newer
		return
	}
	w.jobs[j.place] = j
	w.order = append(w.order, j.place) // behind the others: one that cannot be written must not hold them up
}

func (w *writer) report(ctx context.Context, j job, err error) {
	s := saved{job: j, err: err}
	if errors.Is(err, store.ErrHalted) {
		s.halts = w.knownHalts(ctx)
	}
	for _, done := range j.done {
		done <- err
	}
	if j.rise != 0 || len(s.halts) > 0 {
		select {
		case w.saved <- s:
		case <-ctx.Done():
		}
	}
}

func (w *writer) write(ctx context.Context, leader *store.Leadership, j job) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	data, err := json.Marshal(record{Service: j.service, Region: j.region})
	if err != nil {
		return err
	}
	if err := w.store.SaveState(ctx, leader, store.State{
		Rollout: j.rollout,
		Region:  j.place.region,
		Digest:  haltKey(j.region.Trial()),
		Down:    j.region.Weight == 0 && (j.region.Phase == rollout.Halted || j.region.Phase == rollout.Aborted || j.region.Phase == rollout.RolledBack),
		Data:    data,
	}); err != nil {
		return err
	}
	if len(j.events) > 0 {
		if _, err := w.store.Append(ctx, j.rollout, j.events...); err != nil {
			// The state stands; its story is told in the log.
			w.log.Error("events are lost", "rollout", j.rollout, "region", j.place.region, "error", err)
		}
	}
	return nil
}

// writeKept reports whether the record is written; if not it is queued again, unless a newer one came.
func (w *writer) writeKept(ctx context.Context, data []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := w.store.Keep(ctx, keptName, data)
	if err == nil || errors.Is(err, store.ErrTooLarge) {
		if err != nil {
			w.log.Error("what plans are made of is not kept", "error", err)
		}
		return true
	}
	w.log.Warn("what plans are made of is not kept yet", "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kept == nil {
		w.kept = data
	}
	return false
}

func (w *writer) writeHalt(ctx context.Context, h rollout.Halt) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := w.store.Halt(ctx, store.Halt{
		Rollout: h.Rollout, Region: h.Region, Digest: haltKey(h.Trial),
		Reason: string(h.Reason), Message: h.Message, At: h.At,
	})
	return err
}

// haltKey names a trial: a person's retry makes another one, so that a halt never has to be taken back.
func haltKey(t rollout.Trial) string { return t.Digest + "@" + strconv.Itoa(t.Attempt) }

func trialOf(key string) rollout.Trial {
	i := len(key) - 1
	for i >= 0 && key[i] != '@' {
		i--
	}
	if i < 0 {
		return rollout.Trial{Digest: key}
	}
	attempt, err := strconv.Atoi(key[i+1:])
	if err != nil {
		return rollout.Trial{Digest: key}
	}
	return rollout.Trial{Digest: key[:i], Attempt: attempt}
}

func halts(stored []store.Halt) []rollout.Halt {
	var out []rollout.Halt
	for _, h := range stored {
		out = append(out, rollout.Halt{
			Rollout: h.Rollout, Region: h.Region, Trial: trialOf(h.Digest),
			Reason: rollout.Reason(h.Reason), At: h.At, Message: h.Message,
		})
	}
	return out
}

func (w *writer) knownHalts(ctx context.Context) []rollout.Halt {
	all, err := w.store.Rollouts(ctx)
	if err != nil {
		w.log.Error("halts could not be read", "error", err)
		return nil
	}
	return halts(all.Halts)
}

// campaign keeps this process a candidate.
func (w *writer) campaign(ctx context.Context) {
	for ctx.Err() == nil {
		leader, err := w.store.Campaign(ctx, election, w.name)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			w.log.Warn("not elected", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
			continue
		}
		w.mu.Lock()
		w.leader = leader
		w.mu.Unlock()
		w.log.Info("elected as coordinator", "name", w.name)
		w.nudge()
		select {
		case <-leader.Done():
			w.log.Warn("no longer the coordinator: nothing advances until one is elected")
		case <-ctx.Done():
			return
		}
	}
}

// flush waits until everything queued is written, or ctx ends.
func (w *writer) flush(ctx context.Context) error {
	for {
		w.mu.Lock()
		empty, idle := len(w.order) == 0 && len(w.halts) == 0 && w.kept == nil && !w.busy, w.idle
		w.mu.Unlock()
		if empty {
			return nil
		}
		w.nudge()
		select {
		case <-idle:
		case <-ctx.Done():
			w.mu.Lock()
			left := slices.Collect(maps.Keys(w.jobs))
			w.mu.Unlock()
			w.log.Error("stopped before everything was persisted", "left", len(left))
			return ctx.Err()
		}
	}
}

func (w *writer) resign(ctx context.Context) {
	if leader := w.lead(); leader != nil {
		if err := leader.Resign(ctx); err != nil {
			w.log.Warn("resigned without the store's knowledge; the next coordinator waits for the lease to end", "error", err)
		}
	}
}
