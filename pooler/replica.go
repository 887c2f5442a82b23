package pooler

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// reader is a replica of a tenant's instance that serves, under one record and one configuration. It is immutable but for its unit, which lives as long as
// the replica does.
type reader struct {
	*tenant.Replica
	u        *unit
	accounts map[string]*session.Account
}

// readers are those that serve under a record: the ones that did go on, with what is new. in.mu is held.
func (in *instance) readers(conf *config.Config, was *served, r *tenant.Record) map[string]*reader {
	list := make(map[string]*reader)
	for i := range r.Replicas {
		x := &r.Replicas[i]
		if x.Endpoint.Port == 0 || in.ended {
			continue // it is being made, or taken away
		}
		o, logins := in.options(conf, r, x)
		var rd *reader
		if had := was.reader(x.ID); had == nil {
			u, err := in.f.p.newInstanceUnit(conf, r, in, x)
			if err != nil {
				in.f.log().Error("replica not served", "tenant", r.Name, "replica", x.ID, "error", err)
				continue
			}
			if in.f.paused.Load() || in.u.cl.Paused() {
				u.cl.Pause()
			}
			in.f.background(u.run)
			rd = &reader{Replica: x, u: u}
		} else {
			rd = &reader{Replica: x, u: had.u}
			if was.conf != conf || !sameServer(was.rec, r) || had.Endpoint != x.Endpoint {
				if err := rd.u.become(conf, r.Name, o); err != nil && !errors.Is(err, cluster.ErrClosed) {
					in.f.log().Error("replica not reloaded", "tenant", r.Name, "replica", x.ID, "error", err)
				}
			}
			if shut(was.rec) && !shut(r) {
				rd.u.cl.Reconnect() // as of the tenant's own
			}
		}
		rd.accounts = in.accounts(conf, r, rd.u, logins)
		list[x.ID] = rd
	}
	return list
}

// reader finds a replica that serves, nil if there is none of that ID.
func (s *served) reader(id string) *reader {
	if s == nil {
		return nil
	}
	return s.replicas[id]
}

// serves reports whether a unit still serves: that of the tenant's own instance does, whatever there is of replicas.
func (s *served) serves(u *unit) bool {
	rd := s.reader(u.replica)
	return u.replica == "" || rd != nil && rd.u == u
}

// gone are the units of replicas that served, and do no more.
func gone(was, now *served) (list []*unit) {
	if was == nil {
		return nil
	}
	for _, rd := range was.replicas {
		if !now.serves(rd.u) {
			list = append(list, rd.u)
		}
	}
	return list
}

// closeGone ends those: what still runs there may come to its end.
func (in *instance) closeGone(was, now *served) {
	for _, u := range gone(was, now) {
		in.f.p.closing.Go(u.close)
	}
}

// units are the instance's own, and those of its replicas.
func (in *instance) units() []*unit {
	list := []*unit{in.u}
	if now := in.now.Load(); now != nil {
		for _, rd := range now.replicas {
			list = append(list, rd.u)
		}
	}
	return list
}

// end returns the units. No more are made.
func (in *instance) end() []*unit {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	return in.units()
}

// clients is how many have logged in to the tenant's own database, here or at a replica.
func (in *instance) clients() int {
	n := 0
	for _, u := range in.units() {
		n += u.clients()
	}
	return n
}

// atReplica makes the account of a login that of its sessions at a replica of the tenant.
func atReplica(a *session.Account) *session.Account {
	made := *a
	made.Admit = func() (*session.Account, tenant.Refusal, *pgwire.Error) {
		to, refusal, e := a.Admit()
		if refusal != tenant.Welcome || e != nil {
			return to, refusal, e
		}
		return unitOf(to).in.chooseReplica(to.ServerUser)
	}
	return &made
}

// chooseReplica finds the replica for a session of a role that was let in: of this host before others, and of those the one with the fewest clients.
func (in *instance) chooseReplica(role string) (*session.Account, tenant.Refusal, *pgwire.Error) {
	now := in.now.Load()
	if now.rec == nil {
		return nil, tenant.UnknownTenant, nil
	}
	l := loginByRole(now.rec, role)
	if l == nil {
		return nil, tenant.DisabledLogin, nil
	}
	var list []*reader
	for _, rd := range now.replicas {
		if at := rd.u.left.Load(); at != nil && time.Since(*at) < downCounts {
			continue // it may be one again later
		}
		if rd.accounts[l.Name] != nil && !in.f.elsewhere(rd.Host, rd.Endpoint) {
			list = append(list, rd)
		}
	}
	if len(list) == 0 {
		return nil, tenant.Welcome, errNoReplica(now.rec.Name)
	}
	rank := func(rd *reader) int {
		n := 0
		if h := rd.u.cl.Health()[0]; h.State == cluster.Down && time.Since(h.Since) < downCounts {
			n += 2
		}
		if rd.Host != in.f.host {
			n++
		}
		return n
	}
	best := slices.MinFunc(list, func(a, b *reader) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.u.clients(), b.u.clients()), cmp.Compare(a.ID, b.ID))
	})
	return best.accounts[l.Name], tenant.Welcome, nil
}

// downCounts is how long a replica is passed over that did not answer, or was none: nobody asks it but for sessions.
const downCounts = 10 * time.Second

func errNoReplica(name string) *pgwire.Error {
	return pgwire.Errorf(pgwire.CodeCannotConnectNow, "database %q has no replica that serves", name).WithRoutine("tenant_no_replica").
		WithHint("Connect without pgdog.role=replica, or try again when there is one: an operator makes it by pgkennel tenant replica create.")
}

// promoted ends the sessions at a replica whose server says that it is none any more: what they read would be another history's, or grow old. The caller may hold
// one of them.
func (u *unit) promoted() {
	now := time.Now()
	u.left.Store(&now)
	if !u.leaving.CompareAndSwap(false, true) {
		return
	}
	if !u.in.f.background(func(context.Context) {
		defer u.leaving.Store(false)
		u.p.log.Warn("replica was promoted: its sessions end", "tenant", u.name(), "replica", u.replica)
		u.cl.Reconnect()
		for _, c := range u.p.driver.Clients() {
			here := false
			c.Inspect(func(s *session.Session, _ net.Conn) {
				a := s.Account()
				here = a != nil && unitOf(a) == u
			})
			if here {
				c.Retire(errLeft, session.CloseKilled)
			}
		}
	}) {
		u.leaving.Store(false) // all end
	}
}

// errLeft is what a session at a replica is told that was promoted.
var errLeft = pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command").WithRoutine("replica_promoted").
	WithDetail("The replica that the session was at is a primary now, and no copy of the tenant's any more.").
	WithHint("Connect again: with pgdog.role=replica to another replica, if there is one, else without.")

// errPromoted is for the log: connections for reading are made to replicas only.
var errPromoted = errors.New("the server is no replica")

// standby reports whether a server that says so of itself at a login is one.
func standby(reported []pgwire.Param) bool {
	return !slices.ContainsFunc(reported, func(p pgwire.Param) bool { return p.Name == "in_hot_standby" && p.Value != "on" })
}

// role is that of the servers of the unit of an instance, and of the primaries of others.
func (u *unit) role() topology.Role {
	if u.replica != "" {
		return topology.Replica
	}
	return topology.Primary
}
