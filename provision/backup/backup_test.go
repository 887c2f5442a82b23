package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// timeout bounds what one step of a test may take.
const timeout = 60 * time.Second

func secret(t testing.TB, text string) *tenant.Secret {
	t.Helper()
	s, err := tenant.NewSecret([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open makes an Archive over a directory, which is a new one if dir is empty.
func open(t testing.TB, dir string) *Archive {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	a, err := New(Options{Dir: dir, Key: secret(t, "the key of these tests"), Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	a.factor = 4
	return a
}

func dirOf(a *Archive) string { return a.place.(local).dir }

var homes atomic.Int64

// home is a tenant with a database that a role of its own owns.
func home(t testing.TB, sql ...string) provision.Source {
	t.Helper()
	pg := pgtest.Shared(t)
	owner := fmt.Sprintf("owner_%d", homes.Add(1))
	pg.Exec(t, "postgres", "CREATE ROLE "+owner)
	t.Cleanup(func() { pg.Exec(t, "postgres", "DROP ROLE "+owner) })
	db := pg.CreateDatabase(t)
	pg.Exec(t, "postgres", "ALTER DATABASE "+db+" OWNER TO "+owner)
	if len(sql) > 0 {
		pg.Exec(t, db, "SET ROLE "+owner+";"+strings.Join(sql, ";"))
	}
	return source(pg, db, tenant.Instance)
}

func source(pg *pgtest.Instance, db string, i tenant.Isolation) provision.Source {
	return provision.Source{
		Record:  &tenant.Record{ID: tenant.NewID(), Isolation: i, Database: db},
		Connect: provision.Connect{Host: "127.0.0.1", Port: pg.Port, User: pgtest.Superuser, Database: db},
	}
}

func query(t testing.TB, s provision.Source, sql string) string {
	t.Helper()
	return strings.Join(pgtest.Shared(t).Query(t, s.Connect.Database, sql), "\n")
}

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(x T, err error) T {
		t.Helper()
		check(t, err)
		return x
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(explain(err))
	}
}

func explain(err error) string {
	if e := (*provision.Error)(nil); errors.As(err, &e) {
		return fmt.Sprintf("%v: %s (%s) %s", e.Kind, err, e.Detail, e.Hint)
	}
	return err.Error()
}

// refused checks that an error says what it should, and of what kind it is.
func refused(t testing.TB, err error, kind provision.ErrorKind, words ...string) {
	t.Helper()
	e := (*provision.Error)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an error of provision's", err)
	}
	if e.Kind != kind {
		t.Errorf("got kind %s of %q, want %s", e.Kind, explain(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(explain(err), w) {
			t.Errorf("got %q, want %q in it", explain(err), w)
		}
	}
}

func dump(t testing.TB, a *Archive, s provision.Source) *provision.Backup {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return must[*provision.Backup](t)(a.Dump(ctx, s, "", nil))
}

// tree are the files below a directory, with their modes.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	check(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		rel, _ := filepath.Rel(dir, p)
		list = append(list, fmt.Sprintf("%s %v", rel, info.Mode()))
		return err
	}))
	slices.Sort(list)
	return list
}

func TestABackupIsPrivateAndInOrder(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 21, 0, 0, 0, time.FixedZone("", 3600))
	a := must[*Archive](t)(New(Options{Dir: filepath.Join(t.TempDir(), "made"), Key: secret(t, "0123456789abcdef"), Now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}}))
	s := home(t, "CREATE TABLE kept (secret text)", "INSERT INTO kept VALUES ('plain words')")
	first := must[*provision.Backup](t)(a.Dump(t.Context(), s, "final", nil))
	second := dump(t, a, s)
	list := must[[]provision.Backup](t)(a.List(t.Context(), s.Record.ID))
	if len(list) != 2 || list[0].ID != second.ID || list[1] != *first {
		t.Fatalf("got %+v, want %s and %+v", list, second.ID, *first)
	}
	if !strings.HasPrefix(first.ID, "20261122T2000") || first.Note != "final" || first.Kind != provision.Logical || first.Version != fmt.Sprint(pgtest.Shared(t).Major) ||
		first.Bytes == 0 || len(first.SHA256) != 64 || !first.Finished.After(first.Started) {
		t.Errorf("got %+v", first)
	}
	for _, line := range tree(t, dirOf(a)) {
		if mode := line[strings.LastIndexByte(line, ' ')+1:]; mode != "drwx------" && mode != "-rw-------" {
			t.Errorf("%s may be read by others", line)
		}
	}
	check(t, filepath.WalkDir(dirOf(a), func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		if strings.Contains(string(text), "plain words") || strings.Contains(string(text), "kept") {
			t.Errorf("%s is not encrypted", p)
		}
		return err
	}))
	if none := must[[]provision.Backup](t)(a.List(t.Context(), tenant.NewID())); len(none) != 0 {
		t.Errorf("got %v, want none of another tenant", none)
	}
	_, err := a.List(t.Context(), "../x")
	refused(t, err, provision.KindInvalid)
	refused(t, a.Check(t.Context(), &provision.Backup{Tenant: s.Record.ID, ID: "../" + first.ID}, time.Time{}), provision.KindNotFound)
	refused(t, a.Load(t.Context(), &provision.Backup{Tenant: s.Record.ID, ID: "20261122T200000000Z-aaaaaaaa"}, s, nil), provision.KindNotFound, "there is no backup")

	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	check(t, a.Verified(t.Context(), first, at))
	check(t, a.Check(t.Context(), first, time.Time{}))
	if list := must[[]provision.Backup](t)(a.List(t.Context(), s.Record.ID)); !list[1].Verified.Equal(at) {
		t.Errorf("verified is %v, want %v", list[1].Verified, at)
	}
}

