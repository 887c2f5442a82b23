package provision_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
	f := b.impostor("acme")
	f.answer.Store("says much")
	b.refused(provision.Order{Verb: provision.VerbStats, Tenant: "acme"}, provision.KindFailed, "closed")
	f.answer.Store("errors")
	b.soon(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	if b.up("acme") {
		t.Error("it was not stopped")
	}
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	f = b.impostor("acme")
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

// impostor listens in a server's place, as a superuser's program can.
type impostor struct {
	answer atomic.Value // how it answers statements: "says much", "errors", "silence"
	asked  atomic.Int64
}

func (b *bed) impostor(name string) *impostor {
	b.Helper()
	at := b.record(name).Endpoint
	path := filepath.Join(at.Host, fmt.Sprintf(".s.PGSQL.%d", at.Port))
	if err := os.Remove(path); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	f := &impostor{}
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
