package provision

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
)

func errNoArchive() error {
	return Errorf(KindRefused, "no backups are configured").WithHint("[backup]")
}

// tool runs a program of PostgreSQL's on a tenant's database.
func (m *Manager) tool(ctx context.Context, on Source, in io.Reader, out io.Writer, name string, args ...string) error {
	if on.Driver == nil {
		return Errorf(KindRefused, "%s can't be run for tenant %s", name, on.Record.Name)
	}
	at := on.Connect
	args = append([]string{"--host", at.Host, "--port", strconv.Itoa(at.Port), "--username", at.User, "--no-password", "--dbname", at.Database}, args...)
	cmd, err := on.Driver.Tool(ctx, on.Instance, name, args...)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &limited{w: &said, left: 8 << 10}
	cmd.Env = append(cmd.Environ(), "PGPASSWORD="+at.Password)
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

// finalBackup keeps what a tenant had that is removed.
func finalBackup(ctx context.Context, j *job) error {
	from, err := j.m.running(ctx, j.r)
	if err != nil {
		if err := configure(ctx, j); err != nil {
			return err
		}
		if err := start(ctx, j); err != nil {
			return err
		}
		if err := answers(ctx, j); err != nil {
			return err
		}
		if from, err = j.m.running(ctx, j.r); err != nil {
			return err
		}
	}
	if _, err := j.m.o.Archive.Dump(ctx, from, "final", j.f.report); err != nil {
		return fmt.Errorf("final backup: %w", err)
	}
	return nil
}

func forgetBackups(ctx context.Context, j *job) error {
	if j.o.Keep != nil && *j.o.Keep > 0 {
		return nil
	}
	return j.m.o.Archive.Forget(ctx, j.r.ID)
}
