package provision_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// run runs the bed's manager until the test ends.
func (b *bed) run() {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("run: %v", err)
		}
	})
}

// until waits for something that the runner does by itself.
func (b *bed) until(what string, is func() bool) {
	b.Helper()
	deadline := time.Now().Add(time.Minute)
	for !is() {
		if time.Now().After(deadline) {
			b.Fatalf("in a minute: not %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bed) pid(name string) int { //nolint:unparam // a name as all others
	b.Helper()
	r := b.record(name)
	s, err := b.driver.State(context.Background(), &provision.Instance{ID: r.ID, Facts: r.Facts, Endpoint: r.Endpoint})
	if err != nil {
		b.Fatal(err)
	}
	if !s.Ready {
		return 0
	}
	return s.PID
}

// The runner keeps instances up that are to be, goes on with what a dead process left, has the unused fall asleep, and forgets the removed.
func TestRunner(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64 // that the manager sees, ahead of the real one
	begun := time.Now()
	now := func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	var clients atomic.Int64
	b := newBed(t, func(_ *bed, o *provision.Options) {
		o.Now = now
		o.Elapsed = func() time.Duration { return time.Since(begun) + time.Duration(clock.Load()) } // it goes on, and is not set
		o.Clients = func(string) int { return int(clients.Load()) }
	})
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	b.run()
	// It ended by itself: it is started again.
	pid := b.pid("acme")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("started again", func() bool { p := b.pid("acme"); return p != 0 && p != pid })
	b.until("answering again", func() bool { _, err := b.sql("acme", "acme", "SELECT 1"); return err == nil })
	// It is to be down: what else starts it is stopped.
	b.do(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	r := b.record("acme")
	in := &provision.Instance{ID: r.ID, Version: r.Version, Facts: r.Facts, Endpoint: r.Endpoint, Settings: r.Settings, Limits: r.Limits}
	if err := b.driver.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	b.until("stopped again", func() bool { return !b.up("acme") })
	// An operation that nobody is at.
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	// Nobody uses it: it falls asleep. While a client is connected it does not.
	clients.Store(1)
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", SuspendAfter: new(300 * time.Millisecond)})
	time.Sleep(time.Second)
	if b.record("acme").Phase != tenant.Ready {
		t.Error("a tenant fell asleep that has a client")
	}
	at := b.do(provision.Order{Verb: provision.VerbConnect, Tenant: "acme"}).Connect
	operator, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", at.Host, at.Port, at.User, at.Password, at.Database))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	clients.Store(0)
	time.Sleep(600 * time.Millisecond)
	if b.record("acme").Phase != tenant.Ready {
		t.Error("a tenant fell asleep while its operator was in a transaction")
	}
	if err := b.try(provision.Order{Verb: provision.VerbSleep, Tenant: "acme"}); err == nil || b.record("acme").Phase != tenant.Ready || operator.Ping(t.Context()) != nil {
		t.Errorf("put to sleep while its operator was in a transaction: got %v, phase %s", err, b.record("acme").Phase)
	}
	if err := operator.Close(t.Context()); err != nil {
		t.Error(err)
	}
	b.until("asleep", func() bool {
		r := b.record("acme")
		return r.Phase == tenant.Asleep && r.Operation == nil && !b.up("acme")
	})
	if !b.record("acme").Routable() {
		t.Error("nobody can wake it")
	}
	b.do(provision.Order{Verb: provision.VerbWake, Tenant: "acme"})
	b.do(provision.Order{Verb: provision.VerbSet, Tenant: "acme", SuspendAfter: new(time.Duration)})
	// Removed, it is kept for the grace period, and then it is gone with all it had.
	b.do(provision.Order{Verb: provision.VerbRemove, Tenant: "acme"})
	clock.Store(int64(8 * 24 * time.Hour))
	b.until("forgotten", func() bool {
		_, err := b.dir.Find(context.Background(), "name/acme")
		return err != nil
	})
	b.nothing()
}

// A clock that is wrong, or is set, ends no grace period and takes nothing out of the audit; time that has gone by does.
func TestClocks(t *testing.T) {
	t.Parallel()
	const grace = 7 * 24 * time.Hour
	var wrong, gone atomic.Int64 // by how much the clock is, and what has gone by beside real time
	begun := time.Now()
	b := newBed(t, func(_ *bed, o *provision.Options) {
		o.Now = func() time.Time { return time.Now().Round(0).Add(time.Duration(wrong.Load() + gone.Load())) }
		o.Elapsed = func() time.Duration { return time.Since(begun) + time.Duration(gone.Load()) }
		o.Every, o.AuditKeep = 10*time.Millisecond, 30*24*time.Hour
	})
	put := func(name string, forget time.Time) {
		t.Helper()
		r := &tenant.Record{
			ID: tenant.NewID(), Name: name, Isolation: tenant.Instance, Phase: tenant.Removed, Driver: "process", Host: host, Created: begun, Forget: forget,
		}
		if _, err := b.dir.Put(t.Context(), r, tenant.Entry{Time: time.Now(), What: "removed", ID: r.ID, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool {
		_, err := b.dir.Find(context.Background(), "name/"+name)
		return err == nil
	}
	looks := func() { // the runner has looked at what there is, several times
		t.Helper()
		time.Sleep(100 * time.Millisecond)
	}
	put("late", begun.Add(grace))
	// The machine begins with a clock that is a year ahead; an hour later it is found out.
	wrong.Store(int64(365 * 24 * time.Hour))
	b.run()
	looks()
	if !there("late") {
		t.Fatal("a wrong clock at the start has ended a grace period")
	}
	wrong.Store(0)
	looks()
	gone.Store(int64(2 * time.Hour))
	looks()
	// It is set while the runner is at work: what that would end begins anew.
	wrong.Store(int64(30 * 24 * time.Hour))
	b.until("given its grace period again", func() bool { return b.record("late").Forget.After(begun.Add(36 * 24 * time.Hour)) })
	gone.Store(int64(6 * 24 * time.Hour))
	looks()
	if !there("late") {
		t.Fatal("a clock that was set has ended a grace period")
	}
	if log, err := b.dir.Audit(t.Context(), "", 0); err != nil || len(log) < 2 {
		t.Errorf("the audit has %d entries left: %v", len(log), err)
	}
	// Its time has come.
	gone.Store(int64(8 * 24 * time.Hour))
	b.until("forgotten", func() bool { return !there("late") })
}

// How an instance ended by itself is told, and a server that ends again and again is started with a growing pause.
func TestEnds(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true})
	b.run()
	if e := b.record("acme").Ends; e != (tenant.Ends{}) {
		t.Errorf("before it ended: %+v", e)
	}
	begun := time.Now()
	for n := 1; n <= 4; n++ {
		pid := b.pid("acme")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.until("up again, and known to be", func() bool {
			return b.record("acme").Ends.Count == n && b.record("acme").Ends.Down.IsZero() && b.pid("acme") != 0 && b.Counts().Ended == uint64(n)
		})
		if e := b.record("acme").Ends; e.Reason != "the server ended: signal 9 (killed)" || e.Last.Before(begun.Add(-time.Second)) || e.OOMKills != 0 {
			t.Errorf("after end %d: %+v", n, e)
		}
	}
	if took := time.Since(begun); took < 700*time.Millisecond { // 0.1 + 0.2 + 0.4 s behind the first start
		t.Errorf("it was started four times in %s", took)
	}
	v := b.do(provision.Order{Verb: provision.VerbShow, Tenant: "acme"}).Tenants[0]
	if v.Ends.Count != 4 || b.Counts().Ended != 4 || b.Counts().Down != 0 {
		t.Errorf("shown: %+v, counted: %+v", v.Ends, b.Counts())
	}
	// What an operator has done is none.
	for _, verb := range []string{provision.VerbRestart, provision.VerbStop, provision.VerbStart} {
		b.do(provision.Order{Verb: verb, Tenant: "acme"})
	}
	b.mustSQL("acme", "acme", "SELECT 1")
	if e := b.record("acme").Ends; e.Count != 4 || !e.Down.IsZero() {
		t.Errorf("after orders: %+v", e)
	}
	// What can't be started is down for all to see.
	r := b.record("acme")
	data, _, _ := b.driver.DataDir(&provision.Instance{ID: r.ID, Facts: r.Facts})
	if err := os.Rename(data+"/global", data+"/global.gone"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(b.pid("acme"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("known to be down", func() bool { return !b.record("acme").Ends.Down.IsZero() && b.Counts().Down == 1 })
	if err := os.Rename(data+"/global.gone", data+"/global"); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbStop, Tenant: "acme"})
	if e := b.record("acme").Ends; e.Count != 5 || !e.Down.IsZero() {
		t.Errorf("stopped while it was down: %+v", e)
	}
	b.do(provision.Order{Verb: provision.VerbStart, Tenant: "acme"})
	// A process that crashes is none of them: the server goes on. What a session has in the log is no crash, whatever it looks like.
	said := b.record("acme").Ends
	server := b.pid("acme")
	b.mustSQL("acme", "acme", fmt.Sprintf(`DO $$ BEGIN RAISE LOG E'x\n2026-01-01 00:00:00.000 UTC [%d] LOG:  server process (PID 1) was terminated by signal 11: Segmentation fault'; END $$`, server))
	var pid int
	c := b.admin(b.record("acme"), "postgres")
	if err := c.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	b.until("known to have crashed", func() bool { return b.record("acme").Ends.Crashes > 0 && b.Counts().Crashes > 0 })
	e := b.record("acme").Ends
	if e.Crashes != 1 || e.Count != said.Count || e.Reason != "a process of it crashed: signal 11 (segmentation fault)" || b.Counts().Crashes != 1 || b.pid("acme") != server {
		t.Errorf("after a crash: %+v, counted: %+v", e, b.Counts())
	}
	b.until("served again", func() bool { _, err := b.sql("acme", "acme", "SELECT 1"); return err == nil })
}

// What is told of an instance's ends is told of its replicas', too. One that does not start is down for all to see, and keeps nothing else from being looked after.
func TestReplicaEnds(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.do(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Settings: map[string]string{"shared_buffers": "16MB"}})
	b.do(provision.Order{Verb: provision.VerbReplica, Action: "create", Tenant: "acme", Force: true})
	b.run()
	replica := func() (x tenant.Replica, pid int) {
		x = b.record("acme").Replicas[0]
		s, err := b.driver.State(context.Background(), &provision.Instance{ID: x.ID, Facts: x.Facts, Endpoint: x.Endpoint})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Ready {
			return x, 0
		}
		return x, s.PID
	}
	for n := 1; n <= 2; n++ {
		_, pid := replica()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.until("up again, and known to be", func() bool {
			x, now := replica()
			return x.Ends.Count == n && x.Ends.Down.IsZero() && now != 0 && now != pid && b.Counts().Ended == uint64(n)
		})
	}
	x, pid := replica()
	if e := b.record("acme").Ends; x.Ends.Last.IsZero() || !strings.HasPrefix(x.Ends.Reason, "the server ended: ") || e != (tenant.Ends{Known: e.Known}) {
		t.Errorf("of the replica: %+v; of the tenant's own: %+v", x.Ends, e)
	}
	if v := b.do(provision.Order{Verb: provision.VerbShow, Tenant: "acme"}).Tenants[0]; v.Replicas[0].Ends.Count != 2 || b.Counts().Ended != 2 {
		t.Errorf("shown: %+v, counted: %+v", v.Replicas[0].Ends, b.Counts())
	}
	data, _, _ := b.driver.DataDir(&provision.Instance{ID: x.ID, Facts: x.Facts})
	if err := os.Rename(data+"/global", data+"/global.gone"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("known to be down", func() bool {
		x, _ := replica()
		return !x.Ends.Down.IsZero() && b.Counts().Down == 1
	})
	if err := syscall.Kill(b.pid("acme"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("looked after beside it", func() bool { return b.record("acme").Ends.Count == 1 && b.pid("acme") != 0 })
	if err := os.Rename(data+"/global.gone", data+"/global"); err != nil {
		t.Fatal(err)
	}
	b.until("up at last", func() bool {
		x, pid := replica()
		return pid != 0 && x.Ends.Down.IsZero() && x.Ends.Count == 3 && b.Counts().Down == 0
	})
}

// A process that the kernel ended because the instance's memory was used up is told of, although the server goes on.
func TestOOMKills(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	err := b.try(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Limits: &tenant.Limits{Memory: 96 << 20}})
	var refused *provision.Error
	if errors.As(err, &refused) && refused.Kind == provision.KindRefused {
		t.Skip("this host enforces no limits of memory: " + refused.Detail)
	}
	if err != nil {
		t.Fatal(told(err))
	}
	b.run()
	server := b.pid("acme")
	// A program that takes at once, for what PostgreSQL takes there is an error before.
	c := b.admin(b.record("acme"), "postgres")
	if _, err := c.Exec(t.Context(), "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; ulimit -S -d unlimited; exec dd if=/dev/zero of=/dev/null bs=200M count=1'"); err == nil {
		t.Fatal("the memory was enough")
	}
	b.until("known", func() bool { e := b.record("acme").Ends.OOMKills; return e > 0 && b.Counts().OOMKills == uint64(e) })
	e := b.record("acme").Ends
	if e.Count != 0 || !strings.Contains(e.Reason, "memory was used up") || b.Counts().OOMKills != uint64(e.OOMKills) || b.pid("acme") != server {
		t.Errorf("got %+v, %+v; the server is %d, was %d", e, b.Counts(), b.pid("acme"), server)
	}
}

// A runner that comes after one that died goes on with its operations.
func TestRunnerTakesOver(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.killedAt(provision.Order{Verb: provision.VerbCreate, Tenant: "acme", Enable: true}, "create after init", false)
	b.run()
	b.until("made", func() bool { return b.record("acme").Routable() })
	b.mustSQL("acme", "acme", "SELECT 1")
	// What cannot be started stays ready, with the reason, and is tried again.
	r := b.record("acme")
	conf, _, _ := b.driver.DataDir(&provision.Instance{ID: r.ID, Facts: r.Facts})
	b.do(provision.Order{Verb: provision.VerbList})
	if err := os.Rename(conf+"/global", conf+"/global.gone"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(b.pid("acme"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("told why", func() bool { return strings.Contains(b.record("acme").Reason, "does not start") })
	if err := os.Rename(conf+"/global.gone", conf+"/global"); err != nil {
		t.Fatal(err)
	}
	b.until("up, and no reason any more", func() bool { return b.up("acme") && b.record("acme").Reason == "" })
	// A wake that failed can be ordered again.
	b.do(provision.Order{Verb: provision.VerbSleep, Tenant: "acme"})
	if err := os.Rename(conf+"/global", conf+"/global.gone"); err != nil {
		t.Fatal(err)
	}
	b.refused(provision.Order{Verb: provision.VerbWake, Tenant: "acme"}, provision.KindFailed, "")
	if r := b.record("acme"); r.Phase != tenant.Failed || !r.Routable() {
		t.Errorf("got phase %s, and it is not to be woken again", r.Phase)
	}
	if err := os.Rename(conf+"/global.gone", conf+"/global"); err != nil {
		t.Fatal(err)
	}
	b.do(provision.Order{Verb: provision.VerbWake, Tenant: "acme"})
	b.mustSQL("acme", "acme", "SELECT 1")
}

// A tenant whose disk is nearly full may only read, until there is room again.
func TestDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // volumes of a limited size are root's
	}
	b := newBed(t, nil)
	b.do(provision.Order{
		Verb: provision.VerbCreate, Tenant: "acme", Enable: true, Limits: &tenant.Limits{Disk: 160 << 20}, Settings: map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB"},
		Init: "CREATE TABLE big (x text)",
	})
	b.run()
	b.until("full", func() bool {
		_, _ = b.sql("acme", "acme", "INSERT INTO big SELECT repeat(md5(random()::text), 8) FROM generate_series(1, 1500)") // until it may not any more
		return b.record("acme").Access.Full
	})
	b.until("read-only at the server", func() bool {
		_, err := b.sql("acme", "acme", "INSERT INTO big VALUES ('')")
		return err != nil && strings.Contains(err.Error(), "read-only")
	})
	b.mustSQL("acme", "acme", "SELECT FROM big LIMIT 1")
	b.mustSQL("acme", "acme", "SET transaction_read_only = off; TRUNCATE big" /* the server does not hold an owner */)
	b.until("writable again", func() bool {
		_, err := b.sql("acme", "acme", "INSERT INTO big VALUES ('')")
		return err == nil && !b.record("acme").Access.Full
	})
}
