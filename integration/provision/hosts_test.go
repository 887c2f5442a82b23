package provision_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// virtual notes what is asked of it.
type virtual struct {
	mu     sync.Mutex
	made   map[string]bool
	closed map[string]bool
	fail   error
}

func (v *virtual) Place(_ context.Context, r *tenant.Record) error {
	if r.Isolation == tenant.Row && r.Key == "" {
		return provision.Errorf(provision.KindInvalid, "a tenant that shares tables needs a key")
	}
	r.Cluster, r.Shard, r.Mode, r.Schema, r.Role = "saas", 0, tenant.Strict, "t_"+r.ID, "t_"+r.ID
	return nil
}

func (v *virtual) Attach(_ context.Context, r *tenant.Record) error {
	if r.Key = strings.TrimLeft(r.Key, "0"); r.Cluster != "" && r.Cluster != "saas" {
		return provision.Errorf(provision.KindInvalid, "there is no such database")
	}
	r.Cluster = "saas"
	return nil
}

func (v *virtual) note(set map[string]bool, id string, is bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	set[id] = is
	return v.fail
}

func (v *virtual) Make(_ context.Context, r *tenant.Record) error { return v.note(v.made, r.ID, true) }

func (v *virtual) Unmake(_ context.Context, r *tenant.Record) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.made, r.ID)
	return nil
}

func (v *virtual) Fence(_ context.Context, r *tenant.Record, closed bool) error {
	return v.note(v.closed, r.ID, closed)
}

func (v *virtual) Source(context.Context, *tenant.Record) (provision.Source, error) {
	return provision.Source{}, errors.New("not of this one")
}
func (v *virtual) Size(context.Context, *tenant.Record) (int64, error) { return 42, nil }

// Tenants that share a database are made by the same orders, and refused what only an instance can have.
func TestVirtual(t *testing.T) {
	t.Parallel()
	v := &virtual{made: map[string]bool{}, closed: map[string]bool{}}
	b := newBed(t, func(_ *bed, o *provision.Options) { o.Virtual = v })
	create := provision.Order{Verb: provision.VerbCreate, Tenant: "small", Isolation: "schema"}
	v.fail = errors.New("the server is away")
	b.refused(create, provision.KindFailed, "away")
	if list, err := b.dir.List(t.Context()); err != nil || len(list)+len(v.made) > 0 {
		t.Fatalf("after a create that failed: %v, %v, %v", list, v.made, err)
	}
	v.fail = nil
	if res := b.do(create); len(res.Secrets) != 1 {
		t.Errorf("got %+v", res)
	}
	id := b.record("small").ID
	for _, s := range []struct {
		verb   string
		phase  tenant.Phase
		closed bool
	}{
		{provision.VerbEnable, tenant.Ready, false},
		{provision.VerbSuspend, tenant.OnHold, true},
		{provision.VerbResume, tenant.Ready, false},
		{provision.VerbRemove, tenant.Removed, true},
		{provision.VerbRestore, tenant.Ready, false},
	} {
		b.do(provision.Order{Verb: s.verb, Tenant: "small"})
		if got := b.record("small").Phase; got != s.phase || v.closed[id] != s.closed {
			t.Fatalf("%s: got phase %s, closed %v", s.verb, got, v.closed[id])
		}
	}
	for _, verb := range []string{provision.VerbStart, provision.VerbStop, provision.VerbRestart, provision.VerbSleep, provision.VerbWake, provision.VerbLogs} {
		b.refused(provision.Order{Verb: verb, Tenant: "small"}, provision.KindRefused, "")
	}
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "small", Settings: map[string]string{"work_mem": "1MB"}}, provision.KindRefused, "shares")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Isolation: "row"}, provision.KindInvalid, "key")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Isolation: "schema", Superuser: true}, provision.KindInvalid, "superuser")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Isolation: "schema", Limits: &tenant.Limits{IO: 8 << 20}}, provision.KindInvalid, "io limits")
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "small", Limits: &tenant.Limits{IO: 8 << 20}}, provision.KindRefused, "shares its server")
	if res := b.do(provision.Order{Verb: provision.VerbShow, Tenant: "small"}); res.Tenants[0].Usage.Disk != 42 {
		t.Errorf("got %+v", res.Tenants[0])
	}
	if res := b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "dry", Isolation: "schema", DryRun: true}); !slices.Equal(res.Plan, []string{"make", "register"}) {
		t.Errorf("got plan %v", res.Plan)
	}
	// Clients of the database come to an instance as well, if that is wanted; nothing is made for that there.
	create = provision.Order{Verb: provision.VerbCreate, Tenant: "own", Cluster: "saas", Key: "042"}
	b.do(create)
	if r := b.record("own"); r.Isolation != tenant.Instance || r.Cluster != "saas" || r.Key != "42" || len(v.made) != 1 {
		t.Errorf("got %+v, made %v", r, v.made)
	}
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "second", Cluster: "saas", Key: "42"}, provision.KindTaken, "key")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Cluster: "sass"}, provision.KindInvalid, "database")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "x", Cluster: "saas", Mode: "strict"}, provision.KindInvalid, "mode")
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "own", Cluster: "sass"}, provision.KindInvalid, "database")
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "small", Cluster: "other"}, provision.KindRefused, "does not move")
	if res := b.do(provision.Order{Verb: provision.VerbSet, Tenant: "own", Key: "043"}); !res.Changed || b.record("own").Key != "43" {
		t.Errorf("got %+v", b.record("own"))
	}
	if res := b.do(provision.Order{Verb: provision.VerbSet, Tenant: "own", Cluster: "saas", Key: "43"}); res.Changed {
		t.Error("what is already so was changed")
	}
	b.refused(provision.Order{Verb: provision.VerbSet, Tenant: "own", Key: "44", Extensions: []string{"no_such"}}, provision.KindFailed, "no_such")
	if got := b.record("own"); got.Key != "43" || got.Phase != tenant.Ready {
		t.Errorf("after a set that was refused: %+v", got)
	}
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "own", Now: true})
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "small", Now: true})
	if len(v.made) > 0 {
		t.Errorf("left: %v", v.made)
	}
}

