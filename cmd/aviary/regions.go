package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func regionsCommand() *cobra.Command {
	var c client
	var o output
	cmd := &cobra.Command{
		Use:   "regions [NAME]",
		Short: "Show what the proxies of each region are given and what was refused, or one region by service",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(ctx context.Context, api aviaryv1.AdminServiceClient) error {
				resp, err := api.ListRegions(ctx, &aviaryv1.ListRegionsRequest{})
				if err != nil {
					return err
				}
				if len(args) == 1 {
					return o.region(cmd.OutOrStdout(), args[0], resp.GetRegions())
				}
				if len(resp.GetRegions()) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "there are none")
				}
				return o.regions(cmd.OutOrStdout(), resp.GetRegions())
			})
		},
	}
	c.flags(cmd)
	o.flag(cmd, "table", "json", "yaml")
	return cmd
}

func (o *output) regions(w io.Writer, all []*aviaryv1.RegionState) error {
	switch {
	case o.form != "table":
		list, err := messages(all)
		if err != nil {
			return err
		}
		return o.write(w, list)
	case len(all) == 0:
		return nil
	}
	rows := [][]string{{"REGION", "JURISDICTION", "PROXIES", "PUBLISHED", "REFUSED"}}
	for _, r := range all {
		rows = append(rows, []string{
			r.GetName(), r.GetJurisdiction(), strconv.FormatUint(uint64(r.GetProxies()), 10), moment(r.GetPublished()), moment(r.GetRefusedAt()),
		})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, r := range all {
		refusal(w, r)
	}
	return nil
}

func refusal(w io.Writer, r *aviaryv1.RegionState) {
	if r.GetRefused() != "" {
		fmt.Fprintf(w, "%s keeps its last good plan since %s: %s\n", r.GetName(), moment(r.GetRefusedAt()), r.GetRefused())
	}
}

func (o *output) region(w io.Writer, name string, all []*aviaryv1.RegionState) error {
	var known []string
	for _, r := range all {
		if r.GetName() != name {
			known = append(known, r.GetName())
			continue
		}
		if o.form == "table" {
			return services(w, r)
		}
		list, err := messages([]*aviaryv1.RegionState{r})
		if err != nil {
			return err
		}
		return o.write(w, list[0])
	}
	return fmt.Errorf("there is no region %q: there are %s", name, cmp.Or(strings.Join(known, ", "), "none"))
}

// services writes one region.
func services(w io.Writer, r *aviaryv1.RegionState) error {
	fmt.Fprintf(w, "%s (%s): %d %s, published %s\n", r.GetName(), cmp.Or(r.GetJurisdiction(), "no jurisdiction"),
		r.GetProxies(), noun(r.GetProxies()), cmp.Or(moment(r.GetPublished()), "never"))
	refusal(w, r)
	rows := [][]string{{"SERVICE", "RATE", "CAPACITY", "FAILOVER", "ADMITTED", "SHED", "STATE"}}
	var names []string
	for _, s := range r.GetServices() {
		rate, capacity, admitted, shed := "", "", "", ""
		if s.GetRate() >= 0 {
			rate = number(s.GetRate())
		}
		if s.GetCapacity() > 0 {
			capacity = number(s.GetCapacity())
		}
		if len(s.GetFailover()) > 0 {
			admitted, shed = share(s.GetAdmitted()), share(s.GetShed())
		}
		rows = append(rows, []string{s.GetService(), rate, capacity, strings.Join(s.GetFailover(), ","), admitted, shed, load(s)})
		for _, n := range s.GetNames() {
			names = append(names, resolved(s.GetService(), n))
		}
	}
	if len(rows) > 1 {
		if err := table(w, rows); err != nil {
			return err
		}
	}
	for _, line := range names {
		fmt.Fprintln(w, line)
	}
	return nil
}

func noun(proxies uint32) string {
	if proxies == 1 {
		return "proxy"
	}
	return "proxies"
}

// number writes requests per second, to a tenth.
func number(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

// load is what a service does that cannot keep up.
func load(s *aviaryv1.ServiceState) string {
	var out []string
	if s.GetSaturated() {
		out = append(out, "saturated")
	}
	if s.GetTightened() {
		out = append(out, "tightened")
	}
	return strings.Join(out, ",")
}

// resolved tells what a name of endpoints stands for.
func resolved(service string, n *aviaryv1.Resolved) string {
	line := fmt.Sprintf("%s: %s: %s", service, n.GetName(), cmp.Or(strings.Join(n.GetAddresses(), ", "), "no addresses"))
	if n.GetAt() != nil {
		line += ", confirmed " + moment(n.GetAt())
	}
	if n.GetError() != "" {
		line += ", now: " + n.GetError()
	}
	return line
}

// write writes what has protobuf's JSON, as that or as YAML.
func (o *output) write(w io.Writer, v any) error {
	if o.form == "json" {
		return writeJSON(w, v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var plain any
	if err := yaml.Unmarshal(text, &plain); err != nil {
		return err
	}
	out, err := yaml.Marshal(plain)
	if err == nil {
		_, err = w.Write(out)
	}
	return err
}
