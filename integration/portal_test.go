package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What a portal runs is followed by its Bind. Where PostgreSQL has another portal by the name than the last Bind asked for, what it runs
// leaves nothing to the next client.
func TestPortalsLeaveNothing(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1")
	bind := func(portal, sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{
			&pgproto3.Parse{Query: sql}, &pgproto3.Bind{DestinationPortal: portal},
		}
	}
	const row = "SELECT count(*) FROM orders WHERE tenant_id = 1"
	const set = "SET app.v = 'left'"
	for name, then := range map[string][]pgproto3.FrontendMessage{
		"bound twice": bind("p", "SELECT 1"),
		"closed behind an error": append(bind("", "SELECT 1/0"), &pgproto3.Execute{},
			&pgproto3.Close{ObjectType: 'P', Name: "p"}),
	} {
		c := s.connect(t)
		c.Query("BEGIN; " + row)
		c.Send(append(bind("p", set), &pgproto3.Sync{})...)
		c.UntilReady()
		c.Query("SAVEPOINT s")
		c.Send(append(then, &pgproto3.Sync{})...)
		if got := outcome(c.UntilReady()); got[len(got)-1] != 'E' {
			t.Fatalf("%s: %s", name, got)
		}
		c.Query("ROLLBACK TO s")
		c.Send(&pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{})
		c.UntilReady()
		if got := outcome(c.Query("COMMIT")); got != "COMMIT; I" {
			t.Errorf("%s: %s", name, got)
		}
		c.Close()
		if got := outcome(s.connect(t).Query("/* pgdog_shard: 0 */ SELECT coalesce(current_setting('app.v', true), '')")); got != "; SELECT 1; I" {
			t.Errorf("%s: the next client finds %s", name, got)
		}
	}

	// A setting that was not made is not taken for one that was.
	c := s.connect(t)
	c.Query("BEGIN; " + row)
	c.Send(append(bind("p", set), &pgproto3.Sync{})...)
	c.UntilReady()
	c.Query("CLOSE p")
	c.Query("DECLARE p CURSOR FOR SELECT 1")
	c.Send(&pgproto3.Execute{Portal: "p"}, &pgproto3.Sync{})
	c.UntilReady()
	c.Query("COMMIT")
	c.Close()
	c = s.connect(t)
	c.Query(set)
	if got := outcome(c.Query("/* pgdog_shard: 0 */ SELECT current_setting('app.v', true)")); got != "left; SELECT 1; I" {
		t.Errorf("a client's own setting: %s", got)
	}
}
