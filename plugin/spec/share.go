package spec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	errNotPercent = errors.New("not a percentage")
	errTooFine    = errors.New("finer than 0.01%")
	errOverWhole  = errors.New("over 100%")
)

// String returns the share as a percentage, exactly: "0.01%", "12.5%", "100%".
func (s Share) String() string {
	text := strconv.FormatUint(uint64(s/100), 10)
	if rest := s % 100; rest != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%02d", rest), "0")
	}
	return text + "%"
}

// ParseShare reads a percentage from "0%" to "100%" in steps of 0.01 %; anything finer is an error and is not rounded.
func ParseShare(text string) (Share, error) {
	short, err := shortPercent(text)
	if err != nil {
		return 0, fmt.Errorf("share %q: %w", text, err)
	}
	whole, fraction, _ := strings.Cut(strings.TrimSuffix(short, "%"), ".")
	if len(fraction) > 2 {
		return 0, fmt.Errorf("share %q: %w", text, errTooFine)
	}
	n, err := strconv.ParseUint(whole+(fraction + "00")[:2], 10, 32)
	if err != nil || n > uint64(Whole) {
		return 0, fmt.Errorf("share %q: %w", text, errOverWhole)
	}
	return Share(n), nil
}

// MarshalText writes the share as String does.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseShare reads.
func (s *Share) UnmarshalText(text []byte) error {
	parsed, err := ParseShare(string(text))
	if err == nil {
		*s = parsed
	}
	return err
}

// shortPercent checks that text is digits, perhaps a point and digits, and "%", and returns it without needless zeros, so
// that one percentage has one form.
func shortPercent(text string) (string, error) {
	number, ok := strings.CutSuffix(text, "%")
	whole, fraction, point := strings.Cut(number, ".")
	if !ok || !digits(whole) || point && !digits(fraction) || len(number) > 24 {
		return "", errNotPercent
	}
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		whole += "." + fraction
	}
	return whole + "%", nil
}

// parsePercent reads a percentage as a ratio: the float nearest to it ("99.9%" is 0.999).
func parsePercent(text string) (float64, error) {
	short, err := shortPercent(text)
	if err != nil {
		return 0, err
	}
	// The decimal point is moved in the text: a division by 100 would round a second time.
	return strconv.ParseFloat(strings.TrimSuffix(short, "%")+"e-2", 64)
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
