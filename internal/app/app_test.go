package app

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/aviary-mesh/aviary/internal/store"
)

func config() Config {
	return Config{XDS: "127.0.0.1:0", Admin: "127.0.0.1:0", HTTP: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}
}

func TestTheStoreComesFromOpen(t *testing.T) {
	var opened *store.Store
	cfg := config()
	cfg.Open = func(ctx context.Context) (*store.Store, error) {
		var err error
		opened, err = store.OpenEmbedded(ctx, t.TempDir(), store.Options{Logger: cfg.Log})
		return opened, err
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-ended:
		t.Fatalf("it ended before it was ready: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Rollouts(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("the store is not closed: %v", err)
	}
}

func TestWithoutAStoreNothingIsServed(t *testing.T) {
	if _, err := New(config()); err == nil {
		t.Error("it needs no store")
	}
	cfg := config()
	cfg.Open = func(context.Context) (*store.Store, error) { return nil, store.ErrUnavailable }
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
}
