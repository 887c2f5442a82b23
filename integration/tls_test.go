package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// sslRequest and gssRequest ask for encryption.
var (
	sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}
	gssRequest = []byte{0, 0, 0, 8, 4, 210, 22, 48}
)

// secured is [general] with a certificate for clients.
func secured(ca *pgtest.CA, more string) string {
	cert, key := ca.Issue("localhost", "localhost", "127.0.0.1")
	return fmt.Sprintf("tls_certificate = %q\ntls_private_key = %q\n%s", cert, key, more)
}

func TestTLSOfClients(t *testing.T) {
	t.Parallel()
	ca, stranger := pgtest.NewCA(t), pgtest.NewCA(t)
	trusting := &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}
	login := func(s *stand, config *tls.Config) error {
		l := s.login()
		l.TLS = config
		c := pgtest.Dial(t, s.addr)
		defer c.Close()
		if err := c.Login(l); err != nil {
			return err
		}
		protocols[0].play(t, c, "SELECT 1", "1; SELECT 1; I")
		return nil
	}
	with := func(ca *pgtest.CA) *tls.Config {
		c := trusting.Clone()
		c.Certificates = []tls.Certificate{ca.Certificate(user)}
		return c
	}
	fails := func(what string, err error, part string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, not %s", what, err, part)
		}
	}
	works := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	off := start(t, spec{})
	works("off, plain", login(off, nil))
	fails("off, TLS", login(off, trusting), "TLS refused")
	if out, err := pgtest.Command(t, "psql", "-X", "-c", "SELECT 1", "-d", off.dsn("sslmode=require")).CombinedOutput(); err == nil || !strings.Contains(string(out), "does not support SSL") {
		t.Errorf("off, psql: %v %s", err, out)
	}
	pgtest.PSQL(t, off.dsn("sslmode=prefer"), "-c", "SELECT 1")

	allowed := start(t, spec{general: secured(ca, "")})
	works("allowed, plain", login(allowed, nil))
	works("allowed, TLS", login(allowed, trusting))
	works("allowed, a certificate that nobody asked for", login(allowed, with(stranger)))
	fails("allowed, another authority", login(allowed, &tls.Config{RootCAs: stranger.Pool, ServerName: "localhost"}), "unknown authority")
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	fails("allowed, TLS 1.1", login(allowed, old), "protocol version")
	for _, mode := range []string{"require", "verify-ca", "verify-full"} {
		if got := pgtest.PSQL(t, allowed.dsn("sslmode="+mode, "sslrootcert="+ca.File, "host=localhost"), "-c", "SELECT 1"); got != "1" {
			t.Errorf("psql %s: %s", mode, got)
		}
	}
	if !strings.Contains(allowed.log.String(), "tls=true") {
		t.Error("the log does not say who uses TLS")
	}

	required := start(t, spec{general: secured(ca, "tls_client_required = true")})
	fails("required, plain", login(required, nil), "FATAL 08004")
	works("required, TLS", login(required, trusting))

	certificates := start(t, spec{general: secured(ca, fmt.Sprintf("tls_client_required = true\ntls_client_ca_certificate = %q", ca.File))})
	works("certificates, a good one", login(certificates, with(ca)))
	if login(certificates, trusting) == nil {
		t.Error("certificates, none: accepted")
	}
	if login(certificates, with(stranger)) == nil {
		t.Error("certificates, a stranger's: accepted")
	}
	fails("certificates, plain", login(certificates, nil), "FATAL 08004")
}

// Bytes that come before the handshake might be an attacker's and close the connection.
func TestTLSStuffedBytes(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	s := start(t, spec{general: secured(ca, "")})
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": user, "database": cluster}}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	// In the same write as the request.
	for _, behind := range [][]byte{{0}, startup, sslRequest, []byte("GET / HTTP/1.1\r\n\r\n")} {
		c := pgtest.Dial(t, s.addr)
		c.Write(append(append([]byte(nil), sslRequest...), behind...))
		got, _ := io.ReadAll(c.Conn)
		if len(got) == 0 || got[0] != 'E' || !strings.Contains(string(got), "08P01") {
			t.Errorf("%q behind the request: %q", behind, got)
		}
	}
	// In the place of the handshake.
	for _, instead := range [][]byte{startup, sslRequest, {22, 3, 1, 255, 255, 0}, make([]byte, 100)} {
		c := pgtest.Dial(t, s.addr)
		c.Write(sslRequest)
		if got := c.ReadRaw(1); got[0] != 'S' {
			t.Fatalf("SSLRequest: %q", got)
		}
		c.Write(instead)
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // it is TCP
			t.Fatal(err)
		}
		c.Conn.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // Read tells
		got, err := io.ReadAll(c.Conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q instead of the handshake: still open", instead)
		}
		if strings.Contains(string(got), "SASL") || strings.Contains(string(got), "R\x00") {
			t.Errorf("%q instead of the handshake was answered %q", instead, got)
		}
	}
	protocols[0].play(t, s.connect(t), "SELECT 1", "1; SELECT 1; I")
}

