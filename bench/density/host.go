package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/api"
)

// host is a running pgkennel with a directory of its own, and its operator.
type host struct {
	*api.Client
	o       *options
	scratch *pginstance.Scratch
	dir     string
	port    int
	process *pginstance.Process
	ids     map[string]string // of tenants that were seen, by name
}

// password is that of all tenants.
const password = "a tenant of the proof"

func newHost(ctx context.Context, o *options) (h *host, err error) {
	h = &host{o: o, ids: make(map[string]string)}
	if h.scratch, err = pginstance.OpenScratch(fmt.Sprintf("/tmp/pgkennel-density-%d", os.Geteuid())); err != nil {
		return nil, err
	}
	defer func() { //nolint:contextcheck // as its caller's
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	h.dir = filepath.Join(h.scratch.Dir, "t")
	if err := errors.Join(os.Mkdir(h.dir, 0o711), os.Chmod(h.dir, 0o711)); err != nil { //nolint:gosec // users of instances pass through
		return nil, err
	}
	port, release, err := h.scratch.FreePort()
	if err != nil {
		return nil, err
	}
	defer release()
	h.port = port
	configuration := fmt.Sprintf("[general]\nhost = \"127.0.0.1\"\nport = %d\n\n[directory]\n", port)
	if err := os.WriteFile(filepath.Join(h.dir, "pgdog.toml"), []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	if h.Client, err = api.NewClient(api.ClientOptions{Socket: filepath.Join(h.dir, "pgkennel-directory.sock")}); err != nil {
		return nil, err
	}
	return h, h.serve(ctx)
}

// serve starts the program and waits for its API.
func (h *host) serve(ctx context.Context) error {
	log, err := os.Create(filepath.Join(h.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(h.o.program) //nolint:noctx // close ends it
	cmd.Dir, cmd.Stdout, cmd.Stderr = h.dir, log, log
	if h.process, err = pginstance.Spawn(cmd); err != nil {
		return err
	}
	for {
		if h.Ping(ctx) == nil {
			return nil
		}
		select {
		case <-h.process.Done():
			return fmt.Errorf("pgkennel ended: %w", h.process.Err())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// order gives an order, with all that its error says.
func (h *host) order(ctx context.Context, o provision.Order) (*provision.Result, error) {
	res, err := h.Execute(ctx, o, nil)
	if e, ok := errors.AsType[*provision.Error](err); ok && (e.Detail != "" || o.Tenant != "") {
		err = fmt.Errorf("%s %s: %w (%s)", o.Verb, o.Tenant, err, e.Detail)
	}
	if err == nil {
		for _, v := range res.Tenants {
			h.ids[v.Name] = v.ID
		}
	}
	return res, err
}

// list are all tenants, the removed ones too.
func (h *host) list(ctx context.Context) ([]*provision.View, error) {
	res, err := h.order(ctx, provision.Order{Verb: provision.VerbList, Removed: true})
	if err != nil {
		return nil, err
	}
	return res.Tenants, nil
}

func (h *host) dsn(name string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s password='%s' sslmode=disable", h.port, name, name, password)
}

// connect logs in as a tenant, by the pooler.
func (h *host) connect(ctx context.Context, name string) (*pgx.Conn, error) {
	c, err := pgx.Connect(ctx, h.dsn(name))
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w", name, err)
	}
	return c, nil
}

// direct runs statements as the administrator of a tenant's instance, past the pooler.
func (h *host) direct(ctx context.Context, name string, statements ...string) error {
	res, err := h.order(ctx, provision.Order{Verb: provision.VerbConnect, Tenant: name})
	if err != nil {
		return err
	}
	at := res.Connect
	c, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s password='%s' sslmode=disable", at.Host, at.Port, at.User, at.Database, at.Password))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// removeTime bounds the removal of what is there at the end.
const removeTime = 4 * time.Minute

// close ends the program, removes what tenants there are still, without it, and looks for what is left.
func (h *host) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTime) // it has to be done whatever has ended
	defer cancel()
	var errs []error
	if h.Client != nil {
		h.Client.Close()
	}
	if h.process != nil {
		_ = h.process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-h.process.Done():
		case <-ctx.Done():
			_ = h.process.Signal(syscall.SIGKILL)
		}
		_, _ = h.program(ctx, "repair") // what was half done can be removed then; if not, it is left, and told
		names, err := h.program(ctx, "list", "--removed")
		errs = append(errs, err)
		if len(names) > 0 {
			_, err := h.program(ctx, append([]string{"remove", "--now"}, names...)...)
			errs = append(errs, err)
		}
		left := h.left()
		if len(left) > 0 {
			errs = append(errs, fmt.Errorf("left behind:\n%s", strings.Join(left, "\n")))
		}
		if err := errors.Join(errs...); err != nil {
			text, _ := os.ReadFile(filepath.Join(h.dir, "log")) // without it, the error says less
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			return errors.Join(err, fmt.Errorf("the end of the program's log:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n")), h.scratch.Close())
		}
	}
	return errors.Join(append(errs, h.scratch.RemoveBase())...)
}

// program runs a command of pgkennel's in its folder, where no pooler runs, and returns the names of tenants that it tells of.
func (h *host) program(ctx context.Context, args ...string) (names []string, err error) {
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, h.o.program, append([]string{"tenant", "--json", "-q"}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = h.dir, &out, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal is for the proof
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pgkennel tenant %s: %w\n%s%s", args[0], err, &out, &log)
	}
	var res provision.Result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return nil, fmt.Errorf("pgkennel tenant %s: %w", args[0], err)
	}
	for _, v := range res.Tenants {
		names = append(names, v.Name)
	}
	return names, nil
}

// left is what there is of instances after all tenants were removed.
func (h *host) left() (list []string) {
	instances := filepath.Join(h.dir, "instances")
	for _, dir := range []string{instances, filepath.Join(h.dir, "backups")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			list = append(list, err.Error())
		}
		for _, e := range entries {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	for _, path := range []string{"/proc/self/mounts", "/proc/net/unix"} {
		text, err := os.ReadFile(path)
		if err != nil {
			list = append(list, err.Error())
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, instances) {
				list = append(list, path+": "+strings.TrimSpace(line))
			}
		}
	}
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, path := range backing {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(instances)) {
			list = append(list, path+": "+strings.TrimSpace(string(text)))
		}
	}
	for pid, line := range programs() {
		if strings.Contains(line, instances) {
			list = append(list, fmt.Sprintf("process %d: %s", pid, line))
			continue
		}
		for _, id := range h.ids {
			if strings.Contains(line, id) {
				list = append(list, fmt.Sprintf("process %d: %s", pid, line))
			}
		}
	}
	for _, id := range h.ids {
		for _, pattern := range []string{"/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/*/"} {
			groups, _ := filepath.Glob(pattern + id) // the pattern is good
			list = append(list, groups...)
		}
	}
	return list
}

// programs are the command lines of all processes.
func programs() map[int]string {
	all := make(map[int]string)
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if text, readErr := os.ReadFile(path); err == nil && readErr == nil && pid != os.Getpid() {
			all[pid] = string(bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
	return all
}

// listens reports whether anybody takes connections at a port.
func listens(port int) bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}
