package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// trickyDocuments are valid TOML that an index of positions can trip over.
var trickyDocuments = []string{
	"",
	"# nothing but a comment",
	"a = 1",
	"\ufeffa = 1\n",
	"a = 1\r\nb = 2\r\n[c]\r\nd = 3\r\n",
	"[a]\n[b]\nc = 1\n[a.b]\nd = 2\n",
	"[a.b.c]\nd = 1\n[a]\ne = 2\n",
	"a.b.c = 1\na.b.d = 2\na.\"e f\".'g' = 3\n",
	"[x]\na.b = 1\na . c = 2\n[x.y]\nz = 3\n",
	"\"quoted \\\"key\\\"\" = 1\n'li\\teral' = 2\n\"\" = 3\n\"\\u0041\" = 4\n",
	"1234 = 5\n-a_B- = 6\n",
	"[[a]]\nb = 1\n[[a.c]]\nd = 2\n[[a.c]]\nd = 3\n[[a]]\nb = 4\n[a.e]\nf = 5\n",
	"a = [1, 2,\n  3, # comment ] } \"\n  4,\n]\nb = 5\n",
	"a = [[1, 2], [\"]\", '['], [{b = 1}, {b = \"}\"}]]\nc = 1\n",
	"a = { b = 1, c.d = 2, \"e\" = { f = [3] } }\nb = 1\n",
	"a = {\n  b = 1, # one\n  c = 2,\n}\nd = 3\n",
	"a = {}\nb = []\nc = [ ]\nd = { }\n",
	"a = \"x # y\" # z\nb = 'it # s' # no\n",
	"a = \"\"\"\nline = 1\n[section]\n\"quoted\" \\\" \n\"\"\"\nb = 2\n",
	"a = '''\nraw \\ ]\n[x]\n'''\nb = 2\n",
	"a = \"\"\"two quotes\"\"\"\"\"\nb = 1\n",
	"a = ''''one quote''''\nb = 1\n",
	"a = \"\"\"joined \\\n    line\"\"\"\n",
	"d1 = 1979-05-27T07:32:00Z\nd2 = 1979-05-27 07:32:00.5\nd3 = 1979-05-27\nd4 = 07:32:00\nd5 = [1979-05-27 07:32:00, 1979-05-27]\n",
	"f = 1.5\ng = -1e10\nh = +inf\ni = -nan\nj = nan\nk = inf\nl = 6.02_2e2_3\n",
	"n = 1_000\nm = 0xdead_beef\no = 0o17\nb = 0b1010\nz = -0\np = +9\n",
	"t = true\nu = false\nv = [true, false]\n",
	"e = \"\\b\\t\\n\\f\\r\\\"\\\\\\u00e9\\U0001F600\\e\\x41\"\n",
	"    [ a . \"b\" ]    # comment\n  c   =   1   \n",
	"[[ a ]]\nb = 1\n",
	"a = [\n  [1],\n  [2],\n]\nb = [\n[3]\n]\n",
	"x = [\n'[general]',\n\"key = 1\",\n]\n",
	"[general]\nhost = \"ünïcödé\" # ✓\nport = 6432\n",
	"[a]\nb = 1 # [c]\n#[d]\n[e]\n",
	"key = [ # first\n # second\n 1 # third\n , 2 # fourth\n ]\n",
}

// brokenDocuments are not TOML.
var brokenDocuments = []string{
	"a", "a =", "= 1", "a = b", "[a", "[]", "[[a]", "[a]]", "a = [1", "a = [1 2]", "a = {b = 1", "a = {b}", "a = \"x", "a = 'x", "a = \"\"\"x",
	"a = 1\na = 2", "[a]\n[a]", "a = 1\n[a]", "a = 1\na.b = 2", "[[a]]\n[a]", "[a]\n[[a]]", "a = [1]\n[[a]]\n", "a = {}\n[a]\n", "a = {}\na.b = 1\n",
	"a = 1 b = 2", "a = 01", "a = 1__0", "a = _1", "a = 1.", "a = .5", "a = 1e", "a = 0xg", "a = 2020-13-01", "a = \"\\q\"", "a = \"\\u12\"", "a.\n = 1",
	"a\n= 1", "a = \n1", "\"a\" \"b\" = 1", "[a] b = 1", "a = 1\rb = 2", "a = \"\x01\"", "# \x01\n", "a = tru", "a = 1,", "a = [,]", "a = [1,,2]", "a = {,}",
	"\"\"\"a\"\"\" = 1", "a = 99999999999999999999", "a = 'x\ny'", "a..b = 1", ".a = 1", "a. = 1", "[.a]", "[a.]", "a = \"\xff\"", "[a]\n[a.b]\n[a]\n",
}

