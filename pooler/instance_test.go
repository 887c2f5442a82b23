package pooler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/tenant"
)

func TestInstanceLogins(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	k.tenant("acme", "bi")
	k.tenant("globex")
	for _, x := range []struct{ user, database, login, code, want string }{
		{"acme", "acme", "acme", "", "acme"},
		{"acme@acme", "acme", "acme", "", "acme"},
		{"acme@acme", "acme@acme", "acme", "", "acme"}, // no database: libpq takes the user's name
		{"bi@acme", "acme", "bi", "", "acme"},
		{"bi@acme", "bi@acme", "bi", "", "acme"},
		{"bi", "acme", "bi", "", "acme"},
		{"globex", "globex", "globex", "", "globex"},
		{"bi@globex", "globex", "bi", "28P01", ""},
		{"acme@globex", "globex", "acme", "28P01", ""},
		{"bi@acme", "globex", "bi", "28P01", ""},
		{"acme", "globex", "acme", "28P01", ""},
		{"acme", "acme", "globex", "28P01", ""},
		{"bi", "bi", "bi", "28P01", ""},
		{"acme", "postgres", "acme", "28P01", ""},
		{"@acme", "acme", "acme", "28P01", ""},
		{"acme@", "acme", "acme", "28P01", ""},
		{"nobody", "nobody", "nobody", "28P01", ""},
	} {
		c, err := k.try(x.user, x.database, password(x.login))
		if x.code != "" {
			if err == nil {
				c.Close(t.Context())
			}
			wantCode(t, x.user+" to "+x.database, x.code, err)
			continue
		}
		if err != nil {
			t.Errorf("%s to %s: %v", x.user, x.database, err)
			continue
		}
		if got := value(t, c, "select name from items"); got != x.want {
			t.Errorf("%s to %s: got rows of %s", x.user, x.database, got)
		}
		c.Close(t.Context())
	}
	for _, x := range []struct{ option, code string }{{"acme", ""}, {"globex", "28P01"}, {"nobody", "28P01"}} {
		c, err := k.try("acme", "acme", password("acme"), "pgkennel.tenant="+x.option)
		if x.code == "" && err == nil {
			c.Close(t.Context())
			continue
		}
		wantCode(t, "option "+x.option, x.code, err)
	}
}

