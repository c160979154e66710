package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// rollback takes a region away from the version: to the last known-good one where it is promoted, to zero where it is a
// canary. Asked by name of a region that was rolled back, it goes on to the next fallback; asked of all, it leaves that region
// where it is, as somebody wanted it there.
func (t *turn) rollback(d documents, name string, r *Region, why string, named bool) error {
	switch r.Phase {
	case Pending:
		return elsewhere(r)
	case Promoted:
		if r.Stable.Version != r.Version {
			return &refusal{text: r.Stable.String() + " was promoted after " + r.Version + "; roll back the rollout that did it"}
		}
		if r.Previous == (Known{}) {
			return &refusal{text: "no version before " + r.Version + " is known here"}
		}
		to, err := target(d, name, r, append([]Known{r.Previous}, fallbacks(d, r)...))
		if err != nil {
			return err
		}
		r.leaveStable(to, t.now)
	case RolledBack:
		if !named || len(d.rollout.Fallbacks) == 0 {
			return nil
		}
		to, err := target(d, name, r, fallbacks(d, r))
		if err != nil {
			return err
		}
		r.leaveStable(to, t.now)
		went := fmt.Sprintf("%v in place of %v", r.Stable, r.Previous)
		why = strings.TrimSuffix(went+": "+why, ": ")
	}
	t.move(name, r, RolledBack, 0, RolledBackByHand, why)
	return nil
}

// fallbacks are those of the rollout that come after what serves now.
func fallbacks(d documents, r *Region) []Known {
	names := d.rollout.Fallbacks
	names = names[slices.Index(names, r.Stable.Version)+1:]
	var known []Known
	for _, name := range names {
		if v := d.service.Version(name); v != nil {
			known = append(known, Known{Version: v.Name, Digest: v.Digest})
		}
	}
	return known
}

// target is the first of the versions that can serve the region.
func target(d documents, name string, r *Region, candidates []Known) (Known, error) {
	var unfit []string
	for _, k := range candidates {
		v := d.service.Version(k.Version)
		switch {
		case k.Version == r.Version || k.Version == r.Stable.Version:
			continue
		case v == nil:
			unfit = append(unfit, k.String()+" is not declared any more; declare it again")
		case v.Digest != k.Digest:
			unfit = append(unfit, fmt.Sprintf("%v is %s now; declare the old build again", k, v.Digest))
		case !placed(v, name):
			unfit = append(unfit, k.String()+" has no endpoint here; declare its endpoints again")
		case r.halted(k.Digest) >= 0:
			unfit = append(unfit, k.String()+" was halted here itself")
		default:
			return k, nil
		}
	}
	if len(unfit) == 0 {
		return Known{}, &refusal{text: "there is no fallback after " + r.Stable.String()}
	}
	return Known{}, &refusal{text: "there is no version to go back to: " + strings.Join(unfit, "; ")}
}
