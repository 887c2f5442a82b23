package archtest

import (
	"strings"
	"testing"
)

// TestHouse checks the module.
func TestHouse(t *testing.T) {
	pkgs, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 5 {
		t.Fatalf("only %d packages found", len(pkgs))
	}
	for _, check := range []struct {
		name string
		run  func([]pkg) []string
	}{{"floors", checkFloors}, {"homes", checkHomes}, {"files", checkFiles}} {
		t.Run(check.name, func(t *testing.T) {
			for _, fault := range check.run(pkgs) {
				t.Error(fault)
			}
		})
	}
}

// TestChecksFindFaults holds each check to finding what it is there for.
func TestChecksFindFaults(t *testing.T) {
	one := func(path, name, source string) []pkg {
		f, err := inspect(name, source)
		if err != nil {
			t.Fatal(err)
		}
		return []pkg{{path: path, name: "x", files: []file{f}}}
	}
	imports := func(path string) string { return "// Package x is x.\npackage x\n\nimport _ \"" + path + "\"\n" }
	ours := func(path string) string { return imports(module + "/" + path) }
	for _, test := range []struct {
		name         string
		check        func([]pkg) []string
		path         string
		file, source string
		want         string // part of the one fault; empty: none
	}{
		{"down is fine", checkFloors, "pooler/pool", "x.go", ours("pooler/pgwire"), ""},
		{"up", checkFloors, "pooler/pgwire", "x.go", ours("pooler/pool"), "imports go down"},
		{"level", checkFloors, "pooler/auth", "x.go", ours("pooler/pool"), "imports go down"},
		{"up from a test", checkFloors, "pooler/pgwire", "x_test.go", ours("pooler/pool"), "imports go down"},
		{"a test of the package itself", checkFloors, "pooler/pgwire", "x_test.go", ours("pooler/pgwire"), ""},
		{"no floor", checkFloors, "pooler/util", "x.go", "package x", "no floor"},
		{"import without floor", checkFloors, "pooler", "x.go", ours("pooler/util"), "no floor"},
		{"config in the pooler", checkFloors, "pooler/cluster", "x.go", ours("config"), "option structs"},
		{"config at the root", checkFloors, "pooler", "x.go", ours("config"), ""},
		{"a provision driver in the pooler", checkFloors, "pooler/session", "x.go", ours("provision/docker"), "stateless"},
		{"pgtest in a test", checkFloors, "pooler/pgwire", "x_test.go", ours("internal/pgtest"), ""},
		{"pgtest outside tests", checkFloors, "pooler/backend", "x.go", ours("internal/pgtest"), "for tests"},
		{"integration imported", checkFloors, "cmd/pgkennel", "x.go", ours("integration"), "imports go down"},
		{"bench imported by a test", checkFloors, "pooler", "x_test.go", ours("bench"), "imports go down"},

		{"pgx on the data path", checkHomes, "pooler/backend", "x.go", imports("github.com/jackc/pgx/v5/pgconn"), "own pgwire"},
		{"pgproto3 on the data path", checkHomes, "pooler/backend", "x.go", imports("github.com/jackc/pgx/v5/pgproto3"), ""},
		{"pgproto3 in the router", checkHomes, "sharding/router", "x.go", imports("github.com/jackc/pgx/v5/pgproto3"), "rooms of the pooler"},
		{"pgx in a test", checkHomes, "pooler/backend", "x_test.go", imports("github.com/jackc/pgx/v5"), ""},
		{"pg_query outside the parser", checkHomes, "sharding/router", "x.go", imports("github.com/pganalyze/pg_query_go/v5"), "hidden inside parser"},
		{"a socket in a machine", checkHomes, "pooler/session", "x.go", imports("net"), "pure"},
		{"addresses are no sockets", checkHomes, "pooler/session", "x.go", imports("net/netip"), ""},

		{"no package comment", checkFiles, "parser", "x.go", "package x", "0 package comments"},
		{"package comment elsewhere", checkFiles, "parser", "doc.go", "// Package x is x.\npackage x", "want x.go"},
		{"too long", checkFiles, "parser", "x.go", "// Package x is x.\npackage x" + strings.Repeat("\n", maxLines), "601 lines"},
		{"a long test", checkFiles, "parser", "x_test.go", "package x" + strings.Repeat("\n", maxLines), ""},
		{"exit", checkFiles, "parser", "x.go", "// Package x is x.\npackage x\nimport \"os\"\nfunc f() { os.Exit(1) }", "ends the process"},
		{"exit in a program", checkFiles, "cmd/pgkennel", "x.go", "// Package x is x.\npackage x\nimport \"os\"\nfunc f() { os.Exit(1) }", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			faults := test.check(one(test.path, test.file, test.source))
			switch {
			case test.want == "" && len(faults) > 0:
				t.Errorf("got faults %q, want none", faults)
			case test.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], test.want)):
				t.Errorf("got faults %q, want one with %q", faults, test.want)
			}
		})
	}
}

// TestTwoPackageCommentsAreAFault needs two files, hence a test of its own.
func TestTwoPackageCommentsAreAFault(t *testing.T) {
	p := pkg{path: "parser", name: "parser", files: []file{{name: "parser.go", doc: true}, {name: "ir.go", doc: true}}}
	if faults := checkFiles([]pkg{p}); len(faults) != 1 || !strings.Contains(faults[0], "2 package comments") {
		t.Errorf("got faults %q, want one about 2 package comments", faults)
	}
}
