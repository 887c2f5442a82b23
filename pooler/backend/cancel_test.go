package backend

import (
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func TestCancelStopsTheStatement(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	pg := pgtest.Start(t, pgtest.TLS(ca))
	secured, err := ClientTLS(TLSVerifyFull, ca.File, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]DialOptions{
		"tcp":  {Address: addressOf(t, pg.Addr()), User: "postgres", Database: "postgres"},
		"tls":  {Address: addressOf(t, pg.Addr()), User: "postgres", Database: "postgres", TLS: secured},
		"unix": {Address: Address{Host: pg.SocketDir, Port: pg.Port}, User: "postgres", Database: "postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := dial(t, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := Cancel(t.Context(), o, l.PID, []byte("oops")); err != nil { // a wrong secret cancels nothing and looks the same
				t.Fatal(err)
			}
			answer := make(chan string, 1)
			go func() { answer <- ask(t, l, "SELECT pg_sleep(60)") }()
			for { // the statement may not have begun when the first one arrives
				if err := Cancel(t.Context(), o, l.PID, l.Secret); err != nil {
					t.Fatal(err)
				}
				select {
				case got := <-answer:
					if got != pgwire.CodeQueryCanceled {
						t.Errorf("got %q, want 57014", got)
					}
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}

func TestCancelRequestBytes(t *testing.T) {
	t.Parallel()
	fake := pgtest.NewFakeServer(t, (*pgtest.FakeConn).Drain)
	secret := string(make([]byte, 32))
	if err := Cancel(t.Context(), DialOptions{Address: addressOf(t, fake.Addr)}, 4711, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	if key := fake.WaitCancel(t); key.PID != 4711 || key.Secret != secret {
		t.Errorf("got %+v", key)
	}
}
