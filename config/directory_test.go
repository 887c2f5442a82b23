package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDirectoryPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("api.token", "0123456789abcdef\n")
	file := write("pgdog.toml", `
[directory]
more_key_files = ["old.key", "/etc/older.key"]
audit_keep = 86_400_000
audit_entries = 1000
[provision]
backups = "/var/backups/pgkennel"
suspend_after = 60_000
[admin]
socket = "s"
api_port = 7001
api_token_file = "api.token"
`)
	c, _, err := Load(Options{ConfigFile: file, ConfigGiven: true, UsersFile: filepath.Join(dir, "users.toml")})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][2]string{
		{c.Directory.Path, filepath.Join(dir, "pgkennel-directory")},
		{c.Directory.Cache, filepath.Join(dir, "pgkennel-directory.cache")},
		{c.Directory.KeyFile, ""},
		{c.Provision.DataDir, filepath.Join(dir, "instances")},
		{c.Provision.Backups, "/var/backups/pgkennel"},
		{c.Admin.Socket, filepath.Join(dir, "s")},
		{c.Admin.APIToken.Reveal(), "0123456789abcdef"},
	} {
		if p[0] != p[1] {
			t.Errorf("got %q, want %q", p[0], p[1])
		}
	}
	if d := c.Directory; strings.Join(d.MoreKeyFiles, " ") != filepath.Join(dir, "old.key")+" /etc/older.key" || d.AuditKeep != 24*time.Hour || d.AuditEntries != 1000 {
		t.Errorf("got %+v", d)
	}
	if c.Provision.SuspendAfter != time.Minute || c.Directory.Store != "file" || c.Admin.APIPort != 7001 {
		t.Errorf("got %+v, %+v, %+v", c.Provision, c.Directory, c.Admin)
	}
	write("api.token", "short")
	if _, _, err = Load(Options{ConfigFile: file, ConfigGiven: true}); err == nil || !strings.Contains(err.Error(), "the token has 5 characters, it needs 16") {
		t.Errorf("got %v for a short token", err)
	}
}

func TestAdministrator(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("pgdog.toml", `
[[databases]]
name = "saas"
host = "h"
admin_user = "o'neil"
admin_password_file = "admin.password"
[[databases]]
name = "other"
host = "h"
`)
	load := func(password string) (*Config, error) {
		write("admin.password", password)
		c, _, err := Load(Options{ConfigFile: filepath.Join(dir, "pgdog.toml"), ConfigGiven: true})
		return c, err
	}
	c, err := load("it's \\ secret \r\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Clusters[0].Shards[0][0].Administrator(), `user='o\'neil' password='it\'s \\ secret '`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := c.Clusters[1].Shards[0][0].Administrator(); got != "" {
		t.Errorf("got %s without admin_user", got)
	}
	var b strings.Builder
	if err := c.Effective(&b); err != nil || strings.Contains(b.String(), "secret") || !strings.Contains(b.String(), "admin_password_file = \"admin.password\"") {
		t.Errorf("%v\n%s", err, b.String())
	}
	for _, bad := range []string{"", "\n", "secret\nanother"} {
		if _, err := load(bad); err == nil || !strings.Contains(err.Error(), "pgdog.toml:6:1: admin_password_file") || strings.Contains(err.Error(), "another") {
			t.Errorf("got %v for %q", err, bad)
		}
	}
}

func TestTenantTaken(t *testing.T) {
	t.Parallel()
	c, _ := mustParse(t, `
[directory]
[multi_tenant]
column = "tenant_id"
role = "t_{key}"
[[databases]]
name = "prod"
host = "h"
[[databases]]
name = "texts"
host = "h"
[[sharded_tables]]
database = "texts"
column = "tenant_id"
data_type = "text"
[[tenants]]
name = "acme"
key = 7
database = "prod"
`, "")
	for _, x := range []struct {
		name, cluster, key, want string
	}{
		{"globex", "", "", ""},
		{"globex", "prod", "8", ""},
		{"acme", "", "", "a tenant of the configuration is called so"},
		{"prod", "", "", "a database of the configuration is called so"},
		{"admin", "", "", "the admin database is called so"},
		{"globex", "prod", "7", `tenant "acme" of the configuration has the key`},
		{"42", "", "", `it is the key of a tenant of database "prod"`},
		{"42", "prod", "42", ""},
		{"042", "", "", ""},
	} {
		if got := c.TenantTaken(x.name, x.cluster, x.key); got != x.want {
			t.Errorf("%+v: got %q", x, got)
		}
	}
}

func TestDirectoryAlone(t *testing.T) {
	t.Parallel()
	c, warnings := mustParse(t, "[directory]\n", "")
	if len(warnings) != 0 || c.Directory == nil || c.Tenancy != nil || len(c.Clusters) != 0 {
		t.Errorf("got %v, %+v", warnings, c)
	}
}

// TestEffectiveHasDirectory prints what is in force of a directory, and reads it again.
func TestEffectiveHasDirectory(t *testing.T) {
	t.Parallel()
	c, _ := mustParse(t, "[directory]\n[provision]\nport_min = 16000\nsuspend_after = 60_000\ndocker_image = \"our/postgres:{version}\"\nlog_size = 1_000_000\n", "")
	var b strings.Builder
	if err := c.EffectiveConfig(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[directory]\n", "store = \"file\" # default\n", "[provision]\n", "port_min = 16000 #", "docker_image = \"our/postgres:{version}\" #", "systemd_unit_dir = \"/run/systemd/system\" # default\n", "grace = 604800000 # default\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if p := c.Provision; p.DockerImage != "our/postgres:{version}" || p.LogSize != 1_000_000 || p.UnitDir != "/run/systemd/system" || p.Account+p.Cgroup+p.DockerNet+p.DockerSocket != "" {
		t.Errorf("got %+v", p)
	}
	again, _ := mustParse(t, b.String(), "")
	if !reflect.DeepEqual(again.Provision, c.Provision) || !reflect.DeepEqual(again.Directory, c.Directory) {
		t.Errorf("read again it is %+v, %+v, and was %+v, %+v", again.Directory, again.Provision, c.Directory, c.Provision)
	}
}
