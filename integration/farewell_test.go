package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// TestFarewell: who is refused, or closed, in the middle of what it says can say the rest, and reads why, and then the end: nothing is reset. It is read from
// for as long as it may have something to say, but not for ever.
func TestFarewell(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	general := secured(ca, `auth_type = "plain"`+"\nclient_idle_in_transaction_timeout = 200")
	rest := []byte(strings.Repeat("all that nobody reads any more ", 1<<15)) // more than is read at once
	hello := startupPacket(version30, "user", user, "database", cluster)
	enter := func(nc net.Conn) {
		t.Helper()
		nc.Write(hello)                          //nolint:errcheck // what is read tells
		io.CopyN(io.Discard, nc, 9)              //nolint:errcheck // as above
		nc.Write(honest('p', password+"\x00"))   //nolint:errcheck // as above
		if got := untilReady(t, nc); got == "" { // with its parameters
			t.Error("no login")
		}
	}
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{general: general, schema: "CREATE TABLE notes (id bigint, note text)"})
		for _, ca := range []*pgtest.CA{nil, ca} {
			silent := dialled(t, s, ca)
			enter(silent)
			silent.Write(honest('?', "")) //nolint:errcheck // it is refused, and does not mind
			for name, x := range map[string]struct {
				say  func(nc net.Conn) // up to what it is closed for
				want string
			}{
				"a bad password": {func(nc net.Conn) {
					nc.Write(append(slices.Clip(hello), honest('p', "wrong\x00")...)) //nolint:errcheck // what is read tells
				}, "R, FATAL 28P01"},
				"a huge password":  {func(nc net.Conn) { nc.Write(append(slices.Clip(hello), frame('p', 2<<20, "")...)) }, "R, FATAL 08P01"},                        //nolint:errcheck // as above
				"no startup":       {func(nc net.Conn) { nc.Write(startupFrame(12, version30, "user")) }, "FATAL 08P01"},                                            //nolint:errcheck // as above
				"no message":       {func(nc net.Conn) { enter(nc); nc.Write(frame(1, 2<<20, "")) }, "FATAL 08P01"},                                                 //nolint:errcheck // as above
				"half a statement": {func(nc net.Conn) { enter(nc); nc.Write(honest('Q', "BEGIN\x00")); nc.Write(frame('Q', 2<<20, "SEL")) }, "C, ZT, FATAL 25P03"}, //nolint:errcheck // as above
			} {
				t.Run(fmt.Sprintf("%s, TLS is %v", name, ca != nil), func(t *testing.T) {
					t.Parallel()
					nc := dialled(t, s, ca)
					x.say(nc)
					if _, err := nc.Write(rest); err != nil {
						t.Errorf("what else is to be said: %v", err)
					}
					all, err := io.ReadAll(nc)
					if got := messages(t, all); got != x.want || err != nil {
						t.Errorf("heard %q, %v, want %q", got, err, x.want)
					}
					if _, err := nc.Write(rest); err != nil {
						t.Errorf("behind the end: %v", err)
					}
					if _, err := bare(nc).Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // as it comes
						t.Errorf("and then: %v", err)
					}
					begun := time.Now()
					for err == nil && time.Since(begun) < patience { // until nobody reads it any more
						_, err = bare(nc).Write(rest)
					}
					if err == nil {
						t.Error("it is read from for ever")
					}
				})
			}
		}
		t.Cleanup(func() { // behind all of them
			eventually(t, "who does not mind is gone as well", func() bool { return s.metric(t, "session_clients") == 0 })
		})
	})
}

// dialled is a socket, with TLS if ca is not nil.
func dialled(t testing.TB, s *stand, ca *pgtest.CA) net.Conn {
	t.Helper()
	if ca == nil {
		return raw(t, s.addr)
	}
	return encrypted(t, raw(t, s.addr), ca)
}

// TestFarewellOfTooMany: those who are not even asked what they want read why, though they have said it already.
func TestFarewellOfTooMany(t *testing.T) {
	t.Parallel()
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{general: "max_client_connections = 1"})
		s.connect(t)
		for range 100 { // and may yet want to cancel
			raw(t, s.addr)
		}
		eventually(t, "all of them are in", func() bool {
			nc := raw(t, s.addr)
			nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) //nolint:errcheck // the read tells
			n, _ := nc.Read(make([]byte, 1))
			return n == 1
		})
		nc := raw(t, s.addr)
		if _, err := nc.Write([]byte(strings.Repeat("what it wants ", 1<<16))); err != nil {
			t.Errorf("to say it: %v", err)
		}
		all, err := io.ReadAll(nc)
		if got := messages(t, all); got != "FATAL 53300" || err != nil {
			t.Errorf("heard %q, %v", got, err)
		}
	})
}

