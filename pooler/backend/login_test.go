package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// addressOf splits host:port.
func addressOf(t testing.TB, addr string) Address {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return Address{Host: host, Port: n}
}

// dial logs in and closes the connection when t ends.
func dial(t testing.TB, o DialOptions) (*Login, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.DefaultTimeout)
	defer cancel()
	l, err := Dial(ctx, o)
	if err == nil {
		t.Cleanup(func() { l.Conn.Close() })
	}
	return l, err
}

// ask runs a query of one value over a logged-in connection.
func ask(t testing.TB, l *Login, sql string) string {
	t.Helper()
	if err := l.Conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Conn.Write(pgwire.AppendQuery(nil, sql)); err != nil {
		t.Fatal(err)
	}
	fe := pgproto3.NewFrontend(io.MultiReader(bytes.NewReader(l.Leftover), l.Conn), l.Conn)
	answer := ""
	for {
		msg, err := fe.Receive()
		if err != nil {
			t.Fatal(err)
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			answer = string(m.Values[0])
		case *pgproto3.ErrorResponse:
			answer = m.Code
		case *pgproto3.ReadyForQuery:
			return answer
		}
	}
}

// wantFailure checks an error's class.
func wantFailure(t testing.TB, err error, want Failure) {
	t.Helper()
	if got := FailureOf(fmt.Errorf("wrapped: %w", err)); got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// wantCode checks the SQLSTATE a server gave.
func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[*pgwire.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, want SQLSTATE %s", err, code)
	}
}

func TestLoginWithEveryMethod(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	socket := Address{Host: pg.SocketDir, Port: pg.Port}
	for _, method := range []string{"trust", "md5", "scram-sha-256", "password"} {
		for _, address := range []Address{addressOf(t, pg.Addr()), socket} {
			t.Run(method+" "+address.Network(), func(t *testing.T) {
				t.Parallel()
				user := pg.CreateUser(t, "pässword", method)
				o := DialOptions{Address: address, User: user, Database: "postgres", Credential: auth.NewClientCredential("pässword")}
				for range 2 { // the second one finds cached keys
					l, err := dial(t, o)
					if err != nil {
						t.Fatal(err)
					}
					if got := ask(t, l, "SELECT current_user"); got != user {
						t.Errorf("got %q, want %q", got, user)
					}
					if len(l.Leftover) != 0 || l.PID == 0 || len(l.Secret) != 4 {
						t.Errorf("got leftover %q, pid %d, %d bytes of secret", l.Leftover, l.PID, len(l.Secret))
					}
				}
				if method == "trust" {
					return
				}
				o.Credential = auth.NewClientCredential("wrong")
				_, err := dial(t, o)
				wantFailure(t, err, FailureAuth)
				wantCode(t, err, pgwire.CodeInvalidPassword)
				o.Credential = nil
				_, err = dial(t, o)
				wantFailure(t, err, FailureAuth)
				if !errors.Is(err, auth.ErrNoPassword) {
					t.Errorf("got %v, want ErrNoPassword", err)
				}
			})
		}
	}
}

func TestLoginWithKeysOfTheServersVerifier(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	user := pg.CreateUser(t, "secret", "scram-sha-256")
	stored := pg.Query(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user)[0]
	v, err := auth.ParseVerifier(stored)
	if err != nil {
		t.Fatal(err)
	}
	// A client proves to know the password; what its proof reveals logs in to the server.
	server := auth.NewServer(auth.MethodSCRAM, user, auth.NewCredential(v), nil)
	client := auth.NewClient(user, auth.NewClientCredential("secret"), nil)
	out, res := server.Start(nil)
	for !res.Done {
		answer, _, err := client.Step(nil, out[pgwire.HeaderBytes:])
		if err != nil {
			t.Fatal(err)
		}
		out, res = server.Step(nil, answer[pgwire.HeaderBytes:])
	}
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	l, err := dial(t, DialOptions{Address: addressOf(t, pg.Addr()), User: user, Database: "postgres", Credential: res.ServerLogin})
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, l, "SELECT current_user"); got != user {
		t.Errorf("got %q, want %q", got, user)
	}
	pg.Exec(t, "postgres", "ALTER ROLE "+user+" PASSWORD 'secret'") // the same password, another salt
	_, err = dial(t, DialOptions{Address: addressOf(t, pg.Addr()), User: user, Database: "postgres", Credential: res.ServerLogin})
	wantFailure(t, err, FailureAuth)
	if !errors.Is(err, auth.ErrVerifierMismatch) {
		t.Errorf("got %v, want ErrVerifierMismatch", err)
	}
}

