package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/pgkennel/pgkennel/provision/process"
	"github.com/pgkennel/pgkennel/tenant"
)

// brief is the context of calls for which nobody gave one.
func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// unknown reports that systemd knows of no such unit.
func unknown(err error) bool {
	var e godbus.Error
	return errors.As(err, &e) && (e.Name == "org.freedesktop.systemd1.NoSuchUnit" || e.Name == "org.freedesktop.systemd1.LoadFailed")
}

// property reads one of a unit; the zero value if there is none.
func property[T any](ctx context.Context, conn *dbus.Conn, id, name string, service bool) (T, error) {
	var zero T
	var p *dbus.Property
	var err error
	if service {
		p, err = conn.GetUnitTypePropertyContext(ctx, unitName(id), "Service", name)
	} else {
		p, err = conn.GetUnitPropertyContext(ctx, unitName(id), name)
	}
	if unknown(err) {
		return zero, nil
	}
	if err != nil {
		return zero, fmt.Errorf("%s of %s: %w", name, unitName(id), err)
	}
	value, _ := p.Value.Value().(T)
	return value, nil
}

// active is a unit's state, such as active, inactive, failed, activating.
func active(ctx context.Context, conn *dbus.Conn, id string) (string, error) {
	return property[string](ctx, conn, id, "ActiveState", false)
}

func down(state string) bool { return state == "" || state == "inactive" || state == "failed" }

// Limit implements process.Runner.
func (u *units) Limit(id string, l tenant.Limits, processes int) error {
	if err := os.MkdirAll(u.dropIns(id), 0o755); err != nil { //nolint:gosec // as all of systemd's are
		return err
	}
	if err := write(filepath.Join(u.dropIns(id), limitsFile), u.limits(id, l, processes)); err != nil {
		return err
	}
	ctx, cancel := brief()
	defer cancel()
	conn, err := u.bus(ctx)
	if err != nil {
		return err
	}
	state, err := active(ctx, conn, id)
	if err != nil || down(state) {
		return err
	}
	// At once: units are read again at the next start only.
	set := func(name string, value uint64) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	const none = math.MaxUint64
	cpu, high, most, swap := uint64(none), uint64(none), uint64(none), uint64(none)
	if l.CPU > 0 {
		cpu = uint64(l.CPU) * 1000
	}
	if l.Memory > 0 {
		high, most, swap = uint64(highOf(l.Memory)), uint64(l.Memory), 0 //nolint:gosec // it is above zero
	}
	type bandwidth struct {
		Dir   string
		Bytes uint64
	}
	inout := []bandwidth{} // none
	if l.IO > 0 {
		inout = append(inout, bandwidth{filepath.Join(u.dataDir, id), uint64(l.IO)})
	}
	value := godbus.MakeVariant(inout)
	read, write := dbus.Property{Name: "IOReadBandwidthMax", Value: value}, dbus.Property{Name: "IOWriteBandwidthMax", Value: value}
	err = conn.SetUnitPropertiesContext(ctx, unitName(id), true, read, write, set("CPUQuotaPerSecUSec", cpu), set("MemoryHigh", high), set("MemoryMax", most),
		set("MemorySwapMax", swap), set("TasksMax", uint64(processes))) //nolint:gosec // it is above zero
	if err != nil {
		return fmt.Errorf("limits of %s: %w", unitName(id), err)
	}
	// It answers before it has done that, and nothing else before it has.
	_, err = active(ctx, conn, id)
	return err
}

// Start implements process.Runner.
func (u *units) Start(ctx context.Context, s process.Service) (pid int, err error) {
	conn, err := u.bus(ctx)
	if err != nil {
		return 0, err
	}
	name := unitName(s.ID)
	if err := write(u.path(s.ID), u.text(s)); err != nil {
		return 0, err
	}
	// What was set at run time is in the drop-in now.
	if err := os.RemoveAll(control(s.ID)); err != nil {
		return 0, err
	}
	stale, err := property[bool](ctx, conn, s.ID, "NeedDaemonReload", false)
	if err != nil {
		return 0, err
	}
	if stale {
		if err := conn.ReloadContext(ctx); err != nil {
			return 0, fmt.Errorf("reload of units: %w", err)
		}
	}
	done := make(chan string, 1) // the library must never wait for us
	if _, err := conn.StartUnitContext(ctx, name, "replace", done); err != nil {
		return 0, fmt.Errorf("start of %s: %w", name, err)
	}
	// A job is done when the server says that it is ready, which its caller looks for in more ways than one.
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		select {
		case result := <-done:
			if result != "done" {
				why, _ := property[string](ctx, conn, s.ID, "Result", true) // for the message only
				return 0, fmt.Errorf("start of %s: %s (%s)", name, result, why)
			}
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(wait):
		}
		main, err := property[uint32](ctx, conn, s.ID, "MainPID", true)
		if err != nil {
			return 0, err
		}
		if main > 0 {
			return int(main), nil
		}
	}
}