// TestFarewellOfTLS: whose certificate is not good reads that, behind all that it has said meanwhile.
func TestFarewellOfTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := pgtest.NewCA(t), pgtest.NewCA(t)
	testbed.EachDriver(t, func(t *testing.T) {
		s := start(t, spec{general: secured(ca, fmt.Sprintf("tls_client_required = true\ntls_client_ca_certificate = %q", ca.File))})
		certificate, key := stranger.Issue("client")
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		bare := raw(t, s.addr)
		bare.Write(sslRequest)        //nolint:errcheck // the answer tells
		io.CopyN(io.Discard, bare, 1) //nolint:errcheck // as above
		nc := tls.Client(bare, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}})
		if err := nc.Handshake(); err != nil { // whose end the client sees first
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(strings.Repeat("what it wants ", 1<<16))); err != nil {
			t.Errorf("to say it: %v", err)
		}
		if _, err := nc.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
			t.Errorf("heard %v", err)
		}
	})
}

// TestGoodbye: who has said goodbye and sees the end of its connection knows that what it held in its session is given up.
func TestGoodbye(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	testbed.EachDriver(t, func(t *testing.T) {
		for _, mode := range []string{"transaction", "session"} {
			s := start(t, spec{schema: tableSchema, general: secured(ca, `pooler_mode = "`+mode+`"`)})
			other, secure := s.connect(t), s.login()
			secure.TLS = &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}
			for _, login := range []pgtest.Login{s.login(), secure} {
				for _, holds := range []string{"SELECT pg_advisory_lock(8)", "BEGIN; SELECT pg_advisory_xact_lock(8)", "a pipeline"} {
					c := pgtest.Connect(t, s.addr, login)
					if holds == "a pipeline" {
						c.Send(&pgproto3.Parse{Query: "SELECT pg_advisory_xact_lock(8)"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
						for ended := false; !ended; {
							_, ended = c.Receive().(*pgproto3.CommandComplete)
						}
					} else {
						c.Query(holds)
					}
					protocols[0].play(t, other, "SELECT pg_try_advisory_xact_lock(8)", "f; SELECT 1; I")
					c.Send(&pgproto3.Terminate{})
					c.ExpectClosed()
					if got := outcome(other.Query("SELECT pg_try_advisory_xact_lock(8)")); got != "t; SELECT 1; I" {
						t.Errorf("%s pooling, TLS is %v: behind the end of who held %s: %s", mode, login.TLS != nil, holds, got)
					}
				}
			}
		}
	})
}

// TestGoodbyeToTheSilent: a server that does not answer keeps no client that is gone, and one that waits for its end not for long.
func TestGoodbyeToTheSilent(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	testbed.EachDriver(t, func(t *testing.T) {
		s := prepare(t, spec{schema: tableSchema, general: secured(ca, "")})
		p := s.throughProxy(0)
		s.startInside()
		secure := s.login()
		secure.TLS = &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}
		var gone, waiting []*pgtest.Client
		for _, login := range []pgtest.Login{s.login(), secure} {
			gone, waiting = append(gone, pgtest.Connect(t, s.addr, login)), append(waiting, pgtest.Connect(t, s.addr, login))
		}
		for i := range gone {
			gone[i].Query("BEGIN; SELECT 1")
			waiting[i].Query("SELECT pg_advisory_lock(8 + " + fmt.Sprint(i) + ")")
		}
		p.freeze()
		begun := time.Now()
		for i := range gone {
			gone[i].Send(&pgproto3.Terminate{})
			gone[i].Close()
			waiting[i].Send(&pgproto3.Terminate{})
		}
		eventually(t, "who is gone is not kept", func() bool { return s.metric(t, "session_clients") <= 2 })
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("who is gone is after %v", d)
		}
		for _, c := range waiting {
			c.ExpectClosed()
		}
	})
}
