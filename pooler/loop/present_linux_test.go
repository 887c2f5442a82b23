package loop

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// TestHalfClosed: a client that says no more is answered for as long as it reads, and is asked whether it is there; one that is gone is found out though
// its server says nothing, and so is one that reads nothing.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	row := pgwire.AppendDataRow(nil, [][]byte{bytes.Repeat([]byte("x"), 1<<10)})
	begun := pgwire.AppendRowDescription(nil, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
	end := pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(nil, "SELECT 1"), pgwire.TxIdle)
	halve := func(us net.Conn) { us.(*net.UnixConn).CloseWrite() } //nolint:errcheck,forcetypeassert // it is one
	for name, f := range map[string]func(w *wire, us net.Conn, c *Client, server net.Conn){
		"reads": func(w *wire, us net.Conn, _ *Client, server net.Conn) {
			halve(us)
			w.until(us, pgwire.MsgParameterStatus)
			server.Write(append(append(slices.Clip(begun), row...), end...)) //nolint:errcheck // what is read tells
			w.ready(us)
			us.SetReadDeadline(time.Now().Add(closeTimeout / 2))   //nolint:errcheck // the read tells
			if n, err := us.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // as it comes
				w.t.Errorf("behind the answer: %d bytes, %v", n, err)
			}
		},
		"reads later": func(w *wire, us net.Conn, c *Client, server net.Conn) {
			server.Write(slices.Concat(begun, bytes.Repeat(row, 30), end)) //nolint:errcheck // what is read tells
			w.eventually("its server is at work", func() bool { return c.held() == nil })
			halve(us)
			w.eventually("its session does not end", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.sess.Closed() })
			w.ready(us)
		},
		"gone": func(_ *wire, us net.Conn, _ *Client, _ net.Conn) { us.Close() },
		"gone with more to say": func(w *wire, us net.Conn, c *Client, _ net.Conn) {
			go us.Write(bytes.Repeat(pgwire.AppendSync(nil), 80_000)) //nolint:errcheck // as far as it is read
			w.eventually("all of it is read", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.sess.WantsInput() })
			us.Close()
		},
		"reads nothing": func(_ *wire, us net.Conn, _ *Client, server net.Conn) {
			go server.Write(append(slices.Clip(begun), bytes.Repeat(row, 300)...)) //nolint:errcheck // as far as it is read
			halve(us)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			if !strings.HasPrefix(name, "reads") || name == "reads nothing" {
				w.g.present.unread = func() time.Duration { return 300 * time.Millisecond }
			}
			us, c, server, _ := w.asking()
			f(w, us, c, server)
			w.eventually("it is there still", func() bool { return w.g.Len() == 0 })
			w.eventually("it is looked at", func() bool { w.g.present.mu.Lock(); defer w.g.present.mu.Unlock(); return w.g.present.clients == nil })
		})
	}
}
