package spec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// Defaults of a Policy.
const (
	defaultWindow         = 30 * day
	defaultMinTries       = 1
	defaultAlpha          = 0.001
	defaultToleratedRatio = 1
	defaultLatencyFactor  = 1.25
	defaultBudgetShare    = 0.1
	defaultHoldAfter      = 5 * time.Second
	defaultRetreatAfter   = 30 * time.Second
	defaultLeaseTTL       = 10 * time.Second
	defaultRollback       = 10 * time.Second
	defaultMinEndpoints   = Whole / 2
	// defaultDifference is the part of 1 - Target that is tolerated between the arms.
	defaultDifference = 0.1
)

var (
	// grpcStatuses by their number.
	grpcStatuses = []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	// responseFlags are those that Envoy 1.40 prints.
	responseFlags = []string{
		"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
		"DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
	}

	defaultHTTPErrors = []string{"5xx"}
	defaultGRPCErrors = []string{
		"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	}
	defaultErrorFlags = []string{"UF", "UO", "UR", "UC", "UT", "UPE", "UH", "URX", "LR", "SI", "UMSDR"}
)

// makePolicy sets the defaults of a policy and checks what its fields mean together.
func (r *report) makePolicy(name string, d *aviaryv1.PolicySpec) *Policy {
	p := &Policy{
		Name:         name,
		Window:       seconds(d.GetAvailability().GetWindow(), defaultWindow),
		Errors:       r.errorClasses(d.GetErrors()),
		Steps:        r.steps("spec.steps", d.GetSteps()),
		BudgetShare:  defaultBudgetShare,
		HoldAfter:    seconds(d.GetNoData().GetHoldAfter(), defaultHoldAfter),
		RetreatAfter: seconds(d.GetNoData().GetRetreatAfter(), defaultRetreatAfter),
		LeaseTTL:     seconds(d.GetLease().GetTtl(), defaultLeaseTTL),

		Shadow: r.shadow(d.GetShadow()),
		Waves:  r.waves(d.GetWaves()),
		Paces:  r.paces(d.GetPaces()),
		OnHalt: cmp.Or(OnHalt(d.GetOnHalt()), HaltHolds),

		RollbackWithin: seconds(d.GetRollback().GetWithin(), defaultRollback),
		MinEndpoints:   r.share("spec.minAvailability.endpoints", d.GetMinAvailability().GetEndpoints(), 0, defaultMinEndpoints),
		MinRegions:     int(d.GetMinAvailability().GetRegions()),
	}
	p.Target = r.percent("spec.availability.target", d.GetAvailability().GetTarget(), "above 0% and below 100%",
		func(x float64) bool { return x > 0 && x < 1 })
	if text := d.GetBudgetShare(); text != "" {
		p.BudgetShare = r.percent("spec.budgetShare", text, "above 0% and at most 100%",
			func(x float64) bool { return x > 0 && x <= 1 })
	}
	p.Analysis = r.analysis(p.Target, d.GetAnalysis())
	if p.HoldAfter >= p.RetreatAfter {
		r.noDataOrder(p, d.GetNoData())
	}
	return p
}

func (r *report) analysis(target float64, d *aviaryv1.Analysis) Analysis {
	if d == nil {
		d = &aviaryv1.Analysis{}
	}
	a := Analysis{
		Alpha:               orDefault(d.Alpha, defaultAlpha),
		ToleratedRatio:      orDefault(d.ToleratedRatio, defaultToleratedRatio),
		ToleratedDifference: (1 - target) * defaultDifference,
		LatencyFactor:       orDefault(d.LatencyFactor, defaultLatencyFactor),
	}
	if text := d.GetToleratedDifference(); text != "" {
		a.ToleratedDifference = r.percent("spec.analysis.toleratedDifference", text, "below 100%",
			func(x float64) bool { return x < 1 })
	}
	return a
}

// noDataOrder says that the canary would go to zero before its clock stops, at the field that was written.
func (r *report) noDataOrder(p *Policy, d *aviaryv1.NoData) {
	switch {
	case d.GetHoldAfter() == nil:
		r.fault("spec.noData.retreatAfter", "expected more than holdAfter, which is %s (its default), found %s",
			formatDuration(p.HoldAfter), formatDuration(p.RetreatAfter))
	case d.GetRetreatAfter() == nil:
		r.fault("spec.noData.holdAfter", "expected less than retreatAfter, which is %s (its default), found %s",
			formatDuration(p.RetreatAfter), formatDuration(p.HoldAfter))
	case !r.wrong("spec.noData.retreatAfter"):
		r.fault("spec.noData.holdAfter", "expected less than retreatAfter, which is %s, found %s",
			formatDuration(p.RetreatAfter), formatDuration(p.HoldAfter))
	}
}

// percent reads a percentage that ok must accept.
func (r *report) percent(field, text, rangeWords string, ok func(float64) bool) float64 {
	x, err := parsePercent(text)
	if err != nil {
		r.fault(field, "expected a percentage, found %s", quote(text))
	} else if !ok(x) {
		r.fault(field, "expected a percentage %s, found %s", rangeWords, quote(text))
	}
	return x
}

// least is the smallest share there is.
const least Share = 1

// share reads a share from low to 100%, or is unset when there is no text.
func (r *report) share(field, text string, low, unset Share) Share {
	if text == "" {
		return unset
	}
	share, err := ParseShare(text)
	switch {
	case errors.Is(err, errTooFine):
		r.fault(field, "expected a share in steps of 0.01%%, found %s", quote(text))
	case err != nil || share < low:
		r.fault(field, "expected a share from %q to \"100%%\", found %s", low, quote(text))
	}
	return share
}

func (r *report) shadow(d *aviaryv1.Shadow) *Shadow {
	if d == nil {
		return nil
	}
	return &Shadow{
		Share:    r.share("spec.shadow.share", d.GetShare(), least, 0),
		Hold:     d.GetHold().AsDuration(),
		MinTries: uint64(orDefault(d.MinTries, defaultMinTries)),
	}
}

func (r *report) steps(list string, declared []*aviaryv1.Step) []Step {
	var out []Step
	var highest Share
	for i, d := range declared {
		field := fmt.Sprintf("%s[%d].share", list, i)
		share := r.share(field, d.GetShare(), least, 0)
		if share <= highest {
			r.fault(field, "expected more than %s, the share of a step before, found %s", highest, share)
		}
		highest = max(highest, share)
		out = append(out, Step{
			Share: share, Hold: d.GetHold().AsDuration(), MinTries: uint64(orDefault(d.MinTries, defaultMinTries)),
		})
	}
	return out
}

func (r *report) errorClasses(d *aviaryv1.ErrorClasses) ErrorClasses {
	var out ErrorClasses
	for _, text := range unlessNone(d.GetHttp(), defaultHTTPErrors) {
		// The rule beside the field has refused everything but "503" and "5xx".
		code, _ := strconv.Atoi(strings.TrimSuffix(text, "xx"))
		out.HTTP = append(out.HTTP, code)
	}
	for i, name := range unlessNone(d.GetGrpc(), defaultGRPCErrors) {
		code := slices.Index(grpcStatuses, name)
		if code <= 0 {
			r.fault(fmt.Sprintf("spec.errors.grpc[%d]", i), "expected a gRPC status that is an error, found %s%s",
				quote(name), instead(name, grpcStatuses[1:]))
		}
		out.GRPC = append(out.GRPC, code)
	}
	for i, flag := range unlessNone(d.GetFlags(), defaultErrorFlags) {
		if !slices.Contains(responseFlags, flag) {
			r.fault(fmt.Sprintf("spec.errors.flags[%d]", i), "expected one of %s, found %s",
				strings.Join(responseFlags, ", "), quote(flag))
		}
		out.Flags = append(out.Flags, flag)
	}
	slices.Sort(out.HTTP)
	slices.Sort(out.GRPC)
	slices.Sort(out.Flags)
	return out
}
