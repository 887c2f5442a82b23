package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Versions of the protocol.
func TestStartupVersions(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for _, x := range []struct {
		minor      uint32
		params     map[string]string
		secret     int
		negotiated string
	}{
		{0, nil, 4, ""},
		{2, nil, 32, ""},
		{3, nil, 32, "NegotiateProtocolVersion(2, [])"},
		{9999, nil, 32, "NegotiateProtocolVersion(2, [])"},
		{0, map[string]string{"_pq_.odd": "1"}, 4, "NegotiateProtocolVersion(0, [_pq_.odd])"},
		{2, map[string]string{"_pq_.odd": "1"}, 32, "NegotiateProtocolVersion(2, [_pq_.odd])"},
	} {
		l := s.login()
		l.Version, l.Params = 3<<16|x.minor, x.params
		c := pgtest.Dial(t, s.addr)
		c.Startup(l)
		negotiated := ""
		msg := c.Receive()
		if n, ok := msg.(*pgproto3.NegotiateProtocolVersion); ok {
			negotiated = fmt.Sprintf("NegotiateProtocolVersion(%d, %v)", n.NewestMinorProtocol&0xffff, n.UnrecognizedOptions)
		}
		c.Close()
		if negotiated != x.negotiated {
			t.Errorf("3.%d %v: %s, not %s", x.minor, x.params, negotiated, x.negotiated)
		}
		c = pgtest.Connect(t, s.addr, l)
		if len(c.Secret) != x.secret || c.PID == 0 {
			t.Errorf("3.%d: a secret of %d bytes, pid %d", x.minor, len(c.Secret), c.PID)
		}
		protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
	}
	for _, version := range []uint32{0, 1 << 16, 2 << 16, 4 << 16, 1234<<16 | 5681, 0xffffffff} {
		c := pgtest.Dial(t, s.addr)
		l := s.login()
		c.Write(startupPacket(version, "user", l.User, "database", l.Database))
		answer := c.ExpectClosed()
		if e := pgtest.Failure(answer); e == nil || e.Severity != "FATAL" || e.Code != "0A000" {
			t.Errorf("version %d.%d: %s", version>>16, version&0xffff, pgtest.Format(answer...))
		}
	}
}

// startupPacket makes any.
func startupPacket(version uint32, params ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	for _, p := range params {
		b = append(append(b, p...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// Who asks for nobody, or for what there is not, is told so.
func TestStartupRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for _, x := range []struct {
		params []string
		code   string
	}{
		{nil, "28000"},
		{[]string{"user", ""}, "28000"},
		{[]string{"database", cluster}, "28000"},
		{[]string{"user", user, "database", cluster, "replication", "perhaps"}, "22023"},
	} {
		c := pgtest.Dial(t, s.addr)
		c.Write(startupPacket(3<<16, x.params...))
		answer := c.ExpectClosed()
		if e := pgtest.Failure(answer); e == nil || e.Severity != "FATAL" || e.Code != x.code {
			t.Errorf("%v: %s", x.params, pgtest.Format(answer...))
		}
	}
	l := s.login()
	l.Params = map[string]string{"replication": "off"}
	pgtest.Connect(t, s.addr, l)
}

// The database is the user's name where none is given, as with PostgreSQL.
func TestStartupWithoutDatabase(t *testing.T) {
	t.Parallel()
	s := start(t, spec{users: `
[[users]]
name = "saas"
database = "saas"
password = "x"
server_user = "app"
`})
	c := pgtest.Connect(t, s.addr, pgtest.Login{User: "saas", Password: "x"})
	protocols[0].play(t, c, "SELECT current_user", "app; SELECT 1; I")
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pgk") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := start(t, spec{general: fmt.Sprintf("unix_socket_dir = %q\nunix_socket_mode = \"0700\"", dir)})
	_, port, _ := net.SplitHostPort(s.addr)
	path := filepath.Join(dir, ".s.PGSQL."+port)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket: %v, %v", info, err)
	}
	c := pgtest.Connect(t, path, s.login())
	protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
	c.Send(simple("SELECT pg_sleep(30)"))
	eventually(t, "the statement runs", func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+s.shards[0].db+"'")[0] == "1"
	})
	c.Cancel()
	if got := outcome(c.UntilReady()); got != "57014; I" {
		t.Errorf("cancelled: %s", got)
	}
	dsn := fmt.Sprintf("host=%s port=%s user=%s dbname=%s password='%s'", dir, port, user, cluster, password)
	if got := pgtest.PSQL(t, dsn, "-c", "SELECT 2"); got != "2" {
		t.Errorf("psql: %s", got)
	}
}

func TestMaxClientConnections(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "max_client_connections = 2"})
	a, b := s.connect(t), s.connect(t)
	for range 3 {
		err := pgtest.Dial(t, s.addr).Login(s.login())
		if err == nil || !strings.Contains(err.Error(), "FATAL 53300") {
			t.Errorf("the third: %v", err)
		}
	}
	// Who is in can still cancel.
	a.Send(simple("SELECT pg_sleep(30)"))
	eventually(t, "the statement runs", func() bool {
		return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+s.shards[0].db+"'")[0] == "1"
	})
	a.Timeout = 5 * time.Second
	a.Cancel()
	if got := outcome(a.UntilReady()); got != "57014; I" {
		t.Errorf("cancelled: %s", got)
	}
	b.Terminate()
	eventually(t, "there is room again", func() bool {
		c := pgtest.Dial(t, s.addr)
		defer c.Close()
		return c.Login(s.login()) == nil
	})
	protocols[0].play(t, a, "SELECT 1", "1; SELECT 1; I")
}

// A client that does not finish its login is closed after client_login_timeout, wherever it stopped.
func TestLoginTimeout(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	s := start(t, spec{general: secured(ca, "client_login_timeout = 2000")})
	packet := startupPacket(3<<16, "user", user, "database", cluster)
	in := s.connect(t) // the limit is none of its
	t.Run("late", func(t *testing.T) {
		for name, begin := range map[string]func(c *pgtest.Client){
			"nothing":                  func(*pgtest.Client) {},
			"half a packet":            func(c *pgtest.Client) { c.Write(packet[:7]) },
			"a request":                func(c *pgtest.Client) { c.Write(gssRequest) },
			"a packet":                 func(c *pgtest.Client) { c.Write(packet) },
			"half an exchange":         func(c *pgtest.Client) { c.Write(packet); c.Write([]byte{'p', 0, 0, 0, 50, 'S'}) },
			"a handshake that hangs":   func(c *pgtest.Client) { c.Write(sslRequest) },
			"a handshake half through": func(c *pgtest.Client) { c.Write(sslRequest); c.ReadRaw(1); c.Write([]byte{22, 3, 1, 1, 0, 1}) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				begun := time.Now()
				c := pgtest.Dial(t, s.addr)
				begin(c)
				c.Conn.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // ReadAll tells
				got, err := io.ReadAll(c.Conn)
				if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // it comes bare
					t.Fatal("still open")
				}
				if took := time.Since(begun); took < 1900*time.Millisecond {
					t.Errorf("closed after %v", took)
				}
				if !strings.Contains(name, "handshake") && !strings.Contains(string(got), "canceling authentication due to timeout") {
					t.Errorf("heard %q", got)
				}
			})
		}
	})
	protocols[0].play(t, in, "SELECT 1", "1; SELECT 1; I")
}
