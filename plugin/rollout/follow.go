package rollout

import (
	"fmt"
	"time"

	"github.com/aviary-mesh/aviary/plugin/spec"
)

// followStable takes the stable version from the documents where no promotion or rollback holds. A promotion whose version
// went from the documents does not come back with it: from then on they have the word.
func (t *turn) followStable(service *spec.Service, region string, r *Region) {
	if !r.StableSince.IsZero() {
		if v := serving(service, region, r.Stable); v != nil {
			r.Stable = Known{Version: v.Name, Digest: v.Digest}
			return
		}
		r.StableSince = time.Time{}
	}
	if want := declared(service); r.Stable != want {
		message := fmt.Sprintf("%v in place of %v", want, r.Stable)
		r.Stable = want
		t.event(region, *r, r.Phase, StableEdited, message)
	}
}

// followVersion takes the version from the documents. A new build is at zero and climbs anew; one that was halted
// before is halted still.
func (t *turn) followVersion(d documents, region string, r *Region) {
	want, was := Known{Version: d.version.Name, Digest: d.version.Digest}, Known{Version: r.Version, Digest: r.Digest}
	if want == was {
		return
	}
	r.Version, r.Digest = want.Version, want.Digest
	if want.Digest != was.Digest {
		r.Begun, r.Shadowed = false, false
	}
	message := fmt.Sprintf("%v in place of %v", want, was)
	switch {
	case r.halted(want.Digest) >= 0: // see stayHalted
	case r.Phase == Promoted && r.Stable.Version == want.Version:
		// A version has one set of endpoints: they serve everything already, there is nothing beside them to compare.
		t.event(region, *r, r.Phase, NewDigest, message+", edited under a promoted version")
	case want.Digest == was.Digest && (r.Phase == Pending || r.Phase == Aborted || r.Phase == RolledBack):
		t.event(region, *r, r.Phase, NewDigest, message)
	case r.Started && r.Phase == Paused:
		t.retreat(region, r, NewDigest, message)
	case r.Started && r.Phase != Pending:
		t.move(region, r, Retreated, 0, NewDigest, message)
	case r.Started:
		t.note(region, r, NewDigest, message)
	default:
		t.move(region, r, Pending, 0, NotStarted, message)
	}
}

// stayHalted lets a halt in force beat whatever the phase says: the build came back under this or another name, or the
// rollout was deleted and made again.
func (t *turn) stayHalted(region string, r *Region) {
	i := r.halted(r.Digest)
	if i < 0 {
		return
	}
	from, on := r.Phase, r.on()
	if r.halt(r.Halts[i]); r.Phase == from {
		return
	}
	if on {
		r.WeightAt = t.now
	}
	t.event(region, *r, from, r.Reason, r.Message)
}

// followSteps keeps a share that is on while the steps under it are edited: it stays or falls to the largest step that is
// not above it, at once, and never rises; when no step is that low it stays, below the first step, which is then the
// next one.
func (t *turn) followSteps(d documents, region string, r *Region) {
	steps := d.policy.StepsIn(region)
	if r.Weight == 0 || r.Step < len(steps) && steps[r.Step].Share == r.Weight {
		return
	}
	step, weight := 0, r.Weight
	for i, s := range steps {
		if s.Share <= r.Weight {
			step, weight = i, s.Share
		}
	}
	if step == r.Step && weight == r.Weight {
		return
	}
	r.Step = step
	t.move(region, r, r.Phase, weight, StepsEdited, fmt.Sprintf("step %d of %d now", step+1, len(steps)))
}
