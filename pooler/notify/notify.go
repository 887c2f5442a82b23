// Package notify lets many sessions listen over one connection to each database: PostgreSQL's LISTEN belongs to a connection, which in transaction
// pooling no client keeps. A Hub is that connection, with who listens on it; a Set the hubs of a cluster, one for each database; a Listener one session.
//
// Everything rests on one promise of PostgreSQL: what was notified arrives in the order of the commits, and a connection that listens has everything
// that was committed before it is asked something, in front of the answer. So whoever awaits a hub's answer knows that everything has arrived.
//
// Goroutines: a hub that has something to do runs one that connects and reads, and, while it is connected, one that writes, one that wakes listeners and one that tries whether the server is there; Group.Close ends them and waits.
//
// Locks: Hub.mu -> Group.mu; Listener.mu and Audience.mu are leaves. Nobody is called under them.
package notify

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Options of a hub.
type Options struct {
	// Dial logs in to the database.
	Dial func(ctx context.Context) (*backend.Login, error)
	// Refuse is what a client hears of an error of Dial.
	Refuse func(err error) *pgwire.Error
	// Voice is for whom a process of a server (see backend.Login) speaks; heard: its notifications are for the hub's listeners.
	Voice func(server string, pid uint32) (v *backend.Voice, heard bool)
	Log   *slog.Logger
	// Linger is how long a connection stays without anybody who listens, Alive how long the server may be silent when it is asked something, and half as long as it may
	// take to answer; 0 = 10 s each.
	Linger, Alive time.Duration
}

// Client is who has a Listener. Its methods are called by goroutines of the hub.
type Client interface {
	// Hear tells that there is something for Listener.Next.
	Hear()
	// Lost ends the session: something was missed, or will be. Slow: its own queue is full.
	Lost(e *pgwire.Error, slow bool)
}

// Group is all hubs of a program.
type Group struct {
	// Epoch counts the questions to all servers.
	Epoch *atomic.Uint64

	ctx    context.Context //nolint:containedctx // of the hubs' goroutines
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	mu     sync.Mutex
	closed bool

	listeners, hubs, channels atomic.Int64
}

// NewGroup returns a group without hubs.
func NewGroup(epoch *atomic.Uint64) *Group {
	g := &Group{Epoch: epoch}
	epoch.CompareAndSwap(0, 1)                                 // 0 is before all
	g.ctx, g.cancel = context.WithCancel(context.Background()) // ended by Close
	return g
}

// Close ends all hubs. Who listens is not told: it is for when no sessions are left.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.tasks.Wait()
}

// start runs f in a goroutine. It returns false when the group is closed.
func (g *Group) start(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.tasks.Go(f)
	return true
}

// Stats are a group's figures at a time.
type Stats struct {
	Listeners, Connections int64
	Channels               int64 // of each connection
}

// Stats returns how many sessions listen, over how many connections.
func (g *Group) Stats() Stats {
	return Stats{Listeners: g.listeners.Load(), Connections: g.hubs.Load(), Channels: g.channels.Load()}
}

// Set is the hubs of a cluster, one for each of its databases.
type Set struct {
	group    *Group
	audience *Audience
	hubs     []*Hub
}

// NewSet makes hubs. They connect when somebody listens. Their listeners that are tenants' are of the audience.
func (g *Group) NewSet(hubs []Options, a *Audience) *Set {
	s := &Set{group: g, audience: a}
	for _, o := range hubs {
		if o.Linger == 0 {
			o.Linger = 10 * time.Second
		}
		if o.Alive == 0 {
			o.Alive = 10 * time.Second
		}
		h := &Hub{o: o, group: g}
		h.mu.channels = make(map[string]*channel)
		h.wakes.signal = make(chan struct{}, 1)
		h.work = make(chan struct{}, 1)
		s.hubs = append(s.hubs, h)
	}
	return s
}

// ArriveBy waits until everything that is committed by now has arrived, where somebody listens, or the time has come.
func (s *Set) ArriveBy(limit time.Time) {
	for _, h := range s.hubs {
		select {
		case <-h.ask().done:
		case <-time.After(time.Until(limit)):
			return
		}
	}
}

// Served is when others find a server at the address of the hub with the given index. A hub that is connected to another one hears nobody any more: it is retired, as
// are the others of its set.
func (s *Set) Served(hub int, server string) {
	h := s.hubs[hub]
	h.mu.Lock()
	h.mu.found = server
	gone := h.mu.conn != nil && h.mu.server != server
	h.mu.Unlock()
	if gone {
		h.o.Log.Warn("the connection that listens is closed: its address leads to another server now")
		s.Retire()
	}
}

// Retire ends the sessions that listen, for the databases are others now, or are not served any more. It returns at once.
func (s *Set) Retire() {
	s.group.start(func() {
		for _, h := range s.hubs {
			h.retire()
		}
	})
}

var (
	errLost = pgwire.Fatalf(pgwire.CodeAdminShutdown, "the connection that listens was lost").WithRoutine("listen_lost").
		WithDetail("Notifications may have been missed.").WithHint("Connect again, LISTEN, and look at what they are about.")
	errAway     = pgwire.Errorf(pgwire.CodeConnectionFailure, "the connection that listens was lost").WithRoutine("listen_lost").WithHint("LISTEN again.")
	errStopped  = pgwire.Errorf(pgwire.CodeQueryCanceled, "canceling statement due to user request")
	errChannels = pgwire.Errorf(pgwire.CodeConfigurationLimitExceeded, "too many channels").WithRoutine("listen_channels").
			WithDetail("A session of a tenant that shares its login with others can listen to %d.", maxChannels).WithHint("Listen to fewer channels, and say in the payload what it is about.")
	errFull = pgwire.Fatalf(pgwire.CodeConfigurationLimitExceeded, "too many notifications wait for the client").WithRoutine("listen_full").
		WithDetail("More than %d bytes of them were not read, or had to wait for the end of the transaction.", maxQueue).
		WithHint("Read notifications as they come, and don't listen in long transactions. Connect again, LISTEN, and look at what they are about.")
)