// conflict matches problems between statements. The library takes some that TOML forbids: a.b = 1 and then a = 2, or
// a = {} and then a.b = 1.
var conflict = regexp.MustCompile(`is set twice|is there twice|is not a section; it was set|is a value and can't hold|can't both be used|can't be used|is set in .* already`)

// checkAgainstLibrary holds the scanner to the TOML library: the same verdict, the same keys, and every key's position
// on the key.
func checkAgainstLibrary(t *testing.T, text string) {
	t.Helper()
	want := map[string]any{}
	md, err := toml.Decode(text, &want)
	r := &report{}
	d := readDocument("doc.toml", text, 0, false, r)
	for _, p := range sorted(r.errs) {
		if p.Pos.Line < 1 || p.Pos.Col < 1 || p.Pos.File != "doc.toml" || p.What == "" {
			t.Errorf("got problem %q without a place", p)
		}
	}
	if err != nil {
		if len(r.errs) == 0 {
			t.Errorf("got no problem in %q, the library says: %v", text, err)
		}
		return
	}
	if len(r.errs) > 0 {
		if conflict.MatchString(r.errs[0].what) {
			return
		}
		t.Fatalf("got problems in valid %q: %s", text, Problems(sorted(r.errs)))
	}
	if g, w := fmt.Sprintf("%#v", d.values), fmt.Sprintf("%#v", want); g != w && !reflect.DeepEqual(d.values, want) {
		t.Errorf("values of %q: got %s, want %s", text, g, w)
	}
	var wantKeys []string
	for _, k := range md.Keys() {
		wantKeys = append(wantKeys, strings.Join(k, "\x00"))
	}
	var gotKeys []string
	collectKeys(t, d, d.root, nil, &gotKeys)
	slices.Sort(wantKeys)
	slices.Sort(gotKeys)
	// The library lists neither tables that only their children's keys name nor each entry of an array twice alike.
	wantSet, gotSet := slices.Compact(wantKeys), slices.Compact(gotKeys)
	for _, k := range wantSet {
		if _, ok := slices.BinarySearch(gotSet, k); !ok {
			t.Errorf("no position for key %q in %q", k, text)
		}
	}
}

func collectKeys(t *testing.T, d *document, n *node, path []string, out *[]string) {
	t.Helper()
	for i, name := range n.names {
		c := n.kids[i]
		p := append(slices.Clone(path), name)
		*out = append(*out, strings.Join(p, "\x00"))
		if at := d.text[c.off:]; at == "" || at[0] != '[' && at[0] != '"' && at[0] != '\'' && !strings.HasPrefix(at, name) {
			t.Errorf("the position of key %q is at %.20q", name, at)
		}
		collectKeys(t, d, c, p, out)
	}
	for _, e := range n.elems {
		collectKeys(t, d, e, path, out)
	}
}

func TestScannerAgreesWithLibrary(t *testing.T) {
	t.Parallel()
	for _, text := range slices.Concat(trickyDocuments, brokenDocuments) {
		checkAgainstLibrary(t, text)
	}
	for _, text := range trickyDocuments {
		if _, err := toml.Decode(text, new(map[string]any)); err != nil {
			t.Errorf("the test's own document is not valid: %q: %v", text, err)
		}
	}
}

// TestPositions checks lines and columns of keys and values in one document that has every form of them.
func TestPositions(t *testing.T) {
	t.Parallel()
	text := "# comment\n[general]\n  port = 6432 # x\nhost = \"\"\"\na\n\"\"\"\n\"ü\" = 1\n\n[[databases]]\nname = \"a\"\n[[databases]]\ntags = [\n  1,\n  [2, 3],\n]\nopt = { a = 1,\n  b = 2 }\n" +
		strings.Repeat("# filler of one line\n", 1000) + "[tcp]\ntime.x = 1\n"
	r := &report{}
	d := readDocument("f", text, 0, false, r)
	if len(r.errs) > 0 {
		t.Fatal(Problems(sorted(r.errs)))
	}
	general, dbs, tcp := d.root.child("general"), d.root.child("databases"), d.root.child("tcp")
	tags, opt := dbs.elems[1].child("tags"), dbs.elems[1].child("opt")
	for _, c := range []struct {
		what string
		off  uint32
		want string
	}{
		{"[general]", general.off, "f:2:1"},
		{"port", general.child("port").off, "f:3:3"},
		{"6432", general.child("port").val, "f:3:10"},
		{"host's value", general.child("host").val, "f:4:8"},
		{"ü", general.child("ü").off, "f:7:1"},
		{"first [[databases]]", dbs.elems[0].off, "f:9:1"},
		{"second [[databases]]", dbs.elems[1].off, "f:11:1"},
		{"first tag", tags.elems[0].off, "f:13:3"},
		{"3 in the second tag", tags.elems[1].elems[1].off, "f:14:7"},
		{"opt.b", opt.child("b").off, "f:17:3"},
		{"[tcp]", tcp.off, "f:1018:1"},
		{"time.x", tcp.child("time").child("x").off, "f:1019:6"},
		{"the end", uint32(len(d.text)), "f:1020:1"},
		{"beyond the end", 1 << 31, "f:1020:1"},
	} {
		if got := d.pos(c.off).String(); got != c.want {
			t.Errorf("position of %s: got %s, want %s", c.what, got, c.want)
		}
	}
}

