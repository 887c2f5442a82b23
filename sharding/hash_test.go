package sharding_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/sharding"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestHashIsPostgreSQLs asks PostgreSQL's satisfies_hash_partition where it would put each value.
func TestHashIsPostgreSQLs(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t)
	pg.Exec(t, db, `
		CREATE TABLE of_bigint (k bigint) PARTITION BY HASH (k);
		CREATE TABLE of_uuid (k uuid) PARTITION BY HASH (k);
		CREATE TABLE of_varchar (k varchar COLLATE "C") PARTITION BY HASH (k);`)
	r := rand.New(rand.NewPCG(7, 11))
	values := map[sharding.KeyType][]string{
		sharding.Bigint: {"0", "1", "-1", "9223372036854775807", "-9223372036854775808", "2147483648", "-2147483649"},
		sharding.UUID:   {"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
		sharding.Text:   {"", "a", "É", strings.Repeat("x", 1000)},
	}
	for i := range 200 {
		values[sharding.Bigint] = append(values[sharding.Bigint], strconv.FormatInt(int64(r.Uint64()), 10), strconv.Itoa(i))
		values[sharding.UUID] = append(values[sharding.UUID], fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()))
		values[sharding.Text] = append(values[sharding.Text], strings.Repeat("äb", i/8)+"tenant"[:i%7])
	}
	for typ, list := range values {
		for _, shards := range []int{1, 2, 3, 7, 16} {
			m := sharding.NewHash(typ, shards)
			var sql strings.Builder
			for i, v := range list {
				k, ok := sharding.ParseKey(typ, v)
				if !ok {
					t.Fatalf("%q is no %v", v, typ)
				}
				shard, ok := m.Lookup(k)
				if !ok {
					t.Fatalf("%q has no shard", v)
				}
				if i > 0 {
					sql.WriteString(",")
				}
				fmt.Fprintf(&sql, "('%s',%d)", v, shard)
			}
			wrong := pg.Query(t, db, fmt.Sprintf(`SELECT v, r FROM (VALUES %s) AS x (v, r)
				WHERE NOT satisfies_hash_partition('of_%s'::regclass, %d, r, v::%[2]s)`, sql.String(), typ, shards))
			if len(wrong) > 0 {
				t.Errorf("%v over %d shards: %d of %d values are elsewhere in PostgreSQL, such as %s", typ, shards, len(wrong), len(list), wrong[0])
			}
		}
	}
}

// TestReadingIsPostgreSQLs compares what ParseKey and ParseNumeric make of a text with what the server does.
func TestReadingIsPostgreSQLs(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t)
	pg.Exec(t, db, `
		CREATE FUNCTION try(v text, typ text) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE r text;
		BEGIN EXECUTE format('SELECT %L::%s::text', v, typ) INTO r; RETURN r;
		EXCEPTION WHEN OTHERS THEN RETURN 'error'; END $$;`)
	pieces := []string{"", " ", "0", "7", "12", "999", "-", "+", ".", "e", "E1", "_", "{", "}", "a0ee", "bc99-", "9c0b4ef8-", "bb6d6bb9", "bd380a11", "9223372036854775807", "8"}
	r := rand.New(rand.NewPCG(3, 5))
	var texts []string
	for range 3000 {
		var s strings.Builder
		for range 1 + r.IntN(7) {
			s.WriteString(pieces[r.IntN(len(pieces))])
		}
		texts = append(texts, s.String())
	}
	texts = append(texts, "{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EE-bc999c0b-4ef8bb6d-6bb9bd380a11")
	for _, c := range []struct {
		cast string
		read func(string) string
	}{
		{"bigint", func(s string) string { return parsed(sharding.ParseKey(sharding.Bigint, s)) }},
		{"uuid", func(s string) string { return parsed(sharding.ParseKey(sharding.UUID, s)) }},
		{"numeric::bigint", func(s string) string {
			k, reading := sharding.ParseNumeric(s, sharding.Assign)
			return parsed(k, reading == sharding.Exact)
		}},
	} {
		got := pg.Query(t, db, "SELECT try(v, $1) FROM unnest($2::text[]) WITH ORDINALITY AS x (v, n) ORDER BY n", c.cast, texts)
		if len(got) != len(texts) {
			t.Fatalf("%d answers, want %d", len(got), len(texts))
		}
		errors := 0
		for i, s := range texts {
			ours := c.read(s)
			if got[i] == "error" {
				errors++
			}
			// PostgreSQL 16 reads underscores in integers; before that it is an error. Exponents beyond 1000 are refused
			// here: only a zero can have one.
			known := got[i] == "error" && strings.Contains(s, "_") || ours == "error" && got[i] == "0" && strings.ContainsAny(s, "eE")
			if ours != got[i] && !known {
				t.Errorf("%q as %s: got %s, PostgreSQL says %s", s, c.cast, ours, got[i])
			}
		}
		t.Logf("%s: %d texts, %d errors", c.cast, len(texts), errors)
	}
}

func parsed(k sharding.Key, ok bool) string {
	if !ok {
		return "error"
	}
	return k.String()
}