// Orders for tenants of another host are carried out there, while somebody is there.
func TestHosts(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	o := options(b.dir, b.driver, b.vault)
	o.Host, o.Drivers, o.Default = "far", nil, ""
	far, err := provision.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	create := provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Host: host, Driver: "process", Enable: true, By: "test"}
	_, err = far.Execute(t.Context(), create, nil)
	if e, ok := errors.AsType[*provision.Error](err); !ok || e.Kind != provision.KindRefused || !strings.Contains(told(e), "host "+host) {
		t.Fatalf("got %v, want a refusal: nobody is there", err)
	}
	b.run()
	b.until("there", func() bool { hosts, err := b.dir.Hosts(t.Context()); return err == nil && len(hosts) == 1 })
	var steps []string
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	res, err := far.Execute(ctx, create, func(p provision.Progress) { steps = append(steps, p.Step) })
	if err != nil {
		t.Fatal(told(err))
	}
	if len(res.Secrets) != 1 || len(steps) == 0 || b.record("acme").Host != host {
		t.Errorf("got %+v, steps %v", res, steps)
	}
	b.mustSQL("acme", "acme", "SELECT 1")
	// One that fails there says why here.
	create.Tenant, create.Init = "bad", "SELECT nonsense"
	_, err = far.Execute(ctx, create, nil)
	if err == nil || !strings.Contains(told(err), "nonsense") {
		t.Errorf("got %v, want why it failed", err)
	}
	if _, err := far.Execute(ctx, provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true, By: "test"}, nil); err != nil {
		t.Fatal(told(err))
	}
	if _, err := b.sql("acme", "acme", "SELECT 1"); err == nil {
		t.Error("the order was carried out, and the server does not keep the tenant out")
	}
	if _, err := far.Execute(ctx, provision.Order{Verb: provision.VerbEnable, Tenant: "acme", By: "test"}, nil); err != nil {
		t.Fatal(told(err))
	}
	b.mustSQL("acme", "acme", "SELECT 1")
	if a := b.record("acme").Access; a.Asked != "" || !a.Enabled {
		t.Errorf("got access %+v", a)
	}
	if _, err := far.Execute(ctx, provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true, By: "test"}, nil); err != nil {
		t.Fatal(told(err))
	}
	b.nothing()
}

