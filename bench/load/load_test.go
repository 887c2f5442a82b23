package load

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestQuantileIsTheNearestRank(t *testing.T) {
	t.Parallel()
	hundred := make(Latencies, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i) // not sorted
	}
	for _, test := range []struct {
		list Latencies
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0},
		{Latencies{7}, 0.999, 7},
		{Latencies{3, 1, 2}, 0.5, 2},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
		{hundred, 0, 1},
		{hundred, 1, 100},
	} {
		if got := test.list.Quantile(test.q); got != test.want {
			t.Errorf("quantile %v of %d: got %d, want %d", test.q, len(test.list), got, test.want)
		}
	}
	if got := Rank(0.999, 1000); got != 998 {
		t.Errorf("rank of 0.999 among 1000: got %d, want 998", got)
	}
}

func TestScheduleKeepsItsRate(t *testing.T) {
	t.Parallel()
	const n, rate = 20_000, 1000
	one, same, other := newSchedule(rate, 1), newSchedule(rate, 1), newSchedule(rate, 2)
	last, short := time.Duration(0), 0
	equal := true
	for range n {
		at := one.take()
		if at != same.take() {
			t.Fatal("the same seed gives other times")
		}
		equal = equal && at == other.take()
		if at < last {
			t.Fatalf("%v comes after %v", at, last)
		}
		if at-last < time.Second/rate/2 {
			short++
		}
		last = at
	}
	if equal {
		t.Error("another seed gives the same times")
	}
	if got := n / last.Seconds(); math.Abs(got-rate) > rate/20 {
		t.Errorf("got %.0f each second, want %d", got, rate)
	}
	if share := float64(short) / n; math.Abs(share-0.393) > 0.02 { // 1 - exp(-1/2)
		t.Errorf("got %.3f of the pauses below half of the mean, want those of random times", share)
	}
}

func TestFramesInPieces(t *testing.T) {
	t.Parallel()
	stream, err := pgtest.Encode(pgtest.Row("one"), pgtest.Row(strings.Repeat("x", 3000)), pgtest.Done("SELECT 2"), pgtest.Ready('I'))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 2, 4, 5, 6, 7, 1000, len(stream)} {
		var f frames
		var kinds []byte
		for rest := stream; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			f.feed(rest[:min(size, len(rest))], func(kind byte, body []byte) { kinds = append(kinds, kind) })
		}
		if string(kinds) != "DDCZ" {
			t.Errorf("in pieces of %d: got %q, want DDCZ", size, kinds)
		}
	}
}

// one is a statement that any server answers at once.
func one(dst []byte, n int) []byte { return AppendQuery(dst, "SELECT 1") }

// options are a short run at an address.
func options(addr string) *Options {
	return &Options{Addr: addr, User: pgtest.Superuser, Database: pgtest.Superuser, Clients: 4, Length: 300 * time.Millisecond, Statement: one}
}

func TestRunAtARate(t *testing.T) {
	t.Parallel()
	o := options(pgtest.Shared(t).Addr())
	o.Rate, o.Length = 500, 600*time.Millisecond
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for s := newSchedule(o.Rate, o.Seed); s.take() < o.Length; want++ {
	}
	if r.Sent != want || len(r.Latencies) != want || r.Failed != 0 || r.Unanswered != 0 {
		t.Errorf("got %d sent, %d answers, %d failed, %d without answer; want %d sent and answered", r.Sent, len(r.Latencies), r.Failed, r.Unanswered, want)
	}
}

func TestWarmingUpIsNotMeasured(t *testing.T) {
	t.Parallel()
	o := options(pgtest.Shared(t).Addr())
	o.Rate, o.Length, o.Warm = 500, 600*time.Millisecond, 300*time.Millisecond
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	all, want := 0, 0
	for s := newSchedule(o.Rate, o.Seed); s.peek() < o.Length; all++ {
		if s.take() >= o.Warm {
			want++
		}
	}
	if r.Sent != all || len(r.Latencies) != want {
		t.Errorf("got %d sent and %d measured, want %d and %d", r.Sent, len(r.Latencies), all, want)
	}
	if r.Elapsed < o.Length-o.Warm-100*time.Millisecond || r.Elapsed > o.Length {
		t.Errorf("got %v for what was measured, want about %v", r.Elapsed, o.Length-o.Warm)
	}
}