func TestLoginSendsParametersAndKeepsWhatTheServerReports(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	user := pg.CreateUser(t, "", "trust")
	l, err := dial(t, DialOptions{
		Address: addressOf(t, pg.Addr()), User: user, Database: "postgres",
		Params: []pgwire.Param{
			{Name: "application_name", Value: "first"},
			{Name: "application_name", Value: "second"},
			{Name: "options", Value: pgwire.JoinOptions([]pgwire.Param{{Name: "search_path", Value: `"a b", c\d`}, {Name: "app.tenant", Value: "t 1"}})},
		},
		TCP: TCPOptions{KeepAlive: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Probes: 3, UserTimeout: 9 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	params := map[string]string{}
	for _, p := range l.Params {
		if _, twice := params[p.Name]; twice {
			t.Errorf("parameter %s is there twice", p.Name)
		}
		params[p.Name] = p.Value
	}
	if params["application_name"] != "second" || params["session_authorization"] != user || params["server_version"] == "" {
		t.Errorf("got %v", params)
	}
	for setting, want := range map[string]string{"search_path": `"a b", c\d`, "app.tenant": "t 1"} {
		if got := ask(t, l, "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s: got %q, want %q", setting, got, want)
		}
	}
}

func TestLoginRefusals(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	user := pg.CreateUser(t, "", "trust")
	base := DialOptions{Address: addressOf(t, pg.Addr()), User: user, Database: "postgres"}
	tests := []struct {
		name    string
		change  func(*DialOptions)
		failure Failure
		code    string
	}{
		{"unknown database", func(o *DialOptions) { o.Database = "nowhere" }, FailureServer, pgwire.CodeInvalidCatalogName},
		{"unknown user", func(o *DialOptions) { o.User = "nobody" }, FailureAuth, pgwire.CodeInvalidAuthorizationSpecification},
		{"unknown parameter", func(o *DialOptions) { o.Params = []pgwire.Param{{Name: "nonsense", Value: "1"}} }, FailureServer, pgwire.CodeUndefinedObject},
		{"bad value", func(o *DialOptions) { o.Params = []pgwire.Param{{Name: "DateStyle", Value: "x"}} }, FailureServer, pgwire.CodeInvalidParameterValue},
		{"second user", func(o *DialOptions) { o.Params = []pgwire.Param{{Name: "user", Value: "postgres"}} }, FailureOptions, ""},
		{"second database", func(o *DialOptions) { o.Params = []pgwire.Param{{Name: "database", Value: "postgres"}} }, FailureOptions, ""},
		{"zero byte", func(o *DialOptions) { o.User = "postgres\x00x" }, FailureOptions, ""},
		{"no user", func(o *DialOptions) { o.User = "" }, FailureOptions, ""},
		{"too long", func(o *DialOptions) {
			o.Params = []pgwire.Param{{Name: "application_name", Value: strings.Repeat("x", 10_000)}}
		}, FailureOptions, ""},
		{"no TLS there", func(o *DialOptions) { o.TLS = TLSOptions{Mode: TLSVerifyFull} }, FailureTLS, ""},
		{"no such host", func(o *DialOptions) { o.Address.Host = "host.invalid" }, FailureUnreachable, ""},
		{"no such socket", func(o *DialOptions) { o.Address.Host = "/nonexistent" }, FailureUnreachable, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := base
			tt.change(&o)
			_, err := dial(t, o)
			wantFailure(t, err, tt.failure)
			if tt.code != "" {
				wantCode(t, err, tt.code)
			}
		})
	}
}

// Servers that read SQL otherwise than our parser get no statements.
func TestLoginAtOldServers(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]Failure{
		"15.0": FailureNone, "15.18 (Debian 15.18-0+deb12u1)": FailureNone, "17beta1": FailureNone, "18": FailureNone, "100.1": FailureNone,
		"14.13": FailureVersion, "14devel": FailureVersion, "9.6.24": FailureVersion, "": FailureVersion, "unknown": FailureVersion,
	} {
		s := pgtest.NewFakeServer(t, (*pgtest.FakeConn).Drain, pgtest.FakeParam("server_version", version))
		_, err := dial(t, DialOptions{Address: addressOf(t, s.Addr), User: "ann"})
		if FailureOf(err) != want {
			t.Errorf("%q: got %v, want %v", version, err, want)
		}
		if want == FailureVersion && !strings.Contains(err.Error(), strconv.Quote(version)) {
			t.Errorf("error %q does not tell version %q", err, version)
		}
	}
}