// TestUnquote holds the reader of texts in mappings to the TOML library.
func TestUnquote(t *testing.T) {
	t.Parallel()
	for _, tok := range []string{
		`""`, `''`, `"a"`, `'a\b'`, `"a\"b\\c"`, `"\b\t\n\f\r\e\x41\u00e9\U0001F600"`, `"\q"`, `"\u12"`, `"\ud800"`, `"\U00110000"`, `"\x4"`,
		"\"\"\"a\nb\"\"\"", "\"\"\"\na\"\"\"", "'''\na\\'''", "\"\"\"a\\\n   b\"\"\"", "\"\"\"a\\  \n\n  b\"\"\"", "\"\"\"a\\ b\"\"\"", `"""a"b"""`, `'''a'b'''`, `"\\"`,
	} {
		var want struct{ V string }
		_, err := toml.Decode("V = "+tok, &want)
		got, msg := unquote(tok)
		if (err != nil) != (msg != "") || got != want.V {
			t.Errorf("unquote(%s): got %q, %q; want %q, %v", tok, got, msg, want.V, err)
		}
	}
}

// TestParseInt holds the reader of integers in mappings to the TOML library.
func TestParseInt(t *testing.T) {
	t.Parallel()
	for _, tok := range []string{
		"0", "1", "-1", "+1", "-0", "+0", "1_000", "1_0_0", "1__0", "_1", "1_", "-_1", "01", "-01", "00", "0x", "0xff", "0xFF_ff", "0x_ff", "0xg", "-0xff", "+0x1", "0o17", "0o8", "0b101", "0b2",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "99999999999999999999999", "0x7fffffffffffffff", "0x8000000000000000", "0b", "0o", "1a", "-", "+",
	} {
		var want struct{ V int64 }
		_, err := toml.Decode("V = "+tok, &want)
		got, msg := parseInt(tok)
		if (err != nil) != (msg != "") || msg == "" && got != want.V {
			t.Errorf("parseInt(%s): got %d, %q; want %d, %v", tok, got, msg, want.V, err)
		}
	}
}

// TestEveryBrokenStatementIsReported checks that the scanner goes on behind each mistake.
func TestEveryBrokenStatementIsReported(t *testing.T) {
	t.Parallel()
	text := "a = \"x\nb = [1, 2\nc = 3 4\nd = 'y\n[[e]\nf = 1\n[g]\nh = {i = 1\nj = 01\nk = \"\\q\"\nl = 5 # fine\nl = 6\n"
	r := &report{}
	d := readDocument("f", text, 0, false, r)
	var lines []string
	for _, p := range sorted(r.errs) {
		lines = append(lines, fmt.Sprint(p.Pos.Line))
	}
	if got, want := strings.Join(lines, " "), "1 2 3 4 5 8 9 10 12"; got != want {
		t.Errorf("got problems in lines %s, want %s:\n%s", got, want, Problems(sorted(r.errs)))
	}
	if g, ok := d.values["g"].(map[string]any); !ok || g["l"] != int64(5) {
		t.Errorf("got values %v, want what is not broken", d.values)
	}
}

// FuzzScanner holds the scanner to the library on any text.
func FuzzScanner(f *testing.F) {
	for _, text := range slices.Concat(trickyDocuments, brokenDocuments) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
			return // the library takes that for TOML
		}
		if len(text) > 1<<14 || strings.Count(text, "[") > maxDepth || strings.Count(text, "{") > maxDepth {
			return // deeper than the scanner goes
		}
		checkAgainstLibrary(t, text)
	})
}
