package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	"github.com/aviary-mesh/aviary/plugin/spec"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// What is sent is bounded: a status travels in trailers, which clients bound.
const (
	maxProblems = 100
	maxLines    = 20
)

// check holds a request of ours against the rules of its definition.
func (s *Server) check(req any) error {
	m, ok := req.(proto.Message)
	if !ok || m.ProtoReflect().Descriptor().ParentFile() != aviaryv1.File_aviary_v1_admin_proto {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if err := s.validate.Validate(m); errors.As(err, &invalid) {
		var problems []*aviaryv1.Problem
		for _, v := range invalid.Violations {
			problems = append(problems, &aviaryv1.Problem{
				Field:   protovalidate.FieldPathString(v.Proto.GetField()),
				Message: v.Proto.GetMessage(),
			})
		}
		return withProblems(codes.InvalidArgument, "the request", problems)
	} else if err != nil {
		return status.Errorf(codes.Internal, "rules of the admin API: %v", err)
	}
	return nil
}

// status gives an error its code. What nobody foresaw is logged: the caller can do nothing about it.
func (s *Server) status(method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var problems spec.Errors
	code := codes.Internal
	switch {
	case errors.As(err, &problems):
		return withProblems(codes.InvalidArgument, "nothing was applied", fromSpec(problems))
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, store.ErrNotFound), errors.Is(err, rollout.ErrUnknown):
		code = codes.NotFound
	case errors.Is(err, rollout.ErrRefused):
		code = codes.FailedPrecondition
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrFenced):
		code = codes.Aborted
	case errors.Is(err, store.ErrTooLarge):
		code = codes.ResourceExhausted
	case errors.Is(err, store.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, store.ErrClosed):
		return status.Error(codes.Unavailable, "the control plane is stopping: try again, another replica may answer")
	case errors.Is(err, store.ErrUnavailable):
		return status.Errorf(codes.Unavailable, "%v; nothing is known to have changed: try again", err)
	}
	if code == codes.Internal {
		s.cfg.Log.Error("admin API", "method", method, "error", err)
	}
	return status.Error(code, err.Error())
}

// withProblems is a status that carries what is wrong, in its message for people and in its details for programs.
func withProblems(code codes.Code, what string, problems []*aviaryv1.Problem) error {
	var lines []string
	for _, p := range problems[:min(len(problems), maxLines)] {
		lines = append(lines, line(p))
	}
	if more := len(problems) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	sent := problems[:min(len(problems), maxProblems)]
	st := status.Newf(code, "%s: %s", what, strings.Join(lines, "\n"))
	if detailed, err := st.WithDetails(&aviaryv1.Problems{Problems: sent, More: int32(len(problems) - len(sent))}); err == nil {
		st = detailed
	}
	return st.Err()
}

func line(p *aviaryv1.Problem) string {
	var parts []string
	if p.GetFile() != "" {
		parts = append(parts, fmt.Sprintf("%s:%d:%d", p.GetFile(), p.GetLine(), p.GetColumn()))
	}
	for _, s := range []string{p.GetDocument(), p.GetField(), p.GetMessage()} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

func fromSpec(errs spec.Errors) []*aviaryv1.Problem {
	out := make([]*aviaryv1.Problem, 0, len(errs))
	for _, e := range errs {
		out = append(out, &aviaryv1.Problem{
			File: e.File, Line: int32(e.Line), Column: int32(e.Column),
			Document: e.Document, Field: e.Field, Message: e.Message,
		})
	}
	return out
}
