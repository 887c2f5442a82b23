package parser

import (
	"slices"
	"testing"
)

func TestNamesAreSorted(t *testing.T) {
	for _, list := range [][]string{builtinNames[:], aggregateNames[:], setReturningNames[:]} {
		if !slices.IsSorted(list) {
			t.Error("a list of names is not sorted")
		}
		for _, name := range list {
			if !isIn(builtinNames[:], name) {
				t.Errorf("%s is in no list of all names", name)
			}
		}
	}
	if len(builtinNames) < 2600 || len(aggregateNames) < 45 || len(setReturningNames) < 50 {
		t.Errorf("got %d, %d and %d names", len(builtinNames), len(aggregateNames), len(setReturningNames))
	}
}

func TestIsBuiltin(t *testing.T) {
	for _, f := range []Function{
		{Name: "lower"},
		{Schema: "pg_catalog", Name: "now"},
		{Name: "count"},
		{Name: "generate_series"},
		{Name: "uuidv7"},
		{Name: "any_value"},
		{Name: "ts_rewrite", Args: 3},
		{Schema: "information_schema", Name: "_pg_expandarray"},
		{Name: "set_config"},
		{Name: "pg_advisory_lock"},
	} {
		if !IsBuiltin(f) {
			t.Errorf("%v is built in", f)
		}
	}
	for _, f := range []Function{
		{Name: "my_function"},
		{Schema: "public", Name: "lower"},
		{Name: "query_to_xml"},
		{Name: "table_to_xml"},
		{Name: "database_to_xml"},
		{Name: "schema_to_xml"},
		{Name: "cursor_to_xml"},
		{Name: "ts_stat"},
		{Name: "ts_rewrite", Args: 2},
		{Name: "dblink"},
		{Name: "dblink_exec"},
		{Name: "binary_upgrade_set_next_pg_type_oid"},
		{Schema: "information_schema", Name: "x"},
		{Name: "Lower"},
		{Name: ""},
	} {
		if IsBuiltin(f) {
			t.Errorf("%v counts as built in", f)
		}
	}
}

func TestVolatileWrites(t *testing.T) {
	for _, name := range []string{
		"nextval", "setval", "pg_notify", "pg_advisory_lock", "pg_try_advisory_xact_lock", "pg_advisory_unlock_all", "lo_create", "lowrite", "lo_unlink",
		"pg_switch_wal", "pg_terminate_backend", "pg_logical_emit_message", "pg_create_logical_replication_slot", "pg_drop_replication_slot", "pg_replication_origin_create",
		"pg_logical_slot_get_changes", "pg_stat_reset", "pg_reload_conf", "txid_current",
	} {
		if !VolatileWrites(Function{Name: name}) || !IsBuiltin(Function{Name: name}) {
			t.Errorf("%s writes", name)
		}
		if VolatileWrites(Function{Schema: "public", Name: name}) {
			t.Errorf("public.%s is unknown", name)
		}
	}
	for _, name := range []string{"now", "lower", "random", "lo_get", "currval", "pg_sleep", "set_config", "pg_stat_get_replication_slot", "count"} {
		if VolatileWrites(Function{Name: name}) {
			t.Errorf("%s does not write", name)
		}
	}
}

func TestRunsText(t *testing.T) {
	t.Parallel()
	for f, want := range map[Function]bool{
		{Name: "ts_stat", Args: 1}:                                     true,
		{Name: "ts_rewrite", Args: 2}:                                  true,
		{Name: "ts_rewrite", Args: 3}:                                  false,
		{Schema: "mine", Name: "ts_stat", Args: 1}:                     false,
		{Schema: "mine", Name: "crosstab3", Args: 1}:                   true,
		{Name: "dblink_exec", Args: 1}:                                 true,
		{Schema: "extensions", Name: "xpath_table", Args: 5}:           true,
		{Schema: "cron", Name: "schedule_in_database", Args: 4}:        true,
		{Schema: "mine", Name: "schedule", Args: 4}:                    false,
		{Schema: "dbms_sql", Name: "parse", Args: 2}:                   true,
		{Name: "lower", Args: 1}:                                       false,
		{Name: "xpath", Args: 2}:                                       false,
		{Schema: "pg_catalog", Name: "database_to_xmlschema", Args: 3}: false,
	} {
		if RunsText(f) != want {
			t.Errorf("%v: got %v", f, !want)
		}
	}
}
