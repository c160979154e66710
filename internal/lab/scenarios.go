package lab

import (
	"embed"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

//go:embed scenarios/*.yaml
var scenarios embed.FS

// Scenarios returns the names of the scenarios that are built in, sorted.
func Scenarios() []string {
	entries, err := scenarios.ReadDir("scenarios")
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	slices.Sort(names)
	return names
}

// LoadScenario reads a built-in scenario by its name, or any other from a file whose path ends in .yaml.
func LoadScenario(name string) (*Scenario, error) {
	if strings.HasSuffix(name, ".yaml") {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		return ParseScenario(text)
	}
	text, err := scenarios.ReadFile(path.Join("scenarios", name+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("lab: no scenario %q; there are %s, or give a .yaml file", name, strings.Join(Scenarios(), ", "))
	}
	return ParseScenario(text)
}

// Short is the first sentence of About, on one line.
func (s *Scenario) Short() string {
	text := strings.Join(strings.Fields(s.About), " ")
	if i := strings.Index(text, ". "); i >= 0 {
		text = text[:i]
	}
	return strings.TrimSuffix(text, ".")
}
