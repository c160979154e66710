package signal

import (
	"cmp"
	"slices"
)

// Compare orders classes by status, gRPC status and flags.
func (c Class) Compare(o Class) int {
	return cmp.Or(cmp.Compare(c.Status, o.Status), cmp.Compare(c.GRPC, o.GRPC), cmp.Compare(c.Flags, o.Flags))
}

// Merge sums the flushes of several proxies (of one region, in one tick) by service and version, whatever their order.
// Counts and InProgress are added. Endpoints, Healthy and Ejected are those of the one proxy that sees the fewest healthy
// endpoints, as a sum over proxies would count each endpoint many times; a proxy that reports no endpoints has no say.
// The arms are sorted as in a Flush and share no memory with it that anyone writes to.
func Merge(flushes []Flush) []Arm {
	n := 0
	for _, f := range flushes {
		n += len(f.Arms)
	}
	all := make([]Arm, 0, n)
	for _, f := range flushes {
		all = append(all, f.Arms...)
	}
	slices.SortStableFunc(all, compareArms)
	merged := all[:0]
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && compareArms(all[i], all[j]) == 0 {
			j++
		}
		merged = append(merged, sum(all[i:j]))
		i = j
	}
	return merged
}

func compareArms(a, b Arm) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
}

// sum adds arms of one service and version.
func sum(arms []Arm) Arm {
	s := Arm{Service: arms[0].Service, Version: arms[0].Version}
	var outcomes []Outcome
	for _, a := range arms {
		outcomes = append(outcomes, a.Outcomes...)
		s.InProgress += a.InProgress
		s.Overflows += a.Overflows
		s.ConnectFailures += a.ConnectFailures
		s.Ejections += a.Ejections
		if a.Endpoints > 0 && (s.Endpoints == 0 || worse(a, s)) {
			s.Endpoints, s.Healthy, s.Ejected = a.Endpoints, a.Healthy, a.Ejected
		}
	}
	slices.SortStableFunc(outcomes, func(a, b Outcome) int { return a.Class.Compare(b.Class) })
	for _, o := range outcomes {
		if last := len(s.Outcomes) - 1; last >= 0 && s.Outcomes[last].Class == o.Class {
			s.Outcomes[last].Tries += o.Tries
			s.Outcomes[last].Latency = s.Outcomes[last].Latency.Merge(o.Latency)
			continue
		}
		s.Outcomes = append(s.Outcomes, o)
	}
	return s
}

// worse is a total order on how badly a proxy sees the endpoints.
func worse(a, b Arm) bool {
	return cmp.Or(cmp.Compare(a.Healthy, b.Healthy), cmp.Compare(b.Ejected, a.Ejected), cmp.Compare(a.Endpoints, b.Endpoints)) < 0
}
