package rig

import (
	"cmp"
	"fmt"
	"strings"
)

// Documents of a rig. More endpoints are in its first region.
func (r *Rig) Documents(o Options) string {
	var regions, versions strings.Builder
	for _, region := range r.Options.Regions {
		fmt.Fprintf(&regions, "apiVersion: aviary.dev/v1\nkind: Region\nmetadata: {name: %s}\nspec:\n  zones: [a]\n%s---\n",
			region, indent(o.Region[region]))
	}
	for _, version := range o.Versions {
		var placed []string
		for n, region := range r.Options.Regions {
			endpoints := fmt.Sprintf("{zone: a, address: %q}", r.In(region, version).Address())
			for _, address := range o.More[version] {
				if n == 0 {
					endpoints += fmt.Sprintf(", {zone: a, address: %q}", address)
				}
			}
			placed = append(placed, fmt.Sprintf("{region: %s, capacity: %g, endpoints: [%s]}", region, cmp.Or(o.Capacity[region], 100_000), endpoints))
		}
		digest := version
		if o.Digests[version] != "" {
			digest = o.Digests[version]
		}
		fmt.Fprintf(&versions, `    - name: %s
      digest: "sha256:%s"
      regions: [%s]
`, version, digest, strings.Join(placed, ", "))
	}
	return regions.String() + fmt.Sprintf(`apiVersion: aviary.dev/v1
kind: Service
metadata: {name: front}
spec:
  hosts: [front.example]
  stable: v1
  versions: [{name: v1, digest: "sha256:front"}]
  calls: [shop]
---
apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.example]
  protocol: %s
  stable: %s
%s  versions:
%s---
apiVersion: aviary.dev/v1
kind: Policy
metadata: {name: canary}
spec:
  availability: {target: "99.9%%"}
%s---
%s`, o.Protocol, o.Versions[0], indent(o.Service), versions.String(), indent(o.Policy), Rollout(o.Rollout))
}

func indent(fields string) string {
	if fields = strings.TrimSpace(fields); fields == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(fields, "\n", "\n  ") + "\n"
}

// Rollout is the document of the rollout "shop" to a version.
func Rollout(version string) string {
	return fmt.Sprintf(`apiVersion: aviary.dev/v1
kind: Rollout
metadata: {name: shop}
spec: {service: shop, version: %s, policy: canary}
`, version)
}
