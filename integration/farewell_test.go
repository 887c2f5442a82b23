package integration

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestFarewell: what a client held in its session is given up when it has said goodbye, be it moments behind the end of its connection.
func TestFarewell(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := start(t, spec{schema: tableSchema, general: "pooler_mode = \"" + mode + "\""})
			other := s.connect(t)
			for _, holds := range []string{"SELECT pg_advisory_lock(8)", "BEGIN; SELECT pg_advisory_xact_lock(8)"} {
				c := s.connect(t)
				c.Query(holds)
				protocols[0].play(t, other, "SELECT pg_try_advisory_xact_lock(8)", "f; SELECT 1; I")
				c.Send(&pgproto3.Terminate{})
				c.ExpectClosed()
				c.Close()
				eventually(t, "the lock of "+holds+" is given up", func() bool {
					return outcome(other.Query("SELECT pg_try_advisory_xact_lock(8)")) == "t; SELECT 1; I"
				})
			}
		})
	}
}
