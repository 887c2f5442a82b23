package parser

import (
	"slices"
	"strings"
)

//go:generate sh -c "psql -AtF ' ' -c \"select distinct proname, prokind, proretset from pg_proc where pronamespace = 'pg_catalog'::regnamespace\" | go run genfunctions.go > function_names.go"

// IsBuiltin reports that f is a function of PostgreSQL's own whose doings are known by its name: see Effects and VolatileWrites.
// A function that runs SQL given as text (query_to_xml, ts_stat) or makes anything of a table (table_to_xml) is not, nor is one that only
// upgrades use. An unqualified name counts as pg_catalog's, which comes first in any search_path that does not name it; whoever may create functions
// may still hide it behind one that fits the arguments better.
func IsBuiltin(f Function) bool {
	switch f.Schema {
	case "", "pg_catalog":
	case "information_schema":
		return strings.HasPrefix(f.Name, "_pg_")
	default:
		return false
	}
	switch f.Name {
	case "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema",
		"table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema",
		"database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema", "ts_stat",
		"plpgsql_call_handler", "plpgsql_inline_handler", "plpgsql_validator", "pg_extension_config_dump", "pg_stop_making_pinned_objects":
		return false
	case "ts_rewrite":
		return f.Args != 2
	}
	return isIn(builtinNames[:], f.Name)
}

// RunsText reports that f is known to run SQL, or to read a table, of which a statement that calls it says nothing but in a string, or to do what it
// does in another session: functions of PostgreSQL's own, and of extensions, which may be in any schema.
func RunsText(f Function) bool {
	if ownSchema(f) {
		switch f.Name {
		case "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat",
			"table_to_xml", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema":
			return true
		case "ts_rewrite":
			return f.Args == 2
		}
	}
	switch f.Schema {
	case "dbms_sql", "dbms_pipe", "dbms_alert": // orafce
		return true
	case "cron": // pg_cron
		return strings.HasPrefix(f.Name, "schedule") || f.Name == "alter_job"
	}
	switch f.Name {
	case "connectby", "xpath_table": // tablefunc, xml2
		return true
	case "set_user", "reset_user", "create_immv", "replicate_ddl_command", "master_run_on_worker", "oracle_execute": // set_user, pg_ivm, pglogical, citus, oracle_fdw
		return true
	case "pg_dirtyread", "pgroonga_command": // they read what policies hide
		return true
	}
	for _, prefix := range [...]string{"crosstab", "dblink", "pg_background_launch", "run_command_on_"} {
		if strings.HasPrefix(f.Name, prefix) {
			return true
		}
	}
	return false
}

// Notifies reports that f does what NOTIFY does.
func Notifies(f Function) bool { return f.Name == "pg_notify" && ownSchema(f) }

// VolatileWrites reports that f, a built-in function, changes data or acts on something outside of its session: a call must go to the
// primary, and must not be repeated or run in several places.
func VolatileWrites(f Function) bool {
	if !ownSchema(f) {
		return false
	}
	switch f.Name {
	case "nextval", "setval", "pg_notify", "pg_import_system_collations", "pg_nextoid", "currtid2",
		"pg_cancel_backend", "pg_terminate_backend", "pg_reload_conf", "pg_rotate_logfile", "pg_rotate_logfile_old", "pg_log_backend_memory_contexts",
		"pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup", "pg_create_restore_point", "pg_switch_wal", "pg_promote",
		"pg_wal_replay_pause", "pg_wal_replay_resume", "pg_log_standby_snapshot", "pg_logical_emit_message", "pg_sync_replication_slots",
		"brin_summarize_new_values", "brin_summarize_range", "brin_desummarize_range", "gin_clean_pending_list",
		"txid_current", "pg_current_xact_id", "pg_clear_attribute_stats", "pg_clear_relation_stats", "pg_restore_attribute_stats", "pg_restore_relation_stats":
		return true
	case "pg_advisory_unlock_all":
		return true
	}
	return isLargeObject(f.Name) && f.Name != "lo_get" || isReplication(f.Name) || isAdvisory(f.Name) || strings.HasPrefix(f.Name, "pg_stat_reset")
}

// callEffects gives what a call leaves in the session. Functions that are not built in leave what nobody knows: they are in Statement.Calls.
func callEffects(f Function) Effects {
	if !ownSchema(f) {
		return 0
	}
	switch f.Name {
	case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
		return EffAdvisoryLock
	case "lastval", "currval":
		return EffSequenceRead
	case "pg_replication_origin_session_setup", "pg_replication_origin_session_reset":
		return EffReplication | EffUnjudged
	case "setseed":
		return EffUnjudged
	}
	switch {
	case isLargeObject(f.Name):
		return EffLargeObject
	case isReplication(f.Name):
		return EffReplication
	default:
		return 0
	}
}

func ownSchema(f Function) bool { return f.Schema == "" || f.Schema == "pg_catalog" }

func isLargeObject(name string) bool {
	return strings.HasPrefix(name, "lo_") || name == "loread" || name == "lowrite" || name == "lo_creat"
}

func isReplication(name string) bool {
	return strings.HasPrefix(name, "pg_replication_") || strings.HasPrefix(name, "pg_logical_slot_") ||
		strings.HasSuffix(name, "_replication_slot") && name != "pg_stat_reset_replication_slot" && name != "pg_stat_get_replication_slot"
}

// isAdvisory reports the functions of advisory locks, of the session and of the transaction.
func isAdvisory(name string) bool {
	return strings.HasPrefix(name, "pg_advisory_") || strings.HasPrefix(name, "pg_try_advisory_")
}

func isAggregate(f Function) bool { return ownSchema(f) && isIn(aggregateNames[:], f.Name) }

func isSetReturning(f Function) bool {
	return ownSchema(f) && isIn(setReturningNames[:], f.Name) || f.Schema == "information_schema" && f.Name == "_pg_expandarray"
}

func isIn(sorted []string, name string) bool {
	_, found := slices.BinarySearch(sorted, name)
	return found
}
