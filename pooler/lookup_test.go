package pooler

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store"
)

// crowdOf is a directory of so many tenants, which do not change.
type crowdOf struct{ list []*tenant.Record }

func newCrowd(n int) *crowdOf {
	d := &crowdOf{list: make([]*tenant.Record, n)}
	for i := range d.list {
		name := fmt.Sprintf("tenant-%d", i)
		d.list[i] = &tenant.Record{
			ID: tenant.NewID(), Revision: 1, Name: name, Isolation: tenant.Instance, Phase: tenant.Ready, Access: tenant.Access{Enabled: true},
			Endpoint: tenant.Endpoint{Host: "127.0.0.1", Port: 1}, Logins: []tenant.Login{{Name: name, Role: "r"}},
		}
	}
	return d
}

// watched is a directory whose only change is that it is there.
type watched struct {
	tenant.Directory
	list []*tenant.Record
}

func (d watched) Watch(context.Context) (<-chan tenant.Change, error) {
	c := make(chan tenant.Change, 1)
	c <- tenant.Change{Reset: true, Records: d.list}
	return c, nil
}

// mirrorOf is a mirror of so many tenants, and a pooler behind it that serves none of them yet.
func mirrorOf(tb testing.TB, n int) (*Pooler, *crowdOf) {
	tb.Helper()
	crowd := newCrowd(n)
	secret, err := tenant.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	vault := tenant.NewVault(secret)
	for _, r := range crowd.list[:2] {
		l := &r.Logins[0]
		l.Secret, l.Verifier = vault.Seal(r.ID, l.Field(), "x"), verifier(tb, "x")
	}
	m := store.NewMirror(watched{list: crowd.list}, store.MirrorOptions{})
	c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: "[general]\nhost = \"127.0.0.1\"\n[directory]\n"}, config.File{Name: "users.toml"}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	c.Listen.Port, c.Admin.Socket = 0, ""
	p, err := New(tb.Context(), Options{Config: c, Log: slog.New(slog.DiscardHandler), Directory: m, Vault: vault})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { m.Run(ctx) }) //nolint:errcheck // it ends with ctx
	runs.Go(func() { p.Run(ctx) }) //nolint:errcheck // it has none
	if err := m.Wait(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cancel()
		runs.Wait()
	})
	return p, crowd
}

var _ Directory = (*store.Mirror)(nil)

// TestTenantsTakeNothingUntilTheyLogIn: a directory of many tenants is no unit, no goroutine and no pool of them.
func TestTenantsTakeNothingUntilTheyLogIn(t *testing.T) {
	t.Parallel()
	p, crowd := mirrorOf(t, 20_000)
	if n := p.follower.made.Load(); n != 0 {
		t.Fatalf("%d instances are at work", n)
	}
	for round := range 3 {
		for i, r := range crowd.list[:2] {
			a, _ := p.account(tenant.Asked{User: r.Name, Database: r.Name})
			if n := p.follower.made.Load(); round == 0 && n != int64(i) {
				t.Fatalf("%d instances are at work before the password was proved", n)
			}
			a, refusal, _ := a.Admit()
			if a == nil || refusal != tenant.Welcome || a.ServerUser != "r" {
				t.Fatalf("got %+v, %v", a, refusal)
			}
		}
	}
	if a, refusal := p.account(tenant.Asked{User: "tenant-x", Database: "tenant-x"}); a != nil || refusal != tenant.UnknownUser {
		t.Errorf("got %+v, %v", a, refusal)
	}
	if n := p.follower.made.Load(); n != 2 {
		t.Errorf("%d instances are at work, want 2", n)
	}
}

func BenchmarkAccountOfATenant(b *testing.B) {
	p, crowd := mirrorOf(b, 100_000)
	asked := tenant.Asked{User: crowd.list[0].Name, Database: crowd.list[0].Name}
	if a, _ := p.account(asked); a != nil { // its unit is made
		if _, refusal, e := a.Admit(); refusal != tenant.Welcome || e != nil {
			b.Fatal(refusal, e)
		}
	}
	b.Run("at work", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a, _ := p.account(asked); a == nil {
				b.Fatal("no account")
			}
		}
	})
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i = i*7919%len(crowd.list) + 1; p.follower.dir.ByName(crowd.list[i%len(crowd.list)].Name) == nil {
				b.Fatal("no record")
			}
		}
	})
	b.Run("nobody", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a, _ := p.account(tenant.Asked{User: "nobody", Database: "nobody"}); a != nil {
				b.Fatal("an account")
			}
		}
	})
}

// TestFromTheFile: a real file store, its mirror and a pooler; what is written is served within a second.
func TestFromTheFile(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme").Clone() // for its database and role
	k.dir.remove(r.ID)
	d, err := store.OpenFile(t.Context(), store.FileOptions{Path: filepath.Join(t.TempDir(), "directory")})
	if err != nil {
		t.Fatal(err)
	}
	m := store.NewMirror(d, store.MirrorOptions{})
	c := *k.state.Load().cfg
	c.Metrics.Port = 0
	p, err := New(t.Context(), Options{Config: &c, Log: slog.New(slog.NewTextHandler(k.log, nil)), Directory: m, Vault: k.vault})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { m.Run(ctx) }) //nolint:errcheck // it ends with ctx
	runs.Go(func() { p.Run(ctx) }) //nolint:errcheck // it has none
	t.Cleanup(func() {
		p.Hurry()
		cancel()
		runs.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := &house{Pooler: p, t: t, log: k.log}
	of := &kennel{house: there, vault: k.vault}
	put := func(r *tenant.Record) *tenant.Record {
		t.Helper()
		now, err := d.Put(t.Context(), r, tenant.Entry{Who: "test", What: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	r.Revision = 0
	now := put(r)
	begun := time.Now()
	eventually(t, "the tenant", func() bool {
		conn, err := of.try("acme", "acme", password("acme"))
		if err != nil {
			return false
		}
		conn.Close(t.Context())
		return true
	})
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("that took %v", took)
	}
	conn := of.owner("acme")
	now = now.Clone()
	now.Access.Enabled = false
	put(now)
	wantEnded(t, conn)
}
