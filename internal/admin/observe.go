package admin

import (
	"cmp"
	"context"
	"runtime"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aviary-mesh/aviary/internal/store"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

// ListRegions tells what each region's proxies are given, and what was refused them.
func (s *Server) ListRegions(ctx context.Context, _ *aviaryv1.ListRegionsRequest) (*aviaryv1.ListRegionsResponse, error) {
	all, err := s.cfg.Regions.Regions(ctx)
	return &aviaryv1.ListRegionsResponse{Regions: all}, err
}

// ListProxies tells what the connected proxies have and lack.
func (s *Server) ListProxies(_ context.Context, req *aviaryv1.ListProxiesRequest) (*aviaryv1.ListProxiesResponse, error) {
	resp := &aviaryv1.ListProxiesResponse{}
	for _, p := range s.cfg.Proxies() {
		if (req.GetRegion() == "" || req.GetRegion() == p.GetRegion()) && (req.GetService() == "" || req.GetService() == p.GetService()) {
			resp.Proxies = append(resp.Proxies, p)
		}
	}
	slices.SortFunc(resp.Proxies, func(a, b *aviaryv1.ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.GetRegion(), b.GetRegion()), cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return resp, nil
}

// ListEvents returns the events that are kept.
func (s *Server) ListEvents(ctx context.Context, req *aviaryv1.ListEventsRequest) (*aviaryv1.ListEventsResponse, error) {
	events, err := s.cfg.Store.Events(ctx, req.GetRollout(), req.GetAfter())
	resp := &aviaryv1.ListEventsResponse{}
	for _, e := range events {
		resp.Events = append(resp.Events, eventProto(e))
	}
	return resp, err
}

// WatchEvents sends the kept events and then every new one.
func (s *Server) WatchEvents(req *aviaryv1.WatchEventsRequest, out grpc.ServerStreamingServer[aviaryv1.WatchEventsResponse]) error {
	events, err := s.cfg.Store.WatchEvents(out.Context(), req.GetRollout(), req.GetAfter())
	if err != nil {
		return err
	}
	for e := range events {
		if err := out.Send(&aviaryv1.WatchEventsResponse{Event: eventProto(e)}); err != nil {
			return err
		}
	}
	if err := out.Context().Err(); err != nil {
		return err
	}
	return store.ErrClosed
}

// GetVersion says what program answers.
func (s *Server) GetVersion(context.Context, *aviaryv1.GetVersionRequest) (*aviaryv1.GetVersionResponse, error) {
	return &aviaryv1.GetVersionResponse{Version: s.cfg.Version, GoVersion: runtime.Version()}, nil
}

func eventProto(e store.Event) *aviaryv1.Event {
	return &aviaryv1.Event{
		Rollout: e.Rollout, Number: e.Number, Region: e.Region, At: timestamppb.New(e.At),
		Type: e.Type, Reason: e.Reason, Message: e.Message, By: e.By, Data: string(e.Data),
	}
}
