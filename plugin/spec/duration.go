package spec

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var errNotDuration = errors.New("not a duration")

// parseDuration reads a Go duration that may begin with whole days: "100ms", "1h30m", "30d", "1d12h". It has a unit and
// no sign.
func parseDuration(text string) (time.Duration, error) {
	var days uint64
	rest := text
	if count, after, ok := strings.Cut(text, "d"); ok {
		var err error
		if days, err = strconv.ParseUint(count, 10, 32); err != nil || !digits(count) {
			return 0, errNotDuration
		}
		if rest = after; rest == "" {
			rest = "0s"
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || rest == "0" || strings.ContainsAny(rest, "+-") {
		return 0, errNotDuration
	}
	if days > uint64((math.MaxInt64-d)/day) {
		return 0, errNotDuration
	}
	return time.Duration(days)*day + d, nil
}

// formatDuration writes what parseDuration reads, in its shortest form: "30d", "1m", "1h30m".
func formatDuration(d time.Duration) string {
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
