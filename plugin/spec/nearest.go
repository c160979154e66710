package spec

import (
	"fmt"
	"slices"
	"strings"
)

// instead names what could have been meant by an unknown word: the nearest of the known ones, or all of them when they
// are few. It returns "" when there is nothing to say.
func instead(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 || len(known) > 16 {
		return ""
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return "; known: " + strings.Join(known, ", ")
}

// nearest returns the known word that is at most two edits (one for short words) from word, "" when there is none.
// Case, "_" and "-" do not count: hang_limit is hangLimit.
func nearest(word string, known []string) string {
	best, least := "", min(2, len(word)/3)+1
	if len(word) > 64 {
		return ""
	}
	for _, k := range known {
		// Of two that are as near, the first by name, so that the message is the same in every run.
		if d := distance(plainly(word), plainly(k)); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	return best
}

func plainly(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours from a to b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
