package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// talker is a client over a socket, whose statements all name it: whatever it is answered has to.
type talker struct {
	net.Conn
	t    *testing.T
	name string
	r    *rand.Rand
	n    int // statements so far
}

func (k *talker) say(b []byte) error {
	for len(b) > 0 { // in pieces
		n := min(len(b), 1+k.r.IntN(1+k.r.IntN(60_000)))
		if _, err := k.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// ask appends a statement, for so many rows.
func (k *talker) ask(b []byte, rows, comment int) []byte {
	k.n++
	return pgwire.AppendQuery(b, fmt.Sprintf("SELECT '%s-%d' FROM orders WHERE tenant_id = %d /*%s*/ LIMIT %d", k.name, k.n, k.r.IntN(2), strings.Repeat("x", comment), rows))
}

// hear reads up to so many ReadyForQuery, and returns the messages before as a string of types, and the rows.
func (k *talker) hear(ready int) (types string, rows []string, err error) {
	k.SetReadDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // it is a test
	var seen []byte
	head := make([]byte, pgwire.HeaderBytes)
	for ready > 0 {
		if _, err := io.ReadFull(k, head); err != nil {
			return string(seen), rows, err
		}
		_, total, ok := pgwire.Header(head)
		if !ok || total < len(head) || total > 1<<20 {
			return string(seen), rows, fmt.Errorf("a message of type %q behind %q", head, seen)
		}
		body := make([]byte, total-len(head))
		if _, err := io.ReadFull(k, body); err != nil {
			return string(seen), rows, err
		}
		switch head[0] {
		case pgwire.MsgDataRow:
			rows = append(rows, frame{head[0], body}.value())
			continue
		case pgwire.MsgErrorResponse:
			return string(seen), rows, fmt.Errorf("error %q", body)
		case pgwire.MsgReadyForQuery:
			ready--
		}
		seen = append(seen, head[0])
	}
	return string(seen), rows, nil
}

// answered reports whether rows are the answers to the last n statements, of so many rows each.
func (k *talker) answered(types string, rows []string, n, each int) bool {
	if strings.Count(types, "C") != n || len(rows) != n*each {
		return false
	}
	for i, row := range rows {
		if row != fmt.Sprintf("%s-%d@0", k.name, k.n-n+1+i/each) {
			return false
		}
	}
	return true
}

// TestMovedClients: each client hears what it asked for, all of it and nothing else, although its socket and those of servers are handed over all
// the time, in the middle of whatever they are at.
func TestMovedClients(t *testing.T) {
	onBoth(t, func(t *testing.T, ring bool) {
		s := newBench(t, 4)
		sh := *s.g.shared.Load()
		sh.Method, sh.LoginTimeout = auth.MethodPlain, int64(time.Minute)
		s.g.SetShared(&sh)
		s.g.pollers = threads(t, ring, 3, pollBuffer)
		t.Cleanup(s.g.Wait)
		var servers sync.WaitGroup
		var pid atomic.Uint32
		s.wire = func() net.Conn {
			ours, theirs := pair(t)
			m := newModelServer(0, pid.Add(1))
			servers.Go(func() {
				defer theirs.Close()
				b := make([]byte, 10_000)
				for {
					n, err := theirs.Read(b)
					if err != nil {
						return
					}
					out, closed := m.Receive(bytes.Clone(b[:n]))
					if _, err := theirs.Write(out); err != nil || closed {
						return
					}
				}
			})
			return ours
		}
		n := shuffle(t, s.g.pollers)
		var clients sync.WaitGroup
		for i := range 16 {
			clients.Go(func() {
				k := &talker{t: t, name: fmt.Sprintf("c%d", i), r: rand.New(rand.NewPCG(uint64(i), 1))}
				for range 3 {
					if err := k.session(s.g); err != nil {
						t.Errorf("%s, at statement %d: %v", k.name, k.n, err)
					}
				}
			})
		}
		clients.Wait()
		if n.Load() == 0 {
			t.Error("nothing has moved")
		}
		pgtest.Eventually(t, "all clients are gone", func() bool { return s.g.Len() == 0 })
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		s.cl.Close(ctx)
		servers.Wait()
	})
}

// session is one connection of k's.
func (k *talker) session(g *Goroutines) error {
	us, them := pair(k.t)
	defer us.Close()
	k.Conn = us
	g.Serve(them, k.name, nil)
	if err := k.say(pgwire.AppendStartupMessage(nil, 3<<16, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}})); err != nil {
		return err
	}
	if err := k.say(pgwire.AppendPassword(nil, "x")); err != nil {
		return err
	}
	if types, _, err := k.hear(1); err != nil {
		return fmt.Errorf("login: %q, %w", types, err)
	}
	for range 6 {
		switch k.r.IntN(6) {
		case 0: // one by one
			for range 10 {
				if err := k.run(1, 1, 0); err != nil {
					return err
				}
			}
		case 1: // many at once
			if err := k.run(1+k.r.IntN(100), 1+k.r.IntN(3), 0); err != nil {
				return err
			}
		case 2: // long answers
			if err := k.run(1+k.r.IntN(4), 1+k.r.IntN(1000), 0); err != nil {
				return err
			}
		case 3: // long questions
			if err := k.run(1+k.r.IntN(3), 1, k.r.IntN(100_000)); err != nil {
				return err
			}
		case 4: // copies in
			if err := k.say(pgwire.AppendQuery(nil, "COPY orders (tenant_id, v) FROM STDIN")); err != nil {
				return err
			}
			b := []byte{}
			for range 200 {
				b = pgwire.AppendCopyData(b, "1\t"+strings.Repeat("y", k.r.IntN(400))+"\n")
			}
			if err := k.say(pgwire.AppendCopyDone(b)); err != nil {
				return err
			}
			if types, _, err := k.hear(1); err != nil || types != "GCZ" {
				return fmt.Errorf("COPY: %q, %w", types, err)
			}
		case 5: // leaves in the middle
			if k.r.IntN(3) == 0 {
				go k.Write(k.ask(nil, 2000, 10)) //nolint:errcheck // it is cut
				k.Read(make([]byte, 100))        //nolint:errcheck // as above
				return nil
			}
		}
	}
	return nil
}

func (k *talker) run(n, rows, comment int) error {
	var b []byte
	for range n {
		b = k.ask(b, rows, comment)
	}
	said := make(chan error, 1)
	go func() { said <- k.say(b) }()
	types, got, err := k.hear(n)
	if err := errors.Join(err, <-said); err != nil {
		return fmt.Errorf("%q, %d rows of %d: %w", types, len(got), n*rows, err)
	}
	if !k.answered(types, got, n, rows) {
		return fmt.Errorf("%q, %d rows of %d", types, len(got), n*rows)
	}
	return nil
}
