package kubernetes

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/process"
)

const preload = "shared_preload_libraries"

// ownConnections are pgkennel's and the operator's, above the tenant's.
const ownConnections = 15

// fixed are settings that the operator writes, beside those that pgkennel keeps for itself everywhere.
var fixed = []string{
	"allow_system_table_mods", "archive_timeout", "data_sync_retry", "full_page_writes", "huge_pages", "jit_provider", "log_rotation_age", "log_rotation_size",
	"log_truncate_on_rotation", "recovery_min_apply_delay", "restart_after_crash", "synchronous_standby_names", "wal_level", "wal_log_hints",
}

// checkSettings refuses settings that are not the operator's to choose.
func checkSettings(settings map[string]string) error {
	if err := process.CheckSettings(settings); err != nil {
		return err
	}
	for name := range settings {
		if low := strings.ToLower(name); slices.Contains(fixed, low) {
			return provision.Errorf(provision.KindInvalid, "setting %s is CloudNativePG's own", low)
		}
	}
	return nil
}

// parameters are all that an instance's Cluster says of its configuration: what follows from its limits, then the operator's, then what must be.
func parameters(in *provision.Instance) map[string]string {
	m := map[string]string{
		"max_slot_wal_keep_size": "4GB", "datestyle": "iso, mdy", "timezone": "UTC", "log_timezone": "UTC", "tcp_keepalives_idle": "60", "log_checkpoints": "off",
	}
	maps.Copy(m, process.Tuned(in.Limits))
	for name, value := range in.Settings {
		m[strings.ToLower(name)] = value
	}
	m["max_connections"] = strconv.Itoa(process.Connections(in.Limits) + ownConnections)
	m["superuser_reserved_connections"] = strconv.Itoa(ownConnections)
	m["password_encryption"] = "scram-sha-256"
	return m
}

// said are the parameters that a Cluster has.
func said(u *unstructured.Unstructured) map[string]string {
	m, _, _ := unstructured.NestedStringMap(u.Object, "spec", "postgresql", "parameters")
	if m == nil {
		m = map[string]string{}
	}
	if list, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "postgresql", preload); len(list) > 0 {
		m[preload] = strings.Join(list, ",")
	}
	return m
}

// slow are those of changed settings that need a restart: only the server knows.
func slow(ctx context.Context, conn *pgx.Conn, names []string) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT name FROM pg_catalog.pg_settings WHERE context IN ('postmaster', 'internal') AND name = ANY ($1)`, names)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// connect opens a connection as pgkennel's superuser.
func connect(ctx context.Context, in *provision.Instance) (*pgx.Conn, error) {
	return provision.Ask(ctx, in)
}

// try asks a running server what it makes of new settings. Of those that no session may try, it knows what kind of value they have.
func try(ctx context.Context, conn *pgx.Conn, settings map[string]string, names []string) error {
	for _, name := range names {
		value, is := settings[name]
		if !is || strings.Contains(name, ".") {
			continue // taken back; an extension's
		}
		var kind, level string
		var values []string
		err := conn.QueryRow(ctx, "SELECT vartype, context, coalesce(enumvals, '{}') FROM pg_catalog.pg_settings WHERE name = $1", name).Scan(&kind, &level, &values)
		if err == pgx.ErrNoRows { //nolint:errorlint // pgx returns it as it is
			return provision.Errorf(provision.KindInvalid, "PostgreSQL has no setting %s", name)
		}
		if err != nil {
			return err
		}
		ok := true
		switch {
		case level == "internal":
			return provision.Errorf(provision.KindInvalid, "the setting %s can't be set", name)
		case level == "user" || level == "superuser":
			// The session ends with it.
			if _, err := conn.Exec(ctx, "SELECT pg_catalog.set_config($1, $2, false)", name, value); err != nil {
				return provision.Errorf(provision.KindInvalid, "PostgreSQL refuses the settings").WithDetail("%v", err)
			}
		case kind == "enum":
			ok = slices.Contains(values, strings.ToLower(value))
		case kind == "integer" || kind == "real":
			number := strings.TrimSpace(strings.TrimRight(value, "kMGTBmsindhu "))
			_, err := strconv.ParseFloat(number, 64)
			_, err2 := strconv.ParseInt(number, 0, 64)
			ok = err == nil || err2 == nil
		}
		if !ok {
			return provision.Errorf(provision.KindInvalid, "PostgreSQL refuses the settings").WithDetail("%s can't be %q", name, value)
		}
	}
	return nil
}