// TestRefusedAsWrongPassword compares what clients hear, word by word, and how their exchange goes.
func TestRefusedAsWrongPassword(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	for name, change := range map[string]func(*tenant.Record){
		"disabled":  func(r *tenant.Record) { r.Access.Enabled = false },
		"suspended": func(r *tenant.Record) { r.Phase = tenant.OnHold },
		"creating":  func(r *tenant.Record) { r.Phase = tenant.Creating },
		"removing":  func(r *tenant.Record) { r.Phase = tenant.Removing },
		"removed":   func(r *tenant.Record) { r.Phase = tenant.Removed },
		"elsewhere": func(r *tenant.Record) { r.Access.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
		"locked":    func(r *tenant.Record) { r.Logins[0].Disabled = true },
		"down":      func(r *tenant.Record) { r.Phase, r.Access.Enabled = tenant.Stopped, false },
	} {
		k.dir.change(k.tenant(name).ID, change)
	}
	k.tenant("acme")
	talk := func(name, password string) string {
		c := pgtest.Dial(t, k.addr())
		defer c.Close()
		err := c.Login(pgtest.Login{User: name, Database: name, Password: password})
		e, ok := errors.AsType[*pgtest.ServerError](err)
		if !ok {
			t.Fatalf("%s: got %v", name, err)
		}
		return strings.ReplaceAll(fmt.Sprintf("%s %s %s %s", e.Code, e.Message, e.Detail, e.Hint), name, "NAME")
	}
	want := talk("acme", "wrong")
	for _, name := range []string{"disabled", "suspended", "creating", "removing", "removed", "elsewhere", "locked", "down", "nobody"} {
		for _, secret := range []string{password(name), "wrong"} {
			if got := talk(name, secret); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
	}
	for _, reason := range []string{"disabled_tenant", "suspended_tenant", "unknown_tenant", "foreign_network", "disabled_login"} {
		if !strings.Contains(k.log.String(), "reason="+reason) {
			t.Errorf("the log has no refusal for %s", reason)
		}
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	allow := func(networks ...string) {
		k.dir.change(r.ID, func(r *tenant.Record) {
			r.Access.Networks = nil
			for _, n := range networks {
				r.Access.Networks = append(r.Access.Networks, netip.MustParsePrefix(n))
			}
		})
	}
	allow("10.0.0.0/8", "127.0.0.0/8")
	c := k.owner("acme")
	allow("10.0.0.0/8")
	wantEnded(t, c)
	_, err := k.try("acme", "acme", password("acme"))
	wantCode(t, "from elsewhere", "28P01", err)
	allow()
	k.owner("acme")
}

// wantEnded sees to it that an idle client is closed, within a second.
func wantEnded(t testing.TB, c *pgx.Conn) {
	t.Helper()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.WaitForNotification(ctx)
	wantCode(t, "an idle client", "57P01", err)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("that took %v", took)
	}
}

func TestStopped(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	c := k.owner("acme")
	for _, phase := range []tenant.Phase{tenant.Stopped, tenant.Failed} {
		k.dir.change(r.ID, func(r *tenant.Record) { r.Phase = phase })
		wantEnded(t, c)
		_, err := k.try("acme", "acme", password("acme"))
		e := wantCode(t, "a stopped tenant", "57P03", err)
		if !strings.Contains(e.Message, "is stopped") || e.Hint == "" {
			t.Errorf("got %+v", e)
		}
		_, err = k.try("acme", "acme", "wrong")
		wantCode(t, "a stopped tenant and a wrong password", "28P01", err)
		k.dir.change(r.ID, func(r *tenant.Record) { r.Phase = tenant.Ready })
		c = k.owner("acme")
	}
}

// A directory that was restored from a backup has lower revisions; what it says counts.
func TestRestoredDirectory(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	for range 3 {
		k.dir.change(r.ID, func(r *tenant.Record) { r.Reason += "x" })
	}
	c := k.owner("acme")
	r = k.dir.ByID(r.ID).Clone()
	r.Access.Enabled, r.Revision = false, 1
	k.dir.restore(r)
	wantEnded(t, c)
	_, err := k.try("acme", "acme", password("acme"))
	wantCode(t, "a tenant that the backup has disabled", "28P01", err)
	r = r.Clone()
	r.Access.Enabled = true
	k.dir.restore(r)
	k.owner("acme")
}

// A tenant whose server listens on another host only is not looked for on this one, where its port may be another tenant's.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	mine := r.Endpoint
	shared := t.TempDir()
	for _, x := range []struct {
		host string
		at   tenant.Endpoint
		code string
	}{
		{"far", mine, "57P03"},
		{"far", tenant.Endpoint{Host: "/nowhere/" + r.ID, Port: 5432}, "57P03"},
		{"far", tenant.Endpoint{Host: shared, Port: mine.Port}, "08006"}, // it may be there, but is not
		{"here", mine, ""},
		{"far", tenant.Endpoint{Host: "localhost", Port: mine.Port, CA: string(pgtest.NewCA(t).PEM)}, "57P03"},
		{"here", tenant.Endpoint{Host: mine.Host, Port: mine.Port, CA: string(pgtest.NewCA(t).PEM)}, "08006"}, // it has no TLS: there is no way to it without
		{"here", mine, ""},
	} {
		k.dir.change(r.ID, func(r *tenant.Record) { r.Host, r.Endpoint = x.host, x.at })
		_, err := k.try("acme", "acme", "wrong")
		wantCode(t, "a wrong password", "28P01", err)
		c, err := k.try("acme", "acme", password("acme"))
		if err == nil {
			_, err = c.Exec(context.Background(), "SELECT 1")
			c.Close(context.Background())
		}
		if x.code == "" {
			if err != nil {
				t.Errorf("host %s, %+v: %v", x.host, x.at, err)
			}
			continue
		}
		if e := wantCode(t, x.host, x.code, err); strings.Contains(e.Error()+e.Detail+e.Hint, "far") {
			t.Errorf("a client is told of a host: %+v", e)
		}
	}
}

// What listens where a tenant's server should is not taken for it unless it knows the password's verifier, and is not told the password.
func TestImpostors(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	secret, err := k.vault.Open(r.ID, r.Logins[0].Field(), r.Logins[0].Secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, asks := range []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}, &pgproto3.AuthenticationCleartextPassword{}, &pgproto3.AuthenticationMD5Password{}} {
		f := pgtest.NewFakeServer(t, func(c *pgtest.FakeConn) error {
			m, err := c.Receive()
			if err == nil {
				t.Errorf("asking by %T, it heard %#v", asks, m)
			}
			return err
		}, pgtest.FakeLogin(func(c *pgtest.FakeConn) error {
			if err := c.Send(asks); err != nil {
				return err
			}
			if _, trusts := asks.(*pgproto3.AuthenticationOk); trusts {
				return c.Welcome()
			}
			said, err := io.ReadAll(c.Conn)
			if len(said) > 0 {
				t.Errorf("asking by %T, it heard %q: the password is %s", asks, said, secret)
			}
			return cmp.Or(err, io.EOF)
		}))
		host, port, err := net.SplitHostPort(f.Addr)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(port)
		k.dir.change(r.ID, func(r *tenant.Record) { r.Endpoint = tenant.Endpoint{Host: host, Port: n} })
		c, err := k.try("acme", "acme", password("acme"))
		if err == nil {
			_, err = c.Exec(context.Background(), "SELECT 1")
			c.Close(context.Background())
		}
		wantCode(t, fmt.Sprintf("an impostor that asks by %T", asks), "08006", err)
	}
}

