package spec

import (
	"fmt"
	"slices"
)

// references checks what documents say of each other.
func (b *builder) references() {
	b.hostsDiffer()
	for _, p := range b.order {
		switch {
		case p.service != nil:
			b.placesExist(p)
			b.callsExist(p)
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
	if name != "" {
		b.fault(p, field, "no %s %q%s", noun, clip(name), instead(name, keys(there)))
	}
	return false
}

func (b *builder) placesExist(p *Parsed) {
	for i, v := range p.Document.GetService().GetVersions() {
		for j, placement := range v.GetRegions() {
			path := fmt.Sprintf("spec.versions[%d].regions[%d]", i, j)
			if !b.known(p, path+".region", "region", placement.GetRegion(), b.regions) {
				continue
			}
			region := b.regions[placement.GetRegion()]
			for k, e := range placement.GetEndpoints() {
				if e.GetZone() == "" || region.broken() || slices.Contains(region.region.Zones, e.GetZone()) {
					continue
				}
				b.fault(p, fmt.Sprintf("%s.endpoints[%d].zone", path, k), "no zone %q in region %s%s",
					clip(e.GetZone()), placement.GetRegion(), instead(e.GetZone(), region.region.Zones))
			}
		}
	}
}

func (b *builder) callsExist(p *Parsed) {
	for i, name := range p.service.Calls {
		b.known(p, fmt.Sprintf("spec.calls[%d]", i), "service", name, b.services)
	}
}

func (b *builder) hostsDiffer() {
	type claim struct {
		p     *Parsed
		field string
	}
	claims := map[string]claim{}
	for _, p := range b.order {
		if p.service == nil {
			continue
		}
		for i, host := range p.service.Hosts {
			field := fmt.Sprintf("spec.hosts[%d]", i)
			other, taken := claims[host]
			switch {
			case !taken:
				claims[host] = claim{p, field}
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

func (b *builder) rolloutStands(p *Parsed) {
	r := p.rollout
	b.known(p, "spec.policy", "policy", r.Policy, b.policies)
	regions := p.Document.GetRollout().GetRegions()
	unknown := map[string]bool{}
	for i, name := range regions {
		unknown[name] = !b.known(p, fmt.Sprintf("spec.regions[%d]", i), "region", name, b.regions)
	}
	if !b.known(p, "spec.service", "service", r.Service, b.services) || b.services[r.Service].broken() {
		return
	}
	service := b.services[r.Service].service
	version, stable := service.Version(r.Version), service.Version(service.Stable)
	if version == nil {
		var names []string
		for _, v := range service.Versions {
			names = append(names, v.Name)
		}
		if r.Version != "" {
			b.fault(p, "spec.version", "no version %q in service %s%s", clip(r.Version), r.Service, instead(r.Version, names))
		}
		return
	}
	if len(version.Placements) == 0 {
		b.fault(p, "spec.version", "expected a version that runs in some region, found %s, which runs in none", r.Version)
		return
	}
	for i, name := range regions {
		if field := fmt.Sprintf("spec.regions[%d]", i); !unknown[name] {
			b.bothRun(p, field, name, version, stable)
		}
	}
	if len(regions) == 0 {
		for _, placement := range version.Placements {
			b.bothRun(p, "spec.regions", placement.Region, version, stable)
		}
	}
}

// bothRun: a rollout needs the version and, to come back to, stable in each of its regions.
func (b *builder) bothRun(p *Parsed, field, region string, version, stable *Version) {
	for _, v := range []*Version{version, stable} {
		if v.In(region) == nil {
			b.fault(p, field, "expected a region where %s and stable %s run, found %s, where %s does not",
				version.Name, stable.Name, clip(region), v.Name)
			return
		}
	}
}

// rolloutsDiffer: two rollouts of one service in one region would fight for its weight.
func (b *builder) rolloutsDiffer() {
	first := map[[2]string]*Parsed{}
	for _, p := range b.order {
		if p.rollout == nil || p.broken() || b.services[p.rollout.Service] == nil {
			continue
		}
		declared := p.Document.GetRollout().GetRegions()
		for _, region := range b.regionsOf(p.rollout) {
			at := [2]string{p.rollout.Service, region}
			other, taken := first[at]
			if !taken {
				first[at] = p
				continue
			}
			field := "spec.service"
			if len(declared) > 0 {
				field = fmt.Sprintf("spec.regions[%d]", slices.Index(declared, region))
			}
			b.fault(p, field, "expected one rollout of %s in %s, found also %s", clip(at[0]), clip(region), other.where("metadata.name"))
		}
	}
}

// regionsOf are the regions of a rollout of a known service, with their default.
func (b *builder) regionsOf(r *Rollout) []string {
	if len(r.Regions) > 0 {
		return r.Regions
	}
	if v := b.services[r.Service].service.Version(r.Version); v != nil {
		return v.regions()
	}
	return nil
}
