package lab

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// Behavior is all that an instance can be told to do. The zero value answers every request at once with 200 (or OK).
type Behavior struct {
	// Latency is how long an answer takes; failures by status take it too.
	Latency Latency `yaml:"latency"`
	// Body is the size of an answer in bytes; 0: the version's name.
	Body int `yaml:"body"`
	// Failures are tried in order: the first that matches a request and whose draw hits is what happens.
	Failures []Failure `yaml:"failures"`
	// Refuse closes the listener and every connection: connecting is refused until it is false again.
	Refuse bool `yaml:"refuse"`
	// Unhealthy fails health checks.
	Unhealthy bool `yaml:"unhealthy"`

	payload []byte // the body, or over gRPC the framed message, of a good answer
}

// Latency is lognormal with a median and a sigma (of the logarithm); sigma 0 is a fixed time.
type Latency struct {
	Median time.Duration `yaml:"median"`
	Sigma  float64       `yaml:"sigma"`
	// Multiplier makes everything so many times slower; 0 is 1.
	Multiplier float64 `yaml:"multiplier"`
}

// Kind is how a request fails.
type Kind string

// The kinds.
const (
	// FailStatus answers with Failure.Status; over gRPC with Failure.GRPC and no message (headers alone).
	FailStatus Kind = "status"
	// FailTrailer answers 200, the message, and Failure.GRPC in the trailers. gRPC only.
	FailTrailer Kind = "trailer"
	// FailHang never answers; it ends when the caller gives up.
	FailHang Kind = "hang"
	// FailBreak answers 200 and half of the body, then cuts: the connection over HTTP/1, the stream over HTTP/2 and gRPC.
	FailBreak Kind = "break"
	// FailReset answers nothing and resets: the connection (RST) over HTTP/1, the stream over HTTP/2 and gRPC.
	FailReset Kind = "reset"
	// FailSlow waits Failure.Delay longer and then answers well.
	FailSlow Kind = "slow"
)

// Failure is one way in which requests fail.
type Failure struct {
	Kind Kind `yaml:"kind"`
	// Rate is the part of the matching requests, in [0,1].
	Rate float64 `yaml:"rate"`
	// Status of FailStatus over HTTP; default 500. Over gRPC it is the HTTP status in place of 200, when set.
	Status int `yaml:"status"`
	// GRPC status name, such as INTERNAL or UNAVAILABLE; default INTERNAL.
	GRPC string `yaml:"grpc"`
	// Delay of FailSlow.
	Delay time.Duration `yaml:"delay"`
	// Methods that it is for; none: all.
	Methods []string `yaml:"methods"`
	// Headers that a request must carry with these values.
	Headers map[string]string `yaml:"headers"`

	code codes.Code
	body []byte
}

// Errors is the behavior that answers a part of the requests, in [0,1], with an HTTP status.
func Errors(rate float64, status int) Behavior {
	return Behavior{Failures: []Failure{{Kind: FailStatus, Rate: rate, Status: status}}}
}

// GRPCErrors is the behavior that answers a part of the calls, in [0,1], with a gRPC status.
func GRPCErrors(rate float64, code codes.Code) Behavior {
	return Behavior{Failures: []Failure{{Kind: FailStatus, Rate: rate, GRPC: codeName(code)}}}
}

// Failing is the behavior that fails a part of the requests, in [0,1], in one way with its defaults.
func Failing(kind Kind, rate float64) Behavior {
	return Behavior{Failures: []Failure{{Kind: kind, Rate: rate}}}
}

// prepared checks a behavior for an instance and returns a copy that is ready for use and shared with nobody.
func (b Behavior) prepared(o InstanceOptions) (*Behavior, error) {
	if b.Body < 0 || b.Body > 1<<26 {
		return nil, fmt.Errorf("body of %d bytes; want 0 to 64 MiB", b.Body)
	}
	if l := b.Latency; l.Median < 0 || l.Sigma < 0 || l.Sigma > 5 || l.Multiplier < 0 || math.IsNaN(l.Sigma+l.Multiplier) {
		return nil, fmt.Errorf("latency %+v; want median >= 0, sigma in [0,5], multiplier >= 0", l)
	}
	b.Failures = slices.Clone(b.Failures)
	for n := range b.Failures {
		f := &b.Failures[n]
		if !(f.Rate >= 0 && f.Rate <= 1) {
			return nil, fmt.Errorf("failure %s: rate %v; want 0 to 1", f.Kind, f.Rate)
		}
		switch f.Kind {
		case FailStatus, FailHang, FailBreak, FailReset:
		case FailTrailer:
			if o.Protocol != GRPC {
				return nil, fmt.Errorf("failure trailer: only a grpc service has trailers")
			}
		case FailSlow:
			if f.Delay <= 0 {
				return nil, fmt.Errorf("failure slow: delay %v; want more than 0", f.Delay)
			}
		default:
			return nil, fmt.Errorf("failure kind %q; want status, trailer, hang, break, reset or slow", f.Kind)
		}
		if f.Status == 0 && o.Protocol != GRPC {
			f.Status = http.StatusInternalServerError
		}
		if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
			return nil, fmt.Errorf("failure status %d; want 200 to 599", f.Status)
		}
		if f.GRPC == "" {
			f.GRPC = "INTERNAL"
		}
		var ok bool
		if f.code, ok = codeOf(f.GRPC); !ok {
			return nil, fmt.Errorf("failure grpc %q; want a gRPC status name such as INTERNAL", f.GRPC)
		}
		f.body = fmt.Appendf(nil, "%s\n", http.StatusText(f.Status))
	}
	b.payload = []byte(o.Version)
	if b.Body > 0 {
		b.payload = bytes.Repeat([]byte{'.'}, b.Body)
	}
	if o.Protocol == GRPC {
		b.payload = frame(b.payload)
	}
	return &b, nil
}

// pick draws what happens to a request; nil: it is answered well.
func (b *Behavior) pick(r *http.Request) *Failure {
	for n := range b.Failures {
		f := &b.Failures[n]
		if f.matches(r) && (f.Rate >= 1 || rand.Float64() < f.Rate) {
			return f
		}
	}
	return nil
}

func (f *Failure) matches(r *http.Request) bool {
	if len(f.Methods) > 0 && !slices.Contains(f.Methods, r.Method) {
		return false
	}
	for name, value := range f.Headers {
		if r.Header.Get(name) != value {
			return false
		}
	}
	return true
}

// draw returns the time that one answer takes.
func (l Latency) draw() time.Duration {
	d := float64(l.Median)
	if l.Sigma > 0 {
		d *= math.Exp(l.Sigma * rand.NormFloat64())
	}
	if l.Multiplier > 0 {
		d *= l.Multiplier
	}
	return time.Duration(min(d, float64(time.Hour)))
}

var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED",
}

// codeName is the name of a status as the gRPC specification writes it.
func codeName(c codes.Code) string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("CODE_%d", c)
}

func codeOf(name string) (codes.Code, bool) {
	n := slices.Index(codeNames[:], name)
	return codes.Code(max(n, 0)), n >= 0
}
