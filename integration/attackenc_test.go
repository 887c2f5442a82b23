package integration

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Keys beyond ASCII are read by the encoding that the server will have, also where SET client_encoding is queued or stands in the same pipeline.
func TestKeysBehindAQueuedEncoding(t *testing.T) {
	t.Parallel()
	s := start(t, spec{
		shards: 2, schema: `CREATE TABLE words (tenant text NOT NULL, n int)`,
		rest: "\n[[sharded_tables]]\ndatabase = \"saas\"\nname = \"words\"\ncolumn = \"tenant\"\ndata_type = \"varchar\"\n",
	})
	pipe := func(sql string) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{parse("", sql), bind("", ""), run("", 0)}
	}
	for i := range 12 {
		key := fmt.Sprintf("é%d", i)
		insert := fmt.Sprintf("INSERT INTO words VALUES ('%s', %d)", key, i)
		c := s.connect(t)
		c.Query("BEGIN")
		c.Query("SET client_encoding TO LATIN1")
		if got := outcome(c.Query(insert)); got != "0A000 encoding; E" {
			t.Errorf("queued: %s", got)
		}
		c = s.connect(t)
		if got := extended(c, append(pipe("SET client_encoding TO LATIN1"), pipe(insert)...)...); got != "SET; 0A000 encoding; I" {
			t.Errorf("pipeline: %s", got)
		}
		// A message is read as a whole, before what stands in it runs.
		c = s.connect(t)
		if got := outcome(c.Query("SET client_encoding TO LATIN1; " + insert)); got != "SET; INSERT 0 1; I" {
			t.Errorf("message: %s", got)
		}
		c = s.connect(t)
		for _, sql := range []string{"BEGIN", "SET client_encoding TO UTF8", "SELECT 1"} {
			c.Query(sql)
		}
		if got := outcome(c.Query(insert)); got != "INSERT 0 1; T" {
			t.Errorf("once it is known: %s", got)
		}
	}
}