func TestDisableEndsSessions(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme", "bi")
	k.tenant("globex")
	idle, busy, other, neighbour := k.owner("acme"), k.owner("acme"), k.as("bi", "acme", password("bi")), k.owner("globex")
	run(t, idle, "select 1")
	run(t, busy, "begin")
	run(t, busy, "insert into items values (2, 'kept')")
	runs := k.owner("acme")
	loop := later(func() (err error) { // never idle for longer than it takes to answer
		for err == nil {
			_, err = runs.Exec(context.Background(), "select 1")
		}
		return err
	})
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.Enabled = false })
	wantEnded(t, idle)
	wantEnded(t, other)
	wantCode(t, "a client that is always busy", "57P01", wait(t, "a client that is always busy", loop))
	run(t, busy, "select 1")
	run(t, busy, "commit")
	wantEnded(t, busy)
	run(t, neighbour, "select 1")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.Enabled = true })
	again, bi := k.owner("acme"), k.as("bi", "acme", password("bi"))
	if got := value(t, again, "select count(*)::text from items"); got != "2" {
		t.Errorf("got %s rows, want those of the transaction that was let end", got)
	}
	k.dir.change(r.ID, func(r *tenant.Record) { r.Logins[1].Disabled = true })
	wantEnded(t, bi)
	run(t, again, "select 1")
	k.dir.remove(r.ID)
	wantEnded(t, again)
}

func TestRenameUnderLoad(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	stop := make(chan struct{})
	var loads []<-chan error
	for range 4 {
		c := k.owner("acme")
		loads = append(loads, later(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if got, err := oneValue(c, "select name from items where id = 1"); err != nil || got != "acme" {
					return fmt.Errorf("got %q, %w", got, err)
				}
			}
		}))
	}
	for _, name := range []string{"globex", "initech"} {
		k.dir.change(r.ID, func(r *tenant.Record) {
			r.Name, r.Logins[0].Name = name, name
		})
		c := k.as(name, name, password("acme"))
		if got := value(t, c, "select name from items where id = 1"); got != "acme" {
			t.Errorf("got rows of %q", got)
		}
		_, err := k.try("acme", "acme", password("acme"))
		wantCode(t, "the old name", "28P01", err)
	}
	// The name is free for another tenant, whose rows are its own.
	k.tenant("acme")
	if got := value(t, k.owner("acme"), "select current_database()"); got == r.Database {
		t.Errorf("the new tenant is in the database of the old one")
	}
	close(stop)
	for _, l := range loads {
		if err := wait(t, "load", l); err != nil {
			t.Error(err)
		}
	}
	con := k.console()
	con.one("SHOW POOLS", "database", "initech", "user", "initech")
	con.one("SHOW DATABASES", "name", "initech")
	if n := len(con.show("SHOW CLIENTS")); n < 7 {
		t.Errorf("SHOW CLIENTS has %d rows", n)
	}
}

func oneValue(c *pgx.Conn, sql string) (s string, err error) {
	err = c.QueryRow(context.Background(), sql).Scan(&s)
	return s, err
}

