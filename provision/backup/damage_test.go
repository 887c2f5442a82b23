package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

func TestDamageIsNoticedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	from := home(t, "CREATE TABLE a (x text)", "INSERT INTO a SELECT md5(n::text) FROM generate_series(1, 12000) n") // three chunks
	b, other, to := dump(t, a, from), dump(t, a, from), home(t)
	dir := filepath.Join(dirOf(a), b.Tenant)
	path := filepath.Join(dir, b.ID, dumpName)
	good := must[[]byte](t)(os.ReadFile(path))
	text := must[[]byte](t)(os.ReadFile(filepath.Join(dir, b.ID, manifestName)))
	if len(good) < 140<<10 {
		t.Fatalf("the file has %d bytes: too few chunks", len(good))
	}
	flip := func(b []byte, i int) []byte {
		c := bytes.Clone(b)
		c[i] ^= 1
		return c
	}
	const chunk = 64<<10 + 16
	body := bytes.Index(good, []byte("\n--- ")) // the header ends with a line of its own, and a nonce
	body += bytes.IndexByte(good[body+1:], '\n') + 2 + 16
	swapped := bytes.Clone(good)
	copy(swapped[body:], good[body+chunk:body+2*chunk])
	copy(swapped[body+chunk:], good[body:body+chunk])
	for name, bad := range map[string]struct{ dump, manifest []byte }{
		"first byte":               {flip(good, 0), text},
		"header":                   {flip(good, 60), text},
		"nonce":                    {flip(good, body-3), text},
		"first chunk":              {flip(good, body+7), text},
		"second chunk":             {flip(good, body+chunk+7), text},
		"last byte":                {flip(good, len(good)-1), text},
		"one byte less":            {good[:len(good)-1], text},
		"cut at a chunk":           {good[:body+chunk], text},
		"cut in the header":        {good[:20], text},
		"empty":                    {nil, text},
		"one byte more":            {append(bytes.Clone(good), 0), text},
		"twice":                    {append(bytes.Clone(good), good...), text},
		"chunks in another order":  {swapped, text},
		"another backup's":         {must[[]byte](t)(os.ReadFile(filepath.Join(dir, other.ID, dumpName))), text},
		"manifest":                 {good, flip(text, len(text)/2)},
		"code of the manifest":     {good, flip(text, bytes.Index(text, []byte(`"mac":"`))+9)},
		"another one's manifest":   {good, must[[]byte](t)(os.ReadFile(filepath.Join(dir, other.ID, manifestName)))},
		"no manifest but its name": {good, nil},
	} {
		check(t, os.WriteFile(path, bad.dump, 0o600))
		check(t, os.WriteFile(filepath.Join(dir, b.ID, manifestName), bad.manifest, 0o600))
		for what, err := range map[string]error{"check": a.Check(t.Context(), b, time.Time{}), "load": a.Load(t.Context(), b, to, nil)} {
			if err == nil {
				t.Errorf("%s: %s did not notice", name, what)
				continue
			}
			refused(t, err, provision.KindFailed, "damaged or was changed")
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, b.ID, manifestName), text, 0o600))
	check(t, os.Remove(path))
	refused(t, a.Check(t.Context(), b, time.Time{}), provision.KindFailed, "is missing")
	check(t, os.WriteFile(path, good, 0o600))

	// Under another tenant's name it does not open.
	stolen := &provision.Backup{ID: b.ID, Tenant: tenant.NewID()}
	check(t, os.Mkdir(filepath.Join(dirOf(a), stolen.Tenant), 0o700))
	check(t, os.CopyFS(filepath.Join(dirOf(a), stolen.Tenant, b.ID), os.DirFS(filepath.Join(dir, b.ID))))
	refused(t, a.Load(t.Context(), stolen, to, nil), provision.KindFailed, "another backup or tenant")

	// With another key neither; an earlier one is enough.
	wrong := must[*Archive](t)(New(Options{Dir: dirOf(a), Key: secret(t, "another key than that")}))
	refused(t, wrong.Check(t.Context(), b, time.Time{}), provision.KindFailed, "another key", "key file")
	turned := must[*Archive](t)(New(Options{Dir: dirOf(a), Key: secret(t, "another key than that"), Before: []*tenant.Secret{secret(t, "the key of these tests")}}))
	check(t, turned.Check(t.Context(), b, time.Time{}))

	if got := query(t, to, empty); got != "∅" {
		t.Errorf("got %s, want nothing in the database", got)
	}
	check(t, a.Load(t.Context(), b, to, nil))
}

func TestAFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("as an ordinary user, a file limit stands in for the full disk")
	}
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		check(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=700"))
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
	}
	a := open(t, dir)
	if os.Geteuid() != 0 {
		a.place = full{a.place}
	}
	s := home(t, "CREATE TABLE a (x text)", "INSERT INTO a SELECT md5(n::text) FROM generate_series(1, 30000) n")
	_, err := a.Dump(t.Context(), s, "", nil)
	refused(t, err, provision.KindFailed, "no space left on device")
	if left := tree(t, filepath.Join(dir, s.Record.ID)); len(left) != 1 {
		t.Errorf("got %v, want nothing left", left)
	}
	small := home(t, "CREATE TABLE a (x text)")
	check(t, a.Check(t.Context(), dump(t, a, small), time.Time{}))
}

// full is a place with no room.
type full struct{ place }

func (f full) draft(path ...string) (draft, error) {
	d, err := f.place.draft(path...)
	return fullDraft{d}, err
}

type fullDraft struct{ draft }

func (f fullDraft) create(name string) (io.WriteCloser, error) {
	w, err := f.draft.create(name)
	return fullFile{w}, err
}

type fullFile struct{ io.WriteCloser }

func (fullFile) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// crashEnv has this test binary make a backup and never end, for another to kill.
const crashEnv = "PGKENNEL_TEST_BACKUP_DIR"

