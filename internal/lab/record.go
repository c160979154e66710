package lab

import (
	"maps"
	"slices"
	"time"
)

// Record is a result as programs read it. Times are in seconds.
type Record struct {
	Scenario     string              `json:"scenario"`
	OK           bool                `json:"ok"`
	Seconds      float64             `json:"seconds"`
	Requests     uint64              `json:"requests"`
	Failed       uint64              `json:"failed"`
	Users        []RecordUsers       `json:"users"`
	Falls        []RecordFall        `json:"falls"`
	Holds        []RecordHold        `json:"holds"`
	Services     []RecordService     `json:"services"`
	Expectations []RecordExpectation `json:"expectations"`
}

// RecordUsers is what the users behind the sidecars of a region were answered by one version; "" is no answer.
type RecordUsers struct {
	Region   string  `json:"region"`
	Version  string  `json:"version"`
	Requests uint64  `json:"requests"`
	Failed   uint64  `json:"failed"`
	Share    float64 `json:"share"`
}

// RecordFall is a version's way to zero in a region, by a decision or by its lease, from its cause on.
type RecordFall struct {
	Region  string  `json:"region"`
	Service string  `json:"service"`
	Version string  `json:"version"`
	Cause   string  `json:"cause"`
	Reason  string  `json:"reason"`
	At      float64 `json:"at,omitempty"`
	Decided float64 `json:"decided"`
	LastTry float64 `json:"lastTry"`
	// Ended is false when the version still got requests at the end.
	Ended  bool    `json:"ended"`
	Limit  float64 `json:"limit"`
	Broken bool    `json:"broken"`
}

// RecordHold is a share of a version in a region.
type RecordHold struct {
	Region   string  `json:"region"`
	Version  string  `json:"version"`
	Share    float64 `json:"share"`
	Shadow   float64 `json:"shadow,omitempty"`
	Held     float64 `json:"held"`
	Declared float64 `json:"declared,omitempty"`
	Next     string  `json:"next,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Broken   bool    `json:"broken"`
}

// RecordService is what a version's instances in a region received.
type RecordService struct {
	Region   string `json:"region"`
	Service  string `json:"service"`
	Version  string `json:"version"`
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"`
	Copies   uint64 `json:"copies"`
	Leaked   uint64 `json:"leaked"`
}

// RecordExpectation is what the scenario expects, with what was measured.
type RecordExpectation struct {
	Line     int    `json:"line"`
	Text     string `json:"text"`
	OK       bool   `json:"ok"`
	Measured string `json:"measured"`
}

// Record returns the result as programs read it.
func (r Result) Record() Record {
	out := Record{
		Scenario: r.Scenario, OK: r.OK(), Seconds: seconds(r.Took), Requests: r.Users.Done, Failed: r.Users.Failed,
		Users: []RecordUsers{}, Falls: []RecordFall{}, Holds: []RecordHold{}, Services: []RecordService{}, Expectations: []RecordExpectation{},
	}
	for _, region := range slices.Sorted(maps.Keys(r.Regions)) {
		u := r.Regions[region]
		for _, v := range slices.Sorted(maps.Keys(u.Version)) {
			row := RecordUsers{Region: region, Version: v, Requests: u.Version[v], Failed: u.FailedVersion[v]}
			if v != "" {
				row.Share = u.Share(v)
			}
			out.Users = append(out.Users, row)
		}
	}
	for _, f := range r.Falls {
		out.Falls = append(out.Falls, RecordFall{
			Region: f.Region, Service: f.Service, Version: f.Version, Cause: f.Cause, Reason: f.Reason, At: seconds(f.At),
			Decided: seconds(f.Decided), LastTry: seconds(f.Last), Ended: f.Quiet, Limit: seconds(f.Limit), Broken: f.Broken(),
		})
	}
	for _, l := range r.Lapses {
		out.Falls = append(out.Falls, RecordFall{
			Region: l.Region, Service: l.Service, Version: l.Version, Cause: "no control plane", Reason: "LeaseLapsed",
			LastTry: seconds(l.Took), Ended: true, Limit: seconds(l.Lease), Broken: l.Broken(),
		})
	}
	for _, h := range r.Holds {
		out.Holds = append(out.Holds, RecordHold{
			Region: h.Region, Version: h.Version, Share: float64(h.Weight) / 10_000, Shadow: float64(h.Shadow) / 10_000,
			Held: seconds(h.Held), Declared: seconds(h.Declared), Next: h.Next.Phase, Reason: h.Next.Reason, Broken: h.Broken(),
		})
	}
	for _, s := range r.Served {
		out.Services = append(out.Services, RecordService{
			Region: s.Region, Service: s.Service, Version: s.Version, Requests: s.Requests.Received, Failed: s.Requests.Bad(),
			Copies: s.Copies.Received, Leaked: s.Copies.Leaked,
		})
	}
	for _, c := range r.Checks {
		out.Expectations = append(out.Expectations, RecordExpectation{c.Line, c.Text, c.OK, c.Measured})
	}
	return out
}

// seconds rounds to a millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
