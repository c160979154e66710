package spec

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Source is the content of one file of a batch.
type Source struct {
	// File is its name in errors.
	File    string
	Content []byte
}

// Load parses a batch of files and builds the set that would hold if the batch were applied over the stored documents.
// It returns the documents of the batch and that set, or Errors with all that is wrong: nothing of a bad batch is to be
// applied. References are checked only when every file could be told apart into documents.
func Load(stored []*aviaryv1.Document, files []Source) ([]*Parsed, *Set, error) {
	var batch []*Parsed
	var loose Errors
	for _, f := range files {
		docs, errs := parse(f.File, f.Content)
		batch, loose = append(batch, docs...), append(loose, errs...)
	}
	if len(loose) > 0 {
		for _, p := range batch {
			loose = append(loose, p.report.errs...)
		}
		return nil, nil, loose.sorted()
	}
	set, err := Build(stored, batch)
	if err != nil {
		return nil, nil, err
	}
	return batch, set, nil
}

// Build makes the set of the stored documents with those of the batch in place of their namesakes: defaults set, every
// document and every reference between them checked. The error is Errors.
func Build(stored []*aviaryv1.Document, batch []*Parsed) (*Set, error) {
	b := builder{
		regions: map[string]*Parsed{}, services: map[string]*Parsed{},
		policies: map[string]*Parsed{}, rollouts: map[string]*Parsed{},
	}
	first := map[string]*Parsed{}
	for _, p := range batch {
		key := Key(p.Document)
		if _, ok := first[key]; !ok {
			first[key] = p
		}
	}
	for _, doc := range stored {
		p := first[Key(doc)]
		if p == nil {
			b.add(fromStore(doc))
			continue
		}
		// What was promoted and judged under the name is about the service.
		if old, now := doc.GetRollout().GetService(), p.Document.GetRollout().GetService(); old != now {
			b.fault(p, "spec.service", "expected %q, as a rollout keeps its service, found %q; declare a rollout of another name", old, now)
		}
	}
	slices.SortFunc(b.order, func(p, q *Parsed) int { return cmp.Compare(Key(p.Document), Key(q.Document)) })
	for _, p := range batch {
		if other := first[Key(p.Document)]; other == p {
			b.add(p)
		} else {
			b.errs = append(b.errs, p.report.errs...)
			b.fault(p, "metadata.name", "declared twice, first at %s:%d", other.File, other.Line)
		}
	}
	b.references()
	if err := b.errs.sorted(); err != nil {
		return nil, err
	}
	return b.set(), nil
}

// fromStore checks a document that has no file.
func fromStore(doc *aviaryv1.Document) *Parsed {
	p := &Parsed{Document: doc, report: newReport("")}
	p.report.document = Key(doc)
	p.report.rules(doc)
	p.convert()
	return p
}

// convert makes the document's value.
func (p *Parsed) convert() {
	name := p.Document.GetMetadata().GetName()
	switch d := p.Document.GetSpec().(type) {
	case *aviaryv1.Document_Region:
		p.region = p.report.makeRegion(name, d.Region)
	case *aviaryv1.Document_Service:
		p.service = p.report.makeService(name, d.Service)
	case *aviaryv1.Document_Policy:
		p.policy = p.report.makePolicy(name, d.Policy)
	case *aviaryv1.Document_Rollout:
		p.rollout = &Rollout{
			Name: name, Service: d.Rollout.GetService(), Version: d.Rollout.GetVersion(), Policy: d.Rollout.GetPolicy(),
			Regions:   slices.Sorted(slices.Values(d.Rollout.GetRegions())),
			Fallbacks: slices.Clone(d.Rollout.GetFallbacks()),
		}
	}
}

// builder holds the documents of one Build by kind and name, broken ones too, and collects errors.
type builder struct {
	regions, services, policies, rollouts map[string]*Parsed
	// order is that of the checks: stored documents by kind and name, then the batch's as they came. Of two documents
	// that clash, the later one is blamed.
	order []*Parsed
	errs  Errors
}

func (b *builder) add(p *Parsed) {
	b.errs = append(b.errs, p.report.errs...)
	b.order = append(b.order, p)
	name := p.Document.GetMetadata().GetName()
	switch {
	case p.region != nil:
		b.regions[name] = p
	case p.service != nil:
		b.services[name] = p
	case p.policy != nil:
		b.policies[name] = p
	case p.rollout != nil:
		b.rollouts[name] = p
	}
}

func (b *builder) set() *Set {
	s := &Set{
		Regions: map[string]*Region{}, Services: map[string]*Service{},
		Policies: map[string]*Policy{}, Rollouts: map[string]*Rollout{},
		claims: map[claim]*Rollout{},
	}
	for name, p := range b.regions {
		s.Regions[name] = p.region
	}
	for name, p := range b.services {
		s.Services[name] = p.service
	}
	for name, p := range b.policies {
		s.Policies[name] = p.policy
	}
	for name, p := range b.rollouts {
		r := *p.rollout
		if len(r.Regions) == 0 {
			r.Regions = s.Services[r.Service].Version(r.Version).regions()
		}
		s.Rollouts[name] = &r
		for _, region := range r.Regions {
			s.claims[claim{r.Service, region}] = &r
		}
	}
	return s
}

// regions of the version's placements, sorted.
func (v *Version) regions() []string {
	var names []string
	for _, p := range v.Placements {
		names = append(names, p.Region)
	}
	return names
}

// fault adds an error at a field of p, unless p has one there already.
func (b *builder) fault(p *Parsed, field, format string, args ...any) {
	if !p.report.wrong(field) {
		b.errs = append(b.errs, p.report.err(p.report.at(field), field, fmt.Sprintf(format, args...)))
	}
}

// broken is whether the document has errors of its own, so that nothing can be said of what is in it.
func (p *Parsed) broken() bool { return len(p.report.errs) > 0 }

func keys[V any](m map[string]V) []string { return slices.Collect(maps.Keys(m)) }

// orDefault is *p, or unset when p is nil.
func orDefault[T any](p *T, unset T) T {
	if p == nil {
		return unset
	}
	return *p
}

// unlessNone is list, or unset when list is empty.
func unlessNone(list, unset []string) []string {
	if len(list) == 0 {
		return unset
	}
	return list
}
