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
//	users[.GROUP][.in.REGION].M          of the users behind the sidecars of a region, or of all. M is one of
//	  due|started|skipped|done|ok|failed|aborted|switched|inflight   numbers
//	  failed.METHOD|status.STATUS|version.VERSION                    numbers
//	  region.REGION                                                  number of answers from there
//	  share.VERSION                                                  part of the answers, "25%"
//	  reached.REGION                                                 part of all requests that was answered there
//	  p50|p95|p99|max                                                durations
//	service.SERVICE.VERSION[.REGION].M   in a region, or in all. M is one of
//	  received|good|bad|inflight|health  numbers
//	  outcome.OUTCOME                    number
//	  idle                               time since the last request
//	  reaction                           from the first failure since its behavior was set (or from then, when nothing
//	                                     failed) to the last request
//	  outlived                           from the last stop, kill or pause of the control plane, or cut or blackhole before
//	                                     it, to the last request
//	  shadow                             copies of requests received; they are in none of the measures above
//	  shadow.M                           the same measures of copies, as shadow.bad
//	  leaked                             copies that had a header with credentials, or a personal one
//	rollout.ROLLOUT.REGION.phase|reason  words
//	rollout.ROLLOUT.REGION.weight|shadow "25%"
type expectation struct {
	text string
	// of is users, service or rollout, group the users' group or the rollout; path what is then left of the measure.
	of, group string
	place     place
	copies    bool
	path      []string

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
	userMaps     = []string{"failed", "status", "version", "region", "share", "reached"}
	userTimes    = []string{"p50", "p95", "p99", "max"}
	userMeasures = slices.Concat(userNumbers, userMaps, userTimes)

	serviceNumbers  = []string{"received", "good", "bad", "inflight", "health"}
	serviceTimes    = []string{"idle", "reaction", "outlived"}
	serviceMeasures = slices.Concat(serviceNumbers, serviceTimes, []string{"outcome", "shadow", "leaked"})
)

func (s *Scenario) parseExpectation(text string) (*expectation, error) {
	words := strings.Fields(text)
	if len(words) != 3 {
		return nil, fmt.Errorf("%q; want a measure, an operator and a value, as in users.failed == 0", text)
	}
	e := &expectation{text: text, op: words[1], literal: words[2]}
	if !slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, e.op) {
		return nil, fmt.Errorf("%q: operator %q; want ==, !=, <, <=, > or >=", text, e.op)
	}
	err := s.find(e, strings.Split(words[0], "."))
	if err != nil {
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
		e.number, err = parsePercent(e.literal)
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

// find reads a measure, and checks that there is one.
func (s *Scenario) find(e *expectation, path []string) (err error) {
	e.of, e.path = path[0], path[1:]
	ok := false
	switch e.of {
	case "users":
		ok, err = s.findUsers(e)
	case "service":
		ok, err = s.findService(e)
	case "rollout":
		if len(e.path) != 3 {
			break
		}
		e.group, e.place.region, e.path = e.path[0], e.path[1], e.path[2:]
		if s.Regions[e.place.region] == nil {
			return fmt.Errorf("no region %q", e.place.region)
		}
		switch e.path[0] {
		case "phase", "reason":
			e.unit, ok = word, true
		case "weight", "shadow":
			e.unit, ok = share, true
		}
	}
	if err == nil && !ok {
		err = fmt.Errorf("no measure %s", strings.Join(path, "."))
	}
	return err
}

func (s *Scenario) findUsers(e *expectation) (ok bool, err error) {
	if len(e.path) > 0 {
		if _, group := s.Users[e.path[0]]; group {
			e.group, e.path = e.path[0], e.path[1:]
		}
	}
	if len(e.path) > 2 && e.path[0] == "in" {
		if e.place.region = e.path[1]; s.Regions[e.place.region] == nil {
			return false, fmt.Errorf("no region %q", e.place.region)
		}
		e.path = e.path[2:]
	}
	switch {
	case len(e.path) == 1 && slices.Contains(userTimes, e.path[0]):
		e.unit = duration
	case len(e.path) == 2 && (e.path[0] == "share" || e.path[0] == "reached"):
		e.unit = share
	case len(e.path) == 1 && slices.Contains(userNumbers, e.path[0]), len(e.path) == 2 && slices.Contains(userMaps, e.path[0]):
		e.unit = plainNumber
	default:
		return false, nil
	}
	return true, nil
}

func (s *Scenario) findService(e *expectation) (ok bool, err error) {
	if len(e.path) < 3 {
		return false, nil
	}
	e.place.service, e.place.version, e.path = e.path[0], e.path[1], e.path[2:]
	version, ok := s.Services[e.place.service].Versions[e.place.version]
	if !ok {
		return false, fmt.Errorf("no version %q of service %q", e.place.version, e.place.service)
	}
	if len(e.path) > 1 && s.Regions[e.path[0]] != nil {
		if e.place.region, e.path = e.path[0], e.path[1:]; !slices.Contains(s.regionsOf(version), e.place.region) {
			return false, fmt.Errorf("no version %q of service %q in region %q", e.place.version, e.place.service, e.place.region)
		}
	}
	switch e.path[0] {
	case "leaked":
		e.copies = true
		return len(e.path) == 1, nil
	case "shadow":
		if e.copies = true; len(e.path) == 1 {
			e.path = []string{"received"}
		} else {
			e.path = e.path[1:]
		}
	}
	switch {
	case len(e.path) == 1 && slices.Contains(serviceTimes, e.path[0]):
		e.unit = duration
		return true, nil
	case len(e.path) == 1 && slices.Contains(serviceNumbers, e.path[0]), len(e.path) == 2 && e.path[0] == "outcome":
		return true, nil
	}
	return false, nil
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
		case "region":
			return number(r.Region[path[1]])
		case "reached":
			return measured{unit: share, number: float64(r.Region[path[1]]) / float64(max(r.Done, 1))}
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
