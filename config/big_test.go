package config

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

const million = 1_000_000

// bigConfig is a configuration with n values or ranges, in one of its forms.
func bigConfig(form string, n int) string {
	var b strings.Builder
	b.WriteString("[[databases]]\nname = 'prod'\nhost = 'a'\n[[databases]]\nname = 'prod'\nhost = 'b'\nshard = 1\n")
	table := "[[sharded_tables]]\ndatabase = 'prod'\ncolumn = 'tenant_id'\n"
	mixed := func(i int) int { return i * 7919 % 15485863 } // distinct, in no order
	switch form {
	case "values":
		b.WriteString(table + "mapping = [{ shard = 0, values = [\n")
		for i := range n {
			fmt.Fprintf(&b, "%d,\n", mixed(i))
		}
		b.WriteString("]}]\n")
	case "uuids":
		b.WriteString(table + "data_type = 'uuid'\n[[sharded_tables.mapping]]\nshard = 0\nvalues = [\n")
		for i := range n {
			fmt.Fprintf(&b, "\"%08x-0000-4000-8000-%012x\",\n", mixed(i), i)
		}
		b.WriteString("]\n")
	case "texts":
		b.WriteString(table + "data_type = 'varchar'\nmapping = [{ shard = 0, values = [\n")
		for i := range n {
			fmt.Fprintf(&b, "\"tenant-%d\",\n", mixed(i))
		}
		b.WriteString("]}]\n")
	case "ranges":
		b.WriteString(table + "mapping = [\n")
		for i := range n {
			fmt.Fprintf(&b, "{ start = %d, end = %d, shard = %d },\n", i*10, i*10+10, i%2)
		}
		b.WriteString("]\n")
	case "mixed ranges":
		b.WriteString(table + "mapping = [\n")
		for i := range n {
			fmt.Fprintf(&b, "{ start = %d, end = %d, shard = %d },\n", mixed(i)*10, mixed(i)*10+10, i%2)
		}
		b.WriteString("]\n")
	case "range headers":
		b.WriteString(table)
		for i := range n {
			fmt.Fprintf(&b, "[[sharded_tables.mapping]]\nstart = %d\nend = %d\nshard = %d\n", i*10, i*10+10, i%2)
		}
	case "older form":
		b.WriteString(table)
		for i := range n {
			fmt.Fprintf(&b, "[[sharded_mappings]]\ndatabase = \"prod\"\ncolumn = \"tenant_id\"\nkind = \"range\"\nstart = %d\nend = %d\nshard = %d\n", i*10, i*10+10, i%2)
		}
	}
	return b.String()
}

var bigForms = []string{"values", "uuids", "texts", "ranges", "mixed ranges", "range headers", "older form"}

// TestMillionEntries bounds time and memory of a million values and of a million ranges. The bounds are those that users
// are promised; they are for processor time, on an idle machine it takes a third of that. Not parallel: it measures, and as
// others may work on the same machine, the best of a few attempts counts.
func TestMillionEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const limit = 2 * time.Second
	if raceEnabled {
		t.Skip("measures nothing under the race detector")
	}
	for _, form := range bigForms {
		text := strings.Clone(bigConfig(form, million)) // of exactly its size
		for attempt := 1; ; attempt++ {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := pgtest.CPUTime(t)
			c, _, err := Parse(File{Name: "pgdog.toml", Text: text}, File{Name: "users.toml"}, nil)
			took := pgtest.CPUTime(t) - start
			if err != nil {
				t.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			kept, made := int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(after.TotalAlloc-before.TotalAlloc)
			t.Logf("%-13s %3d MB of text: %4d ms, %3d MB kept, %3d MB allocated", form, len(text)>>20, took.Milliseconds(), kept>>20, made>>20)
			if n := entries(c.Clusters[0].ShardedTables[0].Mapping); n != million {
				t.Errorf("%s: got %d entries, want a million", form, n)
			}
			if kept > 40<<20 || made > 130<<20 {
				t.Errorf("%s: %d MB are kept and %d MB were allocated, want at most 40 and 130", form, kept>>20, made>>20)
			}
			if took < limit {
				break
			}
			if attempt == 5 {
				t.Errorf("%s: took %s, want less than %s", form, took, limit)
				break
			}
		}
		runtime.KeepAlive(text)
	}
}

func entries(m *Mapping) int {
	switch {
	case m.Ints != nil:
		return len(m.Ints.Values) + len(m.Ints.Starts)
	case m.UUIDs != nil:
		return len(m.UUIDs.Values)
	}
	return len(m.Texts.Values)
}

// TestManyMistakes checks that a million mistakes are neither a million messages nor slow.
func TestManyMistakes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("[[databases]]\nname = 'p'\nhost = 'h'\n[[sharded_tables]]\ndatabase = 'p'\ncolumn = 't'\nmapping = [\n")
	for range 50_000 {
		b.WriteString("{ start = 1, end = 5, shard = 3 }, { end = 7, shard = 0 }, { start = 2, end = 2, shard = 0 }, { values = [1, 'x'], shard = 0 },\n")
	}
	b.WriteString("]\n")
	_, _, err := Parse(File{Name: "pgdog.toml", Text: b.String()}, File{Name: "users.toml"}, nil)
	if err == nil {
		t.Fatal("got no error")
	}
	if n := strings.Count(err.Error(), "\n"); n < 60 || n > 200 {
		t.Errorf("got %d lines, want some of each kind", n)
	}
	for _, want := range []string{"49980 more values of another type, not listed", "49980 more rules for shards that are not there, not listed", "more ranges that overlap, not listed", "more ranges that hold nothing, not listed", "more values listed twice, not listed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said", want)
		}
	}
}

// TestManyDatabases checks that nothing is quadratic in the number of databases and users, right or wrong.
func TestManyDatabases(t *testing.T) {
	t.Parallel()
	n := 10_000
	if raceEnabled {
		n = 500
	}
	var config, users strings.Builder
	for i := range n {
		fmt.Fprintf(&config, "[[databases]]\nname = 'tenant_%d'\nhost = 'h'\npool_size = 5\n", i)
		fmt.Fprintf(&users, "[[users]]\nname = 'app_%d'\ndatabase = 'tenant_%d'\npassword = 'x'\n", i, i)
	}
	start := pgtest.CPUTime(t)
	c, _ := mustParse(t, config.String(), users.String())
	if len(c.Users) != n || len(c.Clusters) != n || c.User("app_7", "tenant_7") == nil || len(Diff(c, c)) != 0 {
		t.Errorf("got %d users and %d clusters, want %d", len(c.Users), len(c.Clusters), n)
	}
	_, _, err := parseTestFile(t, config.String(), strings.ReplaceAll(users.String(), "tenant", "tennant"))
	if err == nil || strings.Count(err.Error(), "\n") != n-1 {
		t.Errorf("got %.200v, want a problem for each user", err)
	}
	if took := pgtest.CPUTime(t) - start; took > 10*time.Second && !raceEnabled {
		t.Errorf("took %s, want a second or two", took)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, form := range bigForms {
		b.Run(strings.ReplaceAll(form, " ", "_"), func(b *testing.B) {
			text := bigConfig(form, million/10)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Parse(File{Name: "pgdog.toml", Text: text}, File{Name: "users.toml"}, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
