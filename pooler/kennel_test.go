package pooler

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// records is a directory in memory.
type records struct {
	mu   sync.RWMutex
	byID map[string]*tenant.Record
	subs []func([]*tenant.Record, []string)
	// stale is since when it can't be reached; zero = it can.
	stale time.Time
}

var _ Directory = (*records)(nil)

func newRecords() *records { return &records{byID: make(map[string]*tenant.Record)} }

func (d *records) find(match func(*tenant.Record) bool) *tenant.Record {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, r := range d.byID {
		if match(r) {
			return r
		}
	}
	return nil
}

func (d *records) ByName(name string) *tenant.Record {
	return d.find(func(r *tenant.Record) bool { return r.Name == name })
}

func (d *records) ByID(id string) *tenant.Record {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID[id]
}

func (d *records) ByKey(cluster, key string) *tenant.Record {
	return d.find(func(r *tenant.Record) bool { return key != "" && r.Cluster == cluster && r.Key == key })
}

func (d *records) BySchema(cluster, schema string) *tenant.Record {
	return d.find(func(r *tenant.Record) bool { return schema != "" && r.Cluster == cluster && r.Schema == schema })
}

func (d *records) All(f func(*tenant.Record) bool) {
	d.mu.RLock()
	list := make([]*tenant.Record, 0, len(d.byID))
	for _, r := range d.byID {
		list = append(list, r)
	}
	d.mu.RUnlock()
	for _, r := range list {
		if !f(r) {
			return
		}
	}
}

func (d *records) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.byID)
}

func (d *records) Subscribe(f func([]*tenant.Record, []string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.subs = append(d.subs, f)
}

func (d *records) State() (bool, time.Time, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.stale.IsZero() {
		return true, time.Now(), nil
	}
	return false, d.stale, fmt.Errorf("unreachable")
}

// put writes a record and tells everybody.
func (d *records) put(r *tenant.Record) {
	c := r.Clone()
	if was := d.ByID(r.ID); was != nil {
		c.Revision = was.Revision
	}
	c.Revision++
	d.restore(c)
}

// restore puts a record in as it is.
func (d *records) restore(c *tenant.Record) {
	d.mu.Lock()
	d.byID[c.ID] = c
	subs := d.subs
	d.mu.Unlock()
	for _, f := range subs {
		f([]*tenant.Record{c}, nil)
	}
}

// change changes a record.
func (d *records) change(id string, f func(*tenant.Record)) {
	r := d.ByID(id).Clone()
	f(r)
	d.put(r)
}

func (d *records) remove(id string) {
	d.mu.Lock()
	delete(d.byID, id)
	subs := d.subs
	d.mu.Unlock()
	for _, f := range subs {
		f(nil, []string{id})
	}
}

// kennel is a pooler of tenants with databases of their own on one server.
type kennel struct {
	*house
	dir   *records
	vault *tenant.Vault
}

// executor carries out orders as a function does.
type executor func(context.Context, provision.Order) (*provision.Result, error)

func (f executor) Execute(ctx context.Context, o provision.Order, _ func(provision.Progress)) (*provision.Result, error) {
	return f(ctx, o)
}

// kennelOptions are what a test wants of its kennel.
type kennelOptions struct {
	general, config, users string
	orders                 executor
	api                    http.Handler
	unused                 time.Duration
	files                  func(c *config.Config)
}

func newKennel(t testing.TB, o kennelOptions) *kennel {
	t.Helper()
	secret, err := tenant.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kennel{house: &house{t: t, log: &logBuffer{}, server: pgtest.Shared(t)}, dir: newRecords(), vault: tenant.NewVault(secret)}
	k.write(o)
	for attempt := 0; k.Pooler == nil; attempt++ {
		c, _, err := k.load()
		if err != nil {
			t.Fatal(err)
		}
		c.Metrics.Port = pgtest.FreePort(t)
		c.Metrics.Host = "127.0.0.1"
		c.Admin.Socket = "" // unless the test has one
		if o.files != nil {
			o.files(c)
		}
		po := Options{
			Config: c, Load: k.load, Version: "1.2.3", Log: slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Directory: k.dir, Vault: k.vault, API: o.api, UnusedAfter: o.unused,
		}
		if o.orders != nil {
			po.Orders = o.orders
		}
		k.Pooler, err = New(t.Context(), po)
		if err != nil && attempt == 5 { // somebody may have been faster to take the port
			t.Fatal(err)
		}
	}
	k.ran = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background()) // it ends after the test's context
	go func() { k.ran <- k.Run(ctx) }()
	t.Cleanup(func() {
		k.Hurry()
		k.ended()
		cancel()
		if t.Failed() {
			t.Logf("log:\n%s", k.log)
		}
	})
	return k
}

