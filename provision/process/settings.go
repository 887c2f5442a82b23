package process

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// setting is one line of postgresql.conf.
type setting struct{ name, value string }

// held are settings that the server gets on its command line too: ALTER SYSTEM, and what else a superuser may write, does not count against that.
var held = []string{
	"listen_addresses", "port", "unix_socket_directories", "unix_socket_permissions", "hba_file", "cluster_name", "logging_collector", "log_destination",
	"archive_mode", "archive_command", "password_encryption", "ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "max_connections", "superuser_reserved_connections", "shared_buffers",
	"wal_level", "hot_standby", "max_slot_wal_keep_size",
}

// ours are settings that operators can't have: those by which pgkennel reaches, archives and finds an instance.
var ours = map[string]string{
	"port": "", "listen_addresses": "", "unix_socket_directories": "", "unix_socket_permissions": "", "unix_socket_group": "", "data_directory": "",
	"config_file": "", "hba_file": "", "ident_file": "", "external_pid_file": "", "cluster_name": "", "logging_collector": "", "log_destination": "",
	"log_directory": "", "log_filename": "", "log_file_mode": "", "event_source": "", "stats_temp_directory": "", "archive_mode": "", "archive_command": "",
	"archive_library": "", "archive_cleanup_command": "", "restore_command": "", "recovery_end_command": "", "promote_trigger_file": "",
	"primary_conninfo": "", "primary_slot_name": "", "hot_standby": "", "password_encryption": "", "bonjour": "", "bonjour_name": "",
	"krb_server_keyfile": "", "db_user_namespace": "", "include": "", "include_dir": "", "include_if_exists": "", "superuser_reserved_connections": "",
	"max_connections": "It follows from the limit of connections.",
}

