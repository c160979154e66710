// Command analysis measures the tests of plugin/evidence in simulation and prints the tables that docs/analysis.md holds, as
// Markdown: how many canary tries a bad canary is found in, how soon after a late onset, how often a canary that is no worse
// is halted, and what an outage of both arms leads to. Seeds are fixed, so two runs on the same version print the same.
//
//	go run ./bench/analysis            all tables, some minutes
//	go run ./bench/analysis -part 10   a tenth of the runs
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	part := flag.Int("part", 1, "divide the number of runs by this")
	flag.Parse()
	if *part < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	fmt.Printf("Means ± standard error. α = %v where a process has all of it, stable at .1 %%.\n", alpha)
	for _, t := range figures() {
		t.print(os.Stdout, *part)
	}
	for _, t := range append(alarms(3600), shrinks()) {
		t.print(os.Stdout, *part)
	}
	printOutages(os.Stdout, 2000/(*part))
}
