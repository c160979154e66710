package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// kinds in the order in which they are told.
var kinds = []string{store.Region, store.Service, store.Policy, store.Rollout}

// attempts bounds how often a change is validated again because another one came between.
const attempts = 10

// change validates and applies against one reading of the documents, again when they changed meanwhile.
func (s *Server) change(ctx context.Context, make func(stored []store.Revision) (store.Batch, error)) ([]store.Applied, error) {
	var err error
	for range attempts {
		var stored []store.Revision
		var batch store.Batch
		var applied []store.Applied
		var at int64
		stored, expected, e := s.cfg.Store.Documents(ctx)
		if e != nil {
			return nil, e
		}
		if batch, err = make(stored); err != nil {
			return nil, err
		}
		batch.Expected = expected
		if applied, at, err = s.cfg.Store.Apply(ctx, batch); errors.Is(err, store.ErrConflict) {
			continue
		}
		if err == nil && s.cfg.InForce != nil && slices.ContainsFunc(applied, func(a store.Applied) bool { return a.Outcome != store.Unchanged }) {
			s.cfg.InForce(ctx, at)
		}
		return applied, err
	}
	return nil, fmt.Errorf("%w, %d times in a row: try again", err, attempts)
}

// Apply declares documents: all of them or, when one has a problem, none.
func (s *Server) Apply(ctx context.Context, req *aviaryv1.ApplyRequest) (*aviaryv1.ApplyResponse, error) {
	var files []spec.Source
	for _, f := range req.GetFiles() {
		files = append(files, spec.Source{File: cmp.Or(f.GetName(), "-"), Content: f.GetContent()})
	}
	load := func(stored []store.Revision) (store.Batch, error) {
		b := store.Batch{Author: author(ctx, req.GetAuthor()), Reason: req.GetReason()}
		parsed, _, err := spec.Load(documents(stored, store.Key{}), files)
		for _, p := range parsed {
			b.Documents = append(b.Documents, store.Content{Document: p.Document, Hash: spec.Hash(p.Document)})
		}
		return b, err
	}
	resp := &aviaryv1.ApplyResponse{DryRun: req.GetDryRun()}
	applied, err := s.applyOrTry(ctx, req.GetDryRun(), load)
	for _, a := range applied {
		resp.Documents = append(resp.Documents, appliedProto(a))
	}
	return resp, err
}

