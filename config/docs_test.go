package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// The example files and the table of keys in the manual are made from the table of keys, by go test ./config -update.

// setting is a key that an example sets, as TOML has it.
type setting struct{ key, value string }

// examples are the entries that the example files have in force; keys that are not set are there as comments.
var examples = map[*section][][]setting{
	generalSection: {{}},
	adminSection:   {{}},
	tcpSection:     {{}},
	multiTenantSection: {{
		{"column", `"tenant_id"`},
	}},
	databasesSection: {
		{{"name", `"saas"`}, {"host", `"127.0.0.1"`}, {"port", "5432"}, {"shard", "0"}, {"database_name", `"saas_0"`}},
		{{"name", `"saas"`}, {"host", `"127.0.0.1"`}, {"port", "5433"}, {"shard", "1"}, {"database_name", `"saas_1"`}},
	},
	shardedTablesSection: {{{"database", `"saas"`}, {"column", `"tenant_id"`}, {"data_type", `"bigint"`}}},
	omnishardedSection:   {{{"database", `"saas"`}, {"tables", `["countries", "currencies"]`}}},
	usersSection: {
		{{"name", `"app"`}, {"database", `"saas"`}, {"password", `"change me"`}},
		{{"name", `"reports"`}, {"all_databases", "true"}, {"password", `"change me too"`}, {"pool_size", "2"}, {"pooler_mode", `"session"`}},
	},
}

const exampleMapping = `
# The mapping of the table above: which tenants live where. First lists count, then ranges, then the entry that has a
# shard only. A value that none of them covers is refused. The end of a range is not part of it; a range without start
# or end is open on that side. Lists may go over several lines.
[[sharded_tables.mapping]]
values = [
    1, 5, 1_000,
]
shard = 0

[[sharded_tables.mapping]]
start = 2_000
end = 3_000
shard = 1

[[sharded_tables.mapping]]
shard = 1
`

// exampleOf is a value to show for a key that is not set: its default, or something like what it could be.
func exampleOf(k *key) string {
	switch {
	case k.example != "":
		return k.example
	case k.def != "":
		v := k.defaultValue()
		if (k.kind == kInt || k.kind == kMillis) && v.i >= 10_000 && v.i < 1e12 {
			return grouped(v.i)
		}
		return v.toml()
	}
	switch k.kind {
	case kEnum:
		return quoteTOML(k.legal[0])
	case kBool:
		return "true"
	case kTexts, kSecrets:
		return `["one", "two"]`
	case kRules:
		return "[{ values = [1, 2], shard = 0 }, { shard = 1 }]"
	case kInt, kPort, kMillis:
		return "0"
	case kFloat:
		return "1.0"
	case kText, kSecret, kPath, kAny:
	}
	return `"` + strings.ReplaceAll(k.name, "_", " ") + `"`
}

// grouped prints 1_000_000.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "_" + s[i:]
	}
	return s
}

func comment(b *strings.Builder, text string) {
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 110 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

// explain is what the example file says of a key.
func explain(k *key) string {
	text := k.doc
	switch {
	case k.required:
		text += " Required."
	case k.def == "" && (strings.Contains(text, "Not set:") || strings.HasPrefix(text, "Overrides") || strings.HasPrefix(text, "The same")):
	case k.def == "":
		text += " Not set by default."
	case k.def != "" && !strings.Contains(text, "Default:"):
		text += " Default: " + exampleDefault(k) + "."
	}
	if k.notYet {
		text += " Ignored so far."
	}
	if k.ours {
		text += " pgkennel's own."
	}
	if k.restart {
		text += " Needs a restart."
	}
	return text
}

func exampleDefault(k *key) string {
	s := strings.Trim(k.defaultValue().toml(), `"`)
	if k.kind == kMillis && k.defaultValue().i >= 1000 && k.defaultValue().i < 1e12 {
		s += " ms"
	}
	return s
}

func exampleSection(b *strings.Builder, s *section) {
	entries := examples[s]
	active := entries != nil
	if !active {
		entries = [][]setting{{}}
	}
	off := ""
	if !active {
		off = "# "
	}
	for i, set := range entries {
		b.WriteString("\n")
		if i == 0 {
			text := s.doc
			if s.notYet {
				text += " pgkennel reads the section and ignores it so far, with a warning."
			}
			comment(b, text)
		}
		b.WriteString(off + s.header() + "\n")
		for _, k := range s.keys {
			at := slices.IndexFunc(set, func(e setting) bool { return e.key == k.name })
			if i > 0 {
				if at >= 0 {
					b.WriteString(k.name + " = " + set[at].value + "\n")
				}
				continue
			}
			if k.group != "" {
				b.WriteString("\n# ---- " + k.group + " ----\n")
			}
			b.WriteString("\n")
			comment(b, explain(k))
			if at >= 0 {
				b.WriteString(k.name + " = " + set[at].value + "\n")
			} else {
				b.WriteString("# " + k.name + " = " + exampleOf(k) + "\n")
			}
		}
		if s == shardedTablesSection {
			b.WriteString(exampleMapping)
		}
	}
}

func exampleFile(users bool) string {
	var b strings.Builder
	if users {
		comment(&b, "users.toml: who may log in, and to which database. Every key is here; those in a comment show their default or an example. pgkennel check says what is wrong in it, and prints what is in force. Keep the file away from others: it holds passwords.")
	} else {
		comment(&b, "pgdog.toml: the configuration of pgkennel, in the form of PgDog's. Every key is here; those in a comment show their default, or an example if they have none. Durations are in milliseconds, sizes in bytes. Each key of [general] can be set by the environment as well: PGKENNEL_PORT=7432 or PGDOG_PORT=7432. pgkennel check says what is wrong in this file, and prints what is in force.")
	}
	for _, s := range sections {
		if s.users == users && !s.any {
			exampleSection(&b, s)
		}
	}
	return b.String()
}

const (
	keysFrom = "<!-- keys: made by go test ./config -update -->\n"
	keysTo   = "<!-- end of keys -->\n"
)

// keyTable is the manual's table of all keys.
func keyTable() string {
	var b strings.Builder
	for _, s := range sections {
		file := "pgdog.toml"
		if s.users {
			file = "users.toml"
		}
		if s.both {
			file = "pgdog.toml or users.toml"
		}
		fmt.Fprintf(&b, "\n### `%s` in %s\n\n%s\n", s.header(), file, s.doc)
		if s.notYet {
			b.WriteString("\nNot yet: the section is read, warned about and ignored.\n")
		}
		if s.any {
			continue
		}
		b.WriteString("\n| key | value | default | state | meaning |\n|---|---|---|---|---|\n")
		for _, k := range s.keys {
			state := "implemented"
			switch {
			case k.notYet || s.notYet:
				state = "not yet"
			case k.ours:
				state = "pgkennel's own"
			}
			if k.restart {
				state += ", restart"
			}
			value := k.kind.String()
			if k.kind == kEnum {
				value = strings.Join(k.legal, ", ")
			}
			def := "–"
			if k.required {
				def = "required"
			} else if k.def != "" {
				def = "`" + k.defaultValue().toml() + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.name, value, def, state, strings.ReplaceAll(k.doc, "|", `\|`))
		}
	}
	return b.String()
}

// generated compares a file with what it is made from, or writes it.
func generated(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is out of date; run go test ./config -update", path)
	}
}

