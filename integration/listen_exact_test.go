package integration

import (
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// stopEar stops the server's process that listens for all. What is committed from then on is under way to it until it goes on.
func stopEar(t *testing.T, s *stand) (goOn func()) {
	t.Helper()
	pid, err := strconv.Atoi(s.shards[0].rows(t, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgkennel LISTEN'")[0])
	if err != nil {
		t.Fatal(err)
	}
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	goOn = sync.OnceFunc(func() { signal(syscall.SIGCONT) })
	t.Cleanup(goOn)
	return goOn
}

// heard are the payloads of messages.
func heard(messages []pgproto3.BackendMessage) (list []string) {
	for _, m := range messages {
		if n, ok := m.(*pgproto3.NotificationResponse); ok {
			list = append(list, n.Payload)
		}
	}
	return list
}

// TestListenIsExact: who listens does not hear what was committed before it sent what commits the LISTEN, however late that arrives, and hears all that was
// committed afterwards, however early.
func TestListenIsExact(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 3"})
	p := protocols[0]
	say := func(sql string) pgproto3.FrontendMessage { return &pgproto3.Query{String: sql} }
	execute := func(sql string, end pgproto3.FrontendMessage) []pgproto3.FrontendMessage {
		return []pgproto3.FrontendMessage{&pgproto3.Parse{Query: sql}, &pgproto3.Bind{}, &pgproto3.Execute{}, end}
	}
	flush, sync := &pgproto3.Flush{}, &pgproto3.Sync{}
	type messages = []pgproto3.FrontendMessage
	ways := map[string]struct{ before, commit messages }{
		"Query":             {messages{say("BEGIN"), say("LISTEN news")}, messages{say("COMMIT")}},
		"among others":      {messages{say("BEGIN; LISTEN news")}, messages{say("SELECT 1; COMMIT; SELECT 2")}},
		"with another":      {messages{say("BEGIN; LISTEN news")}, messages{say("LISTEN other; COMMIT")}},
		"AND CHAIN":         {messages{say("BEGIN; LISTEN news")}, messages{say("COMMIT AND CHAIN"), say("ROLLBACK")}},
		"Execute":           {slices.Concat(messages{say("BEGIN")}, execute("LISTEN news", sync)), execute("COMMIT", sync)},
		"Sync":              {execute("LISTEN news", flush), messages{sync}},
		"Sync behind more":  {slices.Concat(execute("LISTEN news", flush), execute("SELECT 1", flush)), execute("SELECT 2", sync)},
		"Query behind more": {execute("LISTEN news", flush), messages{say("SELECT 1")}},
		"behind a block":    {slices.Concat(messages{say("BEGIN; SELECT 1")}, execute("COMMIT", flush), execute("LISTEN news", flush)), messages{sync}},
		"behind its error":  {slices.Concat(messages{say("BEGIN; LISTEN other"), say("SELECT 1/0")}, execute("ROLLBACK", flush), execute("LISTEN news", flush)), messages{sync}},
		"after an error":    {messages{say("BEGIN; LISTEN news; SAVEPOINT s"), say("SELECT 1/0"), say("ROLLBACK TO s")}, messages{say("COMMIT")}},
	}
	b := s.connect(t)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			a, c := s.connect(t), s.connect(t)
			p.play(t, c, "LISTEN news", "LISTEN; I") // the channel is another's already
			ready, done := 0, 0
			for _, m := range way.before {
				switch m.(type) {
				case *pgproto3.Query, *pgproto3.Sync:
					ready, done = ready+1, 0
				case *pgproto3.Execute:
					done++
				}
			}
			a.Send(way.before...)
			for range ready {
				a.UntilReady()
			}
			for done > 0 {
				if _, ok := a.Receive().(*pgproto3.CommandComplete); ok {
					done--
				}
			}
			goOn := stopEar(t, s)
			p.play(t, b, "NOTIFY news, 'early'", "NOTIFY; I")
			a.Send(way.commit...)
			for range 5 { // it has its time
				p.play(t, b, "SELECT 1", "1; SELECT 1; I")
			}
			goOn()
			var all []pgproto3.BackendMessage
			for _, m := range way.commit {
				switch m.(type) {
				case *pgproto3.Query, *pgproto3.Sync:
					all = append(all, a.UntilReady()...)
				}
			}
			p.play(t, b, "NOTIFY news, 'late'", "NOTIFY; I")
			a.Send(say("NOTIFY news, 'own'"))
			if got := heard(append(all, a.UntilReady()...)); !slices.Equal(got, []string{"late", "own"}) {
				t.Errorf("heard %q", got)
			}
			if n := notification(t, c); n.Payload != "early" {
				t.Errorf("who listened heard %q", n.Payload)
			}
			for _, x := range []*pgtest.Client{a, c} {
				x.Terminate()
			}
		})
	}

	// The commit is known to others before it is answered.
	const lock = "SELECT pg_advisory_xact_lock(1)"
	for _, sql := range []string{
		"LISTEN news; COMMIT; " + lock, "BEGIN; LISTEN news; COMMIT; " + lock,
		lock + "; LISTEN news", // and while a message runs nobody knows how far it is
	} {
		a, c := s.connect(t), s.connect(t)
		p.play(t, c, "LISTEN news", "LISTEN; I")
		p.play(t, b, "BEGIN", "BEGIN; T", lock, "; SELECT 1; T")
		a.Send(say(sql))
		eventually(t, "it waits in the midst of the message", func() bool {
			return s.shards[0].rows(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")[0] == "1"
		})
		p.play(t, s.connect(t), "NOTIFY news, 'soon'", "NOTIFY; I")
		if n := notification(t, c); n.Payload != "soon" {
			t.Errorf("who listened heard %q", n.Payload)
		}
		p.play(t, b, "COMMIT", "COMMIT; I")
		if got := heard(a.UntilReady()); !slices.Equal(got, []string{"soon"}) {
			t.Errorf("%s heard %q", sql, got)
		}
		for _, x := range []*pgtest.Client{a, c} {
			x.Terminate()
		}
	}
}

// TestListenWaits: who waits for the connection that listens can be cancelled, can leave, and does not wait for one that is lost. Nobody else waits.
func TestListenWaits(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	p := protocols[0]
	other := s.connect(t)
	listens := func() *pgtest.Client {
		a := s.connect(t)
		p.play(t, a, "BEGIN", "BEGIN; T", "LISTEN news", "LISTEN; T")
		return a
	}
	cancelled := func(c *pgtest.Client, commit string) {
		t.Helper()
		c.Send(&pgproto3.Query{String: commit})
		over := make(chan struct{})
		go func() {
			defer close(over)
			e := pgtest.Failure(c.UntilReady())
			if e == nil || e.Code != "57014" {
				t.Errorf("%s: got %v", commit, e)
			}
		}()
		eventually(t, "it is cancelled", func() bool {
			c.Cancel()
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
	}
	a := listens()
	goOn := stopEar(t, s)
	cancelled(a, "COMMIT")
	p.play(t, a, "SELECT 1", "25P02; E")
	goOn()
	p.play(t, a, "COMMIT", "ROLLBACK; I", "LISTEN more", "LISTEN; I")
	goOn = stopEar(t, s)
	cancelled(a, "LISTEN news")
	p.play(t, other, "SELECT 1", "1; SELECT 1; I") // the one connection is free
	goOn()
	p.play(t, a, "LISTEN news", "LISTEN; I")
	p.play(t, other, "SELECT 1", "1; SELECT 1; I")
	p.play(t, a, "BEGIN", "BEGIN; T")
	goOn = stopEar(t, s)
	cancelled(a, "NOTIFY news")
	p.play(t, other, "SELECT 1", "1; SELECT 1; I")
	goOn()
	p.play(t, a, "COMMIT", "ROLLBACK; I")
	a.Terminate()

	a = listens()
	goOn = stopEar(t, s)
	a.Send(&pgproto3.Query{String: "COMMIT"})
	a.Close()
	p.play(t, other, "SELECT 1", "1; SELECT 1; I", "NOTIFY news", "NOTIFY; I")
	goOn()

	a = listens()
	goOn = stopEar(t, s)
	a.Send(&pgproto3.Query{String: "COMMIT"})
	s.shards[0].rows(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgkennel LISTEN'")
	goOn()
	if got := outcome(a.UntilReady()); got != "COMMIT; I" {
		t.Errorf("got %s", got)
	}
	if code := ends(t, a); code != "57P01" {
		t.Errorf("its connection ends with %q", code)
	}
	eventually(t, "nobody listens", func() bool { return s.metric(t, "listen_sessions") == 0 })
}

// TestDiscardHearsOut: DISCARD ALL ends the listening, as UNLISTEN does, behind what was committed before it.
func TestDiscardHearsOut(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 2"})
	for _, p := range protocols {
		channel := "news_" + p.name
		a, b := s.connect(t), s.connect(t)
		p.play(t, a, "LISTEN "+channel, "LISTEN; I")
		goOn := stopEar(t, s)
		p.play(t, b, "NOTIFY "+channel+", 'early'", "NOTIFY; I")
		told := make(chan []string)
		go func() { told <- heard(p.run(a, "DISCARD ALL")) }()
		for range 5 { // it has its time
			p.play(t, b, "SELECT 1", "1; SELECT 1; I")
		}
		goOn()
		if got := <-told; !slices.Equal(got, []string{"early"}) {
			t.Errorf("heard %q", got)
		}
		p.play(t, b, "NOTIFY "+channel+", 'late'", "NOTIFY; I")
		p.play(t, a, "LISTEN other_"+channel, "LISTEN; I")
		if got := heard(p.run(a, "NOTIFY other_"+channel+", 'own'")); !slices.Equal(got, []string{"own"}) {
			t.Errorf("heard %q", got)
		}
	}
}
