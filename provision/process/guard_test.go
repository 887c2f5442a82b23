package process_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/provision/drivertest"
)

// Sessions that want more memory together than their instance has, each less than it may have, get an error, and not all of them: nobody is killed, and the instance's other
// session never notices.
func TestMemoryIsNotUsedUpTogether(t *testing.T) {
	t.Parallel()
	k := kit(t)
	in := k.Instance()
	in.Limits.Memory, in.Limits.CPU = 256<<20, 500
	if !root {
		if err := k.Plan(t.Context(), in, nil); drivertest.Kind(err) != provision.KindRefused {
			t.Errorf("plan with a limit of memory: %v, want %s", err, provision.KindRefused)
		}
		return
	}
	seen := k.Watching(in)
	k.Up(in)
	seen("start")
	before, err := k.State(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	session := func() *pgx.Conn {
		config, err := pgx.ParseConfig("sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		config.Host, config.Port, config.User, config.Password, config.Database = in.Endpoint.Host, uint16(in.Endpoint.Port), provision.Superuser, in.Password, "postgres"
		config.DefaultQueryExecMode, config.Fallbacks = pgx.QueryExecModeSimpleProtocol, nil
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	other := session()
	if _, err := other.Exec(t.Context(), "BEGIN; CREATE TEMP TABLE mine AS SELECT 1"); err != nil {
		t.Fatal(err)
	}
	const sort = "SELECT count(*) FROM (SELECT md5(i::text) || repeat('x', 400) AS t FROM generate_series(1, 130000) i ORDER BY 1 OFFSET 1) s" // 90 MB
	var sorting sync.WaitGroup
	outcome := make([]error, 4)
	for i := range outcome {
		conn := session()
		sorting.Go(func() {
			if _, outcome[i] = conn.Exec(t.Context(), "SET work_mem = '1GB'; "+sort); outcome[i] != nil {
				if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
					t.Errorf("a session after its error: %v", err)
				}
			}
		})
	}
	sorting.Wait()
	done := 0
	for _, err := range outcome {
		if err == nil {
			done++
		} else if drivertest.Code(err) != "53200" {
			t.Errorf("a sort that has no room: %v, want 53200", err)
		}
	}
	if done == 0 || done == len(outcome) {
		t.Errorf("%d of %d sorts are done, want one and not all", done, len(outcome))
	}
	if _, err := other.Exec(t.Context(), "TABLE mine"); err != nil {
		t.Errorf("a session that has taken nothing: %v", err)
	}
	if after, err := k.State(t.Context(), in); err != nil || after.PID != before.PID || after.OOMKills > 0 || after.Crashes > 0 {
		t.Errorf("got %+v, %v; before %+v", after, err, before)
	}
	// When there is room again, they may have as much as before.
	k.Eventually("there is room again", func() bool {
		_, err := other.Exec(t.Context(), "SET work_mem = '1GB'; "+sort)
		return err == nil
	})
}
