package kennel

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/tenant"
)

// Orders that another key had sealed would never end.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(key string) (*Kennel, error) {
		c, _, err := config.Parse(config.File{Name: "pgdog.toml", Text: "[directory]\n[provision]\n"}, config.File{Missing: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Directory.Path, c.Provision.DataDir, c.Provision.Backups = filepath.Join(dir, "directory"), filepath.Join(dir, "data"), filepath.Join(dir, "backups")
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
	k, err := open(right)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}