func TestExpireKeepsTheNewestOfEachKind(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	s := home(t)
	var made []*provision.Backup
	for range 4 {
		made = append(made, dump(t, a, s))
	}
	if gone := must[[]provision.Backup](t)(a.Expire(t.Context(), s.Record.ID, 0)); len(gone) != 0 {
		t.Errorf("got %v, want all kept", gone)
	}
	gone := must[[]provision.Backup](t)(a.Expire(t.Context(), s.Record.ID, 2))
	if len(gone) != 2 || gone[0].ID != made[1].ID || gone[1].ID != made[0].ID {
		t.Errorf("got %v, want the two oldest", gone)
	}
	// One that was made while the clock was ahead does not push out what is made later.
	now := a.now
	a.now = func() time.Time { return now().Add(24 * time.Hour) }
	ahead := dump(t, a, s)
	a.now = now
	made = append(made, dump(t, a, s))
	gone = must[[]provision.Backup](t)(a.Expire(t.Context(), s.Record.ID, 2))
	if len(gone) != 2 || gone[0].ID != made[2].ID || gone[1].ID != ahead.ID {
		t.Errorf("got %v, want the oldest, and that of a day to come", gone)
	}
	made = append(made[:3], made[4])
	_, err := a.Expire(t.Context(), s.Record.ID, -1)
	refused(t, err, provision.KindInvalid)
	// What can't be read is neither counted nor deleted.
	check(t, os.WriteFile(filepath.Join(dirOf(a), s.Record.ID, made[3].ID, manifestName), []byte("{}"), 0o600))
	if gone := must[[]provision.Backup](t)(a.Expire(t.Context(), s.Record.ID, 1)); len(gone) != 0 {
		t.Errorf("got %v, want none", gone)
	}
	list := must[[]provision.Backup](t)(a.List(t.Context(), s.Record.ID))
	if len(list) != 2 || list[0].ID != made[3].ID || list[0].Kind != "" || list[0].Note == "" {
		t.Errorf("got %+v, want the damaged one with a note", list)
	}
	check(t, a.Forget(t.Context(), s.Record.ID))
	check(t, a.Forget(t.Context(), s.Record.ID))
	if left := tree(t, dirOf(a)); len(left) != 1 {
		t.Errorf("got %v, want nothing left", left)
	}
}
