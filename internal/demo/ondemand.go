package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

const (
	onDemandName  = "t" // a folder's; short, for paths of unix sockets may have some 100 bytes
	instancesName = "instances"
	secretName    = "tenant.password"

	// cannot is the exit code of a command that asks for what the host can't give.
	cannot = 5
	// removeTimeout bounds the removal of tenants, however many there are by then.
	removeTimeout = 60 * time.Second
)

// order is what a user would type, and what has to come of it.
type order struct {
	title  string
	typed  string
	beside bool   // it runs beside the one before
	want   string // in its output
	code   int    // its exit code
	limits bool   // some hosts have nothing to enforce them with
}

var orders = []order{
	{title: "Tenants on demand: a PostgreSQL for each, made by one command", typed: "pgkennel tenant create acme --enable --password-file " + secretName, want: "acme: created"},
	{typed: "pgkennel tenant create globex --enable --password-file " + secretName, want: "globex: created", beside: true},
	{
		title: "All are reached through the one port, and each has no other's tables",
		typed: `psql -U acme -Atc "CREATE TABLE notes AS SELECT 'a note in instance ' || current_setting('cluster_name')" -c "TABLE notes"`, want: "a note in instance t_",
	},
	{typed: `psql -U globex@globex -Atc "SELECT 'here is instance ' || current_setting('cluster_name')" -c "TABLE notes"`, want: `relation "notes" does not exist`, code: 1},
	{title: "One is limited, one stopped", typed: "pgkennel tenant set acme --cpu 0.5 --memory 256MB --connections 20 --now", want: "acme: set", limits: true},
	{typed: "pgkennel tenant stop globex", want: "globex: stopped", beside: true},
	{typed: `psql -U globex -c "SELECT 1"`, want: `database "globex" is stopped`, code: 2},
	{title: "One is removed, with a last backup, and brought back", typed: "pgkennel tenant remove acme", want: "acme: removed"},
	{typed: "pgkennel tenant restore acme", want: "acme: restored"},
	{typed: `psql -U acme -Atc "TABLE notes"`, want: "a note in instance t_"},
	{typed: "pgkennel tenant list", want: "process@"},
}

// shell runs commands as a user would who has gone to the demo's folder.
type shell struct {
	dir string
	env []string
}

func newShell(program string, scratch *pginstance.Scratch) (*shell, error) {
	s := &shell{dir: filepath.Join(scratch.Dir, onDemandName)}
	s.env = append(os.Environ(), "PROGRAM="+program, "PATH="+filepath.Dir(scratch.Install().Path("psql"))+":"+os.Getenv("PATH"))
	if err := os.Mkdir(s.dir, 0o711); err != nil { //nolint:gosec // the users that instances run as pass through
		return nil, err
	}
	return s, os.Chmod(s.dir, 0o711) //nolint:gosec // whatever the umask is
}

// configure writes all the configuration that is needed, and says where the pooler is.
func (s *shell) configure(dir string, port int) error {
	s.env = append(s.env, "PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(port), "PGPASSWORD="+password, "PGSSLMODE=disable", "PGCONNECT_TIMEOUT=30")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, configName), fmt.Appendf(nil, "[general]\nhost = \"127.0.0.1\"\nport = %d\n\n[directory]\n", port), 0o600),
		os.WriteFile(filepath.Join(dir, secretName), []byte(password+"\n"), 0o600),
	)
}

// outcome is how a command ended.
type outcome struct {
	output string
	code   int
	took   time.Duration
	err    error // that it could not be run
}

// run runs a command in a process group of its own: Ctrl-C in a terminal is for the demo. Where a terminal would show a bar for some seconds, nothing is
// shown.
func (s *shell) run(ctx context.Context, typed string) (o outcome) {
	begun := time.Now()
	var out bytes.Buffer
	cmd := exec.Command("/bin/sh", "-c", `pgkennel() { "$PROGRAM" "$@" --quiet; }; `+typed) //nolint:gosec,noctx // it is written above; the whole group is ended below
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &out, &out
	p, err := pginstance.Spawn(cmd)
	if err != nil {
		return outcome{err: err}
	}
	defer context.AfterFunc(ctx, func() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) })()
	err = p.Err()
	if ctx.Err() != nil {
		return outcome{err: context.Cause(ctx)}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		o.code, err = exit.ExitCode(), nil
	}
	o.output, o.took, o.err = strings.TrimRight(out.String(), "\n"), time.Since(begun), err
	return o
}

// showOrders makes tenants by commands, and shows these and what they print. It returns how many ended otherwise than they should have.
func (s *shell) showOrders(ctx context.Context, out io.Writer, list []order) (wrong int, err error) {
	fmt.Fprintf(out, "\nCommands below are typed in %s, where %s has a line [directory]; PGHOST, PGPORT and PGPASSWORD say where pgkennel is.\n", s.dir, configName)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].beside {
			n++
		}
		results := make([]chan outcome, n)
		for i, o := range list[:n] {
			if o.title != "" {
				fmt.Fprintf(out, "\n%s\n", o.title)
			}
			fmt.Fprintf(out, "  $ %s\n", o.typed)
			results[i] = make(chan outcome, 1)
			go func() { results[i] <- s.run(ctx, o.typed) }()
		}
		for i, o := range list[:n] {
			got := <-results[i]
			if got.err != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", o.typed, got.err))
				continue
			}
			if !o.show(out, got) {
				wrong++
			}
		}
		if err != nil {
			return wrong, err
		}
		list = list[n:]
	}
	return wrong, nil
}

// show prints what came of a command.
func (o *order) show(out io.Writer, got outcome) (right bool) {
	lines := strings.Split(got.output, "\n")
	if strings.HasPrefix(o.typed, "pgkennel") && len(lines) < 3 {
		lines[0] = fmt.Sprintf("%-40s (%.1f s)", lines[0], got.took.Seconds())
	}
	fmt.Fprintf(out, "    %s\n", strings.Join(lines, "\n    "))
	switch {
	case o.limits && got.code == cannot:
		fmt.Fprintln(out, "    This host has nothing to enforce that with, so it is refused; the demo goes on without.")
		return true
	case got.code != o.code || !strings.Contains(got.output, o.want):
		return verdict(out, false, fmt.Sprintf("exit code %d", got.code), fmt.Sprintf("exit code %d and %q", o.code, o.want))
	}
	return true
}

// forget removes the tenants that there are, those too that the reader made, and tells if it could not. No pooler runs any more: so nothing is made
// meanwhile.
func (s *shell) forget() error {
	left := func() []string {
		names, _ := filepath.Glob(filepath.Join(s.dir, instancesName, "*")) // the pattern is good
		return names
	}
	if len(left()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout) // it is needed the more when the demo's context has ended
	defer cancel()
	_ = s.run(ctx, "pgkennel tenant repair") // what was half done can be removed then; if not, that is noticed below
	got := s.run(ctx, "pgkennel tenant list --removed --json")
	var all struct {
		Tenants []struct {
			Name string `json:"name"`
		} `json:"tenants"`
	}
	err := got.err
	if err == nil {
		err = json.Unmarshal([]byte(got.output), &all)
	}
	for _, t := range all.Tenants {
		got = s.run(ctx, "pgkennel tenant remove --now '"+t.Name+"'")
		err = errors.Join(err, got.err)
	}
	if rest := left(); err != nil || len(rest) > 0 {
		return errors.Join(err, fmt.Errorf("tenants were not removed, %s are left: %s", strings.Join(rest, ", "), got.output))
	}
	return nil
}
