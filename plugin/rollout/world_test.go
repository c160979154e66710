package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// world holds the documents of a test in a form that is easy to edit.
type world struct {
	stable   string
	timeout  time.Duration
	versions map[string]build
	policy   spec.Policy
	rollouts map[string]spec.Rollout
}

// build is a version: its digest, and by region its capacity; a negative one is a placement without endpoints.
type build struct {
	digest   string
	capacity map[string]float64
}

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld() *world {
	w := &world{stable: "v1", versions: map[string]build{}, rollouts: map[string]spec.Rollout{}, policy: spec.Policy{
		Name: "careful", HoldAfter: 5 * time.Second, RetreatAfter: 30 * time.Second, LeaseTTL: time.Minute,
	}}
	w.policy.Steps, _ = parseSteps("1%:10s:50,10%:10s:50,50%:10s:50")
	return w
}

func (w *world) set() *spec.Set {
	s := &spec.Service{Name: "checkout", Stable: w.stable, Timeout: w.timeout}
	for _, name := range slices.Sorted(maps.Keys(w.versions)) {
		b := w.versions[name]
		v := spec.Version{Name: name, Digest: b.digest}
		for _, region := range slices.Sorted(maps.Keys(b.capacity)) {
			p := spec.Placement{Region: region, Capacity: b.capacity[region]}
			if p.Capacity >= 0 {
				p.Endpoints = []spec.Endpoint{{Zone: "a", Host: "10.0.0.1", Port: 80}}
			}
			v.Placements = append(v.Placements, p)
		}
		s.Versions = append(s.Versions, v)
	}
	policy := w.policy
	policy.Steps = slices.Clone(policy.Steps)
	set := &spec.Set{
		Services: map[string]*spec.Service{"checkout": s}, Policies: map[string]*spec.Policy{"careful": &policy},
		Rollouts: map[string]*spec.Rollout{},
	}
	for name, r := range w.rollouts {
		set.Rollouts[name] = &r
	}
	return set
}

// edit changes one document: "version v2 digest=d2 eu=1000 us=none".
func (w *world) edit(words []string, rollout string) error {
	kind, rest := words[0], words[1:]
	name := rollout
	if kind == "version" || kind == "undeclare" {
		name, rest = rest[0], rest[1:]
	}
	switch kind {
	case "undeclare":
		delete(w.versions, name)
		return nil
	case "delete":
		delete(w.rollouts, rollout)
		return nil
	}
	b := build{digest: w.versions[name].digest, capacity: maps.Clone(w.versions[name].capacity)}
	if b.capacity == nil {
		b.capacity = map[string]float64{}
	}
	r, known := w.rollouts[rollout]
	if !known {
		r = spec.Rollout{Name: rollout, Service: "checkout", Policy: "careful", Version: "v2", Regions: []string{"eu"}}
	}
	for _, word := range rest {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch kind + " " + key {
		case "service stable":
			w.stable = value
		case "service timeout":
			w.timeout, err = time.ParseDuration(value)
		case "policy steps":
			w.policy.Steps, err = parseSteps(value)
		case "policy hold":
			w.policy.HoldAfter, err = time.ParseDuration(value)
		case "policy retreat":
			w.policy.RetreatAfter, err = time.ParseDuration(value)
		case "policy lease":
			w.policy.LeaseTTL, err = time.ParseDuration(value)
		case "policy shadow": // 10%:5s:20, or none
			w.policy.Shadow = nil
			if value != "none" {
				var stage []spec.Step
				if stage, err = parseSteps(value); err == nil {
					w.policy.Shadow = &spec.Shadow{Share: stage[0].Share, Hold: stage[0].Hold, MinTries: stage[0].MinTries}
				}
			}
		case "policy waves": // eu|us,ap:bake=10s:require=50%:parallel=1|rest
			w.policy.Waves, err = parseWaves(value)
		case "policy onHalt":
			w.policy.OnHalt = map[string]spec.OnHalt{"continue": spec.HaltContinues, "hold": spec.HaltHolds, "stop": spec.HaltStops}[value]
		case "policy pace": // us:steps
			region, text, _ := strings.Cut(value, ":")
			w.policy.Paces = map[string][]spec.Step{}
			w.policy.Paces[region], err = parseSteps(text)
		case "policy minRegions":
			w.policy.MinRegions, err = strconv.Atoi(value)
		case "policy minEndpoints":
			w.policy.MinEndpoints, err = spec.ParseShare(value)
		case "rollout fallbacks":
			r.Fallbacks = strings.Split(value, ",")
		case "rollout version":
			r.Version = value
		case "rollout service":
			r.Service = value
		case "rollout regions":
			r.Regions = strings.Split(value, ",")
		case "version digest":
			b.digest = value
		default:
			if kind != "version" {
				return fmt.Errorf("what is %q?", kind+" "+key)
			}
			switch value {
			case "none":
				b.capacity[key] = -1
			case "gone":
				delete(b.capacity, key)
			default:
				b.capacity[key], err = strconv.ParseFloat(value, 64)
			}
		}
		if err != nil {
			return err
		}
	}
	switch kind {
	case "version":
		w.versions[name] = b
	case "rollout":
		w.rollouts[rollout] = r
	}
	return nil
}

// parseWaves reads "eu|us,ap:bake=10s:require=50%:parallel=1|rest".
func parseWaves(text string) ([]spec.Wave, error) {
	var waves []spec.Wave
	for one := range strings.SplitSeq(text, "|") {
		parts := strings.Split(one, ":")
		w := spec.Wave{Require: spec.Whole}
		if parts[0] != "rest" {
			w.Regions = slices.Sorted(strings.SplitSeq(parts[0], ","))
		}
		for _, part := range parts[1:] {
			key, value, _ := strings.Cut(part, "=")
			var err error
			switch key {
			case "bake":
				w.Bake, err = time.ParseDuration(value)
			case "require":
				w.Require, err = spec.ParseShare(value)
			case "parallel":
				w.Parallel, err = strconv.Atoi(value)
			default:
				err = fmt.Errorf("what is %q?", part)
			}
			if err != nil {
				return nil, err
			}
		}
		waves = append(waves, w)
	}
	return waves, nil
}

// parseSteps reads "1%:10s:50,10%:10s:50".
func parseSteps(text string) ([]spec.Step, error) {
	var steps []spec.Step
	for one := range strings.SplitSeq(text, ",") {
		parts := append(strings.Split(one, ":"), "10s", "50")
		share, err := strconv.ParseFloat(strings.TrimSuffix(parts[0], "%"), 64)
		if err != nil {
			return nil, err
		}
		hold, err := time.ParseDuration(parts[1])
		if err != nil {
			return nil, err
		}
		tries, err := strconv.ParseUint(parts[2], 10, 64)
		if err != nil {
			return nil, err
		}
		steps = append(steps, spec.Step{Share: spec.Share(share*100 + .5), Hold: hold, MinTries: tries})
	}
	return steps, nil
}
