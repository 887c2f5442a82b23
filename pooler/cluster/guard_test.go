package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// guarded is a login of a new role that must not be used with connection limit 7.
func guarded(t *testing.T, shared *pgtest.Instance, warns bool) *Login {
	t.Helper()
	return NewLogin(LoginOptions{
		User: shared.CreateUser(t, "", "trust"), Guard: "SELECT 'has limit 7' FROM pg_roles WHERE rolname = session_user AND rolconnlimit = 7", GuardWarns: warns,
	})
}

func TestLoginsAreAskedAboutAgain(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	l := guarded(t, shared, false)
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(2))}}, GuardInterval: 20 * time.Millisecond}, pgHooks())
	r.take(0, l).Release()
	shared.Exec(t, "postgres", "ALTER ROLE "+l.User+" CONNECTION LIMIT 7")
	eventually(t, "the connections are closed", func() bool { return strings.Contains(r.log.String(), "its connections are closed") })
	r.refused(0, l, pgwire.CodeInsufficientPrivilege, RoutineUnsafe)
	if !r.Healthy(0) && r.Health()[0].State == Down {
		t.Error("the endpoint is down for a login that must not be used")
	}
	if log := r.log.String(); !strings.Contains(log, "it has limit 7") {
		t.Errorf("got log %s", log)
	}
	shared.Exec(t, "postgres", "ALTER ROLE "+l.User+" CONNECTION LIMIT -1")
	if err := r.Reload(*r.opts.Load()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the login is used again", func() bool { // who asked before may still have the old answer
		lease, err := r.start(0, l).outcome(t)
		if err == nil {
			lease.Release()
		}
		return err == nil
	})
}

func TestLoginsThatAreOnlyWarnedOf(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	l := guarded(t, shared, true)
	shared.Exec(t, "postgres", "ALTER ROLE "+l.User+" CONNECTION LIMIT 7")
	r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(2))}}, GuardInterval: time.Nanosecond}, pgHooks())
	a, b := r.take(0, l), r.take(0, l)
	a.Release()
	b.Release()
	if n := strings.Count(r.log.String(), "it has limit 7"); n != 1 {
		t.Errorf("got %d warnings, want 1", n)
	}
}

// TestUnansweredGuard: no answer is no good one, and says nothing of the endpoint.
func TestUnansweredGuard(t *testing.T) {
	t.Parallel()
	shared := pgtest.Shared(t)
	for name, broken := range map[string]func(o *backend.DialOptions){
		"an error":  func(o *backend.DialOptions) { o.Ask = "SELECT nonsense" },
		"not asked": func(o *backend.DialOptions) { o.Ask = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := pgHooks()
			h.Dial = func(ctx context.Context, o backend.DialOptions) (*backend.Login, error) {
				if o.Ask != "" {
					broken(&o)
				}
				return backend.Dial(ctx, o)
			}
			r := run(t, Options{Shards: [][]Endpoint{{at(t, shared, "postgres", settings(2))}}, Service: superuser()}, h)
			r.refused(0, guarded(t, shared, false), pgwire.CodeInsufficientPrivilege, RoutineUnsafe)
			r.take(0, guarded(t, shared, true)).Release()
			eventually(t, "the endpoint is up", func() bool { return r.Healthy(0) })
		})
	}
}
