package provision_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// listening is a change of options: instances listen for other hosts.
func listening(_ *bed, o *provision.Options) { o.Listen = "127.0.0.2" }

// far connects where an instance listens for other hosts, with a certificate or none, as a role with its right password.
func (b *bed) far(r *tenant.Record, role string, secure bool, show *tls.Certificate) error {
	b.Helper()
	return b.farAt(r, r.ID, r.Endpoint, role, secure, show)
}

// farAt is far for any of a tenant's instances.
func (b *bed) farAt(r *tenant.Record, id string, at tenant.Endpoint, role string, secure bool, show *tls.Certificate) error {
	b.Helper()
	conn, err := b.connectAt(r, id, at, role, secure, show)
	if err == nil {
		conn.Close(context.Background())
	}
	return err
}

func (b *bed) connectAt(r *tenant.Record, id string, at tenant.Endpoint, role string, secure bool, show *tls.Certificate) (*pgx.Conn, error) {
	b.Helper()
	secret, err := b.vault.Open(r.ID, tenant.AdminField, r.Admin)
	if l := r.Logins[0]; role == l.Role {
		secret, err = b.vault.Open(r.ID, l.Field(), l.Secret)
	}
	if err != nil {
		b.Fatal(err)
	}
	c, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable connect_timeout=30", at.Remote, at.Port, role, secret, r.Database))
	if err != nil {
		b.Fatal(err)
	}
	if secure {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(r.Authority.Trusted()))
		c.TLSConfig = &tls.Config{RootCAs: roots, ServerName: tenant.ServerName(id), MinVersion: tls.VersionTLS12}
		if show != nil {
			c.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return show, nil }
		}
	}
	return pgx.ConnectConfig(b.Context(), c)
}

