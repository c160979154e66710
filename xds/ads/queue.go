package ads

import "sync"

// lane is one of the two ways into the queue.
type lane uint8

const (
	routine lane = iota
	kill         // always served first
	numLanes
)

// queue holds the streams that may have something to send, each at most once a lane. The pushers take from it; nobody who
// puts into it ever waits for a send.
type queue struct {
	mu     sync.Mutex
	more   *sync.Cond
	lanes  [numLanes][]*stream // guarded by mu
	heads  [numLanes]int       // guarded by mu: what of lanes is taken
	closed bool                // guarded by mu
}

func newQueue() *queue {
	q := new(queue)
	q.more = sync.NewCond(&q.mu)
	return q
}

func (q *queue) push(l lane, streams ...*stream) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	for _, st := range streams {
		if !st.queued[l] {
			st.queued[l] = true
			q.lanes[l] = append(q.lanes[l], st)
		}
	}
	if len(streams) == 1 {
		q.more.Signal()
	} else {
		q.more.Broadcast()
	}
}

// pop waits for the next stream, and is false once the queue is closed.
func (q *queue) pop() (*stream, lane, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil, 0, false
		}
		for l := kill + 1; l > 0; l-- {
			if st := q.take(l - 1); st != nil {
				return st, l - 1, true
			}
		}
		q.more.Wait()
	}
}

func (q *queue) take(l lane) *stream {
	if q.heads[l] == len(q.lanes[l]) {
		return nil
	}
	st := q.lanes[l][q.heads[l]]
	q.lanes[l][q.heads[l]] = nil
	q.heads[l]++
	if q.heads[l] == len(q.lanes[l]) {
		q.lanes[l], q.heads[l] = q.lanes[l][:0], 0
	}
	st.queued[l] = false
	return st
}

// killWaits says whether the kill lane has work; a pusher on other work then turns to it.
func (q *queue) killWaits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.heads[kill] < len(q.lanes[kill])
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.lanes = [numLanes][]*stream{}
	q.heads = [numLanes]int{}
	q.more.Broadcast()
}
