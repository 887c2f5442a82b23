package demo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// testShards runs the demo's instances for one test.
func testShards(t *testing.T) shards {
	t.Helper()
	scratch, err := pginstance.OpenScratch(pgtest.Base())
	if err != nil {
		t.Fatal(err)
	}
	all, err := startShards(t.Context(), scratch)
	t.Cleanup(func() {
		if err := errors.Join(all.stop(), scratch.Close()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEachTenantIsLoadedWhereItLives(t *testing.T) {
	t.Parallel()
	all := testShards(t)
	for _, tenant := range tenants {
		for number, s := range all {
			for _, table := range []string{"tenants", "users", "projects", "orders", "order_items"} {
				n, err := s.count(t.Context(), "SELECT count(*) FROM "+table+" WHERE tenant_id = $1", tenant.id)
				if err != nil {
					t.Fatal(err)
				}
				if (n > 0) != (number == tenant.shard) {
					t.Errorf("tenant %d has %d rows of %s in %s, and lives in shard-%d", tenant.id, n, table, s.name, tenant.shard)
				}
			}
		}
	}
}

// TestSamplesFindMisrouting puts one of the instances itself where pgkennel should be: it refuses nothing and answers
// for everybody, and the samples must notice.
func TestSamplesFindMisrouting(t *testing.T) {
	t.Parallel()
	all := testShards(t)
	var out bytes.Buffer
	wrong, err := showSamples(t.Context(), &out, fmt.Sprintf("127.0.0.1:%d", all[0].server.Port), all)
	if err != nil {
		t.Fatal(err)
	}
	// Wrong: the key statement, the insert for the 5 tenants elsewhere, the join, two statements of the transaction,
	// and the three refusals.
	if want := 5 + 5 + 1 + 2 + 3; wrong != want {
		t.Errorf("%d statements found wrong, want %d:\n%s", wrong, want, &out)
	}
}

func TestOneShot(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "pgkennel")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/pgkennel").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// A second demo beside the first, on the same first port, and a port that somebody else has.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	_, digits, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := Run(t.Context(), Options{Program: program, OneShot: true, Out: &out, Port: port}); err != nil {
				t.Errorf("%v\n%s", err, &out)
			}
			if strings.Contains(out.String(), "WRONG") || !strings.Contains(out.String(), fmt.Sprintf("Port %d is taken", port)) {
				t.Errorf("output:\n%s", &out)
			}
		})
	}
}

// TestNothingIsLeftAfterAFailure lets each start step of pgkennel fail.
func TestNothingIsLeftAfterAFailure(t *testing.T) { //nolint:tparallel // one demo after the other is enough load
	t.Parallel()
	script := func(body string) string {
		path := filepath.Join(t.TempDir(), "pgkennel")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ name, program, want string }{
		{"no such program", "/nonexistent/pgkennel", "start of pgkennel"},
		{"refuses its configuration", script("echo pgdog.toml:1: nonsense; exit 1"), "pgdog.toml:1: nonsense"},
		{"says ready and listens nowhere", script("echo msg=ready; exec sleep 60"), "deadline exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := Run(t.Context(), Options{Program: test.program, Out: &out, Port: 20000, readyTimeout: 2 * time.Second})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			for line := range strings.Lines(out.String()) {
				if _, dir, ok := strings.Cut(strings.TrimSpace(line), " in "); ok {
					if _, err := os.Stat(dir); !os.IsNotExist(err) {
						t.Errorf("scratch folder %s: got %v, want that it does not exist", dir, err)
					}
				}
			}
		})
	}
}