func TestADeadDumpIsNoBackupAndIsSweptAway(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(crashEnv); dir != "" {
		a := open(t, dir)
		s := provision.Source{Record: &tenant.Record{ID: "crashing", Isolation: tenant.Instance}}
		_, err := a.make(s, provision.Logical, ofDatabase, "", func(k *making) error {
			return k.write(dumpName, func(w io.Writer) error {
				if _, err := io.Copy(w, io.LimitReader(neverEnding{}, 1<<20)); err != nil {
					return err
				}
				os.Stdout.WriteString("half\n")
				select {}
			})
		})
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := open(t, dir)
	self := must[string](t)(os.Executable())
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	check(t, cmd.Start())
	buf := make([]byte, 5)
	if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "half\n" {
		t.Fatalf("got %q, %v", buf, err)
	}
	halves := func() []string {
		return must[[]string](t)(filepath.Glob(filepath.Join(dir, "crashing", ".new-*", dumpName)))
	}
	if _, err := a.Expire(t.Context(), "crashing", 1); err != nil || len(halves()) != 1 {
		t.Errorf("what lives was swept away (%v)", err)
	}
	check(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if list := must[[]provision.Backup](t)(a.List(t.Context(), "crashing")); len(list) != 0 || len(halves()) != 1 {
		t.Errorf("got backups %v and halves %v", list, halves())
	}
	open(t, dir)
	if len(halves()) != 0 {
		t.Errorf("%v are left", halves())
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i * i >> 3)
	}
	return len(p), nil
}

// imported is what another house makes of a backup.
func imported(t *testing.T, a *Archive, b *provision.Backup, id string) *provision.Backup {
	t.Helper()
	var out bytes.Buffer
	check(t, a.Export(t.Context(), b, "", &out, nil))
	return must[*provision.Backup](t)(a.Import(t.Context(), id, "", &out, nil))
}

func TestImportsGetNothingByTheSuperusersHand(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	from := home(t, "CREATE FUNCTION f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'; CREATE TABLE a (x int)")
	to := home(t)
	to.Record.Isolation = tenant.Database // whose owner is others' too
	b := imported(t, a, dump(t, a, from), to.Record.ID)
	refused(t, a.Load(t.Context(), b, to, nil), provision.KindRefused, "SECURITY DEFINER: public.f()")
	if got := query(t, to, empty); got != "∅" {
		t.Errorf("got %s, want nothing", got)
	}
	to.Record.Isolation = tenant.Instance
	check(t, a.Load(t.Context(), b, to, nil))

	pg.Exec(t, from.Connect.Database, "CREATE EXTENSION pageinspect; CREATE EXTENSION citext")
	to = home(t)
	b = imported(t, a, dump(t, a, from), to.Record.ID)
	refused(t, a.Load(t.Context(), b, to, nil), provision.KindRefused, `"pageinspect"`, "--extension pageinspect")
	if got := query(t, to, empty); got != "∅" {
		t.Errorf("got %s, want nothing", got)
	}
	to.Record.Extensions = []string{"pageinspect"}
	check(t, a.Load(t.Context(), b, to, nil))
}

func TestImportedRowsHaveTheTenantsKeyWhateverTheySay(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	a := open(t, "")
	db := pg.CreateDatabase(t, "CREATE TABLE a (tenant_id text, v text); CREATE TABLE lone (tenant_id text)")
	s := source(pg, db, tenant.Row)
	s.Record.Key, s.Column = "mine", "tenant_id"
	for _, x := range []struct{ table, text string }{
		{"a", "x\tother\r"},
		{"a", "x\tother\rx\tother\r"},
		{"a", "x\tother"},
		{"a", "x\tother\n"},
		{"a", "x\tother\\\n"},
		{"a", "\\.\n"},
		{"a", "x\n\\.\n"},
		{"a", "x\r\n"},
		{"a", "x\\\n"},
		{"lone", "other\n"},
		{"lone", "other"},
		{"lone", "other\r"},
		{"lone", "\\.\n"},
	} {
		k := must[*making](t)(a.begin(s, provision.Logical, ofRows, ""))
		tab := table{Schema: "public", Name: x.table, File: "table0", Rows: 1}
		if x.table == "a" {
			tab.Columns = []string{"v"}
		}
		k.m.Column, k.m.Tables, k.m.Backup.Version = "tenant_id", []table{tab}, "15"
		check(t, k.write("table0", func(w io.Writer) error { _, err := io.WriteString(w, x.text); return err }))
		b := must[*provision.Backup](t)(k.finish())
		if err := a.Load(t.Context(), b, s, nil); err == nil {
			t.Errorf("%q was loaded into %s", x.text, x.table)
		}
	}
	if got := pg.Query(t, db, "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM lone)")[0]; got != "0|0" {
		t.Errorf("got %s rows, want none", got)
	}
}

func TestTenantsMoveInOneFile(t *testing.T) {
	t.Parallel()
	here, there := open(t, ""), must[*Archive](t)(New(Options{Dir: t.TempDir(), Key: secret(t, "the key of another house")}))
	here.big = 8192
	from := home(t, contents)
	b := dump(t, here, from)
	for _, passphrase := range []string{"", "correct horse"} {
		var out bytes.Buffer
		check(t, here.Export(t.Context(), b, passphrase, &out, nil))
		if secret := bytes.Contains(out.Bytes(), []byte("Odd")); secret != (passphrase == "") {
			t.Errorf("with passphrase %q its names can be read: %t", passphrase, secret)
		}
		to := home(t)
		got := must[*provision.Backup](t)(there.Import(t.Context(), to.Record.ID, passphrase, bytes.NewReader(out.Bytes()), nil))
		check(t, there.Load(t.Context(), got, to, nil))
		if got, want := query(t, to, fingerprint), query(t, from, fingerprint); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		id := tenant.NewID()
		bad := bytes.Clone(out.Bytes())
		bad[len(bad)/2] ^= 1
		for name, text := range map[string][]byte{"changed": bad, "cut": out.Bytes()[:out.Len()*2/3], "empty": nil, "something else": []byte(strings.Repeat("x", 4096))} {
			if _, err := there.Import(t.Context(), id, passphrase, bytes.NewReader(text), nil); err == nil {
				t.Errorf("%s: it was imported", name)
			} else {
				refused(t, err, provision.KindInvalid, "can't be imported")
			}
		}
		if left, _ := os.ReadDir(filepath.Join(dirOf(there), id)); len(left) != 0 {
			t.Errorf("got %v, want nothing left", left)
		}
		if passphrase != "" {
			for _, other := range []string{"", "wrong"} {
				_, err := there.Import(t.Context(), id, other, bytes.NewReader(out.Bytes()), nil)
				refused(t, err, provision.KindInvalid, "can't be imported")
			}
		}
	}
}

// FuzzManifest feeds the reader of manifests: whatever it takes names files that stay in their folder.
func FuzzManifest(f *testing.F) {
	k := keys{secret(f, "the key of these tests")}
	m := &manifest{
		Format: format, Content: ofRows, Column: "c", Backup: provision.Backup{ID: "20261122T200000000Z-aaaaaaaa", Tenant: "t", Kind: provision.Logical, Started: time.Unix(0, 0)},
		Files: []file{{Name: "table0"}}, Tables: []table{{Schema: "s", Name: "n", File: "table0"}},
	}
	text, err := k.encode(m)
	check(f, err)
	if _, err := k.decode(text, "t", m.Backup.ID); err != nil {
		f.Fatal(err)
	}
	inner := text[bytes.Index(text, []byte(`"manifest":`))+len(`"manifest":`) : len(text)-1]
	f.Add(inner)
	f.Add(text)
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := k.decode(text, "t", m.Backup.ID); err == nil && !bytes.Contains(text, inner) {
			t.Error("a manifest without its code was taken")
		}
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, f := range m.Files {
			if !filepath.IsLocal(f.Name) || strings.ContainsAny(f.Name, "/.") {
				t.Errorf("file %q was taken", f.Name)
			}
		}
		if _, err := k.encode(m); err != nil {
			t.Error(err)
		}
	})
}