func (s *Server) applyOrTry(ctx context.Context, dry bool, load func([]store.Revision) (store.Batch, error)) ([]store.Applied, error) {
	if !dry {
		return s.change(ctx, load)
	}
	stored, _, err := s.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	batch, err := load(stored)
	if err != nil {
		return nil, err
	}
	var out []store.Applied
	for _, c := range batch.Documents {
		a := store.Applied{Outcome: store.Created}
		a.Key, a.Hash = store.KeyOf(c.Document), c.Hash
		// A document that was deleted counts on from its last revision.
		history, err := s.cfg.Store.History(ctx, a.Key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		a.Number = 1
		if len(history) > 0 {
			newest := history[0]
			a.Number = newest.Number + 1
			if !newest.Deleted && newest.Hash == c.Hash {
				a.Outcome, a.Number = store.Unchanged, newest.Number
			} else if !newest.Deleted {
				a.Outcome = store.Updated
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// GetDocument returns one document, as it is or as it was.
func (s *Server) GetDocument(ctx context.Context, req *aviaryv1.GetDocumentRequest) (*aviaryv1.GetDocumentResponse, error) {
	k, err := keyOf(req)
	if err != nil {
		return nil, err
	}
	var r store.Revision
	if n := req.GetRevision(); n > 0 {
		r, err = s.cfg.Store.Revision(ctx, k, n)
	} else {
		r, err = s.cfg.Store.Get(ctx, k)
	}
	if err != nil {
		return nil, err
	}
	return &aviaryv1.GetDocumentResponse{Document: revisionProto(r)}, nil
}

// ListDocuments returns every document of a kind, or of all.
func (s *Server) ListDocuments(ctx context.Context, req *aviaryv1.ListDocumentsRequest) (*aviaryv1.ListDocumentsResponse, error) {
	if k := req.GetKind(); k != "" && !slices.Contains(kinds, k) {
		return nil, noSuchKind(k)
	}
	stored, _, err := s.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	resp := &aviaryv1.ListDocumentsResponse{}
	for _, r := range stored {
		if req.GetKind() == "" || req.GetKind() == r.Kind {
			resp.Documents = append(resp.Documents, revisionProto(r))
		}
	}
	return resp, nil
}

// ListRevisions returns the history of a document, newest first.
func (s *Server) ListRevisions(ctx context.Context, req *aviaryv1.ListRevisionsRequest) (*aviaryv1.ListRevisionsResponse, error) {
	k, err := keyOf(req)
	if err != nil {
		return nil, err
	}
	history, err := s.cfg.Store.History(ctx, k)
	resp := &aviaryv1.ListRevisionsResponse{}
	for _, r := range history {
		resp.Revisions = append(resp.Revisions, revisionProto(r))
	}
	return resp, err
}

// Revert makes a new revision with the content of an old one.
func (s *Server) Revert(ctx context.Context, req *aviaryv1.RevertRequest) (*aviaryv1.RevertResponse, error) {
	k, err := keyOf(req)
	if err != nil {
		return nil, err
	}
	old, err := s.revertTo(ctx, k, req.GetRevision())
	if err != nil {
		return nil, err
	}
	applied, err := s.change(ctx, func(stored []store.Revision) (store.Batch, error) {
		set := append(documents(stored, k), old.Document)
		if _, err := spec.Build(set, nil); err != nil {
			return store.Batch{}, misfit(err, fmt.Sprintf("revision %d of %v does not fit the other documents as they are now, nothing was changed", old.Number, k))
		}
		return store.Batch{
			Documents: []store.Content{{Document: old.Document, Hash: spec.Hash(old.Document)}},
			Author:    author(ctx, req.GetAuthor()),
			Reason:    cmp.Or(req.GetReason(), fmt.Sprintf("revert to revision %d", old.Number)),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return &aviaryv1.RevertResponse{Document: appliedProto(applied[0])}, nil
}

// revertTo is the revision of that number, or with 0 the newest one whose content is not the present one.
func (s *Server) revertTo(ctx context.Context, k store.Key, number int64) (store.Revision, error) {
	if number > 0 {
		r, err := s.cfg.Store.Revision(ctx, k, number)
		if err == nil && r.Deleted {
			return r, status.Errorf(codes.FailedPrecondition, "revision %d of %v is its deletion, which has no content: name another one, or delete it", number, k)
		}
		return r, err
	}
	history, err := s.cfg.Store.History(ctx, k)
	if err != nil {
		return store.Revision{}, err
	}
	for _, r := range history[1:] {
		if !r.Deleted && r.Hash != history[0].Hash {
			return r, nil
		}
	}
	return store.Revision{}, status.Errorf(codes.FailedPrecondition, "%v has no earlier content to go back to", k)
}

// DeleteDocument takes a document away that no other one names.
func (s *Server) DeleteDocument(ctx context.Context, req *aviaryv1.DeleteDocumentRequest) (*aviaryv1.DeleteDocumentResponse, error) {
	k, err := keyOf(req)
	if err != nil {
		return nil, err
	}
	applied, err := s.change(ctx, func(stored []store.Revision) (store.Batch, error) {
		if _, err := spec.Build(documents(stored, k), nil); err != nil {
			return store.Batch{}, misfit(err, fmt.Sprintf("%v is still named by other documents, nothing was deleted", k))
		}
		return store.Batch{Deletes: []store.Key{k}, Author: author(ctx, req.GetAuthor()), Reason: req.GetReason()}, nil
	})
	if err != nil {
		return nil, err
	}
	return &aviaryv1.DeleteDocumentResponse{Document: appliedProto(applied[0])}, nil
}

// misfit says that a change is sound by itself and clashes with what else is declared.
func misfit(err error, what string) error {
	var errs spec.Errors
	if errors.As(err, &errs) {
		return withProblems(codes.FailedPrecondition, what, fromSpec(errs))
	}
	return err
}

// documents without the one named.
func documents(stored []store.Revision, without store.Key) []*aviaryv1.Document {
	var out []*aviaryv1.Document
	for _, r := range stored {
		if r.Key != without {
			out = append(out, r.Document)
		}
	}
	return out
}

func keyOf(req interface {
	GetKind() string
	GetName() string
}) (store.Key, error) {
	if !slices.Contains(kinds, req.GetKind()) {
		return store.Key{}, noSuchKind(req.GetKind())
	}
	return store.Key{Kind: req.GetKind(), Name: req.GetName()}, nil
}

func noSuchKind(kind string) error {
	return status.Errorf(codes.InvalidArgument, "there is no kind %q: it is one of %s", kind, strings.Join(kinds, ", "))
}

// author is who the client proved to be, or else who it says it is.
func author(ctx context.Context, claimed string) string {
	if p, ok := peer.FromContext(ctx); ok {
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(tls.State.VerifiedChains) > 0 {
			leaf := tls.State.VerifiedChains[0][0]
			if len(leaf.URIs) > 0 {
				return leaf.URIs[0].String()
			}
			return cmp.Or(leaf.Subject.CommonName, leaf.Subject.String())
		}
	}
	return cmp.Or(claimed, "unknown")
}

var outcomes = map[store.Outcome]aviaryv1.Outcome{
	store.Created:   aviaryv1.Outcome_OUTCOME_CREATED,
	store.Updated:   aviaryv1.Outcome_OUTCOME_UPDATED,
	store.Unchanged: aviaryv1.Outcome_OUTCOME_UNCHANGED,
	store.Deleted:   aviaryv1.Outcome_OUTCOME_DELETED,
}

func appliedProto(a store.Applied) *aviaryv1.Applied {
	return &aviaryv1.Applied{Kind: a.Kind, Name: a.Name, Outcome: outcomes[a.Outcome], Revision: a.Number, Hash: a.Hash}
}

func revisionProto(r store.Revision) *aviaryv1.Revision {
	out := &aviaryv1.Revision{
		Kind: r.Kind, Name: r.Name, Number: r.Number, Hash: r.Hash, Author: r.Author, Reason: r.Reason,
		At: timestamppb.New(r.At), Deleted: r.Deleted, Document: r.Document,
	}
	if r.Document != nil {
		// A document that was applied has a form; one of a later version of Aviary has none here, and its values still show.
		if text, err := spec.Format(r.Document); err == nil {
			out.Yaml = string(text)
		}
	}
	return out
}