// Requests for encryption may come in any order, each once, and the connection goes on without.
func TestTLSAndGSSRequests(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	for _, order := range [][][]byte{{sslRequest, gssRequest}, {gssRequest, sslRequest}, {gssRequest}, {sslRequest}} {
		c := pgtest.Dial(t, s.addr)
		for _, r := range order {
			c.Write(r)
			if got := c.ReadRaw(1); got[0] != 'N' {
				t.Fatalf("got %q", got)
			}
		}
		if err := c.Login(s.login()); err != nil {
			t.Error(err)
		}
	}
	for _, twice := range [][]byte{sslRequest, gssRequest} {
		c := pgtest.Dial(t, s.addr)
		c.Write(twice)
		c.ReadRaw(1)
		c.Write(twice)
		c.Conn.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // ReadAll tells
		got, err := io.ReadAll(c.Conn)
		if err != nil || len(got) == 0 || got[0] != 'E' {
			t.Errorf("twice: %q, %v", got, err)
		}
	}
}

// Servers are spoken to as tls_verify says.
func TestTLSToServers(t *testing.T) {
	t.Parallel()
	ca, stranger := pgtest.NewCA(t), pgtest.NewCA(t)
	only := pgtest.Start(t, pgtest.TLS(ca), pgtest.HBA("hostnossl all all all reject"))
	plain := pgtest.Shared(t)
	cert, key := ca.Issue(user)
	for _, x := range []struct {
		name     string
		instance *pgtest.Instance
		general  string
		good     bool
	}{
		{"disabled, server without", plain, `tls_verify = "disabled"`, true},
		{"disabled, server with", only, `tls_verify = "disabled"`, false},
		{"prefer, server without", plain, `tls_verify = "prefer"`, true},
		{"prefer, server with", only, `tls_verify = "prefer"`, true},
		{"verify-ca", only, fmt.Sprintf("tls_verify = \"verify_ca\"\ntls_server_ca_certificate = %q", ca.File), true},
		{"verify-ca, another authority", only, fmt.Sprintf("tls_verify = \"verify_ca\"\ntls_server_ca_certificate = %q", stranger.File), false},
		{"verify-full", only, fmt.Sprintf("tls_verify = \"verify_full\"\ntls_server_ca_certificate = %q", ca.File), true},
		{"verify-full, another authority", only, fmt.Sprintf("tls_verify = \"verify_full\"\ntls_server_ca_certificate = %q", stranger.File), false},
		{"verify-full, server without", plain, fmt.Sprintf("tls_verify = \"verify_full\"\ntls_server_ca_certificate = %q", ca.File), false},
		{"a certificate of ours", only, fmt.Sprintf("tls_verify = \"verify_full\"\ntls_server_ca_certificate = %q\ntls_server_certificate = %q\ntls_server_private_key = %q", ca.File, cert, key), true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{instances: []*pgtest.Instance{x.instance}, general: x.general + "\ncheckout_timeout = 1_000"})
			c := pgtest.Dial(t, s.addr)
			err := c.Login(s.login())
			switch {
			case !x.good && (err == nil || !strings.Contains(err.Error(), "FATAL 08006")):
				t.Errorf("got %v", err)
			case x.good && err != nil:
				t.Error(err)
			case x.good:
				want := map[bool]string{true: "t; SELECT 1; I", false: "f; SELECT 1; I"}[x.instance == only]
				protocols[0].play(t, c, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", want)
				c.Send(simple("SELECT pg_sleep(30)"))
				eventually(t, "the statement runs", func() bool {
					return s.shards[0].rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+s.shards[0].db+"'")[0] == "1"
				})
				c.Cancel() // which is a connection of its own to the server
				if got := outcome(c.UntilReady()); got != "57014; I" {
					t.Errorf("cancelled: %s", got)
				}
			}
		})
	}
}
