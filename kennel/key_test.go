package kennel

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Orders that another key had sealed would never end.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var more []string
	open := func(key string) (*Kennel, error) {
		c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: "[directory]\n[provision]\n"}, config.File{Missing: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Directory.Path, c.Provision.DataDir, c.Provision.Backups = filepath.Join(dir, "directory"), filepath.Join(dir, "data"), filepath.Join(dir, "backups")
		c.Directory.MoreKeyFiles = more
		return Open(t.Context(), Options{Config: c, Key: key, Log: slog.New(slog.DiscardHandler)})
	}
	right, wrong := strings.Repeat("A", 43)+"=", strings.Repeat("B", 42)+"A="
	for _, key := range []string{wrong, right} { // as long as there are no tenants, any will do
		k, err := open(key)
		if err != nil {
			t.Fatal(err)
		}
		if key == right {
			r := &tenant.Record{
				ID: tenant.NewID(), Name: "acme", Isolation: tenant.Instance, Phase: tenant.Ready, Driver: "process", Host: "here", Created: time.Now(),
				Logins: []tenant.Login{{Name: "acme", Role: "t_acme"}},
			}
			l := &r.Logins[0]
			l.Secret = k.Vault.Seal(r.ID, l.Field(), "secret")
			r.Admin = k.Vault.Seal(r.ID, tenant.AdminField, "admin")
			for range 2 {
				next := r.Authority
				if r.Authority, err = tenant.NewAuthority(k.Vault, r.ID, time.Now()); err != nil {
					t.Fatal(err)
				}
				r.Authority.Next, r.Authority.NextKey = next.Cert, next.Key
			}
			if _, err := k.Directory.Put(t.Context(), r, tenant.Entry{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if k, err := open(wrong); err == nil {
		_ = k.Close()
		t.Error("another key was taken")
	} else if !strings.Contains(err.Error(), "not the one") {
		t.Error(err)
	}
	// Another key comes in force beside the first; when all is sealed by it, that one is not needed any more.
	file := filepath.Join(dir, "old.key")
	if err := os.WriteFile(file, []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	more = []string{file}
	k, err := open(wrong)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if r, err := k.Execute(t.Context(), provision.Order{Verb: provision.VerbRekey}, nil); err != nil || r.Changed != want {
			t.Errorf("rekey: got %+v, %v, want %v", r, err, want)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	more = nil
	if k, err = open(wrong); err != nil {
		t.Fatal(err)
	}
	list, err := k.Directory.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	r := list[0]
	if s, err := k.Vault.Open(r.ID, r.Logins[0].Field(), r.Logins[0].Secret); err != nil || s != "secret" {
		t.Errorf("got %q, %v", s, err)
	}
	if s, err := k.Vault.Open(r.ID, tenant.AdminField, r.Admin); err != nil || s != "admin" {
		t.Errorf("got %q, %v", s, err)
	}
	if _, err := r.Authority.Open(k.Vault, r.ID); err != nil {
		t.Errorf("its authority: %v", err)
	}
	if _, err := (tenant.Authority{Cert: r.Authority.Next, Key: r.Authority.NextKey}).Open(k.Vault, r.ID); err != nil {
		t.Errorf("its next authority: %v", err)
	}
	if _, err := k.Execute(t.Context(), provision.Order{Verb: provision.VerbDrop, Tenant: r.ID}, nil); err == nil || !strings.Contains(err.Error(), "not damaged") {
		t.Errorf("drop: got %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if k, err := open(right); err == nil {
		_ = k.Close()
		t.Error("the earlier key was taken")
	}
}

// What the configuration says of a driver is what the driver is made of.
func TestDriverOptions(t *testing.T) {
	t.Parallel()
	c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: "[directory]\n[provision]\ndriver = \"docker\"\ndocker_socket = \"/run/x.sock\"\ndocker_image = \"our:{version}\"\n" +
		"docker_network = \"tenants\"\nsystemd_unit_dir = \"/etc/systemd/system\"\naccount = \"nobody\"\ncgroup = \"x.slice\"\nlog_size = 100_000\n"}, config.File{Missing: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, s := dockerOptions(&c.Provision, nil), systemdOptions(&c.Provision, nil)
	if d.Host != "unix:///run/x.sock" || d.Image != "our:{version}" || d.Network != "tenants" || s.UnitDir != "/etc/systemd/system" {
		t.Errorf("got %+v, %+v", d, s)
	}
	if p := d.Process; p.Account != "nobody" || p.Cgroup != "x.slice" || p.LogSize != 100_000 || !p.NoTCP {
		t.Errorf("got %+v", p)
	}
}

// The audit has as much as it is to have.
func TestAuditIsPruned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: "[directory]\naudit_entries = 2\n[provision]\n"}, config.File{Missing: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Directory.Path, c.Provision.DataDir, c.Provision.Backups = filepath.Join(dir, "directory"), filepath.Join(dir, "data"), filepath.Join(dir, "backups")
	k, err := Open(t.Context(), Options{Config: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"directory/directory.db", "directory.key"} { // as docs/provisioning.md has them
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for range 2 {
		r := &tenant.Record{ID: tenant.NewID(), Name: "acme", Isolation: tenant.Instance, Phase: tenant.Stopped, Driver: "process", Host: "elsewhere", Created: time.Now()}
		if r, err = k.Directory.Put(t.Context(), r, tenant.Entry{What: "made"}); err == nil {
			err = k.Directory.Delete(t.Context(), r, tenant.Entry{What: "gone"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = k.Manager.Run(ctx) })
	left := 0
	for left != 2 && ctx.Err() == nil {
		log, err := k.Directory.Audit(t.Context(), "", 0)
		if err != nil {
			t.Error(err)
			break
		}
		left = len(log)
	}
	if left != 2 {
		t.Errorf("%d entries are left", left)
	}
	cancel()
	wg.Wait()
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}
