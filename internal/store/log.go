package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo is a zap logger whose warnings and errors go to l: etcd's chatter below that is of no use to an operator.
func zapTo(l *slog.Logger) *zap.Logger {
	return zap.New(zapCore{log: l.With("component", "etcd")})
}

type zapCore struct{ log *slog.Logger }

// noise is what etcd warns of at every start and what does not concern a member that nobody else can reach, and what it
// says of a new directory before its first commit, some milliseconds later, makes that right.
var noise = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,

	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	"exceeded recommended request limit":                                                   true,
}

func (c zapCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{log: c.log.With(attrs(fields)...)}
}

func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !noise[e.Message] {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, e.Message, attrs(fields)...)
	return nil
}

func (c zapCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	out := make([]any, 0, len(m.Fields))
	for _, f := range fields {
		if v, ok := m.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
