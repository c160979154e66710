package lab

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
)

// ServeHTTP answers one request as the instance's behavior wants it.
func (i *Instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.handlers.Add(1)
	defer i.handlers.Done()
	b := i.behavior.Load()
	w.Header().Set("X-Version", i.o.Version)
	if i.o.Region != "" {
		w.Header().Set("X-Region", i.o.Region)
	}
	w.Header()["Date"] = nil
	if i.o.Protocol == GRPC {
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/grpc.health.v1.Health/Check" {
			i.grpcHealth(w, r, b)
			return
		}
	} else if r.URL.Path == HealthPath {
		i.httpHealth(w, b)
		return
	}
	try := &try{i: i, b: b, w: w, r: r, tally: &i.tally}
	if r.Header.Get(ShadowHeader) != "" {
		try.tally = &i.copies
		try.tally.leak(r.Header, i.o.Personal)
	}
	try.tally.receive()
	defer func() {
		// Counted once, however the handler ends; a cut connection shows as a panic of the abort kind.
		try.tally.end(try.outcome)
	}()
	if i.o.Protocol == GRPC {
		try.grpc()
	} else {
		try.http()
	}
}

func (i *Instance) httpHealth(w http.ResponseWriter, b *Behavior) {
	i.tally.health.Add(1)
	if b.Unhealthy {
		i.tally.healthFailed.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// try is one request on its way.
type try struct {
	i       *Instance
	b       *Behavior
	w       http.ResponseWriter
	r       *http.Request
	tally   *tally
	outcome string
}

func (t *try) http() {
	t.outcome = OutcomeGone
	// Read to the end: only then does the server notice over HTTP/1 that the caller left.
	n, err := io.Copy(io.Discard, t.r.Body)
	t.tally.bytes.Add(uint64(n))
	if err != nil {
		return
	}
	f := t.b.pick(t.r)
	if !t.wait(f) {
		return
	}
	if !t.fetch() {
		if t.r.Context().Err() == nil {
			defer t.tally.bad()
			t.w.WriteHeader(http.StatusBadGateway)
			t.write([]byte("what this needs failed\n"), "502")
		}
		return
	}
	if f == nil || f.Kind == FailSlow {
		body := t.b.payload
		t.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		t.write(body, "200")
		return
	}
	switch f.Kind {
	case FailStatus:
		outcome := strconv.Itoa(f.Status)
		if !good(outcome) {
			defer t.tally.bad()
		}
		t.w.WriteHeader(f.Status)
		if f.Status == http.StatusNoContent || f.Status == http.StatusNotModified {
			t.outcome = outcome
			return
		}
		t.write(f.body, outcome)
	case FailBreak:
		body := t.b.payload
		t.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = t.w.Write(body[:len(body)/2])
		t.cut(OutcomeBreak)
	case FailReset:
		t.cut(OutcomeReset)
	}
}

// write sends a body and counts the outcome, if the caller is still there to take it. A caller who leaves as soon as it
// has everything may be gone before Write returns.
func (t *try) write(body []byte, outcome string) {
	there := t.r.Context().Err() == nil
	if _, err := t.w.Write(body); err == nil && there {
		t.outcome = outcome
	}
}

// fetch calls what the instance needs. False: that failed, or the caller left.
func (t *try) fetch() bool {
	return t.i.needs == nil || t.i.needs.call(t.r.Context(), t.r.Header.Get(ShadowHeader))
}

// wait lets the time of the answer pass. False: the caller left, which is what ends a hang.
func (t *try) wait(f *Failure) bool {
	latency := t.b.Latency.draw()
	switch {
	case f != nil && f.Kind == FailHang:
		t.tally.bad()
		<-t.r.Context().Done()
		t.outcome = OutcomeHang
		return false
	case f != nil && f.Kind == FailSlow:
		t.tally.slow.Add(1)
		t.tally.bad()
		latency += f.Delay
	case latency == 0:
		return t.r.Context().Err() == nil
	}
	timer := time.NewTimer(latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.r.Context().Done():
		return false
	}
}

// cut ends the try without an end of its answer. It does not return.
func (t *try) cut(outcome string) {
	t.outcome = outcome
	if outcome == OutcomeBreak {
		_ = http.NewResponseController(t.w).Flush()
	}
	t.tally.bad()
	if t.i.o.Protocol == HTTP && outcome == OutcomeReset {
		if c, ok := t.r.Context().Value(connKey{}).(*net.TCPConn); ok {
			_ = c.SetLinger(0) // close sends RST
			_ = c.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

// grpc speaks gRPC by hand, which leaves every frame to the faults: a status in headers or in trailers, half a message.
func (t *try) grpc() {
	t.outcome = OutcomeGone
	f := t.b.pick(t.r)
	if f != nil && f.Kind == FailStatus {
		if !t.drain() || !t.wait(f) {
			return
		}
		defer t.tally.bad()
		t.status(f.code)
		if f.Status != 0 {
			t.w.WriteHeader(f.Status)
		}
		t.outcome = codeName(f.code)
		return
	}
	if f != nil && f.Kind == FailReset {
		if t.drain() && t.wait(f) {
			t.cut(OutcomeReset)
		}
		return
	}
	t.w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	answer := t.b.payload
	for first := true; ; first = false {
		n, err := readFrame(t.r.Body)
		t.tally.bytes.Add(uint64(n))
		if errors.Is(err, io.EOF) && !first {
			break
		}
		if err != nil {
			return
		}
		// A failure belongs to the call: its wait is paid once.
		if first && !t.wait(f) || !first && !t.wait(nil) {
			return
		}
		if !t.fetch() {
			if t.r.Context().Err() == nil {
				defer t.tally.bad()
				t.status(codes.Unavailable)
				t.outcome = codeName(codes.Unavailable)
			}
			return
		}
		if f != nil && f.Kind == FailBreak {
			_, _ = t.w.Write(answer[:(len(answer)+1)/2])
			t.cut(OutcomeBreak)
		}
		if _, err := t.w.Write(answer); err != nil {
			return
		}
		if err := http.NewResponseController(t.w).Flush(); err != nil {
			return
		}
	}
	code := codes.OK
	if f != nil && f.Kind == FailTrailer {
		code = f.code
		defer t.tally.bad()
	}
	if t.r.Context().Err() != nil {
		return
	}
	t.status(code)
	t.outcome = codeName(code)
}

// status sets the gRPC status: in the headers while none were sent, else in the trailers.
func (t *try) status(code codes.Code) {
	t.w.Header().Set("Grpc-Status", strconv.Itoa(int(code)))
	if code != codes.OK {
		t.w.Header().Set("Grpc-Message", t.i.o.Version+" was told to fail")
	}
}

func (t *try) drain() bool {
	n, err := io.Copy(io.Discard, t.r.Body)
	t.tally.bytes.Add(uint64(max(n-frameHeader, 0)))
	return err == nil
}

const frameHeader = 5

// frame is a length-prefixed message that holds a google.protobuf.BytesValue.
func frame(value []byte) []byte {
	message := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(value)))
	message = append(message, value...)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// readFrame reads a message and returns its size; io.EOF when there is none.
func readFrame(r io.Reader) (int64, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	return io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(head[1:])))
}

func (i *Instance) grpcHealth(w http.ResponseWriter, r *http.Request, b *Behavior) {
	i.tally.health.Add(1)
	_, _ = io.Copy(io.Discard, r.Body)
	serving := byte(1)
	if b.Unhealthy {
		i.tally.healthFailed.Add(1)
		serving = 2
	}
	w.Header().Set("Trailer", "Grpc-Status")
	// HealthCheckResponse{status}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, serving})
	w.Header().Set("Grpc-Status", "0")
}
