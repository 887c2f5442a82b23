package provision

import (
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// reserved are names that tenants can't have: a login, a database or a tool has a meaning for them.
var reserved = []string{
	"admin", "all", "information_schema", "none", "pgbouncer", "pgdog", "pgkennel", "postgres", "public", "replication", "root", "template0", "template1",
}

// checkName says why a tenant can't be called so.
func checkName(name string) error {
	switch {
	case !tenant.ValidName(name):
		return Errorf(KindInvalid, "%q can't be a tenant's name", name).
			WithHint("lower-case letters, digits, _ and -, the first a letter or digit; 63 at most")
	case slices.Contains(reserved, name) || strings.HasPrefix(name, "pg_"):
		return Errorf(KindInvalid, "the name %s is reserved", name)
	}
	return nil
}

var loginName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]{0,62}$`)

// setting is a name of postgresql.conf's, of an extension too.
var setting = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`)

// extension is the name of an extension, as its control file is called.
var extension = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// maxInit is how long init SQL may be: it is kept in the directory while the operation is under way.
const maxInit = 512 << 10

// check finds the order's verb, and what is wrong with the order by itself.
func (m *Manager) check(o *Order) (*verb, error) {
	if o.Verb == VerbRestore && o.Name != "" {
		o.Verb = verbRestoreAs
	}
	v := m.verbs[o.Verb]
	if v == nil {
		return nil, Errorf(KindInvalid, "there is no verb %q", o.Verb)
	}
	s := reflect.ValueOf(o).Elem()
	for i := range s.NumField() {
		f := s.Type().Field(i)
		val := s.Field(i)
		empty := val.IsZero() || (val.Kind() == reflect.Map || val.Kind() == reflect.Slice) && val.Len() == 0
		if empty || f.Name == "Verb" || f.Name == "By" || slices.Contains(v.fields, f.Name) {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return nil, Errorf(KindInvalid, "%s has no use for %s", o.Verb, name)
	}
	if o.Tenant == "" && v.named {
		return nil, Errorf(KindInvalid, "%s needs the name of a tenant", o.Verb)
	}
	// An existing name needs no check: it is found or not.
	if len(o.Settings) > 0 {
		low := make(map[string]string, len(o.Settings))
		for name, value := range o.Settings {
			low[strings.ToLower(name)] = value // as PostgreSQL has it
		}
		o.Settings = low
	}
	for name := range o.Settings {
		if !setting.MatchString(name) {
			return nil, Errorf(KindInvalid, "%q can't be a setting's name", name)
		}
		if slices.Contains(owned, name) {
			return nil, Errorf(KindInvalid, "the setting %s is pgkennel's", name)
		}
	}
	for _, e := range o.Extensions {
		if !extension.MatchString(e) {
			return nil, Errorf(KindInvalid, "%q can't be an extension's name", e)
		}
	}
	if l := o.Limits; l != nil && (l.CPU < 0 || l.Memory < 0 || l.Disk < 0 || l.IO < 0 || l.Connections < 0) {
		return nil, Errorf(KindInvalid, "a limit can't be below zero")
	}
	for name, d := range map[string]bool{
		"suspend_after": o.SuspendAfter != nil && *o.SuspendAfter < 0, "backup_every": o.Every != nil && *o.Every < 0, "backup_keep": o.Keep != nil && *o.Keep < 0,
	} {
		if d {
			return nil, Errorf(KindInvalid, "%s can't be below zero", name)
		}
	}
	if len(o.Init) > maxInit {
		return nil, Errorf(KindInvalid, "init SQL has %d bytes, %d are allowed", len(o.Init), maxInit).WithHint("run what is longer when the tenant is there")
	}
	if strings.ContainsRune(o.Password, 0) || strings.ContainsRune(o.Init, 0) {
		return nil, Errorf(KindInvalid, "a password and SQL can't have a zero byte")
	}
	if t := o.Template; t != "" && !strings.HasPrefix(t, "tenant:") && (!filepath.IsLocal(t) || strings.HasPrefix(filepath.Base(t), ".")) {
		return nil, Errorf(KindInvalid, "template %q is not the name of a file in the template directory", t)
	}
	return v, nil
}

// owned are settings that hold up what pgkennel does with an instance. Drivers write them.
var owned = []string{
	"archive_command", "archive_library", "archive_mode", "cluster_name", "config_file", "data_directory", "external_pid_file", "hba_file", "ident_file",
	"listen_addresses", "password_encryption", "port", "primary_conninfo", "primary_slot_name", "restore_command", "unix_socket_directories",
	"unix_socket_permissions", "unix_socket_group",
}

func join(list []string) string { return strings.Join(list, ", ") }
