package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

const contextRefusal = "42501 tenant_context; I"

const sealedTenancy = "mode = \"sealed\"\n" + rowTenancy

// sealed is a stand whose tenants share the login app, with functions by which their own SQL gets around what pgkennel sees.
func sealed(t *testing.T) *stand {
	t.Helper()
	s := guarded(t, openSchema+`
CREATE FUNCTION become(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.' || 'current_tenant', $1, false); RETURN ''; END $$;
CREATE FUNCTION forge(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('pgkennel.' || 'seal', $1, false); RETURN ''; END $$;`, sealedTenancy)
	s.shards[0].Exec(t, "postgres", fmt.Sprintf("ALTER ROLE app PASSWORD '%s'", password))
	s.applied(t)
	s.startInside()
	return s
}

// TestSealed: many tenants on one login, of which none can be another, whatever it runs.
func TestSealed(t *testing.T) {
	t.Parallel()
	s := sealed(t)
	others := "SELECT tenant_id, note FROM orders WHERE tenant_id <> 1 ORDER BY 1, id"
	before := fmt.Sprint(s.shards[0].rows(t, others))
	const mine = "SELECT DISTINCT note FROM orders"
	each(t, func(t *testing.T, p protocol) {
		c := s.as(t, "app@one", nil)
		p.play(t, c,
			mine, "of 1; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			"INSERT INTO orders (id, note) VALUES (100, 'new') RETURNING tenant_id", "1; INSERT 0 1; T",
			"INSERT INTO items (order_id) VALUES (100) RETURNING tenant_id", "1; INSERT 0 1; T",
			"UPDATE orders SET note = 'changed' WHERE id = 100", "UPDATE 1; T",
			"ROLLBACK AND CHAIN", "ROLLBACK; T",
			mine, "of 1; SELECT 1; T",
			"COMMIT", "COMMIT; I",
			"RESET ALL", "RESET; I",
			mine, "of 1; SELECT 1; I",
			"DISCARD ALL", "DISCARD ALL; I",
			mine, "of 1; SELECT 1; I",
			"SET pgkennel.seal = 'x.y'", "42501 tenant_context; I",
			"RESET pgkennel.seal", "42501 tenant_context; I",
			"SELECT set_config('pgkennel.seal', 'x', true)", "42501 tenant_context; I",
			"SELECT query FROM pg_stat_activity", "42501 tenant_missing; I",
			"SELECT pg_terminate_backend(1)", "42501 tenant_missing; I",
			"DROP OWNED BY CURRENT_USER", contextRefusal,
			"REASSIGN OWNED BY app TO app", contextRefusal,
			"CREATE RULE r AS ON INSERT TO countries DO ALSO INSERT INTO countries SELECT note FROM orders", contextRefusal,
			"ALTER FUNCTION become(text) SET app.current_tenant = '2'", contextRefusal,
			"GRANT app TO pg_monitor", contextRefusal,
			"EXPLAIN CREATE TABLE kept AS SELECT note FROM orders", contextRefusal,
			"LOCK TABLE orders", "42501 tenant_missing; I",
			"LISTEN words", "LISTEN; I",
			"NOTIFY words", "NOTIFY; I", "UNLISTEN *", "UNLISTEN; I",
			"SELECT lo_get(1)", "42501 tenant_missing; I",
			mine, "of 1; SELECT 1; I",
		)
		free := s.as(t, "app", nil)
		p.play(t, free,
			"SELECT DISTINCT note FROM orders WHERE tenant_id = 4", "of 4; SELECT 1; I",
			"COMMENT ON TABLE countries IS 'of all'", "COMMENT; I",
			"LISTEN words", "LISTEN; I", "UNLISTEN *", "UNLISTEN; I",
			"SET pgkennel.tenant = 'two'", "SET; I",
			mine, "of 2; SELECT 1; I",
			"BEGIN", "BEGIN; T",
			mine, "of 2; SELECT 1; T",
			"SELECT become('1')", "; SELECT 1; T",
			mine, "42501; E",
			"ROLLBACK", "ROLLBACK; I",
			mine, "of 2; SELECT 1; I",
		)
		for _, sql := range append(escapes, "SELECT become('2')", "SELECT forge('')", "SELECT become('2'), forge('0011223344556677.00')") {
			c := s.as(t, "app@one", nil)
			p.run(c, sql)
			for _, look := range looks {
				if got := outcome(p.run(c, look)); strings.Contains(got, "of 2") || strings.Contains(got, "of 3") || strings.Contains(got, "of 4") {
					t.Errorf("%s: after %s, %s shows %s", p.name, sql, look, got)
				}
			}
			c.Terminate()
			p.play(t, s.as(t, "app@one", nil), mine, "of 1; SELECT 1; I")
		}
	})

	// What belongs to the login, the doctor has belong to nobody who logs in.
	for _, f := range s.findings(t, secure.Warning) {
		if f.Check == "owner" {
			s.shards[0].Exec(t, s.shards[0].db, strings.Join(f.SQL, ";"))
		}
	}
	protocols[0].play(t, s.as(t, "app@one", nil), "INSERT INTO countries VALUES ('it')", "INSERT 0 1; I", "TRUNCATE countries", "42501; I", "SELECT become('1')", "; SELECT 1; I")
	if owned := s.shards[0].rows(t, "SELECT count(*) FROM pg_class WHERE relowner = 'app'::regrole"); owned[0] != "0" {
		t.Errorf("the login owns %s relations", owned)
	}
	if found := s.findings(t, secure.Warning); !slices.ContainsFunc(found, func(f secure.Finding) bool { return f.Check == "table" && f.Object == "public.countries" }) {
		t.Errorf("the doctor does not see that tenants write what others read: %+v", found)
	}

	// Another tenant's seal is good for that tenant, on that connection.
	seal := pgtest.Rows(s.as(t, "app@two", nil).Query("SHOW pgkennel.seal"))[0]
	for _, sql := range []string{"SET app.current_tenant = '2'", "SET pgkennel.seal = 'nonsense'", "SET pgkennel.seal = ''", "SET pgkennel.seal = '" + seal + "'"} {
		c, err := pgx.Connect(t.Context(), s.shards[0].DSN(s.shards[0].db, "app", password))
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{"SET app.current_tenant = '2'", sql} {
			if _, err := c.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		var note string
		if err := c.QueryRow(t.Context(), mine).Scan(&note); !strings.Contains(fmt.Sprint(err), "42501") {
			t.Errorf("after %s: %q, %v", sql, note, err)
		}
		if _, err := c.Exec(t.Context(), "INSERT INTO orders (note) VALUES ('planted')"); !strings.Contains(fmt.Sprint(err), "42501") {
			t.Errorf("after %s: INSERT: %v", sql, err)
		}
		c.Close(t.Context())
	}
	two, one := s.as(t, "app@two", nil), s.as(t, "app@one", nil)
	two.Query("BEGIN; " + mine)
	seal = pgtest.Rows(two.Query("SHOW pgkennel.seal"))[0]
	protocols[0].play(t, one, "BEGIN", "BEGIN; T", "SELECT become('2'), forge('"+seal+"')", "|; SELECT 1; T", mine, "42501; E", "ROLLBACK", "ROLLBACK; I")
	if after := fmt.Sprint(s.shards[0].rows(t, others)); after != before {
		t.Errorf("the others' rows were %v\nand are %v", before, after)
	}

	s.shards[0].Exec(t, s.shards[0].db, fmt.Sprintf(tellingSchema, "orders"))
	babel(t, s, "sealed")
}

// TestSealsOfAnotherSecret: the secret is changed while clients work.
func TestSealsOfAnotherSecret(t *testing.T) {
	t.Parallel()
	s := sealed(t)
	const mine = "SELECT DISTINCT note FROM orders"
	c := s.as(t, "app@one", nil)
	p := protocols[1]
	p.play(t, c, mine, "of 1; SELECT 1; I")
	old := pgtest.Rows(c.Query("SHOW pgkennel.seal"))[0]
	s.write("role.secret", "another secret, of the day after")
	s.must(t, "secure", "apply")
	p.play(t, c, mine, "of 1; SELECT 1; I")
	s.console(t, "RELOAD")
	p.play(t, c, mine, "of 1; SELECT 1; I")
	if now := pgtest.Rows(c.Query("SHOW pgkennel.seal"))[0]; now == old || now[:16] == old[:16] {
		t.Errorf("sealed with %s, and before with %s", now, old)
	}
	found := s.findings(t, secure.Warning)
	i := 0
	for i < len(found) && found[i].Check != "seal" {
		i++
	}
	if i == len(found) {
		t.Fatalf("the doctor sees no old key: %+v", found)
	}
	s.shards[0].Exec(t, s.shards[0].db, found[i].SQL[0])
	p.play(t, c, mine, "of 1; SELECT 1; I")
	p.play(t, s.as(t, "app@two", nil), mine, "of 2; SELECT 1; I")
}

// TestSealsNeedADatabaseThatChecks: nothing runs where nobody would check, and it does once somebody does.
func TestSealsNeedADatabaseThatChecks(t *testing.T) {
	t.Parallel()
	s := guarded(t, openSchema, sealedTenancy)
	db := s.shards[0].db
	s.shards[0].Exec(t, db, fmt.Sprintf("ALTER ROLE app PASSWORD '%s'; REASSIGN OWNED BY app TO %s; REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO app", password, pgtest.Superuser))
	s.startInside()
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.as(t, "app@one", nil), "SELECT note FROM orders", "55000; I", "BEGIN", "BEGIN; T", "DELETE FROM orders", "55000; E", "ROLLBACK", "ROLLBACK; I")
		p.play(t, s.as(t, "app", nil), "SELECT count(*) FROM countries", "2; SELECT 1; I")
	})
	// A connection of before is not used for a tenant any more.
	begun := time.Now()
	s.applied(t)
	for nobody := s.as(t, "app", nil); time.Since(begun) < 300*time.Millisecond; {
		nobody.Answer("SELECT count(*) FROM countries")
	}
	each(t, func(t *testing.T, p protocol) {
		p.play(t, s.as(t, "app@one", nil), "SELECT DISTINCT note FROM orders", "of 1; SELECT 1; I")
	})
}
