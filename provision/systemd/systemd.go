// Package systemd runs tenants' instances as services of the host's systemd: the process driver, with a unit of each instance's own in place of a child.
//
// A unit is pgkennel-ID.service, in Options.UnitDir, with its limits in a drop-in beside it. Both are written by pgkennel before each start; what an operator wants
// of all instances goes into pgkennel-.service.d. Units are not enabled: after the host was started anew, pgkennel starts those instances that should run. systemd
// starts one again that ended by itself, with back-off, also while pgkennel is down.
//
// Instances have users that nothing but their record knows, and systemd starts programs as users that have names only. So setpriv becomes the user, after
// systemd has closed off the rest.
//
// Driver and its connection to the bus are safe for concurrent use. Watch has a connection of its own; the other's goroutines end with Close.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
)

// Options are what a Driver is made of. Only Process.DataDir is needed.
type Options struct {
	// Process are those of directories, ports and users. DataDir may not be where services have a place of their own, such as /tmp and /home.
	Process process.Options
	// UnitDir is where units are written: /run/systemd/system if empty, or another of systemd's, such as /etc/systemd/system.
	UnitDir string
}

// Driver runs instances as units.
type Driver struct {
	*process.Driver
	units *units
}

var _ provision.Driver = (*Driver)(nil)

// New makes a Driver. It fails where there is no systemd that this process may give orders to.
func New(o Options) (*Driver, error) {
	u, err := newUnits(o)
	if err != nil {
		return nil, err
	}
	o.Process.Runner = u
	d, err := process.New(o.Process)
	if err != nil {
		u.close()
		return nil, err
	}
	return &Driver{d, u}, nil
}

// Close ends the connection to the bus. The driver may be used again: it connects anew.
func (d *Driver) Close() { d.units.close() }

// units is systemd as process.Runner.
type units struct {
	dir, dataDir string
	setpriv      string
	version      int // of systemd
	log          *slog.Logger

	mu struct {
		sync.Mutex
		conn *dbus.Conn
	}
}

var _ process.Runner = (*units)(nil)

// hidden are the directories that units see another of, or nothing.
var hidden = []string{"/tmp", "/var/tmp", "/home", "/root", "/run/user", "/dev", "/proc", "/sys"}

func newUnits(o Options) (*units, error) {
	u := &units{dir: o.UnitDir, log: o.Process.Log}
	if u.dir == "" {
		u.dir = "/run/systemd/system"
	}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("driver systemd: pgkennel is not root, and only root may give orders to the host's systemd")
	}
	// The same as sd_booted(3) looks at.
	if st, err := os.Lstat("/run/systemd/system"); err != nil || !st.IsDir() {
		return nil, errors.New("driver systemd: this host was not started by systemd (/run/systemd/system is not there)")
	}
	if o.Process.DataDir == "" {
		return nil, errors.New("provision.data_dir is not set")
	}
	var err error
	if u.dataDir, err = filepath.Abs(o.Process.DataDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(u.dataDir, 0o711); err != nil { //nolint:gosec // instances pass through, and see nothing
		return nil, fmt.Errorf("data directory of instances: %w", err)
	}
	if u.dataDir, err = filepath.EvalSymlinks(u.dataDir); err != nil {
		return nil, fmt.Errorf("data directory of instances: %w", err)
	}
	for _, dir := range hidden {
		if strings.HasPrefix(u.dataDir+"/", dir+"/") {
			return nil, fmt.Errorf("driver systemd: data directory of instances %s: services have no access to %s; choose another place, such as /var/lib/pgkennel", u.dataDir, dir)
		}
	}
	if u.setpriv, err = exec.LookPath("setpriv"); err != nil {
		return nil, errors.New("driver systemd: the program setpriv (of util-linux) is missing; it has servers run as users without names")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // a constructor has no context to obey, and a dead bus must not hold it
	defer cancel()
	conn, err := u.bus(ctx)
	if err != nil {
		return nil, fmt.Errorf("driver systemd: %w", err)
	}
	path, err := conn.GetManagerProperty("UnitPath")
	if err != nil {
		u.close()
		return nil, fmt.Errorf("driver systemd: %w", err)
	}
	// It is written as an array of strings.
	if !slices.Contains(strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(`[]", `, r) }), u.dir) {
		u.close()
		return nil, fmt.Errorf("driver systemd: %s is not among the directories that systemd reads units of", u.dir)
	}
	version, err := conn.GetManagerProperty("Version")
	if err != nil {
		u.close()
		return nil, fmt.Errorf("driver systemd: %w", err)
	}
	_, _ = fmt.Sscanf(strings.Trim(version, `"`), "%d", &u.version) // an unknown one is taken for an old one
	if u.version < oldest {
		u.close()
		return nil, fmt.Errorf("driver systemd: this host's systemd is %s; %d is the oldest that knows the settings that lock instances in", version, oldest)
	}
	return u, nil
}

// oldest is the first systemd with ProtectProc; it would pass over that, with a warning.
const oldest = 247

// patience bounds calls that nobody waits for with a context: systemd answers at once, or is in trouble.
const patience = 30 * time.Second

// bus returns a connection that works.
func (u *units) bus(ctx context.Context) (*dbus.Conn, error) {
	u.mu.Lock()
	conn := u.mu.conn
	u.mu.Unlock()
	if conn != nil && conn.Connected() {
		return conn, nil
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := u.mu.conn; now != nil && now != conn && now.Connected() {
		conn.Close() // another was quicker
		return now, nil
	}
	u.mu.conn = conn
	return conn, nil
}

// dial connects to the system's bus, or where there is none to systemd's own socket. The context bounds the connection's making only.
func dial(ctx context.Context) (*dbus.Conn, error) {
	life := context.WithoutCancel(ctx) // the library ends the connection with its context
	conn, err := dbus.NewSystemConnectionContext(life)
	if err == nil {
		return conn, nil
	}
	conn, err2 := dbus.NewSystemdConnectionContext(life)
	if err2 != nil {
		return nil, fmt.Errorf("systemd can't be reached: %w", errors.Join(err, err2))
	}
	return conn, nil
}

func (u *units) close() {
	u.mu.Lock()
	conn := u.mu.conn
	u.mu.conn = nil
	u.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Name implements process.Runner.
func (u *units) Name() string { return "systemd" }
