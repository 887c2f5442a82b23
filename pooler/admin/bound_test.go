package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBound(t *testing.T) {
	t.Parallel()
	b := newFake().console().Bind(t.Context(), stats)
	for _, c := range []struct {
		sql      string
		extended bool
		want     string
		code     string
	}{
		{"SHOW VERSION", false, "RowDescription version\n  pgkennel 1.2.3\nCommandComplete SHOW\n", ""},
		{"SHOW VERSION", true, "  pgkennel 1.2.3\nCommandComplete SHOW\n", ""},
		{"", false, "EmptyQueryResponse\n", ""},
		{"", true, "EmptyQueryResponse\n", ""},
		{"FOO", false, "", "42601"},
		{"FOO", true, "", "42601"},
		{"SHOW VERSION; RESET foo", false, "RowDescription version\n  pgkennel 1.2.3\nCommandComplete SHOW\n", "42704"},
		{"RELOAD", true, "", "42501"},
	} {
		out, err := b.Run(nil, c.sql, c.extended)
		code := ""
		if err != nil {
			code = err.Code
		}
		if got := transcript(t, out); got != c.want || code != c.code {
			t.Errorf("%q, extended %v: got %q, %s", c.sql, c.extended, got, code)
		}
	}
	if columns, err := b.Columns("SHOW LISTS"); err != nil || len(columns) != 2 {
		t.Errorf("columns %v, %v", columns, err)
	}
}

// TestBoundGivesUpWithItsContext: it has no other way to end a command that waits.
func TestBoundGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.block = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	b := f.console().Bind(ctx, admin)
	code := make(chan string)
	go func() {
		_, err := b.Run(nil, "PAUSE", false)
		code <- err.Code
	}()
	<-f.block
	cancel()
	if got := <-code; got != "57014" {
		t.Errorf("got %s, want 57014", got)
	}
}

// TestCommandsThatActAreLogged holds the lines that an operator greps for.
func TestCommandsThatActAreLogged(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	f := newFake()
	c := f.console()
	c.Log = slog.New(slog.NewJSONHandler(&buf, nil))
	for _, sql := range []string{"SHOW POOLS", "PAUSE app", "KILL_CLIENT 404", "SHUTDOWN"} {
		_, _ = c.Run(t.Context(), sql, admin)
	}
	_, _ = c.Run(t.Context(), "KILL app", stats)
	var got []map[string]any
	for d := json.NewDecoder(&buf); d.More(); {
		line := map[string]any{}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		delete(line, "time")
		got = append(got, line)
	}
	want := []map[string]any{
		{"level": "INFO", "msg": "admin command", "user": "root", "client": 7.0, "command": "PAUSE", "database": "app"},
		{"level": "INFO", "msg": "admin command", "user": "root", "client": 7.0, "command": "KILL_CLIENT", "victim": 404.0},
		{"level": "WARN", "msg": "admin command failed", "user": "root", "client": 7.0, "command": "KILL_CLIENT", "victim": 404.0, "error": "no such client"},
		{"level": "INFO", "msg": "admin command", "user": "root", "client": 7.0, "command": "SHUTDOWN", "mode": "DRAIN"},
		{"level": "WARN", "msg": "admin command refused", "user": "monitor", "client": 8.0, "command": "KILL", "access": "stats"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}