// write sets the configuration that the next start or reload reads.
func (k *kennel) write(o kennelOptions) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !strings.Contains(o.general, "load_schema") {
		o.general += "\nload_schema = \"off\""
	}
	k.files[0] = fmt.Sprintf("[general]\nhost = \"127.0.0.1\"\ncheckout_timeout = 30000\nconnect_timeout = 30000\n%s\n[admin]\nuser = %q\npassword = %q\n[provision]\nhost = \"here\"\n[directory]\n%s\n",
		o.general, operator, operatorSecret, o.config)
	k.files[1] = o.users
}

// password is what a login of a tenant proves.
func password(login string) string { return "secret of " + login }

// tenant makes a tenant with a database of its own, and one login more for each of others.
func (k *kennel) tenant(name string, others ...string) *tenant.Record {
	k.t.Helper()
	r := &tenant.Record{
		ID: tenant.NewID(), Name: name, Isolation: tenant.Instance, Phase: tenant.Ready, Access: tenant.Access{Enabled: true}, Driver: "process", Host: "here",
		Endpoint: tenant.Endpoint{Host: "127.0.0.1", Port: k.server.Port}, Version: "15", Created: time.Now(),
	}
	r.Database = k.server.CreateDatabase(k.t, "create table items (id int, name text)", fmt.Sprintf("insert into items values (1, '%s')", name))
	for _, login := range append([]string{name}, others...) {
		secret := tenant.NewPassword()
		l := tenant.Login{Name: login, Role: k.server.CreateUser(k.t, secret, "scram-sha-256"), Verifier: verifier(k.t, password(login))}
		l.Secret = k.vault.Seal(r.ID, l.Field(), secret)
		k.server.Exec(k.t, r.Database, fmt.Sprintf("grant all on items to %q; grant create on schema public to %q", l.Role, l.Role))
		r.Logins = append(r.Logins, l)
	}
	k.dir.put(r)
	return k.dir.ByID(r.ID)
}

func verifier(t testing.TB, password string) string {
	t.Helper()
	s, ok := auth.MakeVerifier(password, []byte("0123456789abcdef"), 4096).Encode()
	if !ok {
		t.Fatal("no verifier")
	}
	return s
}

// try logs in; params are added to the connection string.
func (k *kennel) try(user, database, password string, params ...string) (*pgx.Conn, error) {
	return pgx.Connect(context.Background(), pgtest.DSN(k.addr(), database, user, password, params...))
}

// as logs in as a login of a tenant.
func (k *kennel) as(user, database, password string) *pgx.Conn {
	k.t.Helper()
	c, err := k.try(user, database, password)
	if err != nil {
		k.t.Fatalf("login %s to %s: %v; log:\n%s", user, database, err, k.log)
	}
	k.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// owner logs in as a tenant.
func (k *kennel) owner(name string) *pgx.Conn {
	k.t.Helper()
	return k.as(name, name, password(name))
}

// value is the one value of a query.
func value(t testing.TB, c *pgx.Conn, sql string) string {
	t.Helper()
	var s string
	if err := c.QueryRow(context.Background(), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come", what)
		}
	}
}