func TestExampleFilesAreCurrent(t *testing.T) {
	t.Parallel()
	generated(t, "../pgdog.toml.example", exampleFile(false))
	generated(t, "../users.toml.example", exampleFile(true))
}

func TestKeyTableIsCurrent(t *testing.T) {
	t.Parallel()
	const path = "../docs/configuration.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), keysFrom)
	_, tail, ok2 := strings.Cut(rest, keysTo)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of keys", path)
	}
	generated(t, path, head+keysFrom+keyTable()+"\n"+keysTo+tail)
}

// TestExampleFiles checks that the example files load without an error or a warning, name every key, and that what
// they show in comments could be set.
func TestExampleFiles(t *testing.T) {
	t.Parallel()
	config, users := exampleFile(false), exampleFile(true)
	c, warnings := mustParse(t, config, users)
	if len(warnings) > 0 {
		t.Errorf("got warnings %s, want none", warnings)
	}
	if len(c.Clusters) != 1 || len(c.Clusters[0].Shards) != 2 || len(c.Users) != 2 || c.Clusters[0].ShardedTables[0].Mapping == nil {
		t.Errorf("the examples are not what they seem: %+v", c)
	}
	for _, s := range sections {
		if s.any {
			continue
		}
		text := config
		if s.users {
			text = users
		}
		_, text, _ = strings.Cut(text, s.header()+"\n")
		for _, k := range s.keys {
			_, rest, ok := strings.Cut(text, "\n# "+k.name+" = ")
			if !ok {
				if !strings.Contains(text, "\n"+k.name+" = ") {
					t.Errorf("%s %s is not in the example", s.header(), k.name)
				}
				continue
			}
			shown, _, _ := strings.Cut(rest, "\n")
			var m map[string]any
			if _, err := toml.Decode("v = "+shown, &m); err != nil {
				t.Errorf("%s %s: the example shows %s: %v", s.header(), k.name, shown, err)
				continue
			}
			r := &report{}
			if k.kind == kRules {
				continue
			}
			v := k.check(m["v"], place{env: "x"}, nil, r)
			if len(r.errs) > 0 {
				t.Errorf("%s %s: the example shows %s: %s", s.header(), k.name, shown, r.errs[0].what)
			}
			if v.set = true; k.def != "" && !v.isDefault() {
				t.Errorf("%s %s: the example shows %s, the default is %s", s.header(), k.name, shown, k.def)
			}
		}
	}
}

// TestKeysAreWellDescribed checks the table of keys itself.
func TestKeysAreWellDescribed(t *testing.T) {
	t.Parallel()
	for _, s := range sections {
		if s.doc == "" {
			t.Errorf("%s has no description", s.header())
		}
		seen := map[string]bool{}
		for _, k := range s.keys {
			if seen[k.name] {
				t.Errorf("%s %s is there twice", s.header(), k.name)
			}
			seen[k.name] = true
			if k.doc == "" || !strings.HasSuffix(k.doc, ".") {
				t.Errorf("%s %s has no description: %q", s.header(), k.name, k.doc)
			}
			if (k.kind == kEnum) != (len(k.legal) > 0) {
				t.Errorf("%s %s: kind and legal values contradict each other", s.header(), k.name)
			}
			if k.def != "" {
				r := &report{}
				v := k.defaultValue()
				v.set = true
				if k.checkRange(v, r); len(r.errs) > 0 {
					t.Errorf("%s %s: its default is refused: %s", s.header(), k.name, r.errs[0].what)
				}
			}
		}
	}
}
