package session

import (
	"net/netip"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/exec"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/tenant"
)

// handshake is what is needed until a session is ready.
type handshake struct {
	asked      bool          // an SSLRequest was answered
	serverName string        // of the TLS handshake
	gss        bool          // a GSSENCRequest was answered
	refusal    *pgwire.Error // for whoever wants to log in
	user       string
	database   string
	params     []pgwire.Param
	replica    bool     // it asks for one of the tenant's
	account    *Account // of the name in the startup packet; nil if there is none
	denied     tenant.Refusal
	server     *auth.Server
	// replication is the mode of the replication connection that the client asks for; empty = it asks for none.
	replication string
	// outcome of a step of the exchange, made off the loop.
	out    []byte
	result auth.Result

	// A console session's.
	console      consoleJob
	conversation Conversation
}

// startup handles the packets that open a connection.
func (s *Session) startup(b []byte) int {
	total, ok := pgwire.StartupHeader(b)
	if total < 0 {
		s.close(CloseProtocol) // PostgreSQL answers nothing to what may not be its protocol
		return 0
	}
	if !ok || len(b) < total {
		return 0
	}
	p, err := pgwire.DecodeStartup(b[:total])
	if err != nil {
		s.fatal(asError(err).WithSeverity(pgwire.SeverityFatal), CloseProtocol)
		return 0
	}
	switch p.Kind {
	case pgwire.StartupSSLRequest:
		if s.hs.asked || s.TLS {
			s.fatal(pgwire.UnsupportedProtocol(1234, 5679, 2), CloseProtocol)
			return 0
		}
		s.hs.asked = true
		if !s.sh.TLS {
			s.toClient([]byte{'N'})
		}
		if len(b) > total {
			s.stuffed("SSL")
			return 0
		}
		if !s.sh.TLS {
			return total
		}
		s.phase = phaseTLS
		s.toClient([]byte{'S'})
		s.drv.StartTLS()
	case pgwire.StartupGSSENCRequest:
		if s.hs.gss {
			s.fatal(pgwire.UnsupportedProtocol(1234, 5680, 2), CloseProtocol)
			return 0
		}
		s.hs.gss = true
		s.toClient([]byte{'N'})
		if len(b) > total {
			s.stuffed("GSSAPI encryption")
			return 0
		}
	case pgwire.StartupCancelRequest:
		s.wait = waitCancel
		s.drv.CancelRequest(p.PID, p.Secret)
	case pgwire.StartupMessage:
		s.startupMessage(&p)
	}
	return total
}