// FuzzStored feeds the readers of stored files: of encrypted ones, tables of contents, and tars.
func FuzzStored(f *testing.F) {
	k := keys{secret(f, "the key of these tests")}
	var sealedFile bytes.Buffer
	s := must[*sealer](f)(k.seal(nopCloser{&sealedFile}, "t", "b", "dump"))
	must[int](f)(io.WriteString(s, "what was written"))
	check(f, s.Close())
	f.Add(sealedFile.Bytes())
	f.Add([]byte("PGDMP\x01\x0e\x00\x04\x08\x01"))
	f.Add(append([]byte("PGDMP\x01\x0e\x00\x04\x08\x01"), make([]byte, 200)...))
	f.Fuzz(func(t *testing.T, text []byte) {
		if o, err := k.open(io.NopCloser(bytes.NewReader(text)), "", "t", "b", "dump"); err == nil {
			got, err := io.ReadAll(o)
			if err == nil && string(got) != "what was written" {
				t.Errorf("%q was taken", text)
			}
		}
		var out bytes.Buffer
		if err := filterTOC(bytes.NewReader(text), &out, func(entry) bool { return false }); err == nil && !bytes.Equal(out.Bytes(), text) {
			// The sign of a number, and the bytes of a missing text, can be written in more than one way.
			var again bytes.Buffer
			if err := filterTOC(bytes.NewReader(out.Bytes()), &again, func(entry) bool { return false }); err != nil || !bytes.Equal(again.Bytes(), out.Bytes()) {
				t.Errorf("an archive changed on its way: %q, %q, %v", text, out.Bytes(), err)
			}
		}
		_, _ = scanBase(bytes.NewReader(text), nil)
		_, _, _ = parseList(text)
		_, _ = parseHistory(text)
		_, _, _ = head(bytes.NewReader(text))
		_, _ = commitTime(text)
		lines, err := io.ReadAll(withKey(bytes.NewReader(text), "k\t", false))
		if bytes.IndexByte(text, '\r') >= 0 || len(text) > 0 && text[len(text)-1] != '\n' {
			if err == nil {
				t.Errorf("%q has lines that do not end as they should, and was taken", text)
			}
		} else if want := bytes.ReplaceAll(text, []byte("\n"), []byte("\tk\\t\n")); err != nil || !bytes.Equal(lines, want) {
			t.Errorf("got %q, %v, want %q", lines, err, want)
		}
	})
}

func TestCancelledWorkEnds(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	from := home(t, "CREATE TABLE a (x text)", "INSERT INTO a SELECT md5(n::text) FROM generate_series(1, 30000) n")
	b := dump(t, a, from)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the operator went home")
	cancel(why)
	for what, err := range map[string]error{"check": a.Check(ctx, b, time.Time{}), "load": a.Load(ctx, b, from, nil), "export": a.Export(ctx, b, "", io.Discard, nil)} {
		if err == nil || !strings.Contains(err.Error(), why.Error()) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
