package process

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
)

// stopTime is how long an instance may take to stop where nobody says.
const stopTime = time.Minute

// Stop implements provision.Driver: a fast shutdown, an immediate one for the last fifth of the time, and then SIGKILL for all that is left.
func (d *Driver) Stop(ctx context.Context, in *provision.Instance) error {
	p, err := d.place(in)
	if err != nil {
		return err
	}
	defer d.lock(in.ID)()
	return d.stop(ctx, p)
}

func (d *Driver) stop(ctx context.Context, p *place) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(stopTime)
	}
	left := max(time.Until(deadline), 0)
	if d.o.Runner != nil {
		if err := d.o.Runner.Stop(ctx, p.id); err != nil {
			return err
		}
	}
	for _, phase := range []struct {
		sig   unix.Signal
		until time.Time
	}{
		{unix.SIGINT, deadline.Add(-left / 5)},
		{unix.SIGQUIT, deadline},
	} {
		pm, running := findPostmaster(p)
		if !running {
			break
		}
		if err := signal(pm.pid, phase.sig, func(pid int) bool { return isServer(p, pid) }); err != nil {
			return err
		}
		if err := d.ended(ctx, p, pm.pid, phase.until); err != nil {
			return err
		}
	}
	// What is left did not want to go, or is what a superuser left behind.
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := d.killMembers(kill, p); err != nil {
		return provision.Errorf(provision.KindFailed, "processes of instance %s do not end: %v", p.id, err)
	}
	if d.o.Runner != nil {
		return d.o.Runner.Stopped(kill, p.id)
	}
	return nil
}

// ended waits for a server's end, and has no error if the time is over first. Only who gave the order up gets one.
func (d *Driver) ended(ctx context.Context, p *place, pid int, until time.Time) error {
	d.mu.Lock()
	c := d.mu.children[p.id]
	d.mu.Unlock()
	var done chan struct{}
	if c != nil && c.pid == pid {
		done = c.done
	}
	timeout := time.NewTimer(time.Until(until))
	defer timeout.Stop()
	cancelled := ctx.Done()
	for wait := time.Millisecond; isServer(p, pid); wait = min(2*wait, 20*time.Millisecond) {
		select {
		case <-done:
			return nil
		case <-timeout.C:
			return nil
		case <-cancelled:
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			cancelled = nil
		case <-time.After(wait):
		}
	}
	return nil
}
