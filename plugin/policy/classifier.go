package policy

import (
	"strings"

	"github.com/aviary-mesh/aviary/plugin/signal"
	"github.com/aviary-mesh/aviary/plugin/spec"
)

// grpcUnknown stands for every gRPC status that is not in the specification, as it does for gRPC's own clients.
const (
	grpcUnknown = 2
	grpcLast    = 16
)

// Classifier returns the function that says whether a try that ended so was an error. It allocates nothing when called,
// and may be called by several goroutines at once.
//
// A response flag of the policy makes any try an error. Without one, a try with a gRPC status is judged by that status
// alone, and one without by its HTTP status. A try that got no answer and has no flag that would explain it is an error
// under every policy.
func Classifier(classes spec.ErrorClasses) func(signal.Class) bool {
	var http [600]bool
	for _, code := range classes.HTTP {
		if code < 10 {
			for i := code * 100; i < code*100+100; i++ {
				http[i] = true
			}
		} else {
			http[code] = true
		}
	}
	var grpc [grpcLast + 1]bool
	for _, code := range classes.GRPC {
		grpc[code] = true
	}
	flags := make(map[string]bool, len(classes.Flags))
	for _, flag := range classes.Flags {
		flags[flag] = true
	}
	return func(c signal.Class) bool {
		for rest := c.Flags; rest != ""; {
			var flag string
			if flag, rest, _ = strings.Cut(rest, ","); flags[flag] {
				return true
			}
		}
		switch {
		case c.GRPC > grpcLast:
			return grpc[grpcUnknown]
		case c.GRPC >= 0:
			return grpc[c.GRPC]
		case c.Status == 0:
			return c.Flags == ""
		}
		return c.Status > 0 && c.Status < len(http) && http[c.Status]
	}
}
