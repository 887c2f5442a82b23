package admin

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAveragesSpanOneToTwoPeriods(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	queries := func(n uint64) []DatabaseStats { return []DatabaseStats{{"app", Stats{Queries: n}}} }
	a := newAverager(at(0))
	rate := func(now time.Time, n uint64) uint64 { return a.average(now, queries(n)[0]).Queries }

	if got := rate(at(4), 50); got != 10 { // 50 in 4 s, and the second before the start
		t.Errorf("before the first tick: %d, want 10", got)
	}
	a.tick(at(15), queries(150))
	if got := rate(at(20), 200); got != 10 { // since the start
		t.Errorf("after the first tick: %d, want 10", got)
	}
	a.tick(at(30), queries(900))
	if got := rate(at(30), 900); got != 50 { // 750 since the tick at 15
		t.Errorf("at the second tick: %d, want 50", got)
	}
	if got := rate(at(45), 3150); got != 100 { // 3000 in 30 s
		t.Errorf("before the third tick: %d, want 100", got)
	}
	if got := a.average(at(15), queries(900)[0]); got != (Averages{}) {
		t.Errorf("no time has passed: %+v, want nothing", got)
	}
}

func TestAveragesOfTimesArePerEvent(t *testing.T) {
	t.Parallel()
	old := Stats{
		Assignments: 10, Transactions: 10, Queries: 100, Received: 1000, Sent: 1000, ClientParses: 1, ServerParses: 1, Binds: 1,
		TransactionTime: time.Second, QueryTime: time.Second, WaitTime: time.Second,
	}
	cur := Stats{
		Assignments: 20, Transactions: 15, Queries: 200, Received: 2001, Sent: 3000, ClientParses: 11, ServerParses: 21, Binds: 31,
		TransactionTime: 2 * time.Second, QueryTime: 3 * time.Second, WaitTime: 6 * time.Second,
	}
	want := Averages{
		Assignments: 1, Transactions: 0, Queries: 10, Received: 100, Sent: 200, ClientParses: 1, ServerParses: 2, Binds: 3,
		TransactionTime: 200 * time.Millisecond, QueryTime: 20 * time.Millisecond, WaitTime: 500 * time.Millisecond,
	}
	if diff := cmp.Diff(want, average(cur, old, 10*time.Second)); diff != "" {
		t.Errorf("averages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Averages{}, average(old, old, 10*time.Second)); diff != "" {
		t.Errorf("nothing happened (-want +got):\n%s", diff)
	}
}

// TestAveragesOfADatabaseThatCameBack: its sums begin at zero again.
func TestAveragesOfADatabaseThatCameBack(t *testing.T) {
	t.Parallel()
	a := newAverager(epoch)
	big := []DatabaseStats{{"app", Stats{Queries: 1000, Transactions: 1000}}, {"shop", Stats{Queries: 100}}}
	a.tick(epoch, big)
	a.tick(epoch, big)
	now := epoch.Add(10 * time.Second)
	if got := a.average(now, DatabaseStats{"app", Stats{Queries: 20}}).Queries; got != 2 {
		t.Errorf("app: %d, want 2", got)
	}
	all := a.averageAll(now, []DatabaseStats{{"app", Stats{Queries: 20}}, {"shop", Stats{Queries: 180}}})
	if all.Queries != 10 {
		t.Errorf("all: %d, want 10", all.Queries)
	}
}

func TestTickFeedsShowStats(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.stats = []DatabaseStats{{"app", Stats{Queries: 1000}}}
	c := f.console()
	c.Tick()
	c.Tick() // both samples are now what is
	f.now = f.now.Add(10 * time.Second)
	f.stats = []DatabaseStats{{"app", Stats{Queries: 1500}}}
	r, err := c.Run(t.Context(), "SHOW STATS_AVERAGES", admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(r.Statements[0].Rows.Cell(0, 3)); got != "50" {
		t.Errorf("queries per second %s, want 50", got)
	}
}
