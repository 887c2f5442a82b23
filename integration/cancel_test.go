package integration

import (
	cryptorand "crypto/rand"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// asleep waits until n statements of the shard's database sleep.
func (s shard) asleep(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " statements sleep"), func() bool {
		return s.rows(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '"+s.db+"'")[0] == fmt.Sprint(n)
	})
}

// A statement is cancelled, by both protocols, on whichever shard it runs, inside a transaction and outside.
func TestCancel(t *testing.T) {
	t.Parallel()
	s := tableStand(t, "default_pool_size = 1")
	each(t, func(t *testing.T, p protocol) {
		shard, tenant := 0, "1"
		if p.name == "extended" {
			shard, tenant = 1, "1001"
		}
		sleep := "SELECT pg_sleep(60), count(*) FROM orders WHERE tenant_id = " + tenant
		c := s.connect(t)
		cancelled := func(want string) {
			t.Helper()
			answer := make(chan string, 1)
			go func() { answer <- outcome(p.run(c, sleep)) }()
			s.shards[shard].asleep(t, 1)
			c.Cancel()
			if got := <-answer; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		cancelled("57014; I")
		p.play(t, c, "SELECT 1", "1; SELECT 1; I", "BEGIN", "BEGIN; T", "SAVEPOINT a", "SAVEPOINT; T")
		cancelled("57014; E")
		p.play(t, c, "ROLLBACK TO a", "ROLLBACK; T", "SELECT count(*) FROM orders WHERE tenant_id = "+tenant, "0; SELECT 1; T", "COMMIT", "COMMIT; I")
		s.shards[shard].asleep(t, 0)
	})
}

// A client that waits for a connection is cancelled where it waits, and does not hold up those behind it.
func TestCancelWhileWaiting(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1\ncheckout_timeout = 20_000"})
	holder, waiter, behind := s.connect(t), s.connect(t), s.connect(t)
	holder.Query("BEGIN")
	holder.Query("SELECT 1")
	for _, begin := range []bool{false, true} {
		want := "57014; I"
		if begin {
			waiter.Query("BEGIN")
			want = "57014; E"
		}
		waiter.Send(simple("SELECT 2"))
		eventually(t, "the client waits", func() bool { return s.metric(t, "pool_clients_waiting") == 1 })
		waiter.Cancel()
		if got := outcome(waiter.UntilReady()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	waiter.Query("ROLLBACK")
	behind.Send(simple("SELECT 3"))
	eventually(t, "the client waits", func() bool { return s.metric(t, "pool_clients_waiting") == 1 })
	holder.Query("COMMIT")
	if got := outcome(behind.UntilReady()); got != "3; SELECT 1; I" {
		t.Errorf("got %s", got)
	}
	protocols[0].play(t, waiter, "SELECT 4", "4; SELECT 1; I")
}

// A cancel request for a client that runs nothing has no effect, neither on its next statement nor on anybody's on the
// backend that it used last.
func TestCancelOfTheIdle(t *testing.T) {
	t.Parallel()
	s := start(t, spec{general: "default_pool_size = 1"})
	idle, busy := s.connect(t), s.connect(t)
	for i := range 20 {
		protocols[0].play(t, idle, "SELECT 1", "1; SELECT 1; I")
		switch i % 3 {
		case 0:
			idle.Query("BEGIN") // which is not on a backend yet
		case 1:
			protocols[0].play(t, idle, "BEGIN", "BEGIN; T", "SELECT 1", "1; SELECT 1; T")
		}
		idle.Cancel()
		protocols[0].play(t, idle, "SELECT 2", "2; SELECT 1; "+map[bool]string{true: "I", false: "T"}[i%3 == 2])
		idle.Query("ROLLBACK")
		busy.Send(simple("SELECT pg_sleep(0.02)"))
		idle.Cancel()
		if got := outcome(busy.UntilReady()); got != "; SELECT 1; I" {
			t.Fatalf("somebody else's statement: %s", got)
		}
	}
}

// Keys that are not right cancel nothing; guessing is slowed down, and stays without effect on those who have the right key once it is over.
func TestCancelWithWrongKeys(t *testing.T) {
	t.Parallel()
	s := start(t, spec{})
	c := s.connect(t)
	l := s.login()
	l.Version = 3<<16 | 2
	long := pgtest.Connect(t, s.addr, l)
	for _, c := range []*pgtest.Client{c, long} {
		c.Send(simple("SELECT pg_sleep(1.5)"))
	}
	s.shards[0].asleep(t, 2)
	random := make([]byte, 32)
	cryptorand.Read(random)
	flipped := append([]byte(nil), long.Secret...)
	flipped[31] ^= 1
	for _, x := range []struct {
		pid    uint32
		secret []byte
	}{
		{c.PID, random[:4]},
		{c.PID, make([]byte, 4)},
		{c.PID + 1, c.Secret},
		{0, c.Secret},
		{c.PID, nil},
		{c.PID, c.Secret[:3]},
		{c.PID, append(append([]byte(nil), c.Secret...), 0)},
		{c.PID, long.Secret},
		{long.PID, c.Secret},
		{long.PID, random},
		{long.PID, flipped},
		{long.PID, long.Secret[:31]},
		{long.PID, long.Secret[:4]},
		{long.PID, append(append([]byte(nil), long.Secret...), make([]byte, 220)...)},
	} {
		pgtest.SendCancel(t, s.addr, x.pid, x.secret)
	}
	for _, c := range []*pgtest.Client{c, long} {
		if got := outcome(c.UntilReady()); got != "; SELECT 1; I" {
			t.Errorf("got %s", got)
		}
	}
	if n := s.metric(t, "session_cancels_total", `result="sent"`); n != 0 {
		t.Errorf("%v cancel requests were passed on", n)
	}
}

// Statements of many clients, and many cancel requests, at any moment: nobody hears that a statement was cancelled but who has sent a request that was not
// answered when the statement began, everybody gets its own answers, and nobody hangs. And what was cancelled costs no connection to the server.
func TestCancelStorm(t *testing.T) {
	t.Parallel()
	const clients, innocents = 50, 5
	s := start(t, spec{general: "default_pool_size = 2\ncheckout_timeout = 60_000\nlog_connections = false\nlog_disconnections = false"})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	end := time.Now().Add(*soak / 5)
	var cancelled, statements atomic.Int64
	pids := make([]map[string]bool, clients)
	var all sync.WaitGroup
	for n := range clients {
		c := s.connect(t)
		pids[n] = make(map[string]bool)
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			var own requests
			defer own.all.Wait()
			for i := 0; time.Now().Before(end) && !t.Failed(); i++ {
				block := rnd.IntN(4) == 0
				if block {
					c.Query("BEGIN")
				}
				marker := fmt.Sprintf("%d-%d", n, i)
				begun := time.Now()
				c.Send(simple(fmt.Sprintf("SELECT '%s', pg_backend_pid() FROM pg_sleep(%g)", marker, rnd.Float64()*0.006)))
				for range rnd.IntN(3) {
					if n >= innocents {
						own.send(t, s.addr, c, time.Duration(rnd.IntN(12_000))*time.Microsecond)
					}
				}
				answer := c.UntilReady()
				ended := time.Now()
				statements.Add(1)
				switch e := pgtest.Failure(answer); {
				case e == nil:
					row, _, _ := strings.Cut(outcome(answer), ";")
					own, pid, _ := strings.Cut(row, "|")
					if own != marker {
						t.Errorf("client %d: got %s, want %s", n, own, marker)
					}
					pids[n][pid] = true
				case e.Code == "57014" && own.between(begun, ended):
					cancelled.Add(1)
				default:
					t.Errorf("client %d: %s %s", n, e.Code, e.Message)
				}
				if block {
					c.Query("ROLLBACK") // which may be cancelled as well
					own.all.Wait()
					c.Query("ROLLBACK")
				}
				if rnd.IntN(4) == 0 {
					own.all.Wait() // what comes next is nobody's to cancel
				}
			}
		})
	}
	all.Wait()
	if cancelled.Load() == 0 {
		t.Error("nothing was cancelled")
	}
	used := make(map[string]bool)
	for _, m := range pids {
		maps.Copy(used, m)
	}
	if len(used) > 2 {
		t.Errorf("%d connections were used, want 2", len(used))
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something broke")
	}
	t.Logf("%d of %d cancelled", cancelled.Load(), statements.Load())
}

// requests are the cancel requests of one client.
type requests struct {
	all  sync.WaitGroup
	mu   sync.Mutex
	list []request
}

type request struct{ sent, answered time.Time }

// send sends one after a while.
func (r *requests) send(t *testing.T, addr string, c *pgtest.Client, after time.Duration) {
	r.all.Go(func() {
		time.Sleep(after)
		r.mu.Lock()
		i := len(r.list)
		r.list = append(r.list, request{sent: time.Now()})
		r.mu.Unlock()
		pgtest.SendCancel(t, addr, c.PID, c.Secret)
		r.mu.Lock()
		r.list[i].answered = time.Now()
		r.mu.Unlock()
	})
}

// between reports whether a request was under way at some time between begun and ended.
func (r *requests) between(begun, ended time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(x request) bool {
		return x.sent.Before(ended) && (x.answered.IsZero() || x.answered.After(begun))
	})
}
