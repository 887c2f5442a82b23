package provision_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// A tenant keeps nobody from taking it down: neither by locks, nor by what it has listen in its server's place.
func TestHeldUp(t *testing.T) {
	t.Parallel()
	b := newBed(t, archived(t))
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	r := b.record("acme")
	l := &r.Logins[0]
	secret, err := b.vault.Open(r.ID, l.Field(), l.Secret)
	if err != nil {
		t.Fatal(err)
	}
	// A superuser can read what its server proves itself by.
	var verifier string
	if err := b.admin(r, "postgres").QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'pgkennel'").Scan(&verifier); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"ALTER DATABASE %s CONNECTION LIMIT 50", "SET ROLE NONE; GRANT CONNECT ON DATABASE %s TO CURRENT_USER"} {
		c, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", r.Endpoint.Host, r.Endpoint.Port, l.Role, secret, r.Database))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if _, err := c.Exec(t.Context(), "BEGIN; "+fmt.Sprintf(statement, tenant.QuoteIdent(r.Database))); err != nil && statement[0] == 'A' {
			t.Fatal(err)
		}
		b.soon(provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true})
		if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Errorf("%s: the session is still there", statement)
		}
		b.do(provision.Order{Verb: provision.VerbEnable, Tenant: "acme"})
	}
	f := b.impostor("acme", verifier)
	f.answer.Store("says much")
	b.refused(provision.Order{Verb: provision.VerbStats, Tenant: "acme"}, provision.KindFailed, "closed")
	f.answer.Store("errors")
	b.soon(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	if b.up("acme") {
		t.Error("it was not stopped")
	}
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	f = b.impostor("acme", verifier)
	f.answer.Store("silence")
	begun := make(chan error, 1)
	go func() {
		begun <- b.try(provision.Order{Verb: provision.VerbBackup, Tenant: "acme", Kind: provision.Logical})
	}()
	b.until("the backup", func() bool { return f.asked.Load() > 0 })
	b.refused(provision.Order{Verb: provision.VerbStop, Tenant: "acme"}, provision.KindBusy, "backup")
	b.soon(provision.Order{Verb: provision.VerbStop, Tenant: "acme", Now: true})
	if err := <-begun; err == nil {
		t.Error("a backup of nothing was made")
	}
	if r := b.record("acme"); r.Phase != tenant.Stopped || b.up("acme") {
		t.Errorf("it is %s", r.Phase)
	}
}

// soon carries out an order that may not take long.
func (b *bed) soon(o provision.Order) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	o.By = "test"
	if _, err := b.Execute(ctx, o, nil); err != nil {
		b.Fatalf("%s %s: %s", o.Verb, o.Tenant, told(err))
	}
}

// What listens in a server's place, and does not know its verifiers, is neither believed nor told a password, whatever it asks for.
func TestImpostor(t *testing.T) {
	t.Parallel()
	b := newBed(t, archived(t))
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	secret, err := b.vault.Open(b.record("acme").ID, tenant.AdminField, b.record("acme").Admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, asks := range []string{"R\x00\x00\x00\x08\x00\x00\x00\x00", "R\x00\x00\x00\x08\x00\x00\x00\x03", "R\x00\x00\x00\x0c\x00\x00\x00\x05salt"} {
		f := b.impostor("acme", asks)
		f.answer.Store("errors")
		for _, o := range []provision.Order{
			{Verb: provision.VerbStats},
			{Verb: provision.VerbConnect},
			{Verb: provision.VerbBackup, Kind: provision.Logical},
			{Verb: provision.VerbBackup, Kind: provision.Physical},
			{Verb: provision.VerbCreate, Template: "tenant:acme"},
		} {
			if o.Tenant = "acme"; o.Verb == provision.VerbCreate {
				o.Tenant = "other"
			}
			b.refused(o, provision.KindFailed, "authentication method requirement")
		}
		if n := f.asked.Load(); n > 0 || strings.Contains(f.heard(), secret) {
			t.Errorf("asking by %q, it heard %d statements, and %q", asks, n, f.heard())
		}
	}
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme", Now: true})
	b.mustSQL("acme", "acme", "SELECT 1")
}

// impostor listens in a server's place, as a superuser's program can.
type impostor struct {
	answer   atomic.Value // how it answers statements: "says much", "errors", "silence"
	asked    atomic.Int64
	verifier *auth.Credential // nil: it asks
	asks     string

	mu   sync.Mutex
	said bytes.Buffer // what it was told before it let somebody in
}

func (f *impostor) heard() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said.String()
}