func TestRunAsFastAsAnswersCome(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	r, err := Run(t.Context(), options(pg.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent < 100 || len(r.Latencies) != r.Sent || r.PerSecond() < 100 || r.Latencies.Quantile(0.5) <= 0 {
		t.Errorf("got %d sent, %d answers, %.0f each second", r.Sent, len(r.Latencies), r.PerSecond())
	}
	o := options(pg.Addr())
	o.Count, o.Length = 10, time.Minute
	if r, err = Run(t.Context(), o); err != nil || r.Sent != 10 || len(r.Latencies) != 10 {
		t.Errorf("got %+v, %v; want 10 statements", r, err)
	}
}

func TestErrorsAreCounted(t *testing.T) {
	t.Parallel()
	o := options(pgtest.Shared(t).Addr())
	o.Count = 8
	o.Statement = func(dst []byte, n int) []byte {
		if n%2 == 0 {
			return AppendQuery(dst, "SELECT nonsense")
		}
		return one(dst, n)
	}
	r, err := Run(t.Context(), o)
	if err != nil || r.Failed != 4 || !strings.Contains(r.Message, "nonsense") {
		t.Errorf("got %+v, %v; want 4 of 8 failed", r, err)
	}
}

// TestAStallIsFeltByAll: a server that stops for a while delays all statements that were meant to start meanwhile, not only the ones that
// it has taken.
func TestAStallIsFeltByAll(t *testing.T) {
	t.Parallel()
	const stall = 300 * time.Millisecond
	fake := pgtest.NewFakeServer(t, func(c *pgtest.FakeConn) error {
		for n := 0; ; n++ {
			if _, err := c.Receive(); err != nil {
				return nil //nolint:nilerr // the run has ended
			}
			if n == 20 {
				time.Sleep(stall) // the stall is what is tested
			}
			if err := c.Send(pgtest.Done("SELECT 0"), pgtest.Ready('I')); err != nil {
				return err
			}
		}
	})
	o := options(fake.Addr)
	o.Clients, o.Rate, o.Length = 1, 200, 600*time.Millisecond
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	felt := 0
	for _, l := range r.Latencies {
		if l > stall/6 {
			felt++
		}
	}
	if felt < 20 { // of about 60 meant to start during the stall
		t.Errorf("got %d of %d statements that felt a stall of %v", felt, len(r.Latencies), stall)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	o := options(pgtest.Shared(t).Addr())
	o.Length = time.Minute
	if _, err := Run(ctx, o); err == nil {
		t.Error("got no error of a run that was ended")
	}
}

func TestConnCopies(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, "CREATE TABLE t (id int, v text)")
	c, err := Connect(t.Context(), pg.Addr(), pgtest.Superuser, db)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.CopyIn(t.Context(), "COPY t FROM STDIN", []byte("1\tone\n2\ttwo\n"), 3); err != nil || n != 36 {
		t.Errorf("copy in: got %d bytes, %v; want 36", n, err)
	}
	if n, err := c.Query(t.Context(), "COPY t TO STDOUT"); err != nil || n < 36 {
		t.Errorf("copy out: got %d bytes, %v; want 36 at least", n, err)
	}
	if _, err := c.Query(t.Context(), "SELECT nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v, want the server's error", err)
	}
	if _, err := c.Query(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("after an error: %v", err)
	}
	if got := pg.Query(t, db, "SELECT count(*) FROM t"); got[0] != "6" {
		t.Errorf("got %s rows, want 6", got)
	}
	if _, err := Connect(t.Context(), pg.Addr(), pgtest.Superuser, "nowhere"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v, want the server's refusal", err)
	}
}

func TestQueueKeepsTheOrder(t *testing.T) {
	t.Parallel()
	var q queue[int]
	next, want := 0, 0
	for round := range 5000 {
		for range round % 7 {
			q.push(next)
			next++
		}
		for range min(round%6, q.len()) {
			if got := q.pop(); got != want {
				t.Fatalf("got %d, want %d", got, want)
			}
			want++
		}
	}
	if q.len() != next-want {
		t.Errorf("got %d left, want %d", q.len(), next-want)
	}
}
