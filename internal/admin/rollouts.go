package admin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/aviary-mesh/aviary/plugin/rollout"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

type actRequest interface {
	GetRollout() string
	GetRegions() []string
	GetAuthor() string
	GetReason() string
}

// act does what a person asks and answers with where the rollout stands then.
func (s *Server) act(ctx context.Context, verb rollout.Verb, req actRequest) (*aviaryv1.RolloutStatus, error) {
	err := s.cfg.Rollouts.Act(ctx, req.GetRollout(), rollout.Action{
		Verb:    verb,
		Regions: req.GetRegions(),
		Author:  author(ctx, req.GetAuthor()),
		Reason:  req.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	return s.cfg.Rollouts.Status(ctx, req.GetRollout())
}

// StartRollout begins the climb.
func (s *Server) StartRollout(ctx context.Context, req *aviaryv1.StartRolloutRequest) (*aviaryv1.StartRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Start, req)
	return &aviaryv1.StartRolloutResponse{Rollout: st}, err
}

// PauseRollout stops the clock.
func (s *Server) PauseRollout(ctx context.Context, req *aviaryv1.PauseRolloutRequest) (*aviaryv1.PauseRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Pause, req)
	return &aviaryv1.PauseRolloutResponse{Rollout: st}, err
}

// ResumeRollout lets the clock run on.
func (s *Server) ResumeRollout(ctx context.Context, req *aviaryv1.ResumeRolloutRequest) (*aviaryv1.ResumeRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Continue, req)
	return &aviaryv1.ResumeRolloutResponse{Rollout: st}, err
}

// AbortRollout takes the canary to zero.
func (s *Server) AbortRollout(ctx context.Context, req *aviaryv1.AbortRolloutRequest) (*aviaryv1.AbortRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Abort, req)
	return &aviaryv1.AbortRolloutResponse{Rollout: st}, err
}

// PromoteRollout makes the canary the stable version.
func (s *Server) PromoteRollout(ctx context.Context, req *aviaryv1.PromoteRolloutRequest) (*aviaryv1.PromoteRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Promote, req)
	return &aviaryv1.PromoteRolloutResponse{Rollout: st}, err
}

// RollbackRollout takes the traffic back to the last known-good version.
func (s *Server) RollbackRollout(ctx context.Context, req *aviaryv1.RollbackRolloutRequest) (*aviaryv1.RollbackRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Rollback, req)
	return &aviaryv1.RollbackRolloutResponse{Rollout: st}, err
}

// RetryRollout starts what was halted, aborted or rolled back again.
func (s *Server) RetryRollout(ctx context.Context, req *aviaryv1.RetryRolloutRequest) (*aviaryv1.RetryRolloutResponse, error) {
	st, err := s.act(ctx, rollout.Retry, req)
	return &aviaryv1.RetryRolloutResponse{Rollout: st}, err
}

// GetRollout tells where a rollout stands.
func (s *Server) GetRollout(ctx context.Context, req *aviaryv1.GetRolloutRequest) (*aviaryv1.GetRolloutResponse, error) {
	st, err := s.cfg.Rollouts.Status(ctx, req.GetRollout())
	return &aviaryv1.GetRolloutResponse{Rollout: st}, err
}

// ListRollouts tells where every rollout stands.
func (s *Server) ListRollouts(ctx context.Context, _ *aviaryv1.ListRolloutsRequest) (*aviaryv1.ListRolloutsResponse, error) {
	all, err := s.cfg.Rollouts.List(ctx)
	return &aviaryv1.ListRolloutsResponse{Rollouts: all}, err
}

// WatchRollout sends the status now and whenever it changes.
func (s *Server) WatchRollout(req *aviaryv1.WatchRolloutRequest, out grpc.ServerStreamingServer[aviaryv1.WatchRolloutResponse]) error {
	changes, err := s.cfg.Rollouts.Watch(out.Context(), req.GetRollout())
	if err != nil {
		return err
	}
	for st := range changes {
		if err := out.Send(&aviaryv1.WatchRolloutResponse{Rollout: st}); err != nil {
			return err
		}
	}
	return out.Context().Err()
}
