// Command regions puts twenty regions under one control plane, which runs as a process of its own: in some of them a real
// Envoy with users, in the others clients that behave as sidecars do. It starts a rollout in all of them, breaks the
// version in one region and aborts it everywhere, and prints as Markdown how long the control plane's ticks took, and how
// long it was from a decision to the last proxy that had it. The table in docs/operations.md is what it printed.
//
//	go run ./bench/regions
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	var o options
	flag.IntVar(&o.regions, "regions", 20, "how many regions")
	flag.IntVar(&o.envoys, "envoys", 4, "in how many of them a real Envoy runs")
	flag.IntVar(&o.proxies, "proxies", 20, "simulated proxies in each of the others")
	flag.IntVar(&o.runs, "runs", 5, "how often the version is broken in one region")
	flag.Parse()
	if flag.NArg() > 0 || o.regions < 2 || o.envoys < 1 || o.envoys > o.regions || o.proxies < 1 || o.runs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
