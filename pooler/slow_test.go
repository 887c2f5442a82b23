package pooler

import (
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// A client that does not read what it was sent keeps nobody from the backends, however many statements it sends.
func TestSlowClientHoldsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, extra{users: "pool_size = 1"})
	login := pgtest.Login{User: h.user, Database: "shop", Password: h.secret}
	slow, other := pgtest.Connect(t, h.addr(), login), pgtest.Connect(t, h.addr(), login)
	if err := slow.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	const answer = "RowDescription(?column?) DataRow(1) CommandComplete(SELECT 1) ReadyForQuery(I)"
	for i := range 2000 { // more than the buffers of the sockets hold
		// An answer comes in one piece: none holds its backend because a part of it can't be passed on.
		slow.Send(&pgproto3.Query{String: "select repeat('x', 4000)"})
		if got := other.Answer("select 1"); got != answer {
			t.Fatalf("after %d answers that nobody read: %s", i, got)
		}
	}
	for range 20 {
		slow.Send(&pgproto3.Query{String: "select repeat('x', 4000)"})
	}
	for range 20 {
		if got := other.Answer("select 1"); got != answer {
			t.Fatal(got)
		}
	}
}