func TestPasswordsOfServers(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	c := k.owner("acme")
	run(t, c, "select 1")
	role, secret := r.Logins[0].Role, tenant.NewPassword()
	k.server.Exec(t, "postgres", fmt.Sprintf("alter role %q password '%s'", role, secret))
	k.dir.change(r.ID, func(r *tenant.Record) {
		r.Logins[0].Secret = k.vault.Seal(r.ID, r.Logins[0].Field(), secret)
		r.Logins[0].Verifier = verifier(t, "another")
	})
	run(t, c, "select 1") // who is there stays, and gets connections by the new password
	k.console().do("RECONNECT acme")
	run(t, c, "select 1")
	_, err := k.try("acme", "acme", password("acme"))
	wantCode(t, "the old password", "28P01", err)
	run(t, k.as("acme", "acme", "another"), "select 1")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Logins[0].Secret = "broken" })
	_, err = k.try("acme", "acme", "another")
	wantCode(t, "a login that can't be opened", "57P03", err)
}

func TestEndpointMovesUnderLoad(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	to := k.server.CreateDatabase(t, "create table items (id int, name text)", "insert into items values (1, 'moved')")
	k.server.Exec(t, to, fmt.Sprintf("grant all on items to %q", r.Logins[0].Role))
	var moved atomic.Bool
	stop := make(chan struct{})
	var loads []<-chan error
	for range 4 {
		c := k.owner("acme")
		loads = append(loads, later(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				after := moved.Load()
				got, err := oneValue(c, "select name from items where id = 1")
				if err != nil || after && got != "moved" {
					return fmt.Errorf("moved is %v: got %q, %w", after, got, err)
				}
			}
		}))
	}
	tx := k.owner("acme")
	run(t, tx, "begin")
	run(t, tx, "select 1")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Database = to })
	moved.Store(true)
	if got := value(t, tx, "select current_database()"); got != r.Database {
		t.Errorf("a transaction has changed its server")
	}
	run(t, tx, "commit")
	if got := value(t, tx, "select current_database()"); got != to {
		t.Errorf("the next transaction is at the old server")
	}
	for range 50 {
		value(t, tx, "select name from items")
	}
	close(stop)
	for _, l := range loads {
		if err := wait(t, "load", l); err != nil {
			t.Error(err)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{general: "default_pool_size = 5"})
	r := k.tenant("acme", "bi")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Limits.Connections, r.Logins[1].Connections = 3, 1 })
	con := k.console()
	hold := func(user string, n int) (list []*pgx.Conn) {
		for range n {
			c := k.as(user, "acme", password(user))
			run(t, c, "begin")
			run(t, c, "select 1")
			list = append(list, c)
		}
		return list
	}
	held := hold("bi", 1)
	waits := k.as("bi", "acme", password("bi"))
	more := later(func() error { _, err := waits.Exec(context.Background(), "select 1"); return err })
	con.until("SHOW POOLS", "database", "acme", "user", "bi", "cl_waiting", "1")
	held = append(held, hold("acme", 2)...)
	last := k.owner("acme")
	over := later(func() error { _, err := last.Exec(context.Background(), "select 1"); return err })
	con.until("SHOW POOLS", "database", "acme", "user", "acme", "cl_waiting", "1", "sv_active", "2")
	pending(t, "a fourth connection", over)
	k.dir.change(r.ID, func(r *tenant.Record) { r.Limits.Connections = 4 })
	if err := wait(t, "a fourth connection", over); err != nil {
		t.Error(err)
	}
	pending(t, "a second connection of bi", more)
	for _, c := range held {
		run(t, c, "commit")
	}
	if err := wait(t, "bi", more); err != nil {
		t.Error(err)
	}
}

func TestInstancesAreDropped(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{unused: 50 * time.Millisecond, general: "client_login_timeout = 1500"})
	k.tenant("acme")
	for range 2 {
		c := k.owner("acme")
		run(t, c, "select 1")
		time.Sleep(200 * time.Millisecond) // longer than it is kept without clients
		if n := k.follower.made.Load(); n != 1 {
			t.Fatalf("there are %d instances at work while a client is there", n)
		}
		run(t, c, "select 1")
		c.Close(t.Context())
		eventually(t, "the end of an instance without clients", func() bool { return k.follower.made.Load() == 0 })
	}
	eventually(t, "the end of its connections", func() bool {
		return len(k.server.Query(t, "postgres", "select 1 from pg_stat_activity where usename like 'user_%' and datname = $1", k.dir.ByName("acme").Database)) == 0
	})
}

