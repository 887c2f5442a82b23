package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// A tenant's authority is replaced, step by step, while a pooler of another host serves: the session in the middle of a transaction keeps its connection, the idle one and
// new ones are served at any moment, and and the pooler makes its connections anew for each step.
func TestAuthorityIsReplaced(t *testing.T) {
	t.Parallel()
	p := newHosts(t)
	for _, k := range p.poolers {
		k.serve()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s:\n%s", k.dir, tail(k.log.String(), 40))
			}
			k.stop()
		})
	}
	password := p.tenant(0, "create", "acme", "--enable").Secrets[0].Password
	far := p.poolers[1]
	eventually(t, "acme is served", func() bool {
		_, err := far.ask("acme", "acme", password, "SELECT '1'")
		return err == nil
	})
	directory, err := store.OpenEtcd(t.Context(), store.EtcdOptions{Endpoints: []string{p.etcd.address}})
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	key, _, err := store.LoadKey("", strings.TrimPrefix(p.env[0], store.KeyVariable+"="), false)
	if err != nil {
		t.Fatal(err)
	}
	vault := tenant.NewVault(key)

	busy, err := far.dial("acme", "acme", password)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close(context.Background())
	idle, err := far.dial("acme", "acme", password)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close(context.Background())
	backend := ""
	if _, err := busy.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	// served has all sessions ask, and returns the server's process of the newest.
	served := func() (process string) {
		t.Helper()
		now := ""
		if err := busy.QueryRow(t.Context(), "SELECT pg_backend_pid()::text").Scan(&now); err != nil || backend != "" && now != backend {
			t.Fatalf("in a transaction: process %s, %v; want %s", now, err, backend)
		}
		backend = now
		if _, err := idle.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatalf("a session that was there: %v", err)
		}
		process, err := far.ask("acme", "acme", password, "SELECT pg_backend_pid()::text")
		if err != nil {
			t.Fatalf("a new session: %v", err)
		}
		return process
	}
	seen := map[string]bool{served(): true}
	const day = 24 * time.Hour
	begin := time.Now()
	for _, step := range []struct {
		what string
		at   time.Duration // as if it were so long after now
		done func(before, now tenant.Authority) bool
	}{
		{"the next one is announced", 18*365*day + day, func(before, now tenant.Authority) bool { return now.Cert == before.Cert && now.Next != "" }},
		{"the next one signs", 18*365*day + 32*day, func(before, now tenant.Authority) bool { return now.Cert == before.Next && now.Former == before.Cert }},
		{"the former one has ended", 20*365*day + day, func(before, now tenant.Authority) bool { return now.Cert == before.Cert && now.Former == "" }},
	} {
		var r *tenant.Record
		eventually(t, step.what, func() bool { // the runner may write at the same time
			before, err := directory.Find(t.Context(), "name/acme")
			if err != nil {
				t.Fatal(err)
			}
			now := before.Clone()
			if now.Authority, err = before.Authority.Renew(vault, before.ID, begin.Add(step.at)); err != nil || !step.done(before.Authority, now.Authority) {
				t.Fatalf("%s: got %+v, %v", step.what, now.Authority, err)
			}
			r, err = directory.Put(t.Context(), now, tenant.Entry{Time: time.Now(), Who: "test", What: "authority", ID: now.ID, Name: now.Name})
			return err == nil
		})
		eventually(t, "the server has taken up that "+step.what, func() bool {
			served()
			trusted, err := os.ReadFile(filepath.Join(p.dir, "instances", r.ID+".conf", "authority.pem"))
			return err == nil && string(trusted) == r.Authority.Trusted() && shown(t, r, r.Authority.Cert)
		})
		eventually(t, "the pooler has made its connections anew when "+step.what, func() bool {
			process := served()
			defer func() { seen[process] = true }()
			return !seen[process]
		})
	}
	served()
	if _, err := busy.Exec(t.Context(), "COMMIT"); err != nil {
		t.Errorf("the end of the transaction: %v", err)
	}
}

// shown reports whether an instance's server shows a certificate by an authority.
func shown(t *testing.T, r *tenant.Record, authority string) bool {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(r.Endpoint.Remote, strconv.Itoa(r.Endpoint.Port)), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
		t.Fatal(err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil || answer[0] != 'S' {
		t.Fatalf("the server's answer to who asks for TLS: %q, %v", answer, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authority))
	return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: tenant.ServerName(r.ID), MinVersion: tls.VersionTLS12}).Handshake() == nil
}
