package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/aviary-mesh/aviary/internal/admin"
	"github.com/aviary-mesh/aviary/internal/store"
	"github.com/aviary-mesh/aviary/plugin/rollout"
	aviaryv1 "github.com/aviary-mesh/aviary/proto/aviary/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const eu = `apiVersion: aviary.dev/v1
kind: Region
metadata: {name: eu}
spec: {zones: [a]}
`

const shop = `apiVersion: aviary.dev/v1
kind: Service
metadata: {name: shop}
spec:
  hosts: [shop.internal]
  stable: v1
  versions:
  - name: v1
    digest: sha256:aaa
    regions:
    - region: eu
      capacity: 100
      endpoints: [{zone: a, address: "127.0.0.1:8001"}]
`

// fake decides nothing: it remembers what it was asked and answers what it was told to.
type fake struct {
	mu      sync.Mutex
	acts    []rollout.Action
	err     error
	changes chan *aviaryv1.RolloutStatus
}

func (f *fake) Act(_ context.Context, name string, a rollout.Action) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acts = append(f.acts, a)
	return f.err
}

func (f *fake) Status(_ context.Context, name string) (*aviaryv1.RolloutStatus, error) {
	if name != "shop" {
		return nil, fmt.Errorf("%w rollout: %s", rollout.ErrUnknown, name)
	}
	return &aviaryv1.RolloutStatus{Name: name, Phase: aviaryv1.Phase_PHASE_PROGRESSING}, nil
}

func (f *fake) List(ctx context.Context) ([]*aviaryv1.RolloutStatus, error) {
	st, err := f.Status(ctx, "shop")
	return []*aviaryv1.RolloutStatus{st}, err
}

func (f *fake) Watch(ctx context.Context, name string) (<-chan *aviaryv1.RolloutStatus, error) {
	out := make(chan *aviaryv1.RolloutStatus)
	go func() {
		defer close(out)
		for {
			select {
			case st := <-f.changes:
				select {
				case out <- st:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *fake) Regions(context.Context) ([]*aviaryv1.RegionState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []*aviaryv1.RegionState{{Name: "eu", Refused: "shop may not leave"}, {Name: "us"}}, f.err
}

type world struct {
	api      aviaryv1.AdminServiceClient
	conn     *grpc.ClientConn
	server   *admin.Server
	store    *store.Store
	rollouts *fake
}

func start(t *testing.T) world {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.OpenEmbedded(t.Context(), t.TempDir(), store.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fake{changes: make(chan *aviaryv1.RolloutStatus)}
	srv, err := admin.New(admin.Config{
		Store: s, Rollouts: f, Regions: f, Version: "v1.2.3", Log: quiet,
		Authorize: func(ctx context.Context) error {
			if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("stranger")) > 0 {
				return errors.New("a stranger")
			}
			return nil
		},
		Proxies: func() []*aviaryv1.ProxyStatus {
			return []*aviaryv1.ProxyStatus{{Name: "b", Region: "us", Service: "shop"}, {Name: "a", Region: "eu", Service: "shop"}, {Name: "c", Region: "eu", Service: "cart"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///admin",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return world{aviaryv1.NewAdminServiceClient(conn), conn, srv, s, f}
}

func (w world) apply(t *testing.T, files ...string) []*aviaryv1.Applied {
	t.Helper()
	resp, err := w.api.Apply(t.Context(), request(files...))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetDocuments()
}

func request(files ...string) *aviaryv1.ApplyRequest {
	req := &aviaryv1.ApplyRequest{Author: "ann", Reason: "try"}
	for i, f := range files {
		req.Files = append(req.Files, &aviaryv1.File{Name: fmt.Sprintf("%d.yaml", i), Content: []byte(f)})
	}
	return req
}

func outcome(docs []*aviaryv1.Applied) string {
	var out []string
	for _, d := range docs {
		out = append(out, fmt.Sprintf("%s/%s %s %d", d.GetKind(), d.GetName(), strings.ToLower(strings.TrimPrefix(d.GetOutcome().String(), "OUTCOME_")), d.GetRevision()))
	}
	return strings.Join(out, ", ")
}

func want(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("error %v, want %v", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestApplyIsIdempotentAndCountsRevisions(t *testing.T) {
	w := start(t)
	dry := request(eu, shop)
	dry.DryRun = true
	resp, err := w.api.Apply(t.Context(), dry)
	if err != nil || !resp.GetDryRun() || outcome(resp.GetDocuments()) != "Region/eu created 1, Service/shop created 1" {
		t.Fatalf("%v: %v", resp, err)
	}
	if all, err := w.api.ListDocuments(t.Context(), &aviaryv1.ListDocumentsRequest{}); err != nil || len(all.GetDocuments()) != 0 {
		t.Fatalf("a dry run changed something: %v: %v", all, err)
	}
	for i, c := range []struct{ files, want string }{
		{eu + "---\n" + shop, "Region/eu created 1, Service/shop created 1"},
		{shop + "---\n" + eu, "Service/shop unchanged 1, Region/eu unchanged 1"},
		{strings.Replace(eu, "[a]", "[a, b]", 1), "Region/eu updated 2"},
	} {
		if got := outcome(w.apply(t, c.files)); got != c.want {
			t.Fatalf("apply %d: %s, want %s", i, got, c.want)
		}
	}
	dry = request(eu, strings.Replace(shop, "capacity: 100", "capacity: 200", 1))
	dry.DryRun = true
	if resp, err := w.api.Apply(t.Context(), dry); err != nil || outcome(resp.GetDocuments()) != "Region/eu updated 3, Service/shop updated 2" {
		t.Fatalf("%v: %v", resp, err)
	}
	got, err := w.api.GetDocument(t.Context(), &aviaryv1.GetDocumentRequest{Kind: "Region", Name: "eu"})
	if d := got.GetDocument(); err != nil || d.GetNumber() != 2 || d.GetAuthor() != "ann" || d.GetReason() != "try" || !slices.Equal(d.GetDocument().GetRegion().GetZones(), []string{"a", "b"}) {
		t.Fatalf("%v: %v", got, err)
	}
	if docs := w.apply(t, got.GetDocument().GetYaml()); outcome(docs) != "Region/eu unchanged 2" {
		t.Fatalf("its own YAML: %v", docs)
	}
	old, err := w.api.GetDocument(t.Context(), &aviaryv1.GetDocumentRequest{Kind: "Region", Name: "eu", Revision: 1})
	if err != nil || len(old.GetDocument().GetDocument().GetRegion().GetZones()) != 1 {
		t.Fatalf("%v: %v", old, err)
	}
}

func TestEveryProblemOfABatchComesAtOnceWithItsPlace(t *testing.T) {
	w := start(t)
	_, err := w.api.Apply(t.Context(), request(eu,
		strings.Replace(shop, "stable: v1", "stabel: v1", 1),
		strings.Replace(strings.Replace(eu, "eu", "us", 1), "zones: [a]", "zones: []", 1)))
	want(t, err, codes.InvalidArgument, "1.yaml:6", "stabel", "2.yaml")
	var found *aviaryv1.Problems
	for _, d := range status.Convert(err).Details() {
		found, _ = d.(*aviaryv1.Problems)
	}
	var places []string
	for _, p := range found.GetProblems() {
		places = append(places, fmt.Sprintf("%s:%d %s", p.GetFile(), p.GetLine(), p.GetDocument()))
		if p.GetMessage() == "" || p.GetColumn() == 0 {
			t.Errorf("%v", p)
		}
	}
	slices.Sort(places)
	if places = slices.Compact(places); !slices.Contains(places, "1.yaml:6 Service/shop") || !slices.Contains(places, "2.yaml:4 Region/us") {
		t.Fatalf("%v", places)
	}
	if all, err := w.api.ListDocuments(t.Context(), &aviaryv1.ListDocumentsRequest{}); err != nil || len(all.GetDocuments()) != 0 {
		t.Fatalf("a part was applied: %v: %v", all, err)
	}
	_, err = w.api.Apply(t.Context(), &aviaryv1.ApplyRequest{})
	want(t, err, codes.InvalidArgument, "files")
	_, err = w.api.Apply(t.Context(), request(strings.Repeat("---\nx: 1\n", 500)))
	want(t, err, codes.InvalidArgument, "and 1980 more")
}

func TestConcurrentAppliesAllSucceedOneAfterTheOther(t *testing.T) {
	w := start(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := w.api.Apply(t.Context(), request(strings.Replace(eu, "eu", fmt.Sprintf("r%d", i), 1))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := w.api.ListDocuments(t.Context(), &aviaryv1.ListDocumentsRequest{Kind: "Region"}); err != nil || len(all.GetDocuments()) != 4 {
		t.Fatalf("%v: %v", all, err)
	}
}

func TestADocumentThatOthersNameStays(t *testing.T) {
	w := start(t)
	w.apply(t, eu, shop)
	_, err := w.api.DeleteDocument(t.Context(), &aviaryv1.DeleteDocumentRequest{Kind: "Region", Name: "eu"})
	want(t, err, codes.FailedPrecondition, "Region/eu is still named", "Service/shop")
	for _, c := range []struct{ kind, name string }{{"Service", "shop"}, {"Region", "eu"}} {
		resp, err := w.api.DeleteDocument(t.Context(), &aviaryv1.DeleteDocumentRequest{Kind: c.kind, Name: c.name, Author: "ann"})
		if err != nil || resp.GetDocument().GetOutcome() != aviaryv1.Outcome_OUTCOME_DELETED || resp.GetDocument().GetRevision() != 2 {
			t.Fatalf("%v: %v", resp, err)
		}
	}
	_, err = w.api.DeleteDocument(t.Context(), &aviaryv1.DeleteDocumentRequest{Kind: "Region", Name: "eu"})
	want(t, err, codes.NotFound, "Region/eu")
	_, err = w.api.GetDocument(t.Context(), &aviaryv1.GetDocumentRequest{Kind: "Region", Name: "eu"})
	want(t, err, codes.NotFound, "deleted by ann in revision 2")
	history, err := w.api.ListRevisions(t.Context(), &aviaryv1.ListRevisionsRequest{Kind: "Region", Name: "eu"})
	if err != nil || len(history.GetRevisions()) != 2 || !history.GetRevisions()[0].GetDeleted() {
		t.Fatalf("%v: %v", history, err)
	}
}

func TestRevertIsOneCallBackToKnownGood(t *testing.T) {
	w := start(t)
	two := strings.Replace(eu, "[a]", "[a, b]", 1)
	w.apply(t, eu)
	_, err := w.api.Revert(t.Context(), &aviaryv1.RevertRequest{Kind: "Region", Name: "eu"})
	want(t, err, codes.FailedPrecondition, "no earlier content")
	w.apply(t, two)
	resp, err := w.api.Revert(t.Context(), &aviaryv1.RevertRequest{Kind: "Region", Name: "eu", Author: "ann"})
	if err != nil || resp.GetDocument().GetRevision() != 3 || resp.GetDocument().GetOutcome() != aviaryv1.Outcome_OUTCOME_UPDATED {
		t.Fatalf("%v: %v", resp, err)
	}
	got, err := w.api.GetDocument(t.Context(), &aviaryv1.GetDocumentRequest{Kind: "Region", Name: "eu"})
	if d := got.GetDocument(); err != nil || !slices.Equal(d.GetDocument().GetRegion().GetZones(), []string{"a"}) || d.GetReason() != "revert to revision 1" {
		t.Fatalf("%v: %v", got, err)
	}
	// Going back to what the rest has outgrown is refused.
	w.apply(t, two, strings.Replace(shop, "zone: a", "zone: b", 1))
	_, err = w.api.Revert(t.Context(), &aviaryv1.RevertRequest{Kind: "Region", Name: "eu", Revision: 1})
	want(t, err, codes.FailedPrecondition, "revision 1 of Region/eu does not fit", "Service/shop")
	_, err = w.api.Revert(t.Context(), &aviaryv1.RevertRequest{Kind: "Region", Name: "eu", Revision: 9})
	want(t, err, codes.NotFound)
}

func TestAnUnknownKindSaysWhichThereAre(t *testing.T) {
	w := start(t)
	_, err := w.api.ListDocuments(t.Context(), &aviaryv1.ListDocumentsRequest{Kind: "Pod"})
	want(t, err, codes.InvalidArgument, `"Pod"`, "Region, Service, Policy, Rollout")
	_, err = w.api.GetDocument(t.Context(), &aviaryv1.GetDocumentRequest{Kind: "Region"})
	want(t, err, codes.InvalidArgument, "name")
}

func TestEveryVerbReachesTheOneWhoDecides(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	regions := []string{"eu"}
	var st [7]*aviaryv1.RolloutStatus
	var errs [7]error
	call := func(i int, r interface {
		GetRollout() *aviaryv1.RolloutStatus
	}, err error) {
		st[i], errs[i] = r.GetRollout(), err
	}
	a, err := w.api.StartRollout(ctx, &aviaryv1.StartRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(0, a, err)
	b, err := w.api.PauseRollout(ctx, &aviaryv1.PauseRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(1, b, err)
	c, err := w.api.ResumeRollout(ctx, &aviaryv1.ResumeRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(2, c, err)
	d, err := w.api.AbortRollout(ctx, &aviaryv1.AbortRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(3, d, err)
	e, err := w.api.PromoteRollout(ctx, &aviaryv1.PromoteRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(4, e, err)
	f, err := w.api.RollbackRollout(ctx, &aviaryv1.RollbackRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(5, f, err)
	g, err := w.api.RetryRollout(ctx, &aviaryv1.RetryRolloutRequest{Rollout: "shop", Regions: regions, Author: "ann", Reason: "r"})
	call(6, g, err)
	verbs := []rollout.Verb{rollout.Start, rollout.Pause, rollout.Continue, rollout.Abort, rollout.Promote, rollout.Rollback, rollout.Retry}
	for i, v := range verbs {
		if errs[i] != nil || st[i].GetName() != "shop" {
			t.Errorf("%s: %v: %v", v, st[i], errs[i])
		}
		if diff := cmp.Diff(rollout.Action{Verb: v, Regions: regions, Author: "ann", Reason: "r"}, w.rollouts.acts[i]); diff != "" {
			t.Errorf("%s: %s", v, diff)
		}
	}
}

func TestErrorsOfTheOneWhoDecidesGetTheirCodes(t *testing.T) {
	w := start(t)
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"refused":     {fmt.Errorf("start eu: %w: it is halted", rollout.ErrRefused), codes.FailedPrecondition},
		"unknown":     {fmt.Errorf("%w region", rollout.ErrUnknown), codes.NotFound},
		"unavailable": {fmt.Errorf("save: %w", store.ErrUnavailable), codes.Unavailable},
		"fenced":      {store.ErrFenced, codes.Aborted},
		"surprise":    {errors.New("surprise"), codes.Internal},
	} {
		w.rollouts.mu.Lock()
		w.rollouts.err = c.err
		w.rollouts.mu.Unlock()
		_, err := w.api.StartRollout(t.Context(), &aviaryv1.StartRolloutRequest{Rollout: "shop"})
		if status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
	_, err := w.api.GetRollout(t.Context(), &aviaryv1.GetRolloutRequest{Rollout: "cart"})
	want(t, err, codes.NotFound, "cart")
}

func TestWatchesSendChangesAndEndWithTheServer(t *testing.T) {
	w := start(t)
	if _, err := w.store.Append(t.Context(), "shop", store.Event{Type: "Started", At: time.Now(), By: "ann"}); err != nil {
		t.Fatal(err)
	}
	events, err := w.api.WatchEvents(t.Context(), &aviaryv1.WatchEventsRequest{Rollout: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := events.Recv(); err != nil || e.GetEvent().GetNumber() != 1 || e.GetEvent().GetBy() != "ann" {
		t.Fatalf("%v: %v", e, err)
	}
	if _, err := w.store.Append(t.Context(), "shop", store.Event{Type: "Halted", Data: []byte(`{"x":1}`)}); err != nil {
		t.Fatal(err)
	}
	if e, err := events.Recv(); err != nil || e.GetEvent().GetType() != "Halted" || e.GetEvent().GetData() != `{"x":1}` {
		t.Fatalf("%v: %v", e, err)
	}
	changes, err := w.api.WatchRollout(t.Context(), &aviaryv1.WatchRolloutRequest{Rollout: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	w.rollouts.changes <- &aviaryv1.RolloutStatus{Name: "shop"}
	if c, err := changes.Recv(); err != nil || c.GetRollout().GetName() != "shop" {
		t.Fatalf("%v: %v", c, err)
	}
	invalid, err := w.api.WatchRollout(t.Context(), &aviaryv1.WatchRolloutRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = invalid.Recv()
	want(t, err, codes.InvalidArgument, "rollout")

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w.server.Stop(ctx)
	if ctx.Err() != nil {
		t.Fatal("watches held the server up")
	}
	_, err = events.Recv()
	want(t, err, codes.Unavailable, "stopping")
	_, err = changes.Recv()
	want(t, err, codes.Unavailable, "stopping")
}

func TestProxiesEventsAndVersionAreTold(t *testing.T) {
	w := start(t)
	proxies, err := w.api.ListProxies(t.Context(), &aviaryv1.ListProxiesRequest{Service: "shop"})
	if err != nil || len(proxies.GetProxies()) != 2 || proxies.GetProxies()[0].GetName() != "a" {
		t.Fatalf("%v: %v", proxies, err)
	}
	if _, err := w.store.Append(t.Context(), "shop", store.Event{Type: "Started"}, store.Event{Type: "Halted"}); err != nil {
		t.Fatal(err)
	}
	if events, err := w.api.ListEvents(t.Context(), &aviaryv1.ListEventsRequest{Rollout: "shop", After: 1}); err != nil || len(events.GetEvents()) != 1 {
		t.Fatalf("%v: %v", events, err)
	}
	if v, err := w.api.GetVersion(t.Context(), &aviaryv1.GetVersionRequest{}); err != nil || v.GetVersion() != "v1.2.3" {
		t.Fatalf("%v: %v", v, err)
	}
}

func TestRegionsAreTold(t *testing.T) {
	w := start(t)
	resp, err := w.api.ListRegions(t.Context(), &aviaryv1.ListRegionsRequest{})
	if err != nil || len(resp.GetRegions()) != 2 || resp.GetRegions()[0].GetRefused() != "shop may not leave" {
		t.Fatalf("%v: %v", resp, err)
	}
	w.rollouts.mu.Lock()
	w.rollouts.err = fmt.Errorf("%w: stopped", store.ErrUnavailable)
	w.rollouts.mu.Unlock()
	_, err = w.api.ListRegions(t.Context(), &aviaryv1.ListRegionsRequest{})
	want(t, err, codes.Unavailable, "stopped")
}

func TestAStrangerIsLetIntoNothingButHealth(t *testing.T) {
	w := start(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "stranger", "yes")
	_, err := w.api.Apply(ctx, request(eu))
	want(t, err, codes.PermissionDenied, "not allowed: a stranger")
	events, err := w.api.WatchEvents(ctx, &aviaryv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = events.Recv()
	want(t, err, codes.PermissionDenied)
	if _, err := grpc_health_v1.NewHealthClient(w.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestHealthAndReflectionAnswer(t *testing.T) {
	w := start(t)
	h, err := grpc_health_v1.NewHealthClient(w.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "aviary.v1.AdminService"})
	if err != nil || h.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("%v: %v", h, err)
	}
	r, err := grpc_reflection_v1.NewServerReflectionClient(w.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.Recv()
	if err != nil || !strings.Contains(resp.String(), "aviary.v1.AdminService") {
		t.Fatalf("%v: %v", resp, err)
	}
	if err := r.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

func TestAStoreThatIsGoneIsUnavailable(t *testing.T) {
	w := start(t)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := w.api.ListDocuments(t.Context(), &aviaryv1.ListDocumentsRequest{})
	want(t, err, codes.Unavailable)
}