// What is busy says with what; the same order again waits for it. Access can be taken away meanwhile.
func TestBusy(t *testing.T) {
	t.Parallel()
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	b := newBed(t, func(_ *bed, o *provision.Options) {
		o.OnStep = func(op *tenant.Operation, step, when string) {
			if op.Verb == provision.VerbCreate && step == "init" && when == "before" {
				held <- struct{}{}
				<-hold
			}
		}
	})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	create := provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true}
	results := make(chan *provision.Result, 2)
	for range 2 {
		go func() {
			res, err := b.order(create)
			if err != nil {
				t.Error(told(err))
			}
			results <- res
		}()
	}
	<-held
	b.refused(provision.Order{Verb: provision.VerbBackup, Tenant: "acme"}, provision.KindBusy, "create is under way")
	b.refused(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Password: "another"}, provision.KindBusy, "init")
	if b.record("acme").Routable() {
		t.Error("a tenant can be reached that is being made")
	}
	b.do(provision.Order{Verb: provision.VerbDisable, Tenant: "acme"}) // it goes beside
	release()
	for range 2 {
		if res := <-results; res != nil && (len(res.Secrets) != 1 || res.Secrets[0].Password == "") {
			t.Errorf("got secrets %v", res.Secrets)
		}
	}
	b.mustSQL("acme", "acme", "SELECT 1")
	if b.record("acme").Routable() {
		t.Error("access that was disabled meanwhile is open")
	}
	// Whoever gives up waiting leaves the operation going.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Execute(ctx, provision.Order{Verb: provision.VerbStop, Tenant: "acme"}, nil); err == nil {
		t.Error("no error of a context that is done")
	}
}

// A client that comes just when its tenant falls asleep wakes it.
func TestWakeWhileFallingAsleep(t *testing.T) {
	t.Parallel()
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	b := newBed(t, func(_ *bed, o *provision.Options) {
		o.OnStep = func(op *tenant.Operation, step, when string) {
			if op.Verb == provision.VerbSleep && step == "stop" && when == "before" {
				held <- struct{}{}
				<-hold
			}
		}
	})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	done := make(chan error, 2)
	go func() { done <- b.try(provision.Order{Verb: provision.VerbSleep, Tenant: "acme"}) }()
	<-held
	go func() { done <- b.try(provision.Order{Verb: provision.VerbWake, Tenant: "acme"}) }()
	release()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(told(err))
		}
	}
	b.mustSQL("acme", "acme", "SELECT 1")
}

// frail is a driver that fails to stop instances while it is told to.
type frail struct {
	provision.Driver
	fails atomic.Bool
}

func (f *frail) Stop(ctx context.Context, in *provision.Instance) error {
	if f.fails.Load() {
		return errors.New("it does not stop")
	}
	return f.Driver.Stop(ctx, in)
}

// What fails and is not undone stays where it is, says why, and is gone on with by repair or by the same order.
func TestFailed(t *testing.T) {
	t.Parallel()
	f := &frail{}
	b := newBed(t, func(b *bed, o *provision.Options) {
		f.Driver = b.driver
		o.Drivers = map[string]provision.Driver{"process": f}
	})
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	for _, again := range []provision.Order{{Verb: provision.VerbRepair, Tenant: "acme"}, {Verb: provision.VerbStop, Tenant: "acme", By: "somebody else"}} {
		f.fails.Store(true)
		b.refused(provision.Order{Verb: provision.VerbStop, Tenant: "acme"}, provision.KindFailed, "does not stop")
		r := b.record("acme")
		if r.Phase != tenant.Failed || !strings.Contains(r.Reason, "does not stop") || r.Operation == nil || r.Routable() {
			t.Fatalf("got %+v, operation %+v", r, r.Operation)
		}
		b.refused(provision.Order{Verb: provision.VerbStart, Tenant: "acme"}, provision.KindState, "repair")
		b.refused(provision.Order{Verb: provision.VerbRepair, Tenant: "acme"}, provision.KindFailed, "does not stop")
		f.fails.Store(false)
		b.do(again)
		if r := b.record("acme"); r.Phase != tenant.Stopped || r.Operation != nil || r.Reason != "" || b.up("acme") {
			t.Fatalf("after %s: got %+v", again.Verb, r)
		}
		b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	}
	// Who locks itself out is let in again by a restart.
	b.mustSQL("acme", "acme", "ALTER DATABASE "+b.record("acme").Database+" CONNECTION LIMIT 0")
	if _, err := b.sql("acme", "acme", "SELECT 1"); err == nil {
		t.Error("it is not locked out")
	}
	b.do(provision.Order{Verb: provision.VerbRestart, Tenant: "acme"})
	b.mustSQL("acme", "acme", "SELECT 1")
	// Removal takes the place of what failed.
	f.fails.Store(true)
	b.refused(provision.Order{Verb: provision.VerbSleep, Tenant: "acme"}, provision.KindFailed, "does not stop")
	if r := b.record("acme"); r.Phase != tenant.Ready || r.Operation != nil { // who does not fall asleep stays awake
		t.Errorf("got phase %s, operation %+v", r.Phase, r.Operation)
	}
	b.refused(provision.Order{Verb: provision.VerbStop, Tenant: "acme"}, provision.KindFailed, "does not stop")
	f.fails.Store(false)
	r := b.record("acme")
	r.Operation.Args["order"] = "sealed with a key that is gone"
	if _, err := b.dir.Put(t.Context(), r, tenant.Entry{}); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme"})
	if r := b.record("acme"); r.Phase != tenant.Removed || r.Forget.IsZero() {
		t.Errorf("got %+v", r)
	}
}