var goodName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_$]*)?$`)

// follow are settings of which a replica may not have less than its primary: it would not start.
var follow = []string{"max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction", "wal_level"}

// CheckSettings refuses settings of operators that would break what pgkennel relies on.
func CheckSettings(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		bad := func(format string, args ...any) error {
			return provision.Errorf(provision.KindInvalid, format, args...)
		}
		if !goodName.MatchString(name) || len(name) > 128 {
			return bad("%q is not the name of a setting", name)
		}
		low := strings.ToLower(name)
		if why, is := ours[low]; is {
			err := provision.Errorf(provision.KindInvalid, "setting %s is pgkennel's own", low)
			if why != "" {
				err = err.WithDetail("%s", why)
			}
			return err
		}
		for _, prefix := range []string{"ssl", "recovery_target", "syslog_"} {
			if low == prefix || strings.HasPrefix(low, prefix) && (strings.HasSuffix(prefix, "_") || strings.HasPrefix(low, prefix+"_") || prefix == "recovery_target") {
				return bad("setting %s is pgkennel's own", low)
			}
		}
		value := settings[name]
		if low == "wal_level" && value != "replica" && value != "logical" {
			return bad("setting wal_level has to be replica or logical: without, there is neither archive nor replica")
		}
		if strings.ContainsAny(value, "\n\r\x00") {
			return bad("the value of setting %s has a line break in it", low)
		}
		if len(value) > 4096 {
			return bad("the value of setting %s is longer than 4096 bytes", low)
		}
	}
	return nil
}

// settings are all that an instance's postgresql.conf says: what follows from its limits, then the operator's, then what must be.
func (d *Driver) settings(p *place, in *provision.Instance) []setting {
	conns := connectionsOf(in)
	m := map[string]string{
		"shared_buffers": "64MB", "work_mem": "4MB", "maintenance_work_mem": "64MB", "wal_level": "replica",
		"max_wal_senders": "10", "max_replication_slots": "10", "max_slot_wal_keep_size": "4GB",
		"datestyle": "iso, mdy", "timezone": "UTC", "log_timezone": "UTC", "default_text_search_config": "pg_catalog.english",
		"lc_messages": "C", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C", "client_encoding": "utf8",
		"log_line_prefix": "%m [%p] %q%u@%d ", "log_checkpoints": "off", "log_autovacuum_min_duration": "-1",
		"tcp_keepalives_idle": "60", "max_files_per_process": "1000",
	}
	maps.Copy(m, Tuned(in.Limits))
	if v, err := strconv.Atoi(in.Version); err == nil && v >= 14 && ownVolume(in) {
		m["recovery_init_sync_method"] = "syncfs"
	}
	if d.o.NoSync {
		m["fsync"] = "off"
	}
	if in.Primary != nil {
		for name, value := range in.Primary.Settings {
			if slices.Contains(follow, strings.ToLower(name)) {
				m[strings.ToLower(name)] = value
			}
		}
	}
	for name, value := range in.Settings {
		m[strings.ToLower(name)] = value
	}
	must := map[string]string{ //nolint:gosec // there is no password in it
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(in.Endpoint.Port), "unix_socket_directories": p.socket, "unix_socket_permissions": "0770",
		"hba_file": p.hba, "cluster_name": "t_" + p.id, "logging_collector": "off", "log_destination": "stderr", "password_encryption": "scram-sha-256",
		"ssl": "off", "max_connections": strconv.Itoa(conns + ownConnections), "superuser_reserved_connections": strconv.Itoa(ownConnections),
		"hot_standby": "on", "archive_mode": "off", "archive_command": "",
	}
	switch {
	case in.Endpoint.Remote != "":
		must["listen_addresses"], must["ssl"] = in.Endpoint.Remote, "on"
		must["ssl_cert_file"], must["ssl_key_file"], must["ssl_ca_file"] = p.certificate, p.certificate, p.authority
	case d.o.NoTCP:
		must["listen_addresses"] = ""
	}
	if in.Archive {
		must["archive_mode"], must["archive_command"] = "on", archiveCommand(p.spool)
	}
	if in.Primary != nil {
		// A replica has to have room for what its primary has.
		must["primary_slot_name"] = slotName(p.id)
		must["primary_conninfo"] = fmt.Sprintf("host=%s port=%d user=%s password=%s sslmode=disable gssencmode=disable application_name=%s",
			conninfo(in.Primary.Endpoint.Host), in.Primary.Endpoint.Port, provision.Superuser, conninfo(in.Primary.Password), slotName(p.id))
		if v, err := strconv.Atoi(in.Version); err == nil && v >= 16 { // libpq knows it
			must["primary_conninfo"] += " require_auth=scram-sha-256"
		}
		most := max(conns, connectionsOf(in.Primary))
		must["max_connections"] = strconv.Itoa(most + ownConnections)
	}
	maps.Copy(m, must)
	list := make([]setting, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, setting{name, m[name]})
	}
	return list
}

// Tuned are the settings that follow from limits.
func Tuned(l tenant.Limits) map[string]string {
	m := map[string]string{}
	kb := func(n int64) string { return strconv.FormatInt(n>>10, 10) + "kB" }
	if l.Memory > 0 {
		m["shared_buffers"] = kb(clamp(l.Memory/4, 16<<20, 8<<30))
		m["effective_cache_size"] = kb(l.Memory * 5 / 8)
		m["work_mem"] = kb(clamp(l.Memory/4/int64(Connections(l)), 1<<20, 64<<20))
		m["maintenance_work_mem"] = kb(clamp(l.Memory/16, 4<<20, 1<<30))
	}
	if l.CPU > 0 {
		m["max_parallel_workers"] = strconv.Itoa(min((l.CPU+999)/1000, 8))
	}
	if l.Disk > 0 {
		// WAL that is kept must leave room for data.
		wal := clamp(l.Disk/8, 16<<20, 1<<30)
		m["max_wal_size"], m["min_wal_size"] = kb(wal), kb(max(wal/4, 8<<20))
		if l.Disk >= 1<<30 {
			m["min_wal_size"] = kb(max(wal/4, 32<<20))
		}
		m["max_slot_wal_keep_size"] = kb(l.Disk / 8)
	}
	return m
}

func clamp(n, low, high int64) int64 { return min(max(n, low), high) }

// archiveCommand copies a segment such that one with its last name is always whole, and one that is there already is the same.
func archiveCommand(spool string) string {
	s := strings.ReplaceAll(spool, "%", "%%")
	return fmt.Sprintf(`if test -f "%[1]s/%%f"; then cmp -s "%%p" "%[1]s/%%f"; else cp "%%p" "%[1]s/%%f.part" && sync "%[1]s/%%f.part" && mv "%[1]s/%%f.part" "%[1]s/%%f" && sync "%[1]s"; fi`, s)
}

// conninfo quotes a value of a connection string.
func conninfo(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// render writes postgresql.conf.
func render(list []setting) string {
	var b strings.Builder
	b.WriteString("# Written by pgkennel, which writes it anew when the tenant is changed.\n")
	for _, s := range list {
		fmt.Fprintf(&b, "%s = '%s'\n", s.name, strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s.value))
	}
	return b.String()
}

// parse reads what render wrote.
func parse(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), " = '")
		if ok && !strings.HasPrefix(name, "#") {
			m[name] = strings.NewReplacer(`\\`, `\`, `''`, `'`).Replace(strings.TrimSuffix(rest, "'"))
		}
	}
	return m
}

// hbaRules let nobody in without a password. Replication is not part of "all".
const hbaRules = `# Written by pgkennel.
local all         all                    scram-sha-256
host  all         all       127.0.0.1/32 scram-sha-256
local replication pgkennel               scram-sha-256
host  replication pgkennel  127.0.0.1/32 scram-sha-256
`

// remoteRules let in by TCP who shows a certificate of the tenant's authority, as only pgkennels have one, and has a password besides. What pgkennel does as its
// superuser it does on this host.
const remoteRules = `# Written by pgkennel.
local   all         all          scram-sha-256
local   replication pgkennel     scram-sha-256
hostssl all         pgkennel all reject
hostssl all         all      all scram-sha-256 clientcert=verify-ca
`

// rules are an instance's pg_hba.conf.
func rules(in *provision.Instance) string {
	if in.Endpoint.Remote != "" {
		return remoteRules
	}
	return hbaRules
}

// arguments are the server's.
func arguments(p *place, conf map[string]string) []string {
	args := []string{"-D", p.data, "-c", "config_file=" + p.config}
	for _, name := range held {
		if value, is := conf[name]; is {
			args = append(args, "-c", name+"="+value)
		}
	}
	return args
}
