package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing wrong with one document.
type Error struct {
	// File as the caller named it; "" for a document that is already in the store.
	File string
	// Line and Column count from 1; both are 0 for a stored document.
	Line, Column int
	// Document is "Service/shop", or as much of it as could be read.
	Document string
	// Field is the path in the document: "spec.steps[1].share"; "" is the document as a whole.
	Field string
	// Message says what was expected and what was found.
	Message string
}

// Error returns "file:line:column: Kind/name: field: message", or "stored: Kind/name: field: message".
func (e *Error) Error() string {
	place := "stored"
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
	}
	parts := []string{place, e.Document, e.Field, e.Message}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// Errors is all that is wrong with a batch, sorted by file and line; it is never empty when returned as an error.
type Errors []*Error

// Error returns one error a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As each error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// sorted returns e as an error in the order of files, lines and fields, or nil.
func (e Errors) sorted() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Document, b.Document), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
	return e
}

// maxFaults bounds what one document can make us say of it.
const maxFaults = 1000

// place is where something stands in a file, counted from 1; the zero place is nowhere.
type place struct{ line, column int }

// report collects what is wrong with one document, at most once for a field.
type report struct {
	file string
	// document is "Kind/name" once that is known.
	document string
	// places of fields by path; empty for a stored document.
	places map[string]place
	// bad fields have an error; above holds every path on the way to one.
	bad, above map[string]bool
	errs       Errors
}

func newReport(file string) *report {
	return &report{file: file, places: map[string]place{}, bad: map[string]bool{}, above: map[string]bool{}}
}

// wrong is whether an error stands at the field, above it or below it, so that another one would only repeat it.
func (r *report) wrong(field string) bool {
	if r.above[field] {
		return true
	}
	for path, more := field, true; more; path, more = parent(path) {
		if r.bad[path] {
			return true
		}
	}
	return false
}

// spoil marks a field as one about which nothing more should be said.
func (r *report) spoil(field string) {
	r.bad[field] = true
	for path, more := parent(field); more; path, more = parent(path) {
		r.above[path] = true
	}
}

// fault adds an error at the field's place, unless one is there.
func (r *report) fault(field, format string, args ...any) {
	if r.wrong(field) {
		return
	}
	r.spoil(field)
	r.add(r.at(field), field, format, args...)
}

// add adds an error at a place of its own, whatever else is wrong with the field.
func (r *report) add(p place, field, format string, args ...any) {
	switch {
	case len(r.errs) < maxFaults:
		r.errs = append(r.errs, r.err(p, field, fmt.Sprintf(format, args...)))
	case len(r.errs) == maxFaults:
		r.errs = append(r.errs, r.err(p, "", fmt.Sprintf("more than %d errors: the rest is not shown", maxFaults)))
	}
}

// full is whether nothing more will be said.
func (r *report) full() bool { return len(r.errs) > maxFaults }

func (r *report) err(p place, field, message string) *Error {
	return &Error{File: r.file, Line: p.line, Column: p.column, Document: r.document, Field: field, Message: message}
}

// at is where the field stands, or the nearest thing around it that does.
func (r *report) at(field string) place {
	for path, more := field, true; more; path, more = parent(path) {
		if p, ok := r.places[path]; ok {
			return p
		}
	}
	return place{}
}

// written is whether the file has the field.
func (r *report) written(field string) bool {
	_, ok := r.places[field]
	return ok
}

// parent takes the last element off a path: "a.b[2].c" → "a.b[2]" → "a.b" → "a" → "" → none.
func parent(path string) (string, bool) {
	if path == "" {
		return "", false
	}
	return path[:max(strings.LastIndexAny(path, ".["), 0)], true
}
