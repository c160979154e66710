package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// expectation is "measure operator value". The measures:
//
//	users[.GROUP].due|started|skipped|done|ok|failed|aborted|switched|inflight   numbers
//	users[.GROUP].failed.METHOD|status.STATUS|version.VERSION                    numbers
//	users[.GROUP].share.VERSION                                                  part of the answers, "25%"
//	users[.GROUP].p50|p95|p99|max                                                durations
//	service.SERVICE.VERSION.received|good|bad|inflight|health                    numbers
//	service.SERVICE.VERSION.outcome.OUTCOME                                      number
//	service.SERVICE.VERSION.idle                                                 time since the last request
//	service.SERVICE.VERSION.reaction     from the first failure since its behavior was set (or from then, when nothing
//	                                     failed) to the last request
//	service.SERVICE.VERSION.outlived     from the last stop, kill or pause of the control plane to the last request
//	rollout.ROLLOUT.REGION.phase|reason  words
//	rollout.ROLLOUT.REGION.weight        "25%"
type expectation struct {
	text    string
	path    []string
	op      string
	unit    unit
	number  float64 // durations in seconds
	literal string
}

type unit uint8

const (
	plainNumber unit = iota
	duration
	share
	word
)

// measured is the value of a measure.
type measured struct {
	unit   unit
	number float64
	text   string
}

func (m measured) String() string {
	switch m.unit {
	case duration:
		return time.Duration(m.number * float64(time.Second)).Round(100 * time.Microsecond).String()
	case share:
		return strconv.FormatFloat(100*m.number, 'f', 2, 64) + "%"
	case word:
		return m.text
	}
	return strconv.FormatFloat(m.number, 'f', -1, 64)
}

var (
	userNumbers  = []string{"due", "started", "skipped", "done", "ok", "failed", "aborted", "switched", "inflight"}
	userMaps     = []string{"failed", "status", "version", "share"}
	userTimes    = []string{"p50", "p95", "p99", "max"}
	userMeasures = slices.Concat(userNumbers, userMaps, userTimes)
)

func (s *Scenario) parseExpectation(text string) (*expectation, error) {
	words := strings.Fields(text)
	if len(words) != 3 {
		return nil, fmt.Errorf("%q; want a measure, an operator and a value, as in users.failed == 0", text)
	}
	e := &expectation{text: text, path: strings.Split(words[0], "."), op: words[1], literal: words[2]}
	if !slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, e.op) {
		return nil, fmt.Errorf("%q: operator %q; want ==, !=, <, <=, > or >=", text, e.op)
	}
	var err error
	if e.unit, err = s.unitOf(e.path); err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	switch e.unit {
	case plainNumber:
		e.number, err = strconv.ParseFloat(e.literal, 64)
	case duration:
		var d time.Duration
		d, err = time.ParseDuration(e.literal)
		e.number = d.Seconds()
	case share:
		digits, percent := strings.CutSuffix(e.literal, "%")
		if !percent {
			return nil, fmt.Errorf("%q: value %q; want a percentage", text, e.literal)
		}
		e.number, err = strconv.ParseFloat(digits, 64)
		e.number /= 100
	case word:
		if e.op != "==" && e.op != "!=" {
			return nil, fmt.Errorf("%q: words are only == or !=", text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%q: value: %w", text, err)
	}
	return e, nil
}

// unitOf checks that a measure exists.
func (s *Scenario) unitOf(path []string) (unit, error) {
	switch path[0] {
	case "users":
		rest := path[1:]
		if len(rest) > 0 {
			if _, group := s.Users[rest[0]]; group {
				rest = rest[1:]
			}
		}
		switch {
		case len(rest) == 1 && slices.Contains(userNumbers, rest[0]):
			return plainNumber, nil
		case len(rest) == 1 && slices.Contains(userTimes, rest[0]):
			return duration, nil
		case len(rest) == 2 && rest[0] == "share":
			return share, nil
		case len(rest) == 2 && slices.Contains(userMaps, rest[0]):
			return plainNumber, nil
		}
	case "service":
		if len(path) < 4 {
			break
		}
		if _, ok := s.Services[path[1]].Versions[path[2]]; !ok {
			return 0, fmt.Errorf("no version %q of service %q", path[2], path[1])
		}
		switch {
		case len(path) == 4 && slices.Contains([]string{"received", "good", "bad", "inflight", "health"}, path[3]):
			return plainNumber, nil
		case len(path) == 4 && slices.Contains([]string{"idle", "reaction", "outlived"}, path[3]):
			return duration, nil
		case len(path) == 5 && path[3] == "outcome":
			return plainNumber, nil
		}
	case "rollout":
		if len(path) != 4 {
			break
		}
		if s.Regions[path[2]] == nil {
			return 0, fmt.Errorf("no region %q", path[2])
		}
		switch path[3] {
		case "phase", "reason":
			return word, nil
		case "weight":
			return share, nil
		}
	}
	return 0, fmt.Errorf("no measure %s", strings.Join(path, "."))
}

// holds says whether a measured value is as expected. Percentages are compared to .01 %.
func (e *expectation) holds(m measured) bool {
	var order int
	switch e.unit {
	case word:
		order = cmp.Compare(m.text, e.literal)
	case share:
		order = cmp.Compare(int64(m.number*10_000+.5), int64(e.number*10_000+.5))
	default:
		order = cmp.Compare(m.number, e.number)
	}
	switch e.op {
	case "==":
		return order == 0
	case "!=":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// ofReport reads a measure, without "users" and the group, from a report.
func ofReport(path []string, r Report) measured {
	number := func(n uint64) measured { return measured{number: float64(n)} }
	if len(path) == 2 {
		switch path[0] {
		case "failed":
			return number(r.FailedMethods[path[1]])
		case "status":
			return number(r.Status[path[1]])
		case "version":
			return number(r.Version[path[1]])
		}
		return measured{unit: share, number: r.Share(path[1])}
	}
	switch path[0] {
	case "due":
		return number(r.Due)
	case "started":
		return number(r.Started)
	case "skipped":
		return number(r.Skipped)
	case "done":
		return number(r.Done)
	case "ok":
		return number(r.OK)
	case "failed":
		return number(r.Failed)
	case "aborted":
		return number(r.Aborted)
	case "switched":
		return number(uint64(r.Switched))
	case "inflight":
		return measured{number: float64(r.InFlight)}
	}
	q := map[string]float64{"p50": .5, "p95": .95, "p99": .99, "max": 1}[path[0]]
	return measured{unit: duration, number: r.Latency.Quantile(q).Seconds()}
}
