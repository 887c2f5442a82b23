package provision

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
)

// tool runs a program of PostgreSQL's on a tenant's database.
func (m *Manager) tool(ctx context.Context, on Source, in io.Reader, out io.Writer, name string, args ...string) error {
	at := on.Connect
	if on.Driver == nil || on.Instance == nil {
		return Errorf(KindRefused, "the schema of tenant %s can't be read: it shares its server with others", on.Record.Name).WithHint("only instances' schemas are templates")
	}
	c, err := dialSource(ctx, at) // it may be that something else listens there, and older tools can't tell
	if err != nil {
		return unreachable(on.Instance, err)
	}
	end(ctx, c)
	args = append([]string{"--host", at.Host, "--port", strconv.Itoa(at.Port), "--username", at.User, "--no-password", "--dbname", at.Database}, args...)
	cmd, err := on.Driver.Tool(ctx, on.Instance, name, args...)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &limited{w: &said, left: 8 << 10}
	if cmd.Env == nil { // ours may hold keys
		cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C"}
	}
	cmd.Env = append(cmd.Env, at.Env()...)
	if err := cmd.Run(); err != nil {
		return Errorf(KindFailed, "%s: %v", name, err).WithDetail("%s", strings.TrimSpace(said.String()))
	}
	return nil
}

// limited writes so many bytes, and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
