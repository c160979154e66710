package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
)

// What the lab reads in the documents that it applies, and changes: names, and times.

// limits are the times that a policy declares, as they were applied.
type limits struct {
	Steps  []heldStep
	Paces  []paceOf
	Shadow *struct{ Hold string }
	// Rollback and Lease bound reactions.
	Rollback struct{ Within string }
	Lease    struct{ TTL string }
}

type heldStep struct{ Share, Hold string }

type paceOf struct {
	Regions []string
	Steps   []heldStep
}

// The defaults of the documents.
const (
	defaultWithin = 10 * time.Second
	defaultLease  = 10 * time.Second
)

// within is how soon a version must have been given up.
func (l limits) within() time.Duration { return timeOf(l.Rollback.Within, defaultWithin) }

// lease is how long a share lives that nobody renews.
func (l limits) lease() time.Duration { return timeOf(l.Lease.TTL, defaultLease) }

// hold is how long a share, of 10,000, is to be held in a region; 0 is not declared.
func (l limits) hold(region string, weight uint32) time.Duration {
	steps := l.Steps
	for _, p := range l.Paces {
		if slices.Contains(p.Regions, region) {
			steps = p.Steps
		}
	}
	for _, s := range steps {
		if part, err := parsePercent(s.Share); err == nil && uint32(part*10_000+.5) == weight {
			return timeOf(s.Hold, 0)
		}
	}
	return 0
}

func timeOf(text string, unset time.Duration) time.Duration {
	if d, err := parseTime(text); err == nil {
		return d
	}
	return unset
}

// parseTime reads a duration as documents have it: Go's, with days in front, "1d12h".
func parseTime(text string) (time.Duration, error) {
	days := time.Duration(0)
	if count, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(count, 10, 16)
		if err != nil {
			return 0, err
		}
		if days = time.Duration(n) * 24 * time.Hour; rest == "" {
			return days, nil
		}
		text = rest
	}
	d, err := time.ParseDuration(text)
	return days + d, err
}

// rolloutOf is what a rollout document names.
type rolloutOf struct{ Service, Version, Policy string }

// declared is what was declared so far.
type declared struct {
	rollouts map[string]rolloutOf
	policies map[string]limits
}

// read adds what documents declare. What is wrong with them the control plane says.
func (d *declared) read(documents []byte) {
	for decoder := yaml.NewDecoder(bytes.NewReader(documents)); ; {
		var doc struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     yaml.Node
		}
		if err := decoder.Decode(&doc); err != nil {
			return
		}
		switch doc.Kind {
		case "Rollout":
			var r rolloutOf
			_ = doc.Spec.Decode(&r)
			d.rollouts[doc.Metadata.Name] = r
		case "Policy":
			var l limits
			_ = doc.Spec.Decode(&l)
			d.policies[doc.Metadata.Name] = l
		}
	}
}

func newDeclared() declared {
	return declared{rollouts: map[string]rolloutOf{}, policies: map[string]limits{}}
}

// of returns the limits of a version of a service: those of the policy of its rollout, if it has one.
func (d *declared) of(service, version string) (l limits, ok bool) {
	for _, r := range d.rollouts {
		if r.Service == service && r.Version == version {
			return d.policies[r.Policy], true
		}
	}
	return limits{}, false
}

// UsePolicy puts a team's policy in place of the scenario's: the one of the same name, or, when each has one only, the one.
// The name stays the scenario's.
func (s *Scenario) UsePolicy(content []byte) error {
	theirs, err := policies(content)
	if err != nil {
		return fmt.Errorf("lab: policy: %w", err)
	}
	t, err := template.New("documents").Funcs(templateStub).Parse(s.Documents)
	if err != nil {
		return fmt.Errorf("lab: documents: %w", err)
	}
	var filled bytes.Buffer
	if err := t.Execute(&filled, nil); err != nil {
		return fmt.Errorf("lab: documents: %w", err)
	}
	ours, err := policies(filled.Bytes())
	if err != nil {
		return fmt.Errorf("lab: documents: %w", err)
	}
	found := map[string]*yaml.Node{}
	for name, spec := range theirs {
		if ours[name] != nil {
			found[name] = spec
		} else if len(theirs) == 1 && len(ours) == 1 {
			for only := range ours {
				found[only] = spec
			}
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("lab: policy: %d of them (%s), and scenario %s has %s; want one, or one of the same name",
			len(theirs), names(theirs), s.Name, names(ours))
	}
	s.policies = found
	return nil
}

func names(policies map[string]*yaml.Node) string {
	return strings.Join(slices.Sorted(maps.Keys(policies)), ", ")
}

// policies returns the specs of the policies in documents, by name.
func policies(content []byte) (map[string]*yaml.Node, error) {
	found := map[string]*yaml.Node{}
	all, err := nodes(content)
	for _, n := range all {
		if text(n, "kind") == "Policy" && child(n, "spec") != nil {
			found[text(child(n, "metadata"), "name")] = child(n, "spec")
		}
	}
	return found, err
}

// prepare is what is applied for documents: with other policies, and faster.
func (s *Scenario) prepare(documents []byte) ([]byte, error) {
	if len(s.policies) == 0 && (s.Speed == 0 || s.Speed == 1) {
		return documents, nil // with their lines as they are
	}
	all, err := nodes(documents)
	if err != nil {
		return nil, fmt.Errorf("lab: documents: %w", err)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	for _, n := range all {
		if text(n, "kind") == "Policy" {
			if other := s.policies[text(child(n, "metadata"), "name")]; other != nil {
				replace(n, "spec", clone(other))
			}
			if s.Speed > 0 {
				hasten(child(n, "spec"), s.Speed)
			}
		}
		if err := encoder.Encode(n); err != nil {
			return nil, fmt.Errorf("lab: documents: %w", err)
		}
	}
	return out.Bytes(), encoder.Close()
}

// hasten divides the times of a policy that are a matter of patience.
func hasten(spec *yaml.Node, speed float64) {
	divide := func(of *yaml.Node, key string) {
		n := child(of, key)
		if n == nil || n.Kind != yaml.ScalarNode {
			return
		}
		if d, err := parseTime(n.Value); err == nil && d > 0 {
			faster := max(time.Duration(float64(d)/speed).Round(time.Millisecond), time.Millisecond)
			replace(of, key, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: faster.String()})
		}
	}
	for _, step := range items(child(spec, "steps")) {
		divide(step, "hold")
	}
	for _, pace := range items(child(spec, "paces")) {
		for _, step := range items(child(pace, "steps")) {
			divide(step, "hold")
		}
	}
	for _, wave := range items(child(spec, "waves")) {
		divide(wave, "bake")
	}
	divide(child(spec, "shadow"), "hold")
}

// nodes reads every document; each is a mapping.
func nodes(content []byte) ([]*yaml.Node, error) {
	var all []*yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		n := new(yaml.Node)
		if err := decoder.Decode(n); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, n.Content[0])
	}
}

// child returns a value of a mapping, nil when there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func replace(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
		}
	}
}

func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = nil
	for _, in := range n.Content {
		c.Content = append(c.Content, clone(in))
	}
	return &c
}

func text(n *yaml.Node, key string) string {
	if v := child(n, key); v != nil {
		return v.Value
	}
	return ""
}

// items returns the values of a sequence.
func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}
