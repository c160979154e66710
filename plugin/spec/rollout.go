package spec

import (
	"fmt"
	"slices"
	"strings"
)

func (b *builder) rolloutStands(p *Parsed) {
	r := p.rollout
	if b.known(p, "spec.policy", "policy", r.Policy, b.policies) && !b.policies[r.Policy].broken() {
		b.policyServes(p, b.policies[r.Policy].policy)
	}
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
		if r.Version != "" {
			b.fault(p, "spec.version", "no version %q in service %s%s", clip(r.Version), r.Service, instead(r.Version, service.names()))
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
	b.fallbacksRun(p, service)
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

// fallbacksRun: a rollback goes on to a fallback in any region of the rollout.
func (b *builder) fallbacksRun(p *Parsed, service *Service) {
	r := p.rollout
	for i, name := range r.Fallbacks {
		field := fmt.Sprintf("spec.fallbacks[%d]", i)
		v := service.Version(name)
		switch {
		case v == nil:
			b.fault(p, field, "no version %q in service %s%s", clip(name), r.Service, instead(name, service.names()))
			continue
		case name == r.Version:
			b.fault(p, field, "expected a version to fall back to from %s, found the same", name)
			continue
		}
		for _, region := range b.regionsOf(p) {
			if v.In(region) == nil {
				b.fault(p, field, "expected a version that runs in each region of the rollout, found %s, which does not run in %s", name, clip(region))
				break
			}
		}
	}
}

func (s *Service) names() []string {
	var names []string
	for _, v := range s.Versions {
		names = append(names, v.Name)
	}
	return names
}

// policyServes: a rollout could never go on in a region without a wave, nor anywhere when a region too many has to have
// one version alone, or when a shadow waits for copies of a service that has none.
func (b *builder) policyServes(p *Parsed, policy *Policy) {
	regions := b.regionsOf(p)
	var without []string
	for _, region := range regions {
		if policy.WaveOf(region) < 0 && b.regions[region] != nil {
			without = append(without, region)
		}
	}
	if len(without) > 0 {
		b.fault(p, "spec.policy", "expected a policy with a wave for each region of the rollout, found %s, which has none for %s; name it in a wave, or add a wave that leaves regions out",
			policy.Name, strings.Join(without, ", "))
	}
	if n := len(regions); n > 0 && policy.MinRegions >= n {
		b.fault(p, "spec.policy", "expected a policy whose minAvailability.regions is less than the regions of the rollout, which are %d, found %s, where it is %d",
			n, policy.Name, policy.MinRegions)
	}
	if s := b.services[p.rollout.Service]; policy.Shadow != nil && s != nil && !s.broken() && len(s.service.Mirror.Methods) == 0 {
		b.fault(p, "spec.policy", "expected a policy without a shadow, as service %s has no mirror.methods that may be copied, found %s, which has one; name methods in mirror.methods of the service",
			p.rollout.Service, policy.Name)
	}
}

// rolloutsDiffer: two rollouts of one service in one region would fight for its weight.
func (b *builder) rolloutsDiffer() {
	first := map[claim]*Parsed{}
	for _, p := range b.order {
		if p.rollout == nil || p.broken() || b.services[p.rollout.Service] == nil {
			continue
		}
		declared := p.Document.GetRollout().GetRegions()
		for _, region := range b.regionsOf(p) {
			at := claim{p.rollout.Service, region}
			other, taken := first[at]
			if !taken {
				first[at] = p
				continue
			}
			field := "spec.service"
			if len(declared) > 0 {
				field = fmt.Sprintf("spec.regions[%d]", slices.Index(declared, region))
			}
			b.fault(p, field, "expected one rollout of %s in %s, found also %s", clip(at.service), clip(region), other.where("metadata.name"))
		}
	}
}

// regionsOf are the regions of a rollout with their default; none when they cannot be told.
func (b *builder) regionsOf(p *Parsed) []string {
	r, service := p.rollout, b.services[p.rollout.Service]
	switch {
	case p.report.wrong("spec.regions"):
	case len(r.Regions) > 0:
		return r.Regions
	case service != nil && !service.broken():
		if v := service.service.Version(r.Version); v != nil {
			return v.regions()
		}
	}
	return nil
}