// Stop implements process.Runner. What goes on with its processes until they have ended is the driver's to say: systemd does not start them again.
func (u *units) Stop(ctx context.Context, id string) error {
	conn, err := u.bus(ctx)
	if err != nil {
		return err
	}
	state, err := active(context.WithoutCancel(ctx), conn, id)
	if err != nil || down(state) {
		return err
	}
	if _, err := conn.StopUnitContext(context.WithoutCancel(ctx), unitName(id), "replace", nil); err != nil && !unknown(err) {
		return fmt.Errorf("stop of %s: %w", unitName(id), err)
	}
	return nil
}

// Stopped implements process.Runner.
func (u *units) Stopped(ctx context.Context, id string) error {
	conn, err := u.bus(ctx)
	if err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		state, err := active(ctx, conn, id)
		if err != nil {
			return err
		}
		if state == "failed" {
			// A unit that failed too often could not be started, and one that is failed is never forgotten.
			if err := conn.ResetFailedUnitContext(ctx, unitName(id)); err != nil && !unknown(err) {
				return fmt.Errorf("state of %s: %w", unitName(id), err)
			}
		}
		if down(state) {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%s is still %s: %w", unitName(id), state, context.Cause(ctx))
		}
	}
}

// CPU implements process.Runner.
func (u *units) CPU(id string) (time.Duration, bool) {
	ctx, cancel := brief()
	defer cancel()
	conn, err := u.bus(ctx)
	if err != nil {
		return 0, false
	}
	used, err := property[uint64](ctx, conn, id, "CPUUsageNSec", true)
	return time.Duration(used), err == nil && used > 0 && used != math.MaxUint64 //nolint:gosec // centuries
}

// hierarchies are where systemd's own cgroups are: cgroup v2, or beside v1's.
var hierarchies = []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"}

// Processes implements process.Runner.
func (u *units) Processes(id string) []int {
	ctx, cancel := brief()
	defer cancel()
	conn, err := u.bus(ctx)
	if err != nil {
		return nil
	}
	group, err := property[string](ctx, conn, id, "ControlGroup", true)
	if err != nil || group == "" {
		return nil
	}
	for _, root := range hierarchies {
		b, err := os.ReadFile(filepath.Join(root, group, "cgroup.procs"))
		if err != nil {
			continue
		}
		var list []int
		for word := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(word); err == nil {
				list = append(list, pid)
			}
		}
		return list
	}
	return nil
}

// Remove implements process.Runner.
func (u *units) Remove(id string) error {
	ctx, cancel := brief()
	defer cancel()
	if err := errors.Join(u.Stop(ctx, id), u.Stopped(ctx, id)); err != nil {
		return err
	}
	had := false
	for _, path := range []string{u.path(id) + ".new", u.path(id), u.dropIns(id), control(id)} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		had = true
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if !had {
		return nil
	}
	conn, err := u.bus(ctx)
	if err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload of units: %w", err)
	}
	return nil
}

// Watch implements process.Runner. Without a bus it ends: the driver looks for itself, too, only later.
func (u *units) Watch(ctx context.Context, wake func()) {
	conn, err := listen(ctx)
	if err != nil {
		u.log.WarnContext(ctx, "units can't be watched", "error", err)
		return
	}
	defer conn.Close()
	signals := make(chan *godbus.Signal, 256)
	conn.Signal(signals)
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-signals:
			if !ok {
				u.log.WarnContext(ctx, "units are not watched any more: the connection to the bus has ended")
				return
			}
			if strings.HasPrefix(string(s.Path), unitPath+"/pgkennel_2d") { // as objects of the bus are called
				wake()
			}
		}
	}
}

const unitPath = "/org/freedesktop/systemd1/unit"

// listen returns a connection that hears of all changes of units. The library for systemd has its own way to that, which is not safe: it may be at a signal while
// it is told whom to tell.
func listen(ctx context.Context) (*godbus.Conn, error) {
	conn, err := godbus.ConnectSystemBus()
	if err == nil {
		err = conn.AddMatchSignalContext(ctx, godbus.WithMatchInterface("org.freedesktop.DBus.Properties"), godbus.WithMatchMember("PropertiesChanged"),
			godbus.WithMatchPathNamespace(unitPath))
	} else { // systemd's own socket, which tells all to everybody
		conn, err = godbus.Dial("unix:path=/run/systemd/private")
		if err == nil {
			err = conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))})
		}
	}
	if err == nil {
		err = conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").CallWithContext(ctx, "org.freedesktop.systemd1.Manager.Subscribe", 0).Err
	}
	if err != nil && conn != nil {
		conn.Close()
	}
	return conn, err
}