// stuffed ends a connection whose request for encryption came with more behind it: nobody sends that before the answer is there, but for an
// attacker whose bytes are to be taken for the client's (CVE-2021-23214 and its like). PostgreSQL ends it whether it encrypts or not.
func (s *Session) stuffed(what string) {
	s.fatal(pgwire.Fatalf(pgwire.CodeProtocolViolation, "received unencrypted data after %s request", what).
		WithDetail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."), CloseProtocol)
}

// Refuse lets nobody log in by the connection: it is good for cancel requests only.
func (s *Session) Refuse(e *pgwire.Error) { s.hs.refusal = e }

// TLSDone tells that the TLS handshake succeeded; the client asked for a server of that name, if it said one.
func (s *Session) TLSDone(serverName string) {
	if s.phase == phaseTLS {
		s.hs.serverName = serverName
		s.phase, s.TLS = phaseStartup, true
		s.drain()
	}
}

func (s *Session) startupMessage(p *pgwire.Startup) {
	if p.Major != 3 {
		s.fatal(pgwire.UnsupportedProtocol(p.Major, p.Minor, 2), CloseProtocol)
		return
	}
	s.minor = uint8(min(p.Minor, 2))
	if unknown := p.ProtocolOptions(); p.Minor > 2 || len(unknown) > 0 {
		version := pgwire.Version32
		if p.Minor < 2 {
			version = pgwire.Version30
		}
		s.toClient(pgwire.AppendNegotiateProtocolVersion(nil, version, unknown))
	}
	s.hs.user, s.hs.database = p.User(), p.Database()
	if s.hs.user == "" {
		s.fatal(pgwire.Fatalf(pgwire.CodeInvalidAuthorizationSpecification, "no PostgreSQL user name specified in startup packet"), CloseProtocol)
		return
	}
	if s.hs.refusal != nil {
		s.sh.Observer.Login("too_many_clients")
		s.fatal(s.hs.refusal, CloseAuth)
		return
	}
	if s.sh.TLSRequired && !s.TLS {
		s.sh.Observer.Login("tls_required")
		s.fatal(pgwire.Fatalf(pgwire.CodeSQLServerRejectedConnection, "connection requires TLS").
			WithHint("Connect with sslmode=require or stronger."), CloseAuth)
		return
	}
	if e := s.startupParams(p); e != nil {
		s.fatal(e, CloseProtocol)
		return
	}
	if e := s.hs.role(); e != nil {
		s.fatal(e, CloseProtocol)
		return
	}
	from, _ := netip.ParseAddrPort(s.Client) // of a unix socket there is none
	s.hs.account, s.hs.denied = s.sh.Accounts(tenant.Asked{
		User: s.hs.user, Database: s.hs.database, Option: s.hs.option(), ServerName: s.hs.serverName, Replica: s.hs.replica, From: from.Addr(),
		Physical: s.hs.replication == "true",
	})
	var credential *auth.Credential
	if s.hs.account != nil {
		credential = s.hs.account.Credential
	}
	s.hs.server = auth.NewServer(s.sh.Method, s.hs.user, credential, s.sh.Auth)
	if s.hs.account != nil && s.hs.account.Said != "" {
		s.hs.server.MockSalt(s.hs.account.Said)
	}
	s.phase = phaseAuth
	out, result := s.hs.server.Start(nil)
	s.authenticated(out, result)
}

// startupParams collects the run-time parameters of a startup packet.
func (s *Session) startupParams(p *pgwire.Startup) *pgwire.Error {
	if options, ok := p.Lookup("options"); ok {
		params, err := pgwire.ParseOptions(options)
		if err != nil {
			return asError(err).WithSeverity(pgwire.SeverityFatal)
		}
		s.hs.params = append(s.hs.params, params...)
	}
	for _, param := range p.Params {
		switch {
		case param.Name == "user", param.Name == "database", param.Name == "options", strings.HasPrefix(param.Name, "_pq_."):
		case param.Name == "replication":
			mode, ok := replicationOf(param.Value)
			if !ok {
				return pgwire.Fatalf(pgwire.CodeInvalidParameterValue, "invalid value for parameter %q: %q", param.Name, param.Value).
					WithHint(`Valid values are: "false", 0, "true", 1, "database".`)
			}
			s.hs.replication = mode
		default:
			s.hs.params = append(s.hs.params, param)
		}
	}
	return nil
}

// authenticate handles the client's messages of the exchange.
func (s *Session) authenticate(b []byte) int {
	typ, total, ok := pgwire.Header(b)
	if !ok {
		return 0
	}
	switch {
	case typ == pgwire.MsgTerminate:
		s.close(CloseClient)
		return 0
	case typ != pgwire.MsgPassword:
		s.fatal(auth.ErrExpectedPassword(typ), CloseProtocol)
		return 0
	case total < 0 || total > s.hs.server.MaxResponse()+pgwire.HeaderBytes: // what is not read takes no memory
		s.fatal(pgwire.Fatalf(pgwire.CodeProtocolViolation, "invalid password packet size"), CloseProtocol)
		return 0
	case len(b) < total:
		return 0
	}
	body := append([]byte(nil), b[pgwire.HeaderBytes:total]...)
	step := func() { s.hs.out, s.hs.result = s.hs.server.Step(nil, body) }
	done := !s.hs.server.Heavy()
	if done {
		step()
	} else {
		done = s.drv.Offload(step, Brief)
	}
	s.phase = phaseLogin
	if !done {
		s.wait = waitJob
		return total
	}
	s.stepped()
	return total
}

// stepped goes on with the outcome of a step of the exchange.
func (s *Session) stepped() {
	s.phase = phaseAuth
	out, result := s.hs.out, s.hs.result
	s.hs.out, s.hs.result = nil, auth.Result{}
	s.authenticated(out, result)
}

func (s *Session) authenticated(out []byte, r auth.Result) {
	a := s.hs.account
	stranger := s.hs.denied == tenant.UnknownDatabase
	if s.hs.denied != tenant.Welcome && !stranger {
		if a = nil; r.Done && r.Err == nil {
			out = nil // it would say that the password is right
		}
	}
	if len(out) > 0 {
		s.toClient(out)
	}
	if !r.Done {
		return
	}
	if r.Err == nil && stranger {
		reason := s.hs.denied.String()
		s.sh.Observer.Login(reason)
		s.sh.Log.Warn("login refused", "client", s.Client, "user", s.hs.user, "database", s.hs.database, "reason", reason)
		s.toClient(pgwire.AppendAuthenticationOk(nil))
		s.fatal(pgwire.Fatalf(pgwire.CodeInvalidCatalogName, "database \"%s\" does not exist", s.hs.database), CloseAuth) //nolint:gocritic // quoted as PostgreSQL does
		return
	}
	if r.Err == nil && a != nil && a.Admit != nil {
		var e *pgwire.Error
		if a, s.hs.denied, e = a.Admit(); s.hs.denied != tenant.Welcome {
			a = nil
		} else if e != nil {
			s.sh.Observer.Login("not_available")
			s.fatal(e.WithSeverity(pgwire.SeverityFatal), CloseUnavailable)
			return
		}
	}
	if r.Err == nil && a != nil && s.hs.replica && !a.Replica { // else it would be the primary, and the client not know
		s.sh.Observer.Login("no_replica")
		s.fatal(pgwire.Fatalf(pgwire.CodeFeatureNotSupported, "pgdog.role=replica is not supported for database %q", s.hs.database).WithRoutine("replica_unsupported").
			WithDetail("Only a tenant with an instance of its own has replicas, for its own logins and those made by pgkennel tenant user.").
			WithHint("Connect without pgdog.role."), CloseAuth)
		return
	}
	if r.Err == nil && a == nil {
		r.Err = s.hs.server.Denied()
		r.Reason = auth.ReasonUnknownUser
	}
	if r.Err != nil {
		reason := r.Reason.String()
		if s.hs.denied > tenant.UnknownUser && !stranger {
			reason = s.hs.denied.String()
		}
		s.sh.Observer.Login(reason)
		s.sh.Log.Warn("login refused", "client", s.Client, "user", s.hs.user, "database", s.hs.database, "reason", reason)
		s.fatal(r.Err, CloseAuth)
		return
	}
	s.acct, s.serverLogin = a, r.ServerLogin
	if a.Cluster != nil {
		s.rtr = a.Cluster.Router()
	}
	s.hs.server = nil
	s.phase = phaseLogin
	if e := s.startValues(); e != nil {
		s.fatal(e, CloseProtocol)
		return
	}
	if s.hs.replication != "" {
		s.replicate()
		return
	}
	s.toClient(pgwire.AppendAuthenticationOk(nil))
	if a.Console != nil {
		s.told = &told{server: consoleParameters}
		if name, ok := s.base.Get("application_name"); ok {
			s.know("application_name", name.Value)
		}
		s.ready()
		return
	}
	if a.Cluster.Parameters() == nil {
		s.wait = waitParams
		s.drv.Parameters(a)
		return
	}
	s.login()
}

// option is the tenant that the client named among its parameters.
func (h *handshake) option() string {
	name := ""
	for _, p := range h.params {
		if strings.ToLower(p.Name) == tenantName {
			name = p.Value
		}
	}
	return name
}

// role looks at where the client wants its session to be, among its parameters.
func (h *handshake) role() *pgwire.Error {
	for _, p := range h.params {
		if !roleName(strings.ToLower(p.Name)) {
			continue
		}
		switch strings.ToLower(p.Value) {
		case rolePrimary:
			h.replica = false
		case roleReplica:
			h.replica = true
		default:
			return pgwire.Fatalf(pgwire.CodeInvalidParameterValue, "invalid value for parameter %q: %q", p.Name, p.Value).
				WithHint("It is primary or replica.").WithRoutine("startup_parameter")
		}
	}
	return nil
}

const rolePrimary, roleReplica = "primary", "replica"

// roleName reports whether a setting is the one that says at which servers a session is. It is said at its start only.
func roleName(name string) bool { return name == "pgdog.role" || name == "pgkennel.role" }

// startValues turns the startup parameters into the session's settings.
func (s *Session) startValues() *pgwire.Error {
	var vars []state.Var
	for _, p := range s.hs.params {
		name := strings.ToLower(p.Name)
		if name == tenantName && (s.acct.Tenants != nil || s.acct.Own) {
			continue // it was looked at before the login
		}
		if s.tenantSetting(name) {
			if e := s.setTenant(false, p.Value, false); e != nil {
				return e.WithSeverity(pgwire.SeverityFatal)
			}
			continue
		}
		if target := s.ownSetting(name); target != nil {
			*target = p.Value
			continue
		}
		if roleName(name) {
			continue // likewise
		}
		if strings.HasPrefix(name, "pgdog.") {
			continue // PgDog's own, without a meaning here
		}
		if s.acct.Cluster != nil && !s.plain() {
			if e := checkLexing(name, p.Value); e != nil {
				return e.WithSeverity(pgwire.SeverityFatal)
			}
		}
		if s.acct.readOnly() && (name == readOnlyDefault || name == readOnlyNow) && !on(p.Value) {
			return errReadOnly("").WithSeverity(pgwire.SeverityFatal)
		}
		switch name {
		case "role", "session_authorization", tenant.SealSetting:
			return pgwire.Fatalf(pgwire.CodeInsufficientPrivilege, "parameter %q can't be set at the start of a session", name).
				WithHint("Use SET after the login.").WithRoutine("startup_parameter")
		}
		vars = append(vars, state.Var{Name: name, Value: p.Value, Raw: true})
	}
	s.base = state.NewSet(vars)
	s.track = state.Track{Expected: s.base}
	return nil
}

// ParametersKnown answers Driver.Parameters.
func (s *Session) ParametersKnown() {
	if s.wait != waitParams {
		return
	}
	s.wait = waitNothing
	s.login()
	s.drain()
}

// login finds out what the server reports for the client's own parameters, which tells the client what PostgreSQL would, and that they are valid.
func (s *Session) login() {
	s.told = &told{server: s.acct.Cluster.Parameters()}
	s.foreign = foreignEncoding(s.told.value(clientEncoding))
	if name, ok := s.base.Get("application_name"); ok {
		s.know("application_name", s.inASCII(s.cut(name.Value)))
	}
	s.know("session_authorization", s.acct.User)
	if s.base.Without("application_name") == nil {
		s.ready()
		return
	}
	if values := s.sh.Probes.get(s.acct, s.base); values != nil {
		s.learn(values)
		s.ready()
		return
	}
	s.clock.wait = s.drv.Now()
	c := s.drv.Checkout(s.acct, AnyShard, 0)
	if c == nil {
		s.wait = waitBackend
		return
	}
	s.take(c)
	s.probe()
}

// probe sets the client's parameters on a backend.
func (s *Session) probe() {
	out, owed := exec.Context(s.scratch(), s.conn, s.base, false)
	if !owed {
		s.probed(pgwire.TxIdle)
		return
	}
	s.wait = waitAnswer
	s.send(out)
}

// probed goes on with what the server made of the client's parameters.
func (s *Session) probed(tx pgwire.TxStatus) {
	s.wait = waitNothing
	if e := s.unit.internal; e != nil || tx != pgwire.TxIdle {
		if e == nil {
			e = pgwire.Fatalf(pgwire.CodeConnectionFailure, "the server refused the session's parameters")
		}
		s.release()
		s.fatal(e.WithSeverity(pgwire.SeverityFatal), CloseProtocol)
		return
	}
	var values []pgwire.Param
	s.conn.Params().All(func(name, value string) {
		if name != "session_authorization" && name != "application_name" && s.told.value(name) != value {
			values = append(values, pgwire.Param{Name: name, Value: value})
		}
	})
	s.release()
	s.sh.Probes.put(s.acct, s.base, values)
	s.learn(values)
	s.ready()
	s.drain()
}

func (s *Session) learn(values []pgwire.Param) {
	for _, p := range values {
		s.know(p.Name, p.Value)
	}
}

// reported is the order in which PostgreSQL reports its parameters at the end of a login; others follow.
var reported = []string{
	"application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby", "integer_datetimes",
	"IntervalStyle", "is_superuser", "scram_iterations", "search_path", "server_encoding", "server_version", "session_authorization",
	"standard_conforming_strings", "TimeZone",
}

// ready ends the login.
func (s *Session) ready() {
	s.phase = phaseReady
	s.clock.login = 0
	s.base = s.acct.Place.carry(s.base)
	s.track.Expected = s.base
	s.told = s.told.shared()
	var out []byte
	for _, name := range reported {
		if v, ok := s.told.get(name); ok {
			out = pgwire.AppendParameterStatus(out, name, v)
		}
	}
	n := 4
	if s.minor >= 2 {
		n = 32
	}
	pid, secret := s.drv.Register(n)
	out = pgwire.AppendBackendKeyData(out, pid, secret)
	out = pgwire.AppendReadyForQuery(out, pgwire.TxIdle)
	s.toClient(out)
	if s.acct.Console == nil {
		s.hs = nil
	} else {
		s.hs.params, s.hs.account = nil, nil
	}
	s.sh.Observer.Connected(s.acct)
	if s.sh.LogConnections {
		s.sh.Log.Info("client connected", "client", s.Client, "user", s.acct.User, "database", s.acct.Database, "tls", s.TLS)
	}
	s.armIdle(s.drv.Now())
}

// ServerLogin is what the client proved to know, to log in to servers with; nil if it gave nothing of use.
func (s *Session) ServerLogin() *auth.ClientCredential { return s.serverLogin }
