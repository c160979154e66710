package main

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/aviary-mesh/aviary/plugin/signal"
)

// shrinking is a canary as good as its stable that goes from 10 % to 1 % of 1,000 requests a second, of which 1 % time out after
// 15 s in both arms; whether errors against stable reach 1/α in the five minutes after. Tries are put before the tests as of
// the change, or whenever they complete.
func shrinking(r *rand.Rand, asOfChange bool) bool {
	const change, limit = 60, 15
	j := judge(config(0.05, time.Hour))
	var hanging [2][change + 300]uint64 // by the second of the start
	for t := range change + 300 {
		starts := [2]int{100, 900}
		since := signal.Always
		if t >= change {
			starts = [2]int{10, 990}
			if asOfChange {
				since = time.Duration(t-change) * time.Second
			}
		}
		var samples [2]signal.Sample
		for i, n := range starts {
			hanging[i][t] = bernoulli(r, n, 0.01).Errors
			quick := uint64(n) - hanging[i][t]
			arm := signal.Arm{Outcomes: []signal.Outcome{{
				Class: signal.Class{Status: 200, GRPC: -1}, Tries: quick, Latency: signal.Histogram{{Edge: signal.EdgeOf(20e3), Count: quick}},
			}}}
			if t >= limit && hanging[i][t-limit] > 0 {
				ended := hanging[i][t-limit]
				arm.Outcomes = append(arm.Outcomes, signal.Outcome{
					Class: signal.Class{GRPC: -1, Flags: "UT"}, Tries: ended,
					Latency: signal.Histogram{{Edge: signal.EdgeOf(limit * 1e6), Count: ended}},
				})
			}
			samples[i] = arm.Sample(func(c signal.Class) bool { return c.Status == 0 }, since, 0)
		}
		if v := j.Tick(time.Second, samples[0], samples[1]); v.Logs.Errors >= -math.Log(alpha) {
			return true
		}
	}
	return false
}

func shrinks() alarmTable {
	return alarmTable{
		title: "A canary shrinks from 10 % to 1 % while 1 % of requests to both arms time out after 15 s: errors reach 1/α, α = .001",
		alarms: []alarm{
			{"tries counted whenever they complete (specified: 71 %)", 1000, func(r *rand.Rand) bool { return shrinking(r, false) }},
			{"tries counted that began after the change", 1000, func(r *rand.Rand) bool { return shrinking(r, true) }},
		},
	}
}
