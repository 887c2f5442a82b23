package provision_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// childEnv holds what a child of the test binary is to do.
const childEnv = "PGKENNEL_TEST_CHILD"

// child is a process that carries out an order and is killed at the first place that is not among those seen.
type child struct {
	Root, Seen, Templates string
	Archive               bool
	At                    string   // the only place at which it is killed; empty = see Seen
	After                 bool     // only behind steps: in front of one is behind what was recorded of the one before
	Only                  []string // only at these steps; none = at all
	Order                 provision.Order
}

// TestAsChild is what a child runs; by itself it does nothing.
func TestAsChild(t *testing.T) { //nolint:paralleltest // it is alone in its process
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	dir, d, v, err := parts(c.Root)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(c.Seen)
	if err != nil {
		t.Fatal(err)
	}
	places := strings.Split(string(seen), "\n")
	o := options(dir, d, v)
	o.Templates = c.Templates
	if c.Archive {
		listening(nil, &o)
		if o.Archive, err = archive(c.Root); err != nil {
			t.Fatal(err)
		}
	}
	o.OnStep = func(op *tenant.Operation, step, when string) {
		place := op.Verb + " " + when + " " + step
		if len(c.Only) > 0 && !slices.Contains(c.Only, step) {
			return
		}
		if c.After && when != "after" || c.At != "" && place != c.At || slices.Contains(places, place) {
			return
		}
		if err := os.WriteFile(c.Seen, []byte(string(seen)+place+"\n"), 0o600); err != nil {
			panic(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	m, err := provision.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := m.Execute(ctx, c.Order, nil); err != nil {
		if err := os.WriteFile(c.Seen+".said", []byte(told(err)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.Close()
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
}

// killed has an order carried out by children that are killed before and after each of its steps, one after another: the first has the order, the others
// repair, or have the same order again, in turns. It returns the places, and what the last child said.
func (b *bed) killed(o provision.Order, templates string, archived bool, only ...string) (places []string, said string) {
	b.Helper()
	b.close()
	defer b.open(func(b *bed, o *provision.Options) {
		o.Templates = templates
		if archived {
			listening(b, o)
			a, err := archive(b.root)
			if err != nil {
				b.Fatal(err)
			}
			o.Archive = a
		}
	})
	seen := filepath.Join(b.root, "seen")
	if err := os.WriteFile(seen, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	defer os.Remove(seen)
	defer os.Remove(seen + ".said")
	order := o
	for n := 1; n < 100; n++ {
		text, err := json.Marshal(child{Root: b.root, Seen: seen, Templates: templates, Archive: archived, After: archived, Only: only, Order: order})
		if err != nil {
			b.Fatal(err)
		}
		out, err := asChild(text)
		was, errRead := os.ReadFile(seen)
		if errRead != nil {
			b.Fatal(errRead)
		}
		places = strings.Fields(strings.ReplaceAll(strings.ReplaceAll(string(was), " ", "_"), "\n", " "))
		var exit *exec.ExitError
		switch {
		case err == nil:
			text, _ := os.ReadFile(seen + ".said") // if it said anything
			return places, string(text)
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		default:
			b.Fatalf("child for %s after %v: %v\n%s", o.Verb, places, err, out)
		}
		if order = o; n%2 == 1 || archived {
			order = provision.Order{Verb: provision.VerbRepair, Tenant: o.Tenant}
			if o.Name != "" && o.Verb != provision.VerbRename {
				order.Tenant = o.Name
			}
		}
	}
	b.Fatalf("%s does not come to an end: %v", o.Verb, places)
	return nil, ""
}

// asChild runs a child.
func asChild(text []byte) (out []byte, err error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestAsChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return cmd.CombinedOutput()
}

// killedAt has an order carried out by a child that is killed at a place.
func (b *bed) killedAt(o provision.Order, place string, archive bool) {
	b.Helper()
	b.close()
	if archive {
		defer b.open(archived(b))
	} else {
		defer b.open(nil)
	}
	seen := filepath.Join(b.root, "seen")
	if err := os.WriteFile(seen, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	defer os.Remove(seen)
	text, err := json.Marshal(child{Root: b.root, Seen: seen, Order: o, At: place, Archive: archive})
	if err != nil {
		b.Fatal(err)
	}
	out, err := asChild(text)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		b.Fatalf("child: %v\n%s", err, out)
	}
}

// stepsOf are the steps among places, at which the verb was killed on the way.
func stepsOf(places []string, when string) string {
	var list []string
	for _, p := range places {
		if _, rest, ok := strings.Cut(p, "_"+when+"_"); ok && !strings.HasPrefix(rest, "undo_") {
			list = append(list, rest)
		}
	}
	return strings.Join(list, " ")
}

// Whoever is killed, at whatever step of whatever operation, leaves something that the next one makes good.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	const up = "configure start answers register"
	for _, row := range []struct {
		order provision.Order
		steps string
		phase tenant.Phase // at the end; 0 = gone
		up    bool
	}{
		{provision.Order{Verb: provision.VerbCreate, Enable: true}, "plan volume init configure start answers roles template register", tenant.Ready, true},
		{provision.Order{Verb: provision.VerbStop}, "close stop register", tenant.Stopped, false},
		{provision.Order{Verb: provision.VerbStart}, up, tenant.Ready, true},
		{provision.Order{Verb: provision.VerbRestart}, "close stop " + up, tenant.Ready, true},
		{provision.Order{Verb: provision.VerbSleep}, "close stop register", tenant.Asleep, false},
		{provision.Order{Verb: provision.VerbWake}, up, tenant.Ready, true},
		{provision.Order{Verb: provision.VerbSuspend}, "close stop register", tenant.OnHold, false},
		{provision.Order{Verb: provision.VerbResume}, up, tenant.Ready, true},
		{provision.Order{Verb: provision.VerbSet, Settings: map[string]string{"work_mem": "2MB"}}, "configure reload register", tenant.Ready, true},
		{provision.Order{Verb: provision.VerbUser, Action: "create", Login: "bi"}, "roles register", tenant.Ready, true},
		{provision.Order{Verb: provision.VerbUser, Action: "remove", Login: "bi"}, "roles register", tenant.Ready, true},
		{provision.Order{Verb: provision.VerbRemove}, "close stop register", tenant.Removed, false},
		{provision.Order{Verb: provision.VerbRemove, Now: true}, "destroy delete", 0, false},
	} {
		o := row.order
		o.Tenant, o.By = "acme", "test"
		places, said := b.killed(o, "", false)
		if said != "" && (row.phase != 0 || !strings.HasPrefix(said, "not_found")) {
			t.Fatalf("%s: %s", o.Verb, said)
		}
		for _, when := range []string{"before", "after"} {
			if got := stepsOf(places, when); got != row.steps {
				t.Fatalf("%s: killed %s the steps %q, want %q", o.Verb, when, got, row.steps)
			}
		}
		b.nothing()
		if row.phase == 0 {
			b.refused(provision.Order{Verb: provision.VerbShow, Tenant: "acme"}, provision.KindNotFound, "")
			continue
		}
		r := b.record("acme")
		if r.Phase != row.phase || r.Operation != nil || b.up("acme") != row.up {
			t.Fatalf("%s: got phase %s, operation %+v, up %v", o.Verb, r.Phase, r.Operation, b.up("acme"))
		}
		if row.up {
			b.mustSQL("acme", "acme", "SELECT 1")
		}
	}
}

// The same with those that work with backups, and with replicas.
func TestKilledWithBackups(t *testing.T) {
	t.Parallel()
	b := newBed(t, archived(t))
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Init: "CREATE TABLE x (i int); INSERT INTO x VALUES (7)", Settings: map[string]string{"shared_buffers": "16MB"}})
	const made = "plan volume init configure start answers"
	var replica string
	for _, row := range []struct {
		order provision.Order
		steps string
		phase tenant.Phase
	}{
		{provision.Order{Verb: provision.VerbBackup}, "backup expire", tenant.Ready},
		{provision.Order{Verb: provision.VerbVerify}, "check " + made + " load destroy register", tenant.Ready},
		{provision.Order{Verb: provision.VerbReplica, Action: "create", Force: true}, made + " register", tenant.Ready},
		{provision.Order{Verb: provision.VerbReplica, Action: "remove"}, "destroy register", tenant.Ready},
		{provision.Order{Verb: provision.VerbRestore}, "check close keep volume configure start answers roles load register", tenant.Ready},
		{provision.Order{Verb: provision.VerbClone, Name: "twin"}, "dump " + made + " roles load register", tenant.Ready},
		{provision.Order{Verb: provision.VerbRemove}, "close backup stop register", tenant.Removed},
		{provision.Order{Verb: provision.VerbRestore}, "volume configure start answers register", tenant.Ready},
	} {
		o := row.order
		o.Tenant, o.By = "acme", "test"
		if o.Action == "remove" {
			o.Replica = replica
		}
		if o.Verb == provision.VerbRestore && b.record("acme").Phase == tenant.Ready {
			o.Backup = b.do(provision.Order{Verb: provision.VerbBackups, Tenant: "acme"}).Backups[0].ID
		}
		places, said := b.killed(o, "", true)
		again := o.Verb == provision.VerbClone || o.Verb == provision.VerbReplica // what is there already is refused, or made once more
		if said != "" && !again {
			t.Fatalf("%s: %s", o.Verb, said)
		}
		if got := stepsOf(places, "after"); got != row.steps {
			t.Fatalf("%s: killed after the steps %q, want %q", o.Verb, got, row.steps)
		}
		b.nothing()
		r := b.record("acme")
		if r.Phase != row.phase || r.Operation != nil {
			t.Fatalf("%s: got phase %s, operation %+v", o.Verb, r.Phase, r.Operation)
		}
		for _, x := range r.Replicas {
			replica = x.ID
			if x.Endpoint.Port == 0 {
				t.Errorf("%s: a replica that does not serve is left", o.Verb)
			} else if err := b.farAt(r, x.ID, x.Endpoint, r.Logins[0].Role, true, b.badge(r)); err != nil {
				t.Errorf("%s: the replica, from another host: %v", o.Verb, err)
			}
		}
		if o.Action == "remove" && len(r.Replicas) > 0 {
			t.Errorf("%d replicas are left", len(r.Replicas))
		}
		if row.phase != tenant.Ready {
			continue
		}
		for _, name := range []string{"acme", o.Name} {
			if name == "" {
				continue
			}
			if got := b.mustSQL(name, name, "SELECT i FROM x"); got != "7" {
				t.Errorf("%s: %s has %s", o.Verb, name, got)
			}
		}
	}
}

var everyStep = flag.Bool("everystep", false, "kill restores of physical backups and imports at each of their steps, not only where it matters most")

// The same with physical backups, the times between them, and files.
func TestKilledWithPhysicalBackups(t *testing.T) {
	t.Parallel()
	b := newBed(t, archived(t))
	b.do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "acme", Archive: new(true), Init: "CREATE TABLE x (i int); INSERT INTO x VALUES (7)", Settings: map[string]string{"shared_buffers": "16MB"},
	})
	base := b.do(provision.Order{Verb: provision.VerbBackup, Tenant: "acme", Kind: provision.Physical}).Backups[0].ID
	b.mustSQL("acme", "acme", "INSERT INTO x VALUES (8)")
	then := b.mustSQL("acme", "acme", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
	at, err := time.Parse(time.RFC3339Nano, then)
	if err != nil {
		t.Fatal(err)
	}
	b.mustSQL("acme", "acme", "INSERT INTO x VALUES (9)")
	file := filepath.Join(t.TempDir(), "acme")
	b.do(provision.Order{Verb: provision.VerbExport, Tenant: "acme", File: file})
	const up, made = "configure start answers", "plan volume init"
	for _, row := range []struct {
		order      provision.Order
		steps, has string
		only       []string
	}{
		{provision.Order{Verb: provision.VerbImport, Tenant: "moved", File: file}, "import " + made + " " + up + " roles load register", "7 8 9", []string{"import", "load"}},
		{provision.Order{Verb: provision.VerbRestore, ToTime: at}, "check close keep stop unpack " + up + " roles register", "7 8", []string{"unpack", "answers"}},
		{provision.Order{Verb: provision.VerbRestore, ToTime: at, Name: "twin"}, "backup " + made + " unpack " + up + " adopt roles register", "7 8", []string{"unpack", "roles"}},
		{provision.Order{Verb: provision.VerbRestore, Backup: base}, "check close keep stop unpack " + up + " roles register", "7", []string{"stop", "start"}},
	} {
		o, only := row.order, row.only
		o.Tenant, o.By = cmp.Or(o.Tenant, "acme"), "test"
		if *everyStep {
			only = nil
		}
		places, said := b.killed(o, "", true, only...)
		if said != "" && o.Verb == provision.VerbRestore && o.Name == "" {
			t.Fatalf("%s: %s", o.Verb, said)
		}
		want := row.steps
		if only != nil {
			want = strings.Join(only, " ")
		}
		if got := stepsOf(places, "after"); got != want {
			t.Fatalf("%s: killed after the steps %q, want %q (%s)", o.Verb, got, want, said)
		}
		b.nothing()
		name := cmp.Or(o.Name, o.Tenant)
		if r := b.record(name); r.Phase != tenant.Ready || r.Operation != nil {
			t.Fatalf("%s: got phase %s, operation %+v", o.Verb, r.Phase, r.Operation)
		}
		if got := b.mustSQL(name, name, "SELECT string_agg(i::text, ' ' ORDER BY i) FROM x"); got != row.has {
			t.Errorf("%s: %s has %s, want %s", o.Verb, name, got, row.has)
		}
		b.mustSQL(name, name, "CREATE TABLE y (); DROP TABLE y")
	}
}

// A create that fails is undone, and whoever is killed in that leaves something that the next one undoes.
func TestKilledWhileUndoing(t *testing.T) {
	t.Parallel()
	templates := t.TempDir()
	if err := os.WriteFile(filepath.Join(templates, "bad.sql"), []byte("CREATE TABLE x ();\nSELECT y FROM x;"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBed(t, nil)
	o := provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Template: "bad"}
	places, _ := b.killed(o, templates, false) // who came last has undone it, or found nothing
	if !slices.Contains(places, "create_before_undo_volume") || !slices.Contains(places, "create_after_undo_volume") {
		t.Errorf("got places %v", places)
	}
	b.nothing()
	if list, err := b.dir.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("got records %v, %v", list, err)
	}
	b.refused(o, provision.KindFailed, "line 2")
}