// A tenant that is a superuser can lock out the pooler, and pgkennel. Repair lets them in again.
func TestLockedOut(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Superuser: os.Geteuid() == 0})
	for _, role := range []string{provision.Superuser, tenant.OwnRole(b.record("acme").ID, 0)} {
		if role == provision.Superuser && os.Geteuid() != 0 { // else it could not change it
			continue
		}
		b.mustSQL("acme", "acme", "SET ROLE NONE; ALTER ROLE "+role+" PASSWORD 'x'")
		if role != provision.Superuser {
			if _, err := b.sql("acme", "acme", "SELECT 1"); err == nil {
				t.Error("the old password is still good")
			}
		} else if err := b.try(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "bi"}); err == nil {
			t.Error("a login was made by who is locked out")
		}
		if err := b.try(provision.Order{Verb: provision.VerbRepair, Tenant: "acme"}); err != nil && !strings.Contains(told(err), "user of acme failed") {
			t.Errorf("repair: %s", told(err))
		}
		b.do(provision.Order{Verb: provision.VerbRepair, Tenant: "acme"})
		b.mustSQL("acme", "acme", "SELECT 1")
		if n := len(b.record("acme").Logins); n != 1 {
			t.Errorf("%d logins, with that which could not be made", n)
		}
	}
	b.do(provision.Order{Verb: provision.VerbUser, Action: "create", Tenant: "acme", Login: "bi"})
	if os.Geteuid() != 0 {
		return
	}
	for _, setting := range []string{
		"default_transaction_read_only = on", "statement_timeout = 1", "lock_timeout = 1", "standard_conforming_strings = off", "role = pg_monitor",
	} { // each alone would do
		b.mustSQL("acme", "acme", "SET ROLE NONE; ALTER ROLE pgkennel SET "+setting)
	}
	b.do(provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true})
}

// A login that was let in just before its tenant was shut out, and is no session yet that the server tells of, does not get through.
func TestFenceAndLogin(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	r := b.record("acme")
	connect := func(role, database string, field string, sealed tenant.Ciphertext, more string) (*pgx.Conn, error) {
		secret, err := b.vault.Open(r.ID, field, sealed)
		if err != nil {
			return nil, err
		}
		return pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable %s", r.Endpoint.Host, r.Endpoint.Port, role, secret, database, more))
	}
	admin, err := connect(provision.Superuser, "postgres", tenant.AdminField, r.Admin, "")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	shut, result := make(chan struct{}), make(chan error, 1)
	go func() {
		l := &r.Logins[0] // the server does nothing for a second behind the check of the login
		c, err := connect(l.Role, r.Database, l.Field(), l.Secret, "options='-c post_auth_delay=1'")
		<-shut
		if err == nil {
			_, err = c.Exec(t.Context(), "SELECT 1")
			c.Close(t.Context())
		}
		result <- err
	}()
	b.until("being let in", func() bool {
		var n int
		err := admin.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l WHERE locktype = 'virtualxid'
			AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid)`).Scan(&n)
		return err == nil && n > 0
	})
	time.Sleep(200 * time.Millisecond) // it proves its password, which nobody else can see, and waits
	b.do(provision.Order{Verb: provision.VerbDisable, Tenant: "acme", Now: true})
	close(shut)
	if err := <-result; err == nil {
		t.Error("a login went through, and its session stayed")
	}
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme", Now: true})
}
