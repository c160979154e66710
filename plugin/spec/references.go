package spec

import "fmt"

// references checks what documents say of each other.
func (b *builder) references() {
	b.hostsDiffer()
	for _, p := range b.order {
		switch {
		case p.region != nil:
			b.allKnown(p, "spec.failover", "region", p.Document.GetRegion().GetFailover(), b.regions)
		case p.service != nil:
			b.placesExist(p)
			b.allKnown(p, "spec.calls", "service", p.Document.GetService().GetCalls(), b.services)
			b.residencyIsSomewhere(p)
		case p.policy != nil:
			b.policyRegionsExist(p)
		case p.rollout != nil:
			b.rolloutStands(p)
		}
	}
	b.rolloutsDiffer()
}

// known reports a reference to a document that is not there.
func (b *builder) known(p *Parsed, field, noun, name string, there map[string]*Parsed) bool {
	if _, ok := there[name]; ok {
		return true
	}
	b.fault(p, field, "no %s %q%s", noun, clip(name), instead(name, keys(there)))
	return false
}

// allKnown reports each item of a list that names a document that is not there.
func (b *builder) allKnown(p *Parsed, list, noun string, names []string, there map[string]*Parsed) {
	for i, name := range names {
		b.known(p, fmt.Sprintf("%s[%d]", list, i), noun, name, there)
	}
}

func (b *builder) policyRegionsExist(p *Parsed) {
	for i, w := range p.Document.GetPolicy().GetWaves() {
		b.allKnown(p, fmt.Sprintf("spec.waves[%d].regions", i), "region", w.GetRegions(), b.regions)
	}
	for i, pace := range p.Document.GetPolicy().GetPaces() {
		b.allKnown(p, fmt.Sprintf("spec.paces[%d].regions", i), "region", pace.GetRegions(), b.regions)
	}
}

func (b *builder) hostsDiffer() {
	type holder struct {
		p     *Parsed
		field string
	}
	holders := map[string]holder{}
	for _, p := range b.order {
		if p.service == nil {
			continue
		}
		for i, host := range p.service.Hosts {
			field := fmt.Sprintf("spec.hosts[%d]", i)
			other, taken := holders[host]
			switch {
			case !taken:
				holders[host] = holder{p, field}
			case other.p != p:
				b.fault(p, field, "expected a host of its own, found %q, which is a host of %s", clip(host), other.p.where(other.field))
			}
		}
	}
}

// where names a field of a document for the errors of another one.
func (p *Parsed) where(field string) string {
	if p.File == "" {
		return p.report.document + " (stored)"
	}
	return fmt.Sprintf("%s at %s:%d", p.report.document, p.File, p.report.at(field).line)
}
