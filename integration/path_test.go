package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// A name stands for a sharded table in one schema and for another in the next. Whatever decides which is meant is followed; where it can't be,
// the name is refused, and not one that means the same everywhere.
func TestSearchPathDecides(t *testing.T) {
	t.Parallel()
	const sharded, plain, unclear = "42501 tenant_missing", "7; SELECT 1", "0A000 shard_missing"
	const look = "SELECT id FROM things"
	s := prepare(t, spec{
		shards: 2, general: "default_pool_size = 1", schema: `
		CREATE SCHEMA held; CREATE TABLE held.things (tenant_id bigint, id int); INSERT INTO held.things VALUES (1, 7);
		CREATE SCHEMA open; CREATE TABLE open.things (id int); INSERT INTO open.things VALUES (7);
		CREATE SCHEMA one; CREATE TABLE one.same (tenant_id bigint, id int); CREATE SCHEMA two; CREATE TABLE two.same (tenant_id bigint, id int);
		CREATE FUNCTION public.move() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('search_path', 'held', false); RETURN 1; END $$;`,
		rest: twoRanges,
	})
	role := "path_" + s.shards[0].db
	for _, sh := range s.shards {
		sh.Exec(t, "postgres", fmt.Sprintf("CREATE ROLE %s; GRANT %[1]s TO %s; ALTER ROLE %[2]s IN DATABASE %s SET search_path TO open, public", role, user, sh.db))
		sh.Exec(t, sh.db, fmt.Sprintf("CREATE SCHEMA %s; CREATE TABLE %[1]s.things (tenant_id bigint, id int); GRANT ALL ON SCHEMA %[1]s, open TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA %[1]s, open TO %[1]s", role))
	}
	s.startInside()
	each(t, func(t *testing.T, p protocol) {
		for name, steps := range map[string][]string{
			"what the server gives": {look, plain + "; I"},
			"SET": {
				"SET search_path TO held", "SET; I", look, sharded + "; I", "SET search_path TO 'open'", "SET; I", look, plain + "; I",
				"SET search_path TO held", "SET; I", "RESET search_path", "RESET; I", look, plain + "; I",
			},
			"SET LOCAL and savepoints": {
				"BEGIN", "BEGIN; T", "SET LOCAL search_path TO held", "SET; T", "SAVEPOINT a", "SAVEPOINT; T",
				"SET LOCAL search_path TO open", "SET; T", look, plain + "; T", "ROLLBACK TO a", "ROLLBACK; T", look, sharded + "; E",
				"ROLLBACK TO a", "ROLLBACK; T", "SET search_path TO open", "SET; T", look, plain + "; T",
				"ROLLBACK", "ROLLBACK; I", look, plain + "; I",
			},
			"set_config": {
				"BEGIN", "BEGIN; T", "SELECT length(set_config('search_path', 'HELD', true))", "4; SELECT 1; T", look, sharded + "; E",
				"ROLLBACK", "ROLLBACK; I",
				"BEGIN", "BEGIN; T", "SELECT length(set_config('search_path', 'he'||'ld', true))", "4; SELECT 1; T", look, unclear + "; E",
				"ROLLBACK", "ROLLBACK; I", look, plain + "; I",
			},
			"a function": {
				"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ SELECT public.move()", "1; SELECT 1; T", look, unclear + "; E", "ROLLBACK", "ROLLBACK; I",
				"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ SELECT public.move()", "1; SELECT 1; T",
				"SELECT id FROM same WHERE tenant_id = 1", "42P01; E", "ROLLBACK", "ROLLBACK; I", look, plain + "; I",
				"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ SELECT public.move()", "1; SELECT 1; T",
				"SET LOCAL search_path TO open", "SET; T", look, plain + "; T", "COMMIT", "COMMIT; I",
			},
			"DO": {
				"BEGIN", "BEGIN; T", "/* pgdog_shard: 0 */ DO 'BEGIN SET search_path TO held; END'", "DO; T", look, unclear + "; E", "ROLLBACK", "ROLLBACK; I",
			},
			"$user": {
				`SET search_path TO "$user", open`, "SET; I", look, plain + "; I", "SET ROLE " + role, "SET; I", look, sharded + "; I",
				"RESET ROLE", "RESET; I", look, plain + "; I",
				"BEGIN", "BEGIN; T", "SET LOCAL ROLE " + role, "SET; T", look, sharded + "; E", "ROLLBACK", "ROLLBACK; I", look, plain + "; I",
				"SET ROLE " + role, "SET; I", "SET ROLE NONE", "SET; I", look, plain + "; I",
			},
			"one name, of no schema": {`SET search_path TO 'open,held'`, "SET; I", look, sharded + "; I"},
		} {
			t.Run(name, func(t *testing.T) { p.play(t, s.connect(t), steps...) })
		}
	})

	// In one pipeline nobody knows yet what a setting made of it.
	for sql, want := range map[string]string{
		"SET search_path TO held": "SET; " + unclear + "; I",
		"RESET ROLE":              "RESET; " + unclear + "; I",
		"SELECT length(set_config('search_path', 'held', true))": "4; SELECT 1; " + unclear + "; I",
		"SELECT 1": "1; SELECT 1; " + plain + "; I",
	} {
		c := s.connect(t)
		for _, sql := range []string{sql, look} {
			c.Send(&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{})
		}
		c.Send(&pgproto3.Sync{})
		if got := outcome(c.UntilReady()); got != want {
			t.Errorf("%s, in a pipeline: got %s, want %s", sql, got, want)
		}
	}

	// A statement is described where the transaction would look for its names, though that has not begun.
	c := s.connect(t)
	c.Query("BEGIN")
	c.Query("SET LOCAL search_path TO held")
	c.Send(&pgproto3.Parse{Query: "SELECT * FROM things WHERE tenant_id = $1"}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Sync{})
	if got := pgtest.Format(c.UntilReady()...); !strings.Contains(got, "RowDescription(tenant_id, id)") {
		t.Errorf("described as %s", got)
	}
}
