package pooler

import (
	"cmp"
	"crypto/tls"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/cluster"
	"github.com/pgkennel/pgkennel/pooler/loop"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// Clients implements admin.Connections.
func (i inspector) Clients() []admin.ClientInfo {
	clients := i.p.driver.Clients()
	list := make([]admin.ClientInfo, 0, len(clients))
	for _, c := range clients {
		var info admin.ClientInfo
		var conn net.Conn
		var waiting int64
		gone := false
		c.Inspect(func(s *session.Session, nc net.Conn) {
			if gone = s.Closed(); !gone {
				info, conn, waiting = clientInfo(s), nc, s.WaitingSince()
			}
		})
		if gone {
			continue
		}
		if waiting != 0 {
			info.Wait = time.Since(loop.Time(waiting))
		}
		info.Addr, info.Port = place(conn.RemoteAddr())
		info.LocalAddr, info.LocalPort = place(conn.LocalAddr())
		info.TLS = cipher(conn)
		info.PID = peerPID(conn)
		if u, ok := conn.LocalAddr().(*net.UnixAddr); ok {
			_, info.LocalPort = hostPort(u.Name)
		}
		list = append(list, info)
	}
	slices.SortFunc(list, func(a, b admin.ClientInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// clientInfo copies what a session tells.
func clientInfo(s *session.Session) admin.ClientInfo {
	n := s.Snapshot()
	info := admin.ClientInfo{
		ID: s.ID, State: clientState(s.State()), Connected: loop.Time(n.Connected), Requested: loop.Time(n.LastRequest),
		ApplicationName: s.ToldParameter("application_name"), Prepared: s.PreparedCount(), Shard: admin.NoShard, Status: s.Tx(),
		Protocol: "3." + strconv.Itoa(int(s.Minor())), Transactions: n.Transactions, Queries: n.Queries, Errors: uint64(n.Errors),
		Received: n.BytesIn, Sent: n.BytesOut,
	}
	info.User, info.Database = s.Names()
	info.Tenant, info.Pinned = tenantOf(s), s.Pinned()
	if c := s.Backend(); c != nil {
		info.Shard, info.Server = s.Shard(), linkOf(c).id
	}
	return info
}

// tenantOf is the name of the tenant that a session is for; empty = it is for none.
func tenantOf(s *session.Session) string {
	if x := s.Tenant(); x != nil {
		return x.Name
	}
	if u := unitOf(s.Account()); u != nil && u.in != nil {
		return u.name()
	}
	return ""
}

func clientState(s string) admin.ClientState {
	switch s {
	case "login":
		return admin.ClientLogin
	case "waiting":
		return admin.ClientWaiting
	case "active":
		return admin.ClientActive
	}
	return admin.ClientIdle
}

func linkOf(c *backend.Conn) *link { return c.Link.(*loop.Backend).Owner.(*link) }

// place is an address as PgBouncer shows it.
func place(a net.Addr) (host string, port int) {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP.String(), t.Port
	}
	return "unix", 0
}

// cipher names the encryption of a connection; empty = none.
func cipher(nc net.Conn) string {
	c, ok := nc.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return ""
	}
	s := c.ConnectionState()
	return strings.ReplaceAll(tls.VersionName(s.Version), "TLS ", "TLSv") + "/" + tls.CipherSuiteName(s.CipherSuite)
}

// Servers implements admin.Connections.
func (i inspector) Servers() []admin.ServerInfo {
	var list []admin.ServerInfo
	for _, u := range i.units() {
		for _, s := range u.cl.Servers() {
			if state := serverState(s.State); state != 0 {
				list = append(list, serverInfo(s, state))
			}
		}
	}
	slices.SortFunc(list, func(a, b admin.ServerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// serverState is a connection's state in PgBouncer's words; 0 = it is gone, or as good as.
func serverState(s pool.State) admin.ServerState {
	switch s {
	case pool.Idle:
		return admin.ServerIdle
	case pool.Leased:
		return admin.ServerActive
	case pool.Doubtful:
		return admin.ServerUsed
	case pool.Checking:
		return admin.ServerTested
	case pool.Closing:
	}
	return 0
}

func serverInfo(s cluster.Server[*loop.Backend], state admin.ServerState) admin.ServerInfo {
	b := s.Conn
	l := b.Owner.(*link)
	info := admin.ServerInfo{
		ID: l.id, Login: s.User, Database: s.Cluster, State: state, Connected: s.Opened, CloseNeeded: s.Doomed, PID: int(b.Conn.PID),
		Shard: s.Shard, Role: s.Role, ServerDatabase: s.EndpointInfo.Database, Transactions: s.Uses,
		Received: l.received.Load(), Sent: l.sent.Load(), Tenant: s.Tenant,
	}
	if at := l.asked.Load(); at != 0 {
		info.Requested = loop.Time(at)
	}
	var conn net.Conn
	b.Inspect(func(holder *session.Session, nc net.Conn) {
		conn = nc
		if holder != nil {
			info.Client, info.Pinned = holder.ID, holder.Pinned()
			info.User, _ = holder.Names()
			if name := tenantOf(holder); name != "" {
				info.Tenant = name
			}
		}
		info.Prepared = b.Conn.Statements.Len()
		info.ApplicationName, _ = b.Conn.Params().Get("application_name")
		if login, ok := b.Conn.Params().Get("session_authorization"); ok {
			info.Login = login
		}
	})
	info.Addr, info.Port = place(conn.RemoteAddr())
	info.LocalAddr, info.LocalPort = place(conn.LocalAddr())
	if _, ok := conn.RemoteAddr().(*net.UnixAddr); ok {
		_, info.Port = hostPort(s.Address)
		info.LocalPort = info.Port
	}
	info.TLS = cipher(conn)
	return info
}

// hostPort splits an endpoint's address.
func hostPort(address string) (host string, port int) {
	var p string
	if dir, rest, ok := strings.Cut(address, "/.s.PGSQL."); ok {
		host, p = dir, rest
	} else {
		host, p, _ = net.SplitHostPort(address) // the configuration was checked
	}
	port, _ = strconv.Atoi(p)
	return host, port
}

// Pools implements admin.Connections.
func (i inspector) Pools() []admin.PoolInfo {
	conf := i.p.state.Load().cfg
	var list []admin.PoolInfo
	for _, u := range i.units() {
		up := healthOf(u)
		for _, p := range u.cl.Pools() {
			host, port := hostPort(p.Address)
			user := clientOf(p.PoolInfo)
			mode := config.ModeTransaction
			if u.in != nil {
				mode = conf.InstanceMode()
			}
			if c := conf.User(user, u.name()); c != nil {
				mode = c.PoolerMode
			}
			list = append(list, admin.PoolInfo{
				Database: u.name(), User: user, Shard: p.Shard, Role: p.Role, Host: host, Port: port, Login: u.loginAt(p.PoolInfo, host, port), Tenant: p.Tenant,
				Waiting: p.Waiting, Active: p.Leased, Idle: p.Idle, Tested: p.Checking, New: p.Opening, MaxWait: p.MaxWait,
				Mode: string(mode), Size: p.Max, MinSize: p.Min, Paused: p.Paused, Healthy: up[p.EndpointInfo],
			})
		}
	}
	return list
}

// clientOf is the user whose clients a pool is for: logins are called user@database.
func clientOf(p cluster.PoolInfo) string { return strings.TrimSuffix(p.Login, "@"+p.Cluster) }

// loginAt is who logs in to the server of a pool.
func (u *unit) loginAt(p cluster.PoolInfo, host string, port int) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if o, ok := u.overrides[overrideKey{p.User, backend.Address{Host: host, Port: port}, p.Database}]; ok {
		return o.user
	}
	return p.User
}

// healthOf says of each endpoint whether it can be used, as far as is known.
func healthOf(u *unit) map[cluster.EndpointInfo]bool {
	up := make(map[cluster.EndpointInfo]bool)
	for _, h := range u.cl.Health() {
		up[h.EndpointInfo] = usable(u, h)
	}
	return up
}

// usable: an endpoint that was not heard of yet is taken for what its shard is.
func usable(u *unit, h cluster.EndpointHealth) bool {
	return h.State == cluster.Up || h.State == cluster.Unknown && u.cl.Healthy(h.Shard)
}

// ClientCounts implements admin.Connections. Those who wait are the pools' to count, so that no client is asked.
func (i inspector) ClientCounts() []admin.ClientCount {
	var list []admin.ClientCount
	for _, u := range i.units() {
		waiting := make(counts[string])
		for _, p := range u.cl.Pools() {
			waiting[clientOf(p.PoolInfo)] += p.Waiting
		}
		var held counts[string]
		if u.in != nil {
			held = u.in.gate.held(u)
		}
		for _, m := range u.meters.all() {
			w := waiting[m.user] + held[m.user]
			n := admin.ClientCount{Database: u.name(), User: m.user, Waiting: w, Active: max(0, int(m.clients.Load())-w)}
			if u.in != nil {
				n.Waiting = held[m.user] // the others are counted with their pools, as those of all tenants
			}
			list = append(list, n)
		}
	}
	if n := i.p.operators.Load(); n > 0 {
		a := i.p.state.Load().cfg.Admin
		list = append(list, admin.ClientCount{Database: a.Name, User: a.User, Active: int(n)})
	}
	slices.SortFunc(list, func(a, b admin.ClientCount) int {
		return cmp.Or(strings.Compare(a.Database, b.Database), strings.Compare(a.User, b.User))
	})
	return list
}
