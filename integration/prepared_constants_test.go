package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Statements of the extended protocol with constants in their texts. Tenants 1 to 999 are on shard 0, 1000 to 1999 on shard 1.

// parses is how many texts were parsed so far.
func (s *stand) parses(t *testing.T) int { return int(s.metric(t, "parser_cache_misses_total")) }

// constantStand has five rows of each of some tenants: their notes name tenant and row.
func constantStand(t *testing.T, general string) *stand {
	t.Helper()
	s := tableStand(t, general)
	for i, tenants := range []string{"1, 900", "1001, 1900"} {
		s.shards[i].Exec(t, s.shards[i].db, "INSERT INTO orders SELECT t, n, t || '/' || n FROM unnest(ARRAY["+tenants+"]) t, generate_series(1, 5) n")
	}
	return s
}

var constantTenants = []int{1, 1001, 900, 1900}

// Constants cost no parse, and each finds its shard, in every mode of a driver.
func TestPreparedConstantsOfDrivers(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "")
	for name, mode := range map[string]pgx.QueryExecMode{
		"exec": pgx.QueryExecModeExec, "describe exec": pgx.QueryExecModeDescribeExec,
		"cache describe": pgx.QueryExecModeCacheDescribe, "cache statement": pgx.QueryExecModeCacheStatement,
	} {
		c := s.pgx(t, mode)
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		before := s.parses(t)
		for i := range 1000 {
			tenant, id := constantTenants[i%4], i/4%5+1
			var note string
			var err error
			switch i / 20 % 3 {
			case 0:
				err = c.QueryRow(ctx, fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = %d AND %d > 0", tenant, id, i+1)).Scan(&note)
			case 1:
				err = c.QueryRow(ctx, fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = $1 AND id < %d", tenant, i+10), id).Scan(&note)
			default:
				err = c.QueryRow(ctx, fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = $1 AND id = %d AND note <> '%d'", id, i), tenant).Scan(&note)
			}
			if want := fmt.Sprintf("%d/%d", tenant, id); err != nil || note != want {
				t.Fatalf("%s: got %q, %v, want %s", name, note, err, want)
			}
		}
		if n := s.parses(t) - before; n > 9 { // comparing constants pins one of them
			t.Errorf("%s: %d parses for three statements", name, n)
		}
	}
}

// A thousand texts of one shape are two parses: one for the first, one for all others.
func TestPreparedConstantsAreParsedTwice(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "")
	c := s.connect(t)
	before := s.parses(t)
	for i := range 1000 {
		tenant := constantTenants[i%4]
		c.Send(&pgproto3.Parse{Query: fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = 3 AND note <> '%d'", tenant, i)},
			&pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
		if got, want := outcome(c.UntilReady()), fmt.Sprintf("%d/3; SELECT 1; I", tenant); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	if n := s.parses(t) - before; n > 2 {
		t.Errorf("%d parses", n)
	}
}

func constantOf(tenant int) string {
	return fmt.Sprintf("SELECT note FROM orders WHERE tenant_id = %d AND id = 1", tenant)
}

// Statements of one shape keep their own constants, however their lives cross.
func TestPreparedConstantsStayTheirs(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "default_pool_size = 2")
	c, other := s.connect(t), s.connect(t)
	is := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	row := func(tenant int) string { return fmt.Sprintf("%d/1; SELECT 1; I", tenant) }
	for round := range 3 {
		for _, tenant := range constantTenants { // parsed now, executed later, when others of the shape were parsed
			is(prepareAs(c, fmt.Sprint("of", tenant), constantOf(tenant)), "I")
		}
		is(prepareAs(other, "of1", constantOf(1900)), "I")
		for _, tenant := range constantTenants {
			is(execute(c, fmt.Sprint("of", tenant)), row(tenant))
			is(execute(other, "of1"), row(1900))
			is(execute(c, fmt.Sprint("of", tenant)), row(tenant))
		}
		// The unnamed one is parsed in a batch of its own, and bound when more were parsed by name.
		is(prepareAs(c, "", constantOf(1001)), "I")
		is(prepareAs(c, "more", constantOf(900)), "I")
		is(execute(c, ""), row(1001))
		is(execute(c, "more"), row(900))
		is(execute(c, ""), row(1001))
		// Described before it is bound.
		c.Send(&pgproto3.Parse{Query: constantOf(1900)}, &pgproto3.Describe{ObjectType: 'S'}, &pgproto3.Sync{})
		is(pgtest.Format(c.UntilReady()...), "ParseComplete ParameterDescription() RowDescription(note) ReadyForQuery(I)")
		is(prepareAs(c, "again", constantOf(1)), "I")
		is(execute(c, ""), row(1900))
		// With the tables changed in between, and the routes anew.
		if round == 1 {
			is(outcome(other.Query("/* pgdog_shard: 0 */ ALTER TABLE orders ADD COLUMN more int")), "ALTER TABLE; I")
			is(outcome(other.Query("/* pgdog_shard: 1 */ ALTER TABLE orders ADD COLUMN more int")), "ALTER TABLE; I")
			is(execute(c, "of1001"), row(1001))
			is(execute(c, ""), row(1900))
			is(execute(c, "of1"), row(1))
		}
		c.Query("DEALLOCATE again")
		is(execute(c, "again"), "26000; I")
		is(execute(c, "of900"), row(900))
		c.Query("DEALLOCATE ALL")
		is(execute(c, "of900"), "26000; I")
		is(prepareAs(c, "of900", constantOf(1001)), "I")
		is(execute(c, "of900"), row(1001))
		c.Query("DEALLOCATE ALL")
		other.Query("DEALLOCATE ALL")
	}
}

// In one pipeline texts of a shape are planned each by its own constants, and refused together where these live apart.
func TestPipelineOfPreparedConstants(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "")
	c := s.connect(t)
	run := func(tenants ...int) (batch []pgproto3.FrontendMessage) {
		for _, tenant := range tenants {
			batch = append(batch, &pgproto3.Parse{Query: constantOf(tenant)}, &pgproto3.Bind{}, &pgproto3.Execute{})
		}
		return append(batch, &pgproto3.Sync{})
	}
	for range 3 {
		for _, x := range []struct {
			tenants []int
			want    string
		}{
			{[]int{1, 900, 1}, "1/1; SELECT 1; 900/1; SELECT 1; 1/1; SELECT 1; I"},
			{[]int{1900, 1001}, "1900/1; SELECT 1; 1001/1; SELECT 1; I"},
			{[]int{1, 1001}, "1/1; SELECT 1; 0A000 cross_shard; I"},
			{[]int{1001, 1900, 900}, "1001/1; SELECT 1; 1900/1; SELECT 1; 0A000 cross_shard; I"},
			{[]int{5000}, "42704 tenant_unknown; I"},
		} {
			c.Send(run(x.tenants...)...)
			if got := outcome(c.UntilReady()); got != x.want {
				t.Errorf("%v: got %s, want %s", x.tenants, got, x.want)
			}
		}
		// With a Sync between them they are transactions of their own.
		c.Send(append(append(run(1), run(1001)...), run(1900)...)...)
		for _, tenant := range []int{1, 1001, 1900} {
			if got, want := outcome(c.UntilReady()), fmt.Sprintf("%d/1; SELECT 1; I", tenant); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// Constants that can't be read by shape, and those that are refused, are as in a text of their own.
func TestPreparedConstantsThatAreOdd(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "")
	c := s.connect(t)
	for _, key := range []string{"'1'", "'1001'", "E'100\\x31'", "'10''01'", "' 1001 '", "$$1$$", "'x'", "'5000'", "E'1'", "'1'\n'001'", "''"} {
		want := outcome(c.Query("SELECT note FROM orders WHERE tenant_id = " + key + " AND id = 1"))
		for name, sql := range map[string]string{"": "SELECT note FROM orders WHERE tenant_id = " + key + " AND id = 1", "odd": "SELECT note FROM orders WHERE id = 1 AND tenant_id = " + key} {
			c.Send(&pgproto3.Parse{Name: name, Query: sql}, &pgproto3.Bind{PreparedStatement: name}, &pgproto3.Execute{}, &pgproto3.Sync{})
			if got := outcome(c.UntilReady()); got != want {
				t.Errorf("%s: got %s, want %s", key, got, want)
			}
			prepareAs(c, "late", sql)
			for range 2 {
				if got := execute(c, "late"); got != want && !strings.HasPrefix(got, "26000") {
					t.Errorf("%s, bound later: got %s, want %s", key, got, want)
				}
			}
			c.Query("DEALLOCATE ALL")
		}
	}
}

// A name is looked up where the search_path of the moment leads, with the constants of the text.
func TestPreparedConstantsAndSearchPath(t *testing.T) {
	t.Parallel()
	s := start(t, spec{shards: 2, rest: twoRanges, schema: tableSchema + "CREATE SCHEMA apart; CREATE TABLE apart.orders (tenant_id bigint, id bigint, note text);"})
	for i, tenant := range []string{"1", "1001"} {
		s.shards[i].Exec(t, s.shards[i].db, "INSERT INTO orders VALUES ("+tenant+", 1, 'public')")
		s.shards[i].Exec(t, s.shards[i].db, "INSERT INTO apart.orders VALUES ("+tenant+", 1, 'apart')")
	}
	c := s.connect(t)
	for range 2 {
		for _, schema := range []string{"public", "apart"} {
			c.Query("SET search_path = " + schema)
			for _, tenant := range []int{1, 1001, 1} {
				prepareAs(c, "q", constantOf(tenant))
				if got, want := execute(c, "q"), schema+"; SELECT 1; I"; got != want {
					t.Errorf("tenant %d: got %s, want %s", tenant, got, want)
				}
				c.Query("DEALLOCATE q")
			}
		}
	}
	// Prepared before, and executed where the path leads elsewhere for a while, or to a table of the transaction's own.
	c.Query("SET search_path = public")
	for _, tenant := range []int{1, 1001} {
		prepareAs(c, fmt.Sprint("q", tenant), constantOf(tenant))
	}
	for range 2 {
		for _, tenant := range []int{1, 1001} {
			q := fmt.Sprint("q", tenant)
			for _, x := range [][2]string{
				{"BEGIN", "public; SELECT 1; T"},
				{"SET LOCAL search_path = apart", "apart; SELECT 1; T"},
				{"SET LOCAL search_path = public", "public; SELECT 1; T"},
				{fmt.Sprintf("/* pgdog_shard: %d */ CREATE TEMP TABLE orders ON COMMIT DROP AS SELECT 'own' AS note, %d::bigint AS tenant_id, 1::bigint AS id", tenant/1000, tenant), "own; SELECT 1; T"},
				{"COMMIT", "public; SELECT 1; I"},
			} {
				if said := outcome(c.Query(x[0])); strings.HasSuffix(said, "E") {
					t.Fatalf("%s: %s", x[0], said)
				}
				if got := execute(c, q); got != x[1] {
					t.Errorf("tenant %d, %s: got %s, want %s", tenant, x[0], got, x[1])
				}
			}
		}
	}
}

// Statements that no cache keeps, for they are too long, are parsed once each in a batch of several, though it begins anew behind each parse.
func TestPipelineOfLongTexts(t *testing.T) {
	t.Parallel()
	s := constantStand(t, "")
	c := s.connect(t)
	for i := range 4 { // with its third message the client goes to those that are heard together
		c.Query(fmt.Sprint("SELECT ", i))
	}
	time.Sleep(100 * time.Millisecond)
	padding := "'" + strings.Repeat("x", 70<<10) + "'"
	var batch []pgproto3.FrontendMessage
	for _, sql := range []string{constantOf(1), constantOf(900) + " AND note <> " + padding, constantOf(1) + " AND note <> " + padding, constantOf(900), constantOf(1) + " AND note = " + padding} {
		batch = append(batch, &pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{})
	}
	c.Send(append(batch, &pgproto3.Sync{})...)
	if got, want := outcome(c.UntilReady()), "1/1; SELECT 1; 900/1; SELECT 1; 1/1; SELECT 1; 900/1; SELECT 1; SELECT 0; I"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
