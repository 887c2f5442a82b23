package backend

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func mustTLS(t testing.TB, mode TLSMode, ca, cert, key string) TLSOptions {
	t.Helper()
	o, err := ClientTLS(mode, ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustAuthority(t *testing.T, ca *pgtest.CA) TLSOptions {
	t.Helper()
	o, err := AuthorityTLS(string(ca.PEM))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AuthorityTLS("none"); err == nil {
		t.Error("what is no certificate is an authority")
	}
	return o
}

func TestTLSWithPostgreSQL(t *testing.T) {
	t.Parallel()
	ca, other := pgtest.NewCA(t), pgtest.NewCA(t)
	pg := pgtest.Start(t, pgtest.TLS(ca), pgtest.HBA("hostnossl all all all reject"))
	user := pg.CreateUser(t, "", "cert")
	cert, key := ca.Issue(user)
	wrongCert, wrongKey := ca.Issue("somebody")
	foreignCert, foreignKey := other.Issue(user)
	tests := []struct {
		name string
		tls  TLSOptions
		want Failure
	}{
		{"disabled", TLSOptions{}, FailureAuth},
		{"prefer without certificate", mustTLS(t, TLSPrefer, "", "", ""), FailureAuth},
		{"prefer", mustTLS(t, TLSPrefer, "", cert, key), FailureNone},
		{"verify_ca", mustTLS(t, TLSVerifyCA, ca.File, cert, key), FailureNone},
		{"verify_full", mustTLS(t, TLSVerifyFull, ca.File, cert, key), FailureNone},
		{"verify_ca of another", mustTLS(t, TLSVerifyCA, other.File, cert, key), FailureTLS},
		{"verify_full of another", mustTLS(t, TLSVerifyFull, other.File, cert, key), FailureTLS},
		{"an authority's, without a certificate", mustAuthority(t, ca), FailureAuth}, // it is believed, and asks for ours
		{"another authority's", mustAuthority(t, other), FailureTLS},
		{"verify_full by the system's roots", mustTLS(t, TLSVerifyFull, "", cert, key), FailureTLS},
		{"somebody else's certificate", mustTLS(t, TLSVerifyFull, ca.File, wrongCert, wrongKey), FailureAuth},
		{"certificate of another CA", mustTLS(t, TLSVerifyFull, ca.File, foreignCert, foreignKey), FailureUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := dial(t, DialOptions{Address: addressOf(t, pg.Addr()), User: user, Database: "postgres", TLS: tt.tls})
			wantFailure(t, err, tt.want)
			if err != nil {
				return
			}
			if got := ask(t, l, "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); got != "true" {
				t.Errorf("got ssl %q, want true", got)
			}
		})
	}
	t.Run("unix sockets never use TLS", func(t *testing.T) {
		t.Parallel()
		l, err := dial(t, DialOptions{Address: Address{Host: pg.SocketDir, Port: pg.Port}, User: "postgres", Database: "postgres", TLS: mustTLS(t, TLSVerifyFull, "", "", "")})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, l, "SELECT 1"); got != "1" {
			t.Errorf("got %q, want 1", got)
		}
	})
}

func TestTLSNames(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	fake := pgtest.NewFakeServer(t, (*pgtest.FakeConn).Drain, pgtest.FakeTLS(&tls.Config{Certificates: []tls.Certificate{ca.Certificate("other", "other.example")}}))
	for mode, want := range map[TLSMode]Failure{TLSPrefer: FailureNone, TLSVerifyCA: FailureNone, TLSVerifyFull: FailureTLS} {
		_, err := dial(t, DialOptions{Address: addressOf(t, fake.Addr), User: "ann", TLS: mustTLS(t, mode, ca.File, "", "")})
		wantFailure(t, err, want)
	}
	plain := pgtest.NewFakeServer(t, (*pgtest.FakeConn).Drain)
	for mode, want := range map[TLSMode]Failure{TLSDisabled: FailureNone, TLSPrefer: FailureNone, TLSVerifyCA: FailureTLS, TLSVerifyFull: FailureTLS} {
		_, err := dial(t, DialOptions{Address: addressOf(t, plain.Addr), User: "ann", TLS: mustTLS(t, mode, ca.File, "", "")})
		wantFailure(t, err, want)
	}
}

// answering accepts one connection, reads an SSLRequest and answers it.
func answering(t testing.TB, answer []byte) Address {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		request := make([]byte, 8)
		if _, err := conn.Read(request); err == nil {
			_, _ = conn.Write(answer)
		}
		_, _ = conn.Read(request)
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return addressOf(t, ln.Addr().String())
}

func TestTLSAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer string
		want   Failure
	}{
		{"bytes behind S", "SR", FailureProtocol},
		{"bytes behind N", "N" + string(pgwire.AppendAuthenticationOk(nil)), FailureProtocol},
		{"error", string(pgwire.AppendErrorResponse(nil, pgwire.Fatalf("53300", "full"))), FailureProtocol},
		{"error byte", "E", FailureProtocol},
		{"nonsense", "x", FailureProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := dial(t, DialOptions{Address: answering(t, []byte(tt.answer)), User: "ann", TLS: mustTLS(t, TLSPrefer, "", "", "")})
			wantFailure(t, err, tt.want)
		})
	}
}