func (b *bed) signer(r *tenant.Record) *tenant.Signer {
	b.Helper()
	s, err := r.Authority.Open(b.vault, r.ID)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// badge is the certificate of a pgkennel for a tenant's instances.
func (b *bed) badge(r *tenant.Record) *tls.Certificate {
	b.Helper()
	c, err := b.signer(r).Client(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// An instance that listens for other hosts lets in whom its tenant's authority knows as a pgkennel, and who has a password besides; nobody else, whatever they
// have. Its certificate is made anew in time.
func TestListen(t *testing.T) {
	t.Parallel()
	b := newBed(t, listening)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Settings: map[string]string{"shared_buffers": "16MB"}})
	r := b.record("acme")
	if r.Endpoint.Remote != "127.0.0.2" || r.Authority.Key == "" || strings.Contains(string(r.Authority.Key), "PRIVATE") {
		t.Fatalf("got endpoint %+v, authority %+v", r.Endpoint, r.Authority)
	}
	role := r.Logins[0].Role
	if err := b.far(r, role, true, b.badge(r)); err != nil {
		t.Fatalf("a pgkennel of another host: %v", err)
	}
	conf := filepath.Join(b.root, "i", r.ID+".conf")
	made, err := os.ReadFile(filepath.Join(conf, "server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.X509KeyPair(made, made)
	if err != nil {
		t.Fatal(err)
	}
	// Another tenant's authority, which that one's record has.
	a, err := tenant.NewAuthority(b.vault, r.ID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stranger := b.badge(&tenant.Record{ID: r.ID, Authority: a})
	for what, err := range map[string]error{
		"without TLS":                                b.far(r, role, false, nil),
		"without a certificate":                      b.far(r, role, true, nil),
		"with one of another authority":              b.far(r, role, true, stranger),
		"with the server's own":                      b.far(r, role, true, &own),
		"as pgkennel's superuser, whatever it shows": b.far(r, provision.Superuser, true, b.badge(r)),
	} {
		if e, ok := errors.AsType[*pgconn.PgError](err); err == nil || ok && e.Code != "28000" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	wrong := r.Clone()
	wrong.Logins[0].Secret = b.vault.Seal(r.ID, wrong.Logins[0].Field(), "wrong")
	if e, ok := errors.AsType[*pgconn.PgError](b.far(wrong, role, true, b.badge(r))); !ok || e.Code != "28P01" {
		t.Errorf("with a wrong password: got %v", e)
	}
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.Endpoint.Port), 5*time.Second); err == nil {
		c.Close()
		t.Error("it listens where it was not told to")
	}
	if st, err := os.Stat(filepath.Join(conf, "server.pem")); err != nil || st.Mode().Perm()&0o037 != 0 {
		t.Errorf("its key has mode %v, %v", st.Mode(), err)
	}

	// The runner gives it another certificate before its own ends, and starts it again with what it had.
	b.run()
	old, err := b.signer(r).Server(r.ID, time.Now().Add(-300*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(conf, "server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pid := b.pid("acme")
	if err := os.WriteFile(filepath.Join(conf, "server.pem"), old, st.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
	b.until("another certificate, and shown", func() bool {
		now, err := os.ReadFile(filepath.Join(conf, "server.pem"))
		return err == nil && tenant.ServerGood(now, r.ID, time.Now()) && b.far(r, role, true, b.badge(r)) == nil
	})
	if got := b.pid("acme"); got != pid {
		t.Errorf("for a certificate, the server was started anew: %d, %d", pid, got)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	b.until("started again", func() bool { now := b.pid("acme"); return now != 0 && now != pid })
	b.until("reached again", func() bool { return b.far(r, role, true, b.badge(r)) == nil })
	b.do(provision.Order{Verb: provision.VerbRename, Tenant: "acme", Name: "umbrella"})
	b.do(provision.Order{Verb: provision.VerbStop, Tenant: "umbrella"})
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "umbrella"})
	if err := b.far(b.record("umbrella"), role, true, b.badge(r)); err != nil {
		t.Errorf("after rename, stop and start: %v", err)
	}
}

// Where instances listen changes with their next start, and no sooner; so does that they do not any more. One whose address or port is not to be had serves its
// own host.
func TestListenElsewhere(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	var ahead time.Duration
	again := func(address string) *tenant.Record {
		b.close()
		b.open(func(_ *bed, o *provision.Options) {
			o.Listen, o.Now = address, func() time.Time { return time.Now().Add(ahead) }
		})
		return b.record("acme")
	}
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Settings: map[string]string{"shared_buffers": "16MB"}})
	if r := again("127.0.0.2"); r.Endpoint.Remote != "" || r.Authority != (tenant.Authority{}) {
		t.Fatalf("got endpoint %+v", r.Endpoint)
	}
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", Settings: map[string]string{"work_mem": "5MB"}})
	if r := b.record("acme"); r.Endpoint.Remote != "" {
		t.Errorf("it listens before it was started: %+v", r.Endpoint)
	}
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	r := b.record("acme")
	role := r.Logins[0].Role
	if err := b.far(r, role, true, b.badge(r)); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	// Where an authority is about to end, another one comes with the start and its certificate.
	ahead = 20*365*24*time.Hour - 10*24*time.Hour
	again("127.0.0.2")
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	now := b.record("acme")
	if now.Authority.Cert == r.Authority.Cert || now.Authority.Former != r.Authority.Cert || b.far(now, role, true, b.badge(now)) != nil || b.far(now, role, true, b.badge(r)) != nil {
		t.Errorf("an authority that ends: %+v", now.Authority)
	}
	ahead = 0
	// Nothing of 192.0.2.0/24 is on any host (RFC 5737).
	again("192.0.2.1")
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	b.mustSQL("acme", "acme", "SELECT 1")
	again("127.0.0.2")
	b.do(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", r.Endpoint.Port))
	if err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	b.mustSQL("acme", "acme", "SELECT 1")
	l.Close()
	again("")
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	if r := b.record("acme"); r.Endpoint.Remote != "" || r.Authority != (tenant.Authority{}) {
		t.Errorf("got endpoint %+v, authority %+v", r.Endpoint, r.Authority)
	}
	if left, _ := filepath.Glob(filepath.Join(b.root, "i", r.ID+".conf", "*.pem")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	b.mustSQL("acme", "acme", "SELECT 1")
}

// The authority of an instance that is never started anew is replaced in time: its server takes up each step while it runs, no session ends, and who has not
// heard of the last step gets in all the same.
func TestAuthorityEnds(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	b := newBed(t, func(b *bed, o *provision.Options) {
		listening(b, o)
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Settings: map[string]string{"shared_buffers": "16MB"}})
	first := b.record("acme")
	role, pid := first.Logins[0].Role, b.pid("acme")
	session, err := b.connectAt(first, first.ID, first.Endpoint, role, true, b.badge(first))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.Background())
	b.run()

	const day = 24 * time.Hour
	ahead.Store(int64(18*365*day + day)) // two years before its end
	second := first
	b.until("the next one is announced", func() bool {
		second = b.record("acme")
		return second.Authority.Next != "" && second.Authority.Cert == first.Authority.Cert
	})
	next := second.Clone()
	next.Authority = tenant.Authority{Cert: second.Authority.Next, Key: second.Authority.NextKey}
	b.until("the server believes the next one", func() bool { return b.far(second, role, true, b.badge(next)) == nil })
	if err := b.far(first, role, true, b.badge(first)); err != nil {
		t.Errorf("who has not heard of the next one: %v", err)
	}

	ahead.Add(int64(31 * day))
	third := second
	b.until("it signs", func() bool { third = b.record("acme"); return third.Authority.Cert == next.Authority.Cert })
	b.until("the server has a certificate of it", func() bool { return b.far(next, role, true, b.badge(third)) == nil })
	if err := b.far(second, role, true, b.badge(second)); err != nil {
		t.Errorf("who has not heard that it signs: %v", err)
	}
	if err := b.far(first, role, true, b.badge(first)); err == nil {
		t.Error("the server's certificate is still the former one's")
	}
	if now := b.pid("acme"); now != pid {
		t.Errorf("for an authority, the server was started anew: %d, %d", pid, now)
	}
	if _, err := session.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("a session that was there: %v", err)
	}
}
