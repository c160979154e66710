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
