package pooler

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/metrics"
	"github.com/pgkennel/pgkennel/pooler/notify"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// ears are the connections over which sessions of one unit listen: one for each login and database.
type ears struct {
	mu      sync.Mutex
	all     map[earKey]*ear
	servers map[backend.Address]string // which one answers there, of those that were asked
}

// pausedTick is how often a connection that is to be made looks whether its database is paused still.
const pausedTick = 20 * time.Millisecond

// earKey is a login over reloads.
type earKey struct{ name, user, database, hears string }

type ear struct {
	login  *cluster.Login
	shard  topology.ShardID
	places []cluster.Place
	set    *notify.Set
}

var _ notify.Client = (*loop.Client)(nil)

// Ear implements loop.Source.
func (s source) Ear(a *session.Account, proof *auth.ClientCredential, c *loop.Client, pid uint32) session.Ear {
	l, shard := a.Login.(*login), session.AnyShard
	if p := a.Place; p != nil && p.Route.Login && !p.Route.Sole { // it may not be let in elsewhere
		shard = p.Route.Shard
	}
	return l.u.ear(l.of(proof), shard).Listen(c, pid, a.Speaker())
}

// ear returns the connections that listen with a login, on one shard or on all.
func (u *unit) ear(l *cluster.Login, shard topology.ShardID) *notify.Set {
	key := earKey{l.Name, l.User, l.Database, l.Hears}
	places, shards := u.cl.Places(l, shard)
	u.ears.mu.Lock()
	old := u.ears.all[key]
	if old != nil && slices.Equal(old.places, places) {
		old.login = l // the latest
		u.ears.mu.Unlock()
		return old.set
	}
	e := &ear{login: l, shard: shard, places: places}
	hubs := make([]notify.Options, len(places))
	for i, at := range places {
		hubs[i] = notify.Options{
			Dial: func(ctx context.Context) (*backend.Login, error) {
				if in := u.in; in != nil && in.gate.shut.Load() {
					opened := make(chan *pgwire.Error, 1)
					go func() { opened <- in.gate.wait() }() // which has a deadline of its own
					select {
					case <-ctx.Done():
						return nil, ctx.Err()
					case e := <-opened:
						if e != nil {
							return nil, e
						}
					}
				}
				for u.cl.Paused() && !u.cl.Lends() { // what is under way when the pause begins may need it to end
					select {
					case <-ctx.Done():
						return nil, ctx.Err()
					case <-time.After(pausedTick):
					}
				}
				u.ears.mu.Lock()
				l := e.login
				u.ears.mu.Unlock()
				login, err := u.cl.Connect(ctx, shards[i], l,
					pgwire.Param{Name: "client_encoding", Value: "UTF8"}, pgwire.Param{Name: "application_name", Value: "pgkennel LISTEN"})
				if err == nil {
					u.ears.served(at.Address, login.Server)
				}
				return login, err
			},
			Refuse: func(err error) *pgwire.Error {
				if e, ok := err.(*pgwire.Error); ok { //nolint:errorlint // the gate's, which are bare
					return e
				}
				return u.cl.Refusal(shards[i], err)
			},
			Voice: func(server string, pid uint32) (*backend.Voice, bool) {
				by := u.p.senders.find(sender{at.Address, server, pid})
				return by.voice, l.Hears == "" || by.word == l.Hears
			},
			Log: u.p.log.With("cluster", u.name(), "shard", shards[i], "server_user", l.User),
		}
	}
	e.set = u.p.ears.NewSet(hubs, &u.audience)
	if u.ears.all == nil {
		u.ears.all = make(map[earKey]*ear)
	}
	u.ears.all[key] = e
	u.ears.mu.Unlock()
	if old != nil {
		old.set.Retire()
	}
	return e.set
}

// moved ends the sessions that listen where the databases are not any more.
func (s *ears) moved(cl *cluster.Cluster[*loop.Backend]) {
	var gone []*ear
	s.mu.Lock()
	for key, e := range s.all {
		if places, _ := cl.Places(e.login, e.shard); !slices.Equal(places, e.places) {
			delete(s.all, key)
			gone = append(gone, e)
		}
	}
	s.mu.Unlock()
	for _, e := range gone {
		e.set.Retire()
	}
}

// served is when a login has found a server at an address. Where that is another one than before, who listens to the old one is told that something is missed.
func (s *ears) served(at backend.Address, server string) {
	if server == "" {
		return
	}
	type hub struct {
		set   *notify.Set
		index int
	}
	var hubs []hub
	s.mu.Lock()
	if s.servers == nil {
		s.servers = make(map[backend.Address]string)
	}
	if s.servers[at] != server {
		s.servers[at] = server
		for _, e := range s.all {
			for i, p := range e.places {
				if p.Address == at {
					hubs = append(hubs, hub{e.set, i})
				}
			}
		}
	}
	s.mu.Unlock()
	for _, h := range hubs {
		h.set.Served(h.index, server)
	}
}

// hearOut waits, for a time, until what those with a word have said has arrived where they listen: a connection of theirs is about to be closed, and what
// comes from nobody is dropped.
func (s *ears) hearOut(word string) {
	if word == "" {
		return
	}
	limit := time.Now().Add(hearOutTimeout)
	s.mu.Lock()
	var sets []*notify.Set
	for key, e := range s.all {
		if key.hears == word {
			sets = append(sets, e.set)
		}
	}
	s.mu.Unlock()
	for _, set := range sets {
		set.ArriveBy(limit)
	}
}

// hearOutTimeout bounds what a connection waits that is closed.
const hearOutTimeout = time.Second

// retire ends all sessions that listen.
func (s *ears) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		e.set.Retire()
	}
}

// listening is for metrics.
func (p *Pooler) listening() metrics.Listening {
	now := p.ears.Stats()
	return metrics.Listening{Sessions: now.Listeners, Channels: now.Channels, Connections: now.Connections}
}
