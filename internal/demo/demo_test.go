package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		if err := Run(t.Context(), Options{Program: program, OneShot: true, Out: &out, Port: port}); err != nil {
			t.Errorf("%v\n%s", err, &out)
		}
		if strings.Contains(out.String(), "WRONG") || !strings.Contains(out.String(), fmt.Sprintf("Port %d is taken", port)) {
			t.Errorf("output:\n%s", &out)
		}
		nothingLeft(t, out.String())
	})
	t.Run("interrupted while tenants are made", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &interrupter{at: "tenant create globex", cancel: cancel}
		if err := Run(ctx, Options{Program: program, Out: out, Port: port}); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want %v\n%s", err, context.Canceled, &out.Buffer)
		}
		nothingLeft(t, out.String())
	})
}

// interrupter ends a demo a moment after it wrote something.
type interrupter struct {
	bytes.Buffer
	at     string
	cancel func()
}

func (i *interrupter) Write(b []byte) (int, error) {
	n, err := i.Buffer.Write(b)
	if bytes.Contains(b, []byte(i.at)) {
		time.AfterFunc(300*time.Millisecond, i.cancel)
	}
	return n, err
}

// nothingLeft fails the test if folders, processes, mounts or cgroups of a demo are there, whose output this is.
func nothingLeft(t *testing.T, output string) {
	t.Helper()
	_, rest, _ := strings.Cut(output, " in /")
	dir, _, _ := strings.Cut("/"+rest, "\n")
	if !strings.HasPrefix(dir, "/tmp/pgkennel-demo-") {
		t.Fatalf("the demo's output names no scratch folder:\n%s", output)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("scratch folder %s: got %v, want that it does not exist", dir, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(lines, "/proc/self/mounts") {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(dir)) {
			t.Errorf("%s is left: %s", path, bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
	sum := sha256.Sum256([]byte(filepath.Join(dir, onDemandName, instancesName))) // as the process driver calls its group
	groups, err := filepath.Glob("/sys/fs/cgroup/*/pgkennel-" + hex.EncodeToString(sum[:4]))
	if err != nil || len(groups) > 0 {
		t.Errorf("cgroups are left: %s, %v", groups, err)
	}
}

// A command that the host can't do what it asks for is no fault; one that ends otherwise than it should is.
func TestOrdersAreJudged(t *testing.T) {
	t.Parallel()
	s := &shell{dir: t.TempDir(), env: []string{"PROGRAM=/bin/echo"}}
	var out bytes.Buffer
	wrong, err := s.showOrders(t.Context(), &out, []order{
		{typed: "pgkennel as wanted", want: "as wanted --quiet"},
		{typed: "pgkennel otherwise", want: "as wanted"},
		{typed: "echo no cgroups; exit 5", want: "set", limits: true},
		{typed: "echo set; exit 5", want: "set", beside: true},
		{typed: "echo refused; exit 1", want: "refused", code: 1},
		{typed: "echo refused", want: "refused", code: 1},
	})
	if err != nil || wrong != 3 || !strings.Contains(out.String(), "goes on without") {
		t.Errorf("got %d wrong, %v, want 3:\n%s", wrong, err, &out)
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
			nothingLeft(t, out.String())
		})
	}
}