func TestTLSFilesAreNamedInErrors(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	cert, key := ca.Issue("server", "localhost")
	_, otherKey := ca.Issue("other")
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(ca, cert, key string) error {
		_, err := ClientTLS(TLSVerifyFull, ca, cert, key)
		return err
	}
	server := func(f ServerTLSFiles) error {
		_, err := NewServerTLS(f)
		return err
	}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"missing ca", client("/nonexistent/ca.crt", "", ""), "/nonexistent/ca.crt"},
		{"garbage ca", client(garbage, "", ""), garbage},
		{"missing certificate", client("", "/nonexistent/c.crt", key), "/nonexistent/c.crt"},
		{"missing key", client("", cert, "/nonexistent/c.key"), "/nonexistent/c.key"},
		{"key of another", client("", cert, otherKey), otherKey},
		{"garbage certificate", client("", garbage, key), garbage},
		{"certificate alone", client("", cert, ""), "both"},
		{"server without key", server(ServerTLSFiles{Certificate: cert}), "both"},
		{"server with missing certificate", server(ServerTLSFiles{Certificate: "/nonexistent/s.crt", Key: key}), "/nonexistent/s.crt"},
		{"server with garbage ca", server(ServerTLSFiles{Certificate: cert, Key: key, ClientCA: garbage}), garbage},
		{"requirement without ca", server(ServerTLSFiles{Certificate: cert, Key: key, RequireClientCertificate: true}), "no CA"},
	}
	for _, tt := range tests {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: got %v, want one that contains %q", tt.name, tt.err, tt.want)
		}
	}
	if _, err := ClientTLS(TLSDisabled, "/nonexistent", "", ""); err != nil {
		t.Errorf("disabled: got %v, want none", err)
	}
}

// shake goes through a handshake and one byte each way, and returns what both sides saw.
func shake(t testing.TB, server, client *tls.Config) (serverState, clientState tls.ConnectionState, err error) {
	t.Helper()
	near, far := net.Pipe()
	deadline := time.Now().Add(pgtest.DefaultTimeout)
	s, c := tls.Server(far, server), tls.Client(near, client)
	for _, conn := range []net.Conn{near, far} {
		if err := conn.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	failed := make(chan error, 1)
	go func() {
		defer far.Close()
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		failed <- err
	}()
	_, err = c.Read(make([]byte, 1))
	near.Close()
	if serverErr := <-failed; serverErr != nil {
		err = serverErr
	}
	return s.ConnectionState(), c.ConnectionState(), err
}

func TestServerTLS(t *testing.T) {
	t.Parallel()
	ca, other := pgtest.NewCA(t), pgtest.NewCA(t)
	cert, key := ca.Issue("server", "localhost")
	client := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", Certificates: certs}
	}
	ann, impostor := ca.Certificate("ann"), other.Certificate("ann")

	optional, err := NewServerTLS(ServerTLSFiles{Certificate: cert, Key: key, ClientCA: ca.File})
	if err != nil {
		t.Fatal(err)
	}
	required, err := NewServerTLS(ServerTLSFiles{Certificate: cert, Key: key, ClientCA: ca.File, RequireClientCertificate: true})
	if err != nil {
		t.Fatal(err)
	}
	without, err := NewServerTLS(ServerTLSFiles{Certificate: cert, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		server   *ServerTLS
		client   *tls.Config
		identity string // "" = none
		fails    bool
	}{
		{"optional, shown", optional, client(ann), "ann", false},
		{"optional, not shown", optional, client(), "", false},
		{"optional, of another CA", optional, forced(client(), impostor), "", true},
		{"required, shown", required, client(ann), "ann", false},
		{"required, not shown", required, client(), "", true},
		{"not asked for", without, client(ann), "", false},
		{"TLS 1.1", without, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			state, _, err := shake(t, tt.server.Config(), tt.client)
			if (err != nil) != tt.fails {
				t.Fatalf("got %v, want failure %v", err, tt.fails)
			}
			if name, ok := ClientIdentity(state); !tt.fails && (name != tt.identity || ok != (tt.identity != "")) {
				t.Errorf("got identity %q, %v, want %q", name, ok, tt.identity)
			}
		})
	}
}

// forced shows a certificate even if the server's list of CAs does not ask for it.
func forced(c *tls.Config, cert tls.Certificate) *tls.Config {
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

func TestServerTLSReload(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	install := func(name string) {
		t.Helper()
		cert, key := ca.Issue(name, "localhost")
		for from, to := range map[string]string{cert: certFile, key: keyFile} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	install("first")
	s, err := NewServerTLS(ServerTLSFiles{Certificate: certFile, Key: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	config := s.Config() // taken once, as a listener does
	name := func() string {
		t.Helper()
		_, state, err := shake(t, config, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("got %q, want first", got)
	}
	install("second")
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "second" {
		t.Errorf("got %q, want second", got)
	}
	if err := os.WriteFile(keyFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil {
		t.Error("got none for a broken key, want an error")
	}
	if got := name(); got != "second" {
		t.Errorf("after a failed reload: got %q, want second", got)
	}
}

func TestTLSModeNames(t *testing.T) {
	t.Parallel()
	for m := TLSDisabled; m <= TLSVerifyFull; m++ {
		if got, err := ParseTLSMode(m.String()); err != nil || got != m {
			t.Errorf("got %v, %v, want %v", got, err, m)
		}
	}
	if _, err := ParseTLSMode("allow"); err == nil {
		t.Error("got none, want an error")
	}
}
