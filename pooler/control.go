package pooler

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// controller obeys the console.
type controller struct{ p *Pooler }

var _ admin.Controller = controller{}

// allDatabases is in Pooler.mu.paused when what a reload brings is to be paused as well.
const allDatabases = ""

// unitsLocked returns the clusters that a command is for, by name; Pooler.mu is held.
func (p *Pooler) unitsLocked(database string) ([]*unit, error) {
	if database == allDatabases {
		list := append(slices.Collect(maps.Values(p.mu.units)), p.instances()...)
		slices.SortFunc(list, byName)
		return list, nil
	}
	if u := p.mu.units[database]; u != nil {
		return []*unit{u}, nil
	}
	if list := p.instanceUnits(database); len(list) > 0 {
		return list, nil
	}
	return nil, admin.ErrNoDatabase
}

// units is unitsLocked for those who don't hold the lock.
func (p *Pooler) units(database string) ([]*unit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unitsLocked(database)
}

// Reload implements admin.Reloader.
func (c controller) Reload(context.Context) error {
	if c.p.ended() {
		return admin.ErrShuttingDown
	}
	return c.p.Reload() //nolint:contextcheck // what a reload closes outlives the command that ordered it
}

// ended reports whether a shutdown was ordered.
func (p *Pooler) ended() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// Pause implements admin.Pauser.
func (c controller) Pause(ctx context.Context, database string) error {
	units, err := c.hold(database, false)
	if err != nil {
		return err
	}
	for _, u := range units {
		u.cl.Reconnect() // what is idle is closed now, the rest when it is released
		u.ears.retire()
	}
	for _, u := range units {
		if err := u.cl.WaitRetired(ctx); err != nil {
			return err
		}
		if u.cl.Paused() {
			u.ears.retire() // those that transactions needed which were under way
		}
	}
	return nil
}

// hold pauses clusters. They may be paused already if again says so.
func (c controller) hold(database string, again bool) ([]*unit, error) {
	p := c.p
	p.orders.Lock()
	defer p.orders.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	units, err := p.unitsLocked(database)
	if err != nil {
		return nil, err
	}
	if p.mu.paused[database] && !again {
		return nil, admin.ErrPaused
	}
	p.mu.paused[database] = true
	if database == allDatabases && p.follower != nil {
		p.follower.paused.Store(true)
	}
	for _, u := range units {
		p.mu.paused[u.name()] = true
		u.cl.Pause()
	}
	return units, nil
}

// Resume implements admin.Pauser.
func (c controller) Resume(database string) error {
	p := c.p
	p.orders.Lock()
	defer p.orders.Unlock()
	units, err := p.released(database)
	if err != nil {
		return err
	}
	for _, u := range units { // those who wait are served
		u.cl.Resume()
	}
	return nil
}

// released notes that clusters are not paused any more, and returns those that were.
func (p *Pooler) released(database string) ([]*unit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	units, err := p.unitsLocked(database)
	if err != nil {
		return nil, err
	}
	units = slices.DeleteFunc(units, func(u *unit) bool { return !p.mu.paused[u.name()] })
	switch {
	case len(units) == 0 && (database != allDatabases || !p.mu.paused[allDatabases]):
		return nil, admin.ErrNotPaused
	case database == allDatabases:
		clear(p.mu.paused)
		if p.follower != nil {
			p.follower.paused.Store(false)
		}
	default:
		delete(p.mu.paused, database)
		delete(p.mu.paused, allDatabases) // not all of them any more
	}
	return units, nil
}

// Disable implements admin.Switcher.
func (c controller) Disable(database string) error { return c.disable(database, true) }

// Enable implements admin.Switcher.
func (c controller) Enable(database string) error { return c.disable(database, false) }

func (c controller) disable(database string, disabled bool) error {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	units, err := p.unitsLocked(database)
	if err != nil {
		return err
	}
	for _, u := range units {
		if disabled {
			p.mu.disabled[u.name()] = true
		} else {
			delete(p.mu.disabled, u.name())
		}
	}
	s := *p.state.Load()
	s.disabled = maps.Clone(p.mu.disabled)
	p.state.Store(&s)
	return nil
}

// Reconnect implements admin.Closer.
func (c controller) Reconnect(database string) error {
	units, err := c.p.units(database)
	for _, u := range units {
		u.cl.Reconnect()
		u.ears.retire()
	}
	return err
}

// WaitClose implements admin.Closer.
func (c controller) WaitClose(ctx context.Context, database string) error {
	units, err := c.p.units(database)
	if err != nil {
		return err
	}
	for _, u := range units {
		if err := u.cl.WaitRetired(ctx); err != nil {
			return err
		}
	}
	return nil
}

// errKilled is what clients get that an operator closes.
var errKilled = pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command").WithRoutine("killed")

// Kill implements admin.Killer.
func (c controller) Kill(database string) error {
	units, err := c.hold(database, true)
	if err != nil {
		return err
	}
	c.p.killClients(func(u *unit) bool { return slices.Contains(units, u) })
	for _, u := range units {
		u.cl.Kill()
		u.ears.retire()
	}
	return nil
}

// killClients closes the clients of the clusters that of selects. Each may take a while to be told: no one waits for another.
func (p *Pooler) killClients(of func(*unit) bool) {
	var wg sync.WaitGroup
	for _, client := range p.driver.Clients() {
		ends := false
		client.Inspect(func(s *session.Session, _ net.Conn) {
			u := unitOf(s.Account())
			ends = u != nil && (of(u) || slices.ContainsFunc(p.visited(s), of))
		})
		if ends {
			wg.Go(func() { client.Kill(errKilled, session.CloseKilled) })
		}
	}
	wg.Wait()
}

// KillClient implements admin.Killer.
func (c controller) KillClient(id uint64) error {
	clients := c.p.driver.Clients()
	i := slices.IndexFunc(clients, func(client *loop.Client) bool { return client.ID() == id })
	if i < 0 {
		return admin.ErrNoClient
	}
	clients[i].Kill(errKilled, session.CloseKilled)
	return nil
}

// Shutdown implements admin.Stopper.
func (c controller) Shutdown(mode admin.ShutdownMode) error {
	if !c.p.shutdown(mode) {
		return admin.ErrShuttingDown
	}
	return nil
}