func TestLoginAtAServerThatIsDown(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := addressOf(t, ln.Addr().String())
	ln.Close()
	_, err = dial(t, DialOptions{Address: address, User: "ann"})
	wantFailure(t, err, FailureUnreachable)
	if !strings.Contains(err.Error(), address.String()) {
		t.Errorf("error %q does not name the server", err)
	}
}

// silent listens and never answers.
func silent(t testing.TB) Address {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return addressOf(t, ln.Addr().String())
}

func TestLoginAtAServerThatHangs(t *testing.T) {
	t.Parallel()
	address := silent(t)
	for _, mode := range []TLSMode{TLSDisabled, TLSPrefer} {
		_, err := dial(t, DialOptions{Address: address, User: "ann", ConnectTimeout: 20 * time.Millisecond, TLS: TLSOptions{Mode: mode}})
		wantFailure(t, err, FailureUnreachable)
		if !errors.Is(err, ErrConnectTimeout) {
			t.Errorf("got %v, want ErrConnectTimeout", err)
		}
	}
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(gaveUp) })
	_, err := Dial(ctx, DialOptions{Address: address, User: "ann", ConnectTimeout: time.Minute})
	wantFailure(t, err, FailureCanceled)
	if !errors.Is(err, gaveUp) {
		t.Errorf("got %v, want the cause", err)
	}
	err = Cancel(t.Context(), DialOptions{Address: address, ConnectTimeout: 20 * time.Millisecond}, 1, []byte("abcd"))
	wantFailure(t, err, FailureUnreachable)
}

// script is a connection whose other side says what stands in it, and listens to nothing.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s script) Write(b []byte) (int, error) { return len(b), nil }