// impostor of a tenant's server either proves itself by the verifier of pgkennel's role, or asks for a password by another message.
func (b *bed) impostor(name, proof string) *impostor {
	b.Helper()
	at := b.record(name).Endpoint
	path := filepath.Join(at.Host, fmt.Sprintf(".s.PGSQL.%d", at.Port))
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	f := &impostor{asks: proof}
	if v, err := auth.ParseVerifier(proof); err == nil && v.IsSCRAM() {
		f.verifier = auth.NewCredential(v)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *impostor) serve(c net.Conn) {
	defer c.Close()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(size[:]))-4); err != nil {
		return
	}
	if !f.letIn(c) {
		return
	}
	const idle = "Z\x00\x00\x00\x05I"
	_, _ = io.WriteString(c, "R\x00\x00\x00\x08\x00\x00\x00\x00S\x00\x00\x00\x23standard_conforming_strings\x00on\x00S\x00\x00\x00\x19client_encoding\x00UTF8\x00K\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x02"+idle)
	for b := make([]byte, 4096); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
		f.asked.Add(1)
		switch f.answer.Load() {
		case "says much":
			_, _ = io.WriteString(c, "D\x7f\xff\xff\xff")
		case "errors":
			_, _ = io.WriteString(c, "E\x00\x00\x00\x17SERROR\x00C42501\x00Mno\x00\x00"+idle)
		}
	}
}

// letIn has a client prove its password, or say it.
func (f *impostor) letIn(c net.Conn) bool {
	b := make([]byte, 4096)
	read := func() []byte {
		n, _ := c.Read(b)
		f.mu.Lock()
		f.said.Write(b[:n])
		f.mu.Unlock()
		return b[min(n, 5):n]
	}
	if f.verifier == nil {
		if _, err := io.WriteString(c, f.asks); err != nil || f.asks[8] == 0 {
			return err == nil
		}
		return len(read()) > 0
	}
	s := auth.NewServer(auth.MethodSCRAM, provision.Superuser, f.verifier, nil)
	out, res := s.Start(nil)
	for !res.Done {
		if _, err := c.Write(out); err != nil {
			return false
		}
		out, res = s.Step(nil, read())
	}
	_, err := c.Write(out)
	return err == nil && res.Err == nil
}

// A server can't have pgkennel hash a password for hours: no context would end that.
func TestExpensiveLogin(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	message := func(c net.Conn, code uint32, text string) {
		m := binary.BigEndian.AppendUint32([]byte{'R'}, uint32(len(text))+8)
		_, _ = c.Write(append(binary.BigEndian.AppendUint32(m, code), text...))
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		_, _ = c.Read(b)
		message(c, 10, "SCRAM-SHA-256\x00\x00")
		n, _ := c.Read(b)
		_, nonce, _ := strings.Cut(string(b[:n]), ",r=")
		message(c, 11, "r="+nonce+"more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=2000000000")
		_, _ = c.Read(b)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	_, err = provision.Ask(ctx, &provision.Instance{Endpoint: tenant.Endpoint{Host: "127.0.0.1", Port: n}, Password: "x"})
	if err == nil || !strings.Contains(err.Error(), "SCRAM iterations") {
		t.Errorf("got %v", err)
	}
}
