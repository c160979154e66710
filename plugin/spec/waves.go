package spec

import (
	"fmt"
	"slices"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// waves of a policy; without any, all regions go at once.
func (r *report) waves(declared []*aviaryv1.Wave) []Wave {
	if len(declared) == 0 {
		return []Wave{{Require: Whole}}
	}
	var out []Wave
	first, rest := map[string]int{}, -1
	for i, d := range declared {
		path := fmt.Sprintf("spec.waves[%d]", i)
		r.eachOnce(path, "waves", i, d.GetRegions(), first)
		if len(d.GetRegions()) == 0 && !r.wrong(path+".regions") {
			if rest >= 0 {
				r.fault(path, "expected one wave without regions at most, found also waves[%d]", rest)
			} else {
				rest = i
			}
		}
		out = append(out, Wave{
			Regions:  slices.Sorted(slices.Values(d.GetRegions())),
			Parallel: int(d.GetParallel()),
			Require:  r.share(path+".require", d.GetRequire(), least, Whole),
			Bake:     d.GetBake().AsDuration(),
		})
	}
	return out
}

// paces are the steps of the regions that have their own.
func (r *report) paces(declared []*aviaryv1.Pace) map[string][]Step {
	if len(declared) == 0 {
		return nil
	}
	out := map[string][]Step{}
	first := map[string]int{}
	for i, d := range declared {
		path := fmt.Sprintf("spec.paces[%d]", i)
		r.eachOnce(path, "paces", i, d.GetRegions(), first)
		steps := r.steps(path+".steps", d.GetSteps())
		for _, region := range d.GetRegions() {
			out[region] = steps
		}
	}
	return out
}

// eachOnce refuses a region that an earlier item of the list named.
func (r *report) eachOnce(path, list string, i int, regions []string, first map[string]int) {
	for j, region := range regions {
		if other, ok := first[region]; ok && region != "" {
			r.fault(fmt.Sprintf("%s.regions[%d]", path, j), "expected each region once, found %q of %s[%d]", clip(region), list, other)
		} else {
			first[region] = i
		}
	}
}
