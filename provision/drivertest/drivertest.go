// Package drivertest is what every provision.Driver has to pass: an instance's whole life, each step of it twice, with real SQL, and nothing left at the end.
package drivertest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Caps are what a driver can do on the host at hand. What it can't, it must refuse: that is tested instead.
type Caps struct {
	CPU, Memory, Disk bool // limits
	Data              bool // limits of memory of each process, too
	IO                bool // limits of reading and writing
	// IODown: those of an instance that runs can't be changed.
	IODown    bool
	Superuser bool // tenants with a superuser of their own
	Replicas  bool
	// Kill: the process of State is of this host, and the test may kill it.
	Kill bool
	// Archive: finished WAL segments come into a spool on this host.
	Archive bool
	// Elsewhere: servers are not processes of this host, somebody else has their names and addresses, and limits count from a restart on.
	Elsewhere bool
}

// timeout bounds each step.
const timeout = 60 * time.Second

// Kit is one test with one driver.
type Kit struct {
	testing.TB
	provision.Driver
}

// Run tests a driver. open makes a Driver over the same host: each one of a test, made with the same testing.TB, has the same options and what the one before
// left, as after pgkennel was started anew; those of different tests have nothing in common.
func Run(t *testing.T, open func(t testing.TB) provision.Driver, caps Caps) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, func(testing.TB) provision.Driver, Caps){
		"Life": life, "Settings": settings, "Crash": crash, "Half": half, "Replica": replica, "Refusals": refusals, "Archive": archive,
		"CPU": cpu, "Memory": memory, "Disk": disk, "IO": inout, "Connections": connections,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open, caps)
		})
	}
}

// Instance returns one that nothing is known of yet. What is left of it at the end of the test is destroyed.
func (k Kit) Instance() *provision.Instance {
	k.Helper()
	in := &provision.Instance{ID: tenant.NewID(), Password: "pässwörd 'of' \\ " + tenant.NewID()}
	k.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := k.Destroy(ctx, in); err != nil {
			k.Errorf("destroy at the end: %v", err)
		}
	})
	return in
}

// Twice has a step done, and then done again.
func (k Kit) Twice(step string, f func(ctx context.Context) error) {
	k.Helper()
	for _, times := range []string{"", " again"} {
		k.Do(step+times, f)
	}
}

// Do has a step done.
func (k Kit) Do(step string, f func(ctx context.Context) error) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), timeout)
	defer cancel()
	if err := f(ctx); err != nil {
		k.Fatalf("%s: %s", step, explain(err))
	}
}

func explain(err error) string {
	if e := (*provision.Error)(nil); errors.As(err, &e) && e.Detail != "" {
		return e.Message + " (" + e.Detail + ")"
	}
	return err.Error()
}

// Up makes an instance and starts it.
func (k Kit) Up(in *provision.Instance, others ...*provision.Instance) {
	k.Helper()
	k.Twice("plan", func(ctx context.Context) error { return k.Plan(ctx, in, others) })
	k.Twice("volume", func(ctx context.Context) error { return k.Volume(ctx, in) })
	k.Twice("init", func(ctx context.Context) error { return k.Init(ctx, in) })
	k.Twice("configure", func(ctx context.Context) error {
		need, err := k.Configure(ctx, in)
		if err == nil && need != provision.NeedNothing {
			k.Errorf("an instance that does not run needs %d for its configuration", need)
		}
		return err
	})
	k.Twice("start", func(ctx context.Context) error { return k.Start(ctx, in) })
}

// Try runs a statement as a user and returns what is in the first column of the first row.
func (k Kit) Try(in *provision.Instance, password, sql string) (string, error) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), timeout)
	defer cancel()
	config := k.config(in)
	config.User, config.Password, config.Database = provision.Superuser, password, "postgres"
	config.DefaultQueryExecMode, config.Fallbacks = pgx.QueryExecModeSimpleProtocol, nil
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var out string
	if rows.Next() {
		if raw := rows.RawValues(); len(raw) > 0 {
			out = string(raw[0])
		}
	}
	rows.Close()
	return out, rows.Err()
}

// config is how an instance is reached.
func (k Kit) config(in *provision.Instance) *pgx.ConnConfig {
	k.Helper()
	config, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		k.Fatal(err)
	}
	if config.TLSConfig, err = provision.ServerTLS(in.Endpoint.Host, in.Endpoint.CA); err != nil {
		k.Fatal(err)
	}
	config.Host, config.Port = in.Endpoint.Host, uint16(in.Endpoint.Port) //nolint:gosec // it is one
	return config
}

// SQL is Try as pgkennel's superuser, for statements that work.
func (k Kit) SQL(in *provision.Instance, statement string) string {
	k.Helper()
	out, err := k.Try(in, in.Password, statement)
	if err != nil {
		k.Fatalf("%s: %v", statement, err)
	}
	return out
}

// Code is the SQLSTATE of an error.
func Code(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Kind is that of a *provision.Error.
func Kind(err error) provision.ErrorKind {
	if e := (*provision.Error)(nil); errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// Nothing fails if anything is left on the host.
func (k Kit) Nothing() {
	k.Helper()
	k.Do("found", func(ctx context.Context) error {
		left, err := k.Found(ctx)
		if len(left) > 0 {
			k.Errorf("left over: %v", left)
		}
		return err
	})
}

// dirs are the data directories of tests, by the tests' names.
var dirs sync.Map

// Dir is a test's data directory for instances, below parent: whoever asks in the same test gets the same one. It has to be empty when the test ends.
func Dir(t testing.TB, parent string) string {
	t.Helper()
	if dir, ok := dirs.Load(t.Name()); ok {
		return dir.(string)
	}
	made, err := os.MkdirTemp(parent, "pgk-") // sockets are in it, whose paths have to be short
	if err != nil {
		t.Fatal(err)
	}
	dirs.Store(t.Name(), made)
	t.Cleanup(func() {
		dirs.Delete(t.Name())
		if err := os.Remove(made); err != nil {
			t.Errorf("data directory after the test: %v", err)
		}
	})
	return made
}
