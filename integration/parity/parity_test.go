package parity

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/internal/testbed"
)

var rewrite = flag.Bool("rewrite", false, "write PostgreSQL's answers into the scripts")

const schema = `
CREATE TABLE items (k bigint NOT NULL, id int NOT NULL, v text, b bytea, PRIMARY KEY (k, id))`

// configuration is one of pgkennel's.
type configuration struct {
	name    string
	shards  int
	general string
	rest    string
}

// configurations are those that scripts are played to.
var configurations = []configuration{
	{"transaction", 1, "", ""},
	{"session", 1, "pooler_mode = \"session\"", ""},
	{"shards", 3, "", "\n[multi_tenant]\ncolumn = \"k\"\n\n[[sharded_tables]]\ndatabase = \"" + testbed.Cluster + "\"\nname = \"items\"\ncolumn = \"k\"\ndata_type = \"bigint\"\n"},
}

// TestParity plays every script to PostgreSQL, whose answers stand in the scripts, and to pgkennel, whose answers may differ by what is in the list of known
// differences, and have to.
func TestParity(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scripts/*")
	if err != nil {
		t.Fatal(err)
	}
	byFile := map[string][]*script{}
	var all []*script
	seen, keys := map[string]bool{}, map[int]string{}
	for _, f := range files {
		byFile[f] = readScripts(t, f)
		all = append(all, byFile[f]...)
	}
	for _, s := range all {
		if seen[s.full()] || keys[s.key()] != "" {
			t.Errorf("%s: another script has its name or its key: %s", s.place, keys[s.key()])
		}
		seen[s.full()], keys[s.key()] = true, s.full()
	}
	if len(all) < 150 {
		t.Errorf("got %d scripts, want at least 150", len(all))
	}
	known := readKnown(t, seen)

	if *large != defaultLarge {
		direct := direct(t)
		for _, s := range all {
			if strings.Contains(strings.Join(s.text, "\n"), "large}") {
				s.want = direct.play(t, s, given)
			}
		}
	} else if *rewrite {
		direct := direct(t)
		for f, list := range byFile {
			for _, s := range list {
				s.want = direct.play(t, s, given)
			}
			rewriteScripts(t, f, list)
		}
	}
	worlds := map[string]func(*testing.T) *world{"postgres": direct}
	for _, c := range configurations {
		worlds[c.name] = c.start
	}
	var played atomic.Int64
	due := 0
	t.Run("to", func(t *testing.T) {
		for name, start := range worlds {
			for _, s := range all {
				if !s.not(name) {
					due++
				}
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := start(t)
				w.number = slices.IndexFunc(configurations, func(c configuration) bool { return c.name == name })
				t.Run("play", func(t *testing.T) {
					for _, s := range all {
						if s.not(name) {
							continue
						}
						t.Run(s.full(), func(t *testing.T) {
							t.Parallel()
							w.compare(t, s, known)
							played.Add(1)
						})
					}
				})
			})
		}
	})
	if int(played.Load()) == due && known.placeless.Load() == 0 {
		t.Error("errors of pgkennel's own do not differ from PostgreSQL's any more: that is a line of docs/differences.md, and a rule here")
	}
}

// direct is PostgreSQL itself.
func direct(t *testing.T) *world {
	t.Helper()
	shard := testbed.Prepare(t, testbed.Spec{Schema: schema}).Shards[0]
	return opened(t, &world{name: "postgres", addr: shard.Addr(), database: shard.DB})
}

// start runs a pgkennel.
func (c configuration) start(t *testing.T) *world {
	t.Helper()
	b := testbed.Prepare(t, testbed.Spec{
		Shards: c.shards, Schema: schema, Rest: c.rest,
		General: "auth_type = \"trust\"\ndefault_pool_size = 12\n" + c.general,
	})
	b.Start()
	t.Cleanup(func() {
		if t.Failed() && *journal {
			t.Logf("log of %s:\n%s", c.name, b.Journal)
		}
	})
	return opened(t, &world{name: c.name, addr: b.Addr, database: testbed.Cluster})
}

func opened(t *testing.T, w *world) *world {
	t.Helper()
	w.broom = w.dial(t)
	if answer, ok := w.login(w.broom, nil); !ok {
		t.Fatalf("%s: login: %s", w.name, strings.Join(answer, "\n"))
	}
	return w
}

var journal = flag.Bool("journal", false, "show pgkennel's log if a script fails")

// compare plays a script in some splittings.
func (w *world) compare(t *testing.T, s *script, known *knowledge) {
	t.Helper()
	// A third of the scripts each is sent in another way as well; another third to each world.
	hows := []splitting{given}
	switch (s.key() + w.number) % 3 {
	case 1:
		hows = append(hows, bytes)
	case 2:
		if s.whole() {
			hows = append(hows, whole)
		}
	}
	want := known.of(w.name, s.full())
	for _, how := range hows {
		got := difference(s.want, known.placed(s.want, w.play(t, s, how)))
		if slices.Equal(got, want.lines) {
			continue
		}
		if len(got) == 0 {
			t.Errorf("%s: sent %s, it does not differ any more; remove it from testdata/known (line %d)", s.place, how, want.line)
			continue
		}
		t.Errorf("%s: sent %s, %s differs from the file:\n%s\n%s\n%s", s.place, how, w.name, strings.Join(s.text, "\n"), "difference "+s.full(), strings.Join(got, "\n"))
	}
}

// knowledge are the known differences, by world and script.
type knowledge struct {
	list      map[string]known
	placeless atomic.Int64 // how many errors of our own were taken for PostgreSQL's
}

// place is where in PostgreSQL's source an error was made.
var place = regexp.MustCompile(`( \| W [^|]*)?( \| F .*)$`)

// placed is an answer in which errors that pgkennel answers in PostgreSQL's place, which are PostgreSQL's but for where in its source they were made, have
// that, too. It is a line of docs/differences.md.
func (k *knowledge) placed(want, got []string) []string {
	theirs := map[string][]string{}
	for _, l := range want {
		if isError(l) {
			plain := place.ReplaceAllString(l, "")
			theirs[plain] = append(theirs[plain], l)
		}
	}
	out := slices.Clone(got)
	for i, l := range out {
		plain := strings.TrimSuffix(place.ReplaceAllString(l, ""), " | R unparsable")
		if list := theirs[plain]; isError(l) && len(list) > 0 {
			if !place.MatchString(l) {
				out[i] = list[0]
				k.placeless.Add(1)
			}
			theirs[plain] = list[1:]
		}
	}
	return out
}

func isError(line string) bool {
	return strings.Contains(line, "ErrorResponse ") || strings.Contains(line, "NoticeResponse ")
}

type known struct {
	line  int
	lines []string
}

func (k *knowledge) of(world, script string) known { return k.list[world+" "+script] }

// readKnown reads the list: blocks of
//
//	difference FILE/SCRIPT…
//	in WORLD…
//	docs the first column of a line of docs/differences.md
//	why a reason
//	-a line of PostgreSQL's answer
//	+a line of ours
func readKnown(t *testing.T, scripts map[string]bool) *knowledge {
	t.Helper()
	const path = "testdata/known"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	k := &knowledge{list: map[string]known{}}
	type block struct {
		known
		scripts, worlds []string
		docs, why       string
	}
	b := block{}
	end := func() {
		if b.scripts == nil {
			return
		}
		if len(b.worlds) == 0 || len(b.lines) == 0 || b.why == "" || !strings.Contains(string(docs), "\n| "+b.docs+" |") {
			t.Errorf("%s:%d: a difference has worlds, lines, a reason, and a line of docs/differences.md: %q", path, b.line, b.docs)
		}
		for _, s := range b.scripts {
			for _, w := range b.worlds {
				id := w + " " + s
				if !scripts[s] || len(k.list[id].lines) > 0 || !slices.ContainsFunc(configurations, func(c configuration) bool { return c.name == w }) {
					t.Errorf("%s:%d: %s in %s is not there, or known already", path, b.line, s, w)
				}
				k.list[id] = b.known
			}
		}
		b = block{}
	}
	for n, line := range strings.Split(string(text), "\n") {
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			end()
		case strings.HasPrefix(line, "#"):
		case line[0] == '-' || line[0] == '+':
			b.lines = append(b.lines, line)
		case verb == "difference":
			b.line, b.scripts = n+1, strings.Fields(rest)
		case verb == "in":
			b.worlds = strings.Fields(rest)
		case verb == "docs":
			b.docs = rest
		case verb == "why":
			b.why = rest
		default:
			t.Errorf("%s:%d: what is %q?", path, n+1, line)
		}
	}
	end()
	return k
}