// converse plays a server's bytes to login and returns its result.
func converse(o DialOptions, server io.Reader) (*Login, error) {
	conn := script{Reader: server}
	a := &attempt{opts: o, raw: conn, conn: conn}
	l := &login{attempt: a, client: auth.NewClient(o.User, o.Credential, &auth.ClientOptions{MaxIterations: 10, Rand: zeroes{}})}
	err := l.run()
	return &l.result, err
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// join puts messages together.
func join(messages ...[]byte) []byte { return bytes.Join(messages, nil) }

// welcome is what a trusting server sends.
func welcome(more ...[]byte) []byte {
	return join(pgwire.AppendAuthenticationOk(nil), join(more...), pgwire.AppendBackendKeyData(nil, 7, []byte("abcd")), pgwire.AppendReadyForQuery(nil, pgwire.TxIdle))
}

func TestLoginUnderstandsServers(t *testing.T) {
	t.Parallel()
	notice := pgwire.AppendNoticeResponse(nil, pgwire.Warningf(pgwire.CodeWarning, "beware"))
	status := func(n, v string) []byte { return pgwire.AppendParameterStatus(nil, n, v) }
	tests := []struct {
		name   string
		server []byte
		want   Login
	}{
		{"plain", welcome(), Login{PID: 7, Secret: []byte("abcd")}},
		{"notices", join(notice, welcome(notice)), Login{PID: 7, Secret: []byte("abcd")}},
		{"repeated parameter", welcome(status("a", "1"), status("b", "2"), status("a", "3")), Login{
			PID: 7, Secret: []byte("abcd"), Params: []pgwire.Param{{Name: "a", Value: "3"}, {Name: "b", Value: "2"}},
		}},
		{"no key", join(pgwire.AppendAuthenticationOk(nil), pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)), Login{}},
		{"long key", join(pgwire.AppendAuthenticationOk(nil), pgwire.AppendBackendKeyData(nil, 8, bytes.Repeat([]byte("k"), 32)), pgwire.AppendReadyForQuery(nil, pgwire.TxIdle)), Login{
			PID: 8, Secret: bytes.Repeat([]byte("k"), 32),
		}},
		{"something behind", join(welcome(), status("a", "1")), Login{PID: 7, Secret: []byte("abcd"), Leftover: status("a", "1")}},
		{"large parameter", welcome(status("a", strings.Repeat("x", 100_000))), Login{
			PID: 7, Secret: []byte("abcd"), Params: []pgwire.Param{{Name: "a", Value: strings.Repeat("x", 100_000)}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{bytes.NewReader(tt.server), iotest.OneByteReader(bytes.NewReader(tt.server))} {
				got, err := converse(DialOptions{User: "ann"}, r)
				if err != nil {
					t.Fatal(err)
				}
				if rest, _ := io.ReadAll(r); len(rest) > 0 { // not asked for yet: no leftover
					got.Leftover = append(got.Leftover, rest...)
				}
				if diff := cmp.Diff(tt.want, *got, cmpopts.IgnoreUnexported(Login{}), cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestLoginRefusesBrokenServers(t *testing.T) {
	t.Parallel()
	ok := pgwire.AppendAuthenticationOk(nil)
	tests := []struct {
		name   string
		server []byte
		want   Failure
	}{
		{"nothing", nil, FailureUnreachable},
		{"cut", welcome()[:12], FailureUnreachable},
		{"http", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), FailureProtocol},
		{"length zero", []byte("R\x00\x00\x00\x00"), FailureProtocol},
		{"huge length", []byte("R\x7f\xff\xff\xff"), FailureProtocol},
		{"length over the limit", []byte("R\x00\x10\x00\x01"), FailureProtocol},
		{"ready at once", pgwire.AppendReadyForQuery(nil, pgwire.TxIdle), FailureProtocol},
		{"parameter before authentication", pgwire.AppendParameterStatus(nil, "a", "b"), FailureProtocol},
		{"ok twice", join(ok, ok), FailureProtocol},
		{"password after ok", join(ok, pgwire.AppendAuthenticationCleartext(nil)), FailureProtocol},
		{"in a transaction", join(ok, pgwire.AppendReadyForQuery(nil, pgwire.TxActive)), FailureProtocol},
		{"strange status", join(ok, pgwire.AppendReadyForQuery(nil, 'x')), FailureProtocol},
		{"row", join(ok, pgwire.AppendTextRow(nil, "a")), FailureProtocol},
		{"negotiation", pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version30, nil), FailureProtocol},
		{"two keys", welcome(pgwire.AppendBackendKeyData(nil, 1, []byte("abcd"))), FailureProtocol},
		{"short key", join(ok, []byte("K\x00\x00\x00\x09\x00\x00\x00\x01x")), FailureProtocol},
		{"broken parameter", join(ok, []byte("S\x00\x00\x00\x06ab")), FailureProtocol},
		{"broken error", []byte("E\x00\x00\x00\x06ab"), FailureProtocol},
		{"endless notices", bytes.Repeat(pgwire.AppendNoticeResponse(nil, pgwire.Noticef("x")), maxLoginMessages+1), FailureProtocol},
		{"starting up", pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeCannotConnectNow, "starting")), FailureServer},
		{"full", pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeTooManyConnections, "full")), FailureServer},
		{"stopped after ok", join(ok, pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeAdminShutdown, "bye"))), FailureServer},
		{"error without code", []byte("E\x00\x00\x00\x08Mx\x00\x00"), FailureServer},
		{"ok in the middle of scram", join(pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM), ok), FailureProtocol},
		{"costly scram", join(pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM), pgwire.AppendAuthenticationSASLContinue(nil, "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=11")), FailureAuth},
		{"impostor", join(
			pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM),
			pgwire.AppendAuthenticationSASLContinue(nil, "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=10"),
			pgwire.AppendAuthenticationSASLFinal(nil, "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), welcome(),
		), FailureAuth},
		{"gss", []byte("R\x00\x00\x00\x08\x00\x00\x00\x07"), FailureAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := converse(DialOptions{User: "ann", Credential: auth.NewClientCredential("secret")}, bytes.NewReader(tt.server))
			f, ok := errors.AsType[*failure](err)
			if !ok || f.kind != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzLogin(f *testing.F) {
	f.Add(welcome(pgwire.AppendParameterStatus(nil, "a", "b")))
	f.Add(join(pgwire.AppendAuthenticationMD5(nil, [4]byte{1}), welcome()))
	f.Add(join(pgwire.AppendAuthenticationSASL(nil, pgwire.MechanismSCRAM), pgwire.AppendAuthenticationSASLContinue(nil, "r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=10")))
	f.Add(pgwire.AppendErrorResponse(nil, pgwire.Fatalf(pgwire.CodeCannotConnectNow, "starting")))
	f.Add(join(pgwire.AppendNegotiateProtocolVersion(nil, pgwire.Version30, []string{"_pq_.a", ""}), welcome()))
	f.Add(pgwire.AppendNegotiateProtocolVersion(nil, 0, nil))
	f.Add([]byte("v\x00\x00\x00\x0c\x00\x03\x00\x02\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, server []byte) {
		l, err := converse(DialOptions{User: "ann", Credential: auth.NewClientCredential("secret")}, bytes.NewReader(server))
		if err != nil {
			if _, ok := errors.AsType[*failure](err); !ok {
				t.Errorf("error %v has no class", err)
			}
			return
		}
		if !bytes.Contains(server, pgwire.AppendAuthenticationOk(nil)) {
			t.Error("logged in without AuthenticationOk")
		}
		if n := len(l.Secret); n != 0 && (n < 4 || n > 256) {
			t.Errorf("got a secret of %d bytes", n)
		}
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]Address{
		"tcp 10.0.0.1:5432":          {Host: "10.0.0.1", Port: 5432},
		"tcp [::1]:1":                {Host: "::1", Port: 1},
		"unix /run/pg/.s.PGSQL.5432": {Host: "/run/pg/", Port: 5432},
		"unix /run/.s.PGSQL.1":       {Host: "/run", Port: 1},
	} {
		if got := a.Network() + " " + a.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFailureNames(t *testing.T) {
	t.Parallel()
	for f := FailureNone; f <= FailureAsk; f++ {
		if f.String() == "" || f.String() == "unknown" {
			t.Errorf("failure %d has no name", f)
		}
	}
	if FailureOf(errors.New("x")) != FailureNone || FailureOf(nil) != FailureNone {
		t.Error("foreign errors have a class")
	}
}

// foreign is a TCP connection that is not of package net.
type foreign struct{ net.Conn }

func (f foreign) SyscallConn() (syscall.RawConn, error) { return f.Conn.(syscall.Conn).SyscallConn() }

func TestTCPOptionsApplyToAcceptedConnections(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o := TCPOptions{KeepAlive: true, Idle: time.Minute, UserTimeout: 7 * time.Second, CongestionControl: "reno"}
	if err := o.Apply(conn); err != nil {
		t.Fatal(err)
	}
	checkTCP(t, conn, o)
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if err := o.Apply(foreign{accepted}); err != nil {
		t.Fatal(err)
	}
	checkTCP(t, accepted, o)
	if err := (TCPOptions{CongestionControl: "nonsense"}).Apply(conn); err == nil {
		t.Error("got none for unknown congestion control, want an error")
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if err := o.Apply(near); err != nil {
		t.Errorf("got %v for a pipe, want none", err)
	}
}

// TestLoginAsksWhenTheServerProcessBegan: of a function that may not be there, or be somebody's who made it to do harm.
func TestLoginAsksWhenTheServerProcessBegan(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	for body, want := range map[string]int64{
		"": 0, "SELECT 12345::bigint": 12345, "SELECT NULL::bigint": 0, "SELECT (1/0)::bigint": 0,
	} {
		ddl := []string{}
		if body != "" {
			ddl = append(ddl, "CREATE SCHEMA pgkennel; CREATE FUNCTION pgkennel.backend_start() RETURNS bigint LANGUAGE sql AS '"+body+"'")
		}
		l, err := dial(t, DialOptions{Address: addressOf(t, i.Addr()), User: pgtest.Superuser, Database: i.CreateDatabase(t, ddl...), Sealed: true})
		if err != nil {
			t.Fatal(err)
		}
		if l.Start != want || ask(t, l, "SELECT 7") != "7" {
			t.Errorf("%q: began %d, want %d", body, l.Start, want)
		}
	}
}

// TestLoginFindsOutTheServer: it is the same for every role, whatever the settings, another one at another server, and none where the server will not say.
func TestLoginFindsOutTheServer(t *testing.T) {
	t.Parallel()
	servers := pgtest.SharedSet(t, 2)
	server := func(i *pgtest.Instance, user, db string, params ...pgwire.Param) string {
		t.Helper()
		l, err := dial(t, DialOptions{Address: addressOf(t, i.Addr()), User: user, Database: db, Params: params, Identified: true})
		if err != nil {
			t.Fatal(err)
		}
		if ask(t, l, "SELECT 7") != "7" {
			t.Error("the connection is of no use")
		}
		return l.Server
	}
	user, db := servers[0].CreateUser(t, "", "trust"), servers[0].CreateDatabase(t)
	first := server(servers[0], user, db)
	if got := server(servers[0], pgtest.Superuser, "postgres", pgwire.Param{Name: "datestyle", Value: "German"}, pgwire.Param{Name: "timezone", Value: "Asia/Tokyo"}); got != first {
		t.Errorf("%q and %q are one", first, got)
	}
	if got := server(servers[1], pgtest.Superuser, "postgres"); got == first {
		t.Errorf("%q is both", first)
	}
	secretive := servers[0].CreateDatabase(t, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	if a, b := server(servers[0], user, secretive), server(servers[0], user, secretive); a == "" || a == b {
		t.Errorf("who is not told takes %q and %q for servers", a, b)
	}
}
