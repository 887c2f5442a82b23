package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
	rand.Read(random)
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

// Statements of many clients, and many cancel requests, in any order: everyone gets its own answer or its own
// cancellation, nobody another's, and nobody hangs.
func TestCancelStorm(t *testing.T) {
	t.Parallel()
	const clients, rounds = 10, 20
	s := start(t, spec{general: "default_pool_size = 3\nlog_connections = false\nlog_disconnections = false"})
	innocent := s.pgx(t, pgx.QueryExecModeExec)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var all sync.WaitGroup
	cancelled := make([]int, clients)
	for n := range clients {
		c := s.connect(t)
		all.Go(func() {
			for i := range rounds {
				c.Send(simple(fmt.Sprintf("SELECT %d FROM pg_sleep(%g)", 1000*n+i, float64(i%5)*0.004)))
				var storm sync.WaitGroup
				storm.Go(func() { pgtest.SendCancel(t, s.addr, c.PID, c.Secret) })
				got := outcome(c.UntilReady())
				storm.Wait()
				switch want := fmt.Sprintf("%d; SELECT 1; I", 1000*n+i); got {
				case want:
				case "57014; I":
					cancelled[n]++
				default:
					t.Errorf("client %d: got %s, want %s", n, got, want)
				}
				// What comes next is nobody's to cancel.
				if got := outcome(c.Query(fmt.Sprint("SELECT ", i))); got != fmt.Sprintf("%d; SELECT 1; I", i) {
					t.Errorf("client %d: the next statement: %s", n, got)
				}
			}
		})
	}
	stop := make(chan struct{})
	finished := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			var got int
			if err := innocent.QueryRow(ctx, "SELECT $1::int", i).Scan(&got); err != nil || got != i {
				finished <- fmt.Errorf("%d: got %d, %w", i, got, err)
				return
			}
			select {
			case <-stop:
				finished <- nil
				return
			default:
			}
		}
	}()
	all.Wait()
	close(stop)
	if err := <-finished; err != nil {
		t.Errorf("a client that nobody cancels: %v", err)
	}
	total := 0
	for _, n := range cancelled {
		total += n
	}
	if total == 0 {
		t.Error("nothing was cancelled")
	}
	t.Logf("%d of %d cancelled", total, clients*rounds)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || strings.Contains(s.log.String(), "panic") {
		t.Error("it took too long, or something broke")
	}
}