func TestDirectoryConflicts(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	k.tenant("acme")
	k.write(kennelOptions{config: fmt.Sprintf("[[databases]]\nname = \"acme\"\nhost = \"127.0.0.1\"\nport = %d\n", k.server.Port)})
	if err := k.Reload(); err == nil || !strings.Contains(err.Error(), `tenant "acme" of the directory: a database of the configuration is called so`) {
		t.Errorf("got %v", err)
	}
	run(t, k.owner("acme"), "select 1")
	k.write(kennelOptions{config: fmt.Sprintf("[[databases]]\nname = \"shop\"\nhost = \"127.0.0.1\"\nport = %d\n", k.server.Port)})
	if err := k.Reload(); err != nil {
		t.Error(err)
	}
	if why := k.Taken("shop", "", ""); why == "" {
		t.Error("a tenant may be called as a database of the configuration")
	}
	run(t, k.owner("acme"), "select 1")
	k.tenant("shop") // whoever made it did not ask
	eventually(t, "a line in the log", func() bool { return strings.Contains(k.log.String(), "at odds") })
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme", "bi")
	k.server.Exec(t, r.Database, `create function writes() returns void language plpgsql as
		$$ begin perform set_config('default_transaction_read_only', 'off', false); end $$`)
	k.dir.change(r.ID, func(r *tenant.Record) { r.Logins[1].ReadOnly = true })
	bi, owner := k.as("bi", "acme", password("bi")), k.owner("acme")
	refusals := []string{
		"set transaction_read_only = off", "set default_transaction_read_only = off", "set session characteristics as transaction read write",
		"begin read write", "start transaction read write", "set transaction read write", "set local transaction_read_only = 0",
		"reset transaction_read_only", "set transaction_read_only to default",
		"select set_config('transaction_read_only', 'off', true)", "select set_config('default_transaction_read_only', 'off', false)",
		"select set_config('default_transaction_' || 'read_only', 'off', false)", "select pg_catalog.set_config(name, 'off', false) from (values ('default_transaction_read_only')) v (name)",
		"set default_transaction_read_only = off; insert into items values (3)", "begin; set transaction read write; insert into items values (3)",
		"select writes(); commit; insert into items values (3)", "begin; select writes(); commit; insert into items values (3)",
		"explain analyze select set_config('transaction_read_only', 'off', true)",
	}
	only := func(c *pgx.Conn, what string) {
		t.Helper()
		for _, sql := range refusals {
			_, err := c.PgConn().Exec(context.Background(), sql).ReadAll()
			wantCode(t, what+": "+sql, "25006", err)
			if _, err := c.PgConn().Exec(context.Background(), "rollback").ReadAll(); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(sql, ";") {
				continue
			}
			_, err = c.Exec(context.Background(), sql)
			wantCode(t, what+", extended: "+sql, "25006", err)
			if _, err := c.PgConn().Exec(context.Background(), "rollback").ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			run(t, c, "select writes()")
			_, err := c.Exec(context.Background(), "insert into items values (4)")
			wantCode(t, what+": insert behind a function that writes", "25006", err)
		}
		run(t, c, "set default_transaction_read_only = on")
		run(t, c, "begin read only")
		run(t, c, "select name from items")
		run(t, c, "commit")
		run(t, c, "reset all")
		run(t, c, "discard all")
		_, err := c.Exec(context.Background(), "insert into items values (4)")
		wantCode(t, what+": insert", "25006", err)
	}
	only(bi, "a login that may only read")
	_, err := k.try("bi", "acme", password("bi"), "default_transaction_read_only=off")
	wantCode(t, "a startup parameter", "25006", err)

	run(t, owner, "insert into items values (5)")
	run(t, owner, "set default_transaction_read_only = off")
	tx := k.owner("acme")
	run(t, tx, "begin")
	run(t, tx, "insert into items values (6)")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.Full = true })
	only(owner, "a tenant whose disk is full")
	run(t, tx, "insert into items values (7)")
	run(t, tx, "commit") // what was begun before
	_, err = tx.Exec(t.Context(), "insert into items values (8)")
	wantCode(t, "the next transaction", "25006", err)
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.Full = false })
	run(t, owner, "insert into items values (9)")
	run(t, tx, "insert into items values (10)")
	only(bi, "a login that still may only read")
}

// TestReadOnlyInSessions is with connections that sessions keep.
func TestReadOnlyInSessions(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{general: `pooler_mode = "session"`})
	r := k.tenant("acme")
	k.server.Exec(t, r.Database, `create function writes() returns void language plpgsql as
		$$ begin perform set_config('default_transaction_read_only', 'off', false); end $$`)
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.ReadOnly = true })
	c := k.owner("acme")
	run(t, c, "select writes()")
	_, err := c.Exec(t.Context(), "insert into items values (4)")
	wantCode(t, "insert", "25006", err)
}
