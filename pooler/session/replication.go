package session

import (
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// A replication connection is a conversation with a walsender of its own: the session logs in, and passes on what either side says. Its statements are not
// looked at, so that only those have one who may see all that is on the server.

// RefusalReplication names the refusals of such connections.
const RefusalReplication = "replication"

// replicationOf reads the startup parameter replication: the mode for the server, empty = none is asked for.
func replicationOf(value string) (mode string, ok bool) {
	if value == "database" {
		return value, true
	}
	v := strings.ToLower(value)
	is := func(word string, least int) bool { return len(v) >= least && strings.HasPrefix(word, v) }
	switch {
	case v == "1", is("true", 1), is("yes", 1), is("on", 2):
		return "true", true
	case v == "0", is("false", 1), is("no", 1), is("off", 2):
		return "", true
	}
	return "", false
}

// mayReplicate reports why the session may have no replication connection, and else to which shard it is.
func (s *Session) mayReplicate() (topology.ShardID, *pgwire.Error) {
	a := s.acct
	denied := pgwire.Fatalf(pgwire.CodeInsufficientPrivilege, "permission denied to begin a replication connection").WithRoutine(RefusalReplication)
	switch {
	case a.Console != nil:
		return 0, denied.WithDetail("The admin database has nothing to replicate.")
	case a.Place != nil || a.Own || a.Itself:
		return 0, denied.WithDetail("A replication connection sees everything on its server, and the session is a tenant's.")
	case !a.Replicates || a.readOnly():
		return 0, denied.WithHint("An operator can allow it: replication_mode = true in users.toml.")
	}
	shards := a.Cluster.Shards()
	if s.hint.Shard == "" {
		if shards == 1 && a.Tenants == nil {
			return 0, nil
		}
		return 0, pgwire.Fatalf(pgwire.CodeFeatureNotSupported, "a replication connection is to one server").WithRoutine(RefusalReplication).
			WithDetail("The database has shards or tenants, and nothing of what is replicated is routed or checked: a connection sees all that is on its server.").
			WithHint("Choose the shard by the startup parameter pgdog.shard, such as options='-c pgdog.shard=0'.")
	}
	n, err := strconv.Atoi(s.hint.Shard)
	if err != nil || n < 0 || n >= shards {
		return 0, pgwire.Fatalf(pgwire.CodeInvalidParameterValue, "there is no shard %q", s.hint.Shard).WithRoutine(RefusalReplication)
	}
	return topology.ShardID(n), nil //nolint:gosec // there is such a shard
}

// replicationParams are the startup parameters for the server.
func (s *Session) replicationParams() ([]pgwire.Param, *pgwire.Error) {
	list := []pgwire.Param{{Name: "replication", Value: s.hs.replication}}
	for _, p := range s.hs.params {
		switch name := strings.ToLower(p.Name); {
		case name == "user", name == "database", name == "options", name == "replication", name == "dbname", strings.HasPrefix(name, "_pq_."):
			// In a startup packet these are not settings, but who and what the connection is: here they come from options.
			return nil, pgwire.Fatalf(pgwire.CodeUndefinedObject, "unrecognized configuration parameter %q", p.Name)
		case name == tenantName, s.ownSetting(name) != nil, strings.HasPrefix(name, "pgdog."), strings.HasPrefix(name, "pgkennel."):
		default:
			list = append(list, p)
		}
	}
	return list, nil
}

// replicate goes on with the login of a replication connection.
func (s *Session) replicate() {
	shard, e := s.mayReplicate()
	var params []pgwire.Param
	if e == nil {
		params, e = s.replicationParams()
	}
	if e != nil {
		s.sh.Observer.Login(RefusalReplication)
		s.sh.Log.Warn("login refused", "client", s.Client, "user", s.hs.user, "database", s.hs.database, "reason", RefusalReplication)
		s.fatal(e, CloseAuth)
		return
	}
	s.toClient(pgwire.AppendAuthenticationOk(nil))
	s.connShard = shard
	s.wait = waitDedicated
	s.drv.Dedicate(s.acct, shard, params)
}

// Dedicated answers Driver.Dedicate.
func (s *Session) Dedicated(c *backend.Conn) {
	s.conn = c
	if s.wait != waitDedicated {
		s.letGo()
		return
	}
	s.wait = waitNothing
	s.connAt = s.acct
	s.phase = phasePiped
	s.clock.login = 0
	c.Own(piped{s})
	var list []pgwire.Param
	var out []byte
	c.Params().All(func(name, value string) {
		list = append(list, pgwire.Param{Name: name, Value: value})
		out = pgwire.AppendParameterStatus(out, name, value)
	})
	s.told = &told{server: list}
	n := 4
	if s.minor >= 2 {
		n = 32
	}
	pid, secret := s.drv.Register(n)
	out = pgwire.AppendBackendKeyData(out, pid, secret)
	s.toClient(pgwire.AppendReadyForQuery(out, pgwire.TxIdle))
	s.hs = nil
	s.sh.Observer.Connected(s.acct)
	if s.sh.LogConnections {
		s.sh.Log.Info("client connected", "client", s.Client, "user", s.acct.User, "database", s.acct.Database, "tls", s.TLS, "replication", true)
	}
	s.drain()
}

// Replicates reports whether the session is a replication connection.
func (s *Session) Replicates() bool { return s.phase == phasePiped }

// pass hands what the client says on to the server.
func (s *Session) pass(b []byte) int {
	s.conn.PipeAsked()
	s.leaving = strings.HasSuffix(string(b[max(0, len(b)-len(terminate)):]), terminate)
	s.drv.ToBackend(s.conn, b)
	return len(b)
}

// terminate is the client's goodbye.
const terminate = "X\x00\x00\x00\x04"

// unpipe takes the backend from a replication connection that ends.
func (s *Session) unpipe() {
	c := s.conn
	if !s.leaving && !c.PipeIdle() {
		s.drv.CancelBackend(c) // a stream finds out by itself that nobody listens
	}
	s.conn = nil
	c.Own(nil)
	s.drv.Discard(c, "abandoned")
}

// piped is the owner of the server connection of a replication connection.
type piped struct{ s *Session }

// Relay implements backend.Owner.
func (p piped) Relay(b []byte) { p.s.toClient(b) }

// Complete implements backend.Owner, as do the others: a piped connection calls none of them.
func (piped) Complete(*backend.Step, []byte) {}

// Failed implements backend.Owner.
func (piped) Failed(*backend.Step, []byte) {}

// Skipped implements backend.Owner.
func (piped) Skipped(*backend.Step) {}

// CopyIn implements backend.Owner.
func (piped) CopyIn(*backend.Step, []byte) {}

// Parameter implements backend.Owner.
func (piped) Parameter(string, string) {}

// Ready implements backend.Owner.
func (piped) Ready(*backend.Step, pgwire.TxStatus) {}
