package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// town is several pools under one budget, with one clock.
type town struct {
	t     *testing.T
	b     *Budget
	pools []*bench
}

func newTown(t *testing.T, limit, pools int, s Settings) *town {
	t.Helper()
	w := &town{t: t, b: NewBudget(limit)}
	for range pools {
		w.pools = append(w.pools, newBudgeted(t, s, w.b))
	}
	return w
}

// settle runs background tasks until there are none.
func (w *town) settle() {
	for busy := true; busy; {
		busy = false
		for _, b := range w.pools {
			if len(b.tasks) > 0 {
				busy = true
				b.step()
			}
		}
	}
}

// giveBack has all who were served, and those who are then, give their connections back.
func (w *town) giveBack(order *[]*client) {
	for len(*order) > 0 {
		c := (*order)[0]
		*order = (*order)[1:]
		c.lease.Release()
		w.settle()
	}
}

// pass lets time pass for all.
func (w *town) pass(d time.Duration) {
	w.t.Helper()
	end := w.pools[0].clock.Add(d)
	for range 100_000 {
		w.settle()
		next := end
		for _, b := range w.pools {
			if at := b.next(); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		for _, b := range w.pools {
			if next.After(b.clock) {
				b.clock = next
			}
		}
		if !next.Before(end) {
			return
		}
		for _, b := range w.pools {
			if at := b.next(); !at.IsZero() && !at.After(next) {
				b.p.Tick()
			}
		}
	}
	w.t.Fatal("the pools want to be ticked all the time")
}

func (w *town) open() int {
	n := 0
	for _, b := range w.pools {
		n += b.open
	}
	return n
}

// wants holds the budget to its counts, and to its limit.
func (w *town) wants(used, queued int) {
	w.t.Helper()
	s := w.b.Stats()
	if s.Used != used || s.Queued != queued {
		w.t.Fatalf("got %d connections used and %d pools queued, want %d and %d", s.Used, s.Queued, used, queued)
	}
}

// end closes all pools, after which nothing of them is left in the budget.
func (w *town) end(lent ...*client) {
	w.t.Helper()
	for _, c := range lent {
		c.lease.Release()
	}
	for _, b := range w.pools {
		b.p.Drain()
	}
	w.settle()
	for _, b := range w.pools {
		b.end()
	}
	w.wants(0, 0)
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.b.mu.active != 0 || w.b.mu.closing != 0 || len(w.b.mu.holders) != 0 || w.b.mu.queue.front != nil || w.b.pressed.Load() {
		w.t.Errorf("an empty budget remembers %d active, %d closing, %d holders", w.b.mu.active, w.b.mu.closing, len(w.b.mu.holders))
	}
}

func (c *client) served() bool { return c.lease != nil }

func TestBudgetIsSharedByPools(t *testing.T) {
	w := newTown(t, 3, 2, Settings{Max: 10})
	one, two := w.pools[0], w.pools[1]
	lent := []*client{one.take(), one.take(), two.take()}
	w.wants(3, 0)
	c := two.ask()
	w.pass(time.Second)
	if c.served() || w.open() != 3 {
		t.Fatalf("got %d connections open", w.open())
	}
	w.wants(3, 1)
	lent[0].lease.Release() // idle, and wanted
	w.settle()
	if !c.served() || w.open() != 3 || one.conns[0].closed != ReasonBudget {
		t.Fatalf("got %d connections open, the one released closed for %q", w.open(), one.conns[0].closed)
	}
	w.wants(3, 0)
	w.end(lent[1], lent[2], c)
}

func TestYoungConnectionsStayForAWhile(t *testing.T) {
	w := newTown(t, 1, 2, Settings{Max: 10})
	one, two := w.pools[0], w.pools[1]
	a := one.take()
	c := two.ask()
	a.lease.Release()
	w.settle()
	if c.served() {
		t.Fatal("a connection is closed after its first use")
	}
	a = one.take() // the same one
	a.lease.Release()
	one.p.Tick() // which sees when to look again
	w.pass(minQuantum/graceQuanta + time.Millisecond)
	if !c.served() || one.opens != 1 {
		t.Fatalf("an idle connection was not closed after its grace")
	}
	d := one.ask()
	opened := c.lease.Opened()
	for range 100 { // a client that never rests
		w.pass(time.Millisecond)
		if d.served() {
			t.Fatal("a connection was closed while it was lent")
		}
		if c.lease.Release(); c.lease.state == Closing {
			break
		}
		c = two.take()
	}
	w.settle()
	if !d.served() {
		t.Fatal("the quantum has no end")
	}
	if held := two.clock.Sub(opened); held < minQuantum || held > minQuantum+time.Millisecond {
		t.Errorf("the connection was kept for %v, want %v", held, minQuantum)
	}
	w.end(d)
}

func TestLeastRecentlyUsedIsClosedFirst(t *testing.T) {
	w := newTown(t, 3, 6, Settings{Max: 10})
	for _, i := range []int{0, 1, 2} {
		w.pools[i].take().lease.Release()
		w.pass(time.Second)
	}
	w.pools[0].take().lease.Release() // 1 is the oldest now, then 2
	w.pass(time.Second)
	want := []int{1, 2, 0}
	var lent []*client
	for n, i := range want {
		c := w.pools[3+n].ask()
		w.settle()
		if !c.served() {
			t.Fatal("no room is made")
		}
		if got := w.pools[i].conns[0].closed; got != ReasonBudget {
			t.Fatalf("connection of pool %d, number %d in line: closed for %q", i, n, got)
		}
		lent = append(lent, c)
	}
	w.end(lent...)
}

func TestOneIsServedAmongAThousand(t *testing.T) {
	for _, limit := range []int{1, 2, 8, 100} {
		w := newTown(t, limit, 2, Settings{Max: 200})
		greedy, other := w.pools[0], w.pools[1]
		var order []*client
		clients := map[*client]bool{}
		for range 1000 {
			c := newClient()
			c.order = &order
			clients[c] = true
			greedy.p.Checkout(&c.w)
		}
		w.settle()
		one := other.ask()
		releases := 0
		for !one.served() {
			if len(order) == 0 {
				t.Fatalf("limit %d: nobody is served", limit)
			}
			c := order[0]
			order = order[1:]
			w.pass(time.Millisecond)
			c.lease.Release() // its owner comes back at once
			if releases++; releases > 200 {
				t.Fatalf("limit %d: got no connection after %d releases", limit, releases)
			}
			greedy.p.Checkout(&c.w)
			w.settle()
		}
		most := int(minQuantum / time.Millisecond)
		if limit == 1 { // the fair share is all that there is, and the others came first
			most *= sliceQuanta
		}
		if releases > most {
			t.Errorf("limit %d: served after %d releases, want %d", limit, releases, most)
		}
		w.wants(limit, 1)
		one.lease.Release()
		w.giveBack(&order)
		w.end()
	}
}

func TestWhoseClientsCameFirstIsServedFirst(t *testing.T) {
	w := newTown(t, 1, 2, Settings{Max: 5})
	one, two := w.pools[0], w.pools[1]
	a := one.take()
	b := two.ask()
	w.pass(time.Millisecond)
	for held := time.Millisecond; !b.served(); held += time.Millisecond {
		next := one.ask() // later than b
		a.lease.Release()
		w.settle()
		if held < minQuantum && !next.served() || held > minQuantum {
			t.Fatalf("after %v: own client served: %t, the other's: %t", held, next.served(), b.served())
		}
		a = next
		w.pass(time.Millisecond)
	}
	w.pass(time.Second) // a has no slice: it came later
	b.lease.Release()
	w.pass(minQuantum)
	if !a.served() {
		t.Fatal("the connection does not come back")
	}
	w.end(a)
}

func TestWhoHasNothingComesFirst(t *testing.T) {
	w := newTown(t, 2, 3, Settings{Max: 5})
	a, c := w.pools[0].take(), w.pools[1].take()
	more := w.pools[0].ask()
	one := w.pools[2].ask()
	w.pass(time.Millisecond)
	c.lease.Discard("test")
	w.settle()
	if more.served() || !one.served() {
		t.Fatalf("one with a connection got another: %t; one without any: %t", more.served(), one.served())
	}
	one.lease.Release()
	w.pass(time.Second)
	if !more.served() {
		t.Fatal("nobody gets what is free")
	}
	w.end(a, more)
}

func TestAThousandPoolsOverAHundredConnections(t *testing.T) {
	w := newTown(t, 100, 1000, Settings{Max: 10, CheckoutTimeout: 10 * time.Second})
	var waiting []*client
	for _, b := range w.pools {
		for range 2 {
			c := newClient()
			b.p.Checkout(&c.w)
			waiting = append(waiting, c)
		}
	}
	for range 1000 {
		w.settle()
		if w.open() > 100 {
			t.Fatalf("got %d connections", w.open())
		}
		var still []*client
		for _, c := range waiting {
			switch {
			case c.err != nil:
				t.Fatal(c.err)
			case c.lease != nil:
				c.lease.Release()
			default:
				still = append(still, c)
			}
		}
		if waiting = still; len(waiting) == 0 {
			w.end()
			return
		}
		w.pass(5 * time.Millisecond)
	}
	t.Fatalf("%d clients are not served", len(waiting))
}

// TestSharesBecomeFair: who came first does not keep everything.
func TestSharesBecomeFair(t *testing.T) {
	w := newTown(t, 12, 3, Settings{Max: 100})
	var order []*client
	ask := func(b *bench) {
		c := newClient()
		c.order = &order
		b.p.Checkout(&c.w)
	}
	for _, b := range w.pools {
		for range 30 {
			ask(b)
		}
		w.settle()
	}
	at := func(c *client) *bench {
		for _, b := range w.pools {
			if b.p == c.lease.pool {
				return b
			}
		}
		return nil
	}
	opens := 0
	for i := range 4000 {
		c := order[0]
		order = order[1:]
		b := at(c)
		c.lease.Release()
		ask(b)
		w.pass(time.Millisecond)
		if i == 3000 {
			for _, b := range w.pools {
				opens -= b.opens
				if s := b.p.Stats(); s.Total() != 4 {
					t.Errorf("got %d connections of one pool, want 4", s.Total())
				}
			}
		}
	}
	for _, b := range w.pools {
		opens += b.opens
	}
	if opens > 0 {
		t.Errorf("pools with fair shares take connections from each other: %d in a second", opens)
	}
	w.giveBack(&order)
	w.end()
}

func TestFailedOpensGiveTheirPlaceBack(t *testing.T) {
	for _, fail := range []error{errDown, errRejected, errTransient} {
		w := newTown(t, 1, 2, Settings{Max: 5, CheckoutTimeout: time.Minute})
		one, two := w.pools[0], w.pools[1]
		one.fail = fail
		bad := one.ask()
		good := two.ask()
		w.wants(1, 1)
		w.settle()
		if !good.served() {
			t.Fatalf("%v: the place of a failed open is not free", fail)
		}
		if errors.Is(fail, errTransient) == (bad.err != nil) {
			t.Fatalf("%v: got %v", fail, bad.err)
		}
		one.fail = nil
		good.lease.Release()
		w.pass(10 * time.Second)
		if bad.err == nil && !bad.served() {
			t.Fatalf("%v: not served after all", fail)
		}
		if bad.lease != nil {
			bad.lease.Release()
		}
		w.end()
	}
}

func TestQueueOfABudgetIsLeft(t *testing.T) {
	for name, leave := range map[string]func(*bench, *client){
		"withdraw": func(_ *bench, c *client) { c.w.Withdraw() },
		"pause":    func(b *bench, _ *client) { b.p.Pause() },
		"drain":    func(b *bench, _ *client) { b.p.Drain() },
		"timeout": func(b *bench, _ *client) {
			s := b.p.Settings()
			s.CheckoutTimeout = 1
			b.clock = b.clock.Add(time.Minute)
			b.p.Reconfigure(s)
			b.p.Tick()
		},
		"max": func(b *bench, _ *client) { b.fail = errRejected },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, 1, 3, Settings{Max: 5})
			a := w.pools[0].take()
			b := w.pools[1].ask()
			c := w.pools[2].ask()
			w.wants(1, 2)
			leave(w.pools[1], b)
			a.lease.Release()
			w.pass(2 * minQuantum)
			if !c.served() {
				t.Fatal("the second in the queue is not served")
			}
			w.wants(1, 0)
			if errors.Is(b.err, ErrCheckoutTimeout) {
				if _, ok := errors.AsType[*OpenError](b.err); ok {
					t.Errorf("the server is said to be at fault: %v", b.err)
				}
			}
			c.lease.Release()
			if name == "pause" {
				w.pools[1].p.Resume()
				w.pass(2 * minQuantum)
				b.lease.Release()
			}
			w.end()
		})
	}
}

func TestLimitOfABudgetChanges(t *testing.T) {
	w := newTown(t, 4, 2, Settings{Max: 10})
	one, two := w.pools[0], w.pools[1]
	lent := []*client{one.take(), one.take(), one.take()}
	two.take().lease.Release()
	w.pass(time.Second)
	w.b.SetLimit(2)
	w.settle()
	w.wants(3, 0) // the idle one is closed
	lent[0].lease.Release()
	w.pass(time.Second)
	w.wants(2, 0)
	lent[1].lease.Release() // that is not one too many
	w.pass(time.Second)
	w.wants(2, 0)
	a, b := one.ask(), two.ask()
	w.pass(time.Second)
	if !a.served() || b.served() {
		t.Fatalf("got %t, %t", a.served(), b.served())
	}
	w.b.SetLimit(3)
	w.settle()
	if !b.served() {
		t.Fatal("not served by a higher limit")
	}
	w.b.SetLimit(0)
	var more []*client
	for range 9 {
		more = append(more, two.ask())
	}
	w.settle()
	w.wants(2+10, 0)
	for _, c := range more {
		c.lease.Release()
	}
	two.p.Resize(0, 2)
	w.settle()
	w.end(lent[2], a, b)
}

// TestBudgetedPoolsByChance: whatever happens, the limit is kept, the counts are right, and who waits is served in the end.
func TestBudgetedPoolsByChance(t *testing.T) {
	runs := 600
	if testing.Short() {
		runs = 150
	}
	for seed := range uint64(runs) {
		if playTown(t, seed); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func playTown(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	limit := 1 + r.IntN(5)
	w := newTown(t, limit, 1+r.IntN(6), Settings{
		Max: 1 + r.IntN(5), Min: r.IntN(2), CheckoutTimeout: 30 * time.Second, IdleTimeout: time.Second, HealthInterval: 300 * time.Millisecond,
		AliveAfter: 100 * time.Millisecond, Lifetime: 2 * time.Second, ConnectBackoff: 50 * time.Millisecond, RejectedDelay: 200 * time.Millisecond,
	})
	var waiting, idle []*client
	paused := map[*bench]bool{}
	most := limit
	for range 12 {
		idle = append(idle, newClient())
	}
	answered := func() (lent []*client) {
		var still []*client
		for _, c := range waiting {
			switch {
			case c.lease != nil:
				lent = append(lent, c)
			case c.err != nil:
				c.err = nil
				idle = append(idle, c)
				continue
			}
			still = append(still, c)
		}
		waiting = still
		return lent
	}
	give := func(c *client, back func(*Lease[*fakeConn])) {
		l := c.lease
		c.lease = nil
		for i, x := range waiting {
			if x == c {
				waiting = append(waiting[:i:i], waiting[i+1:]...)
				break
			}
		}
		idle = append(idle, c)
		back(l)
	}
	for range 300 {
		b := w.pools[r.IntN(len(w.pools))]
		switch r.IntN(22) {
		case 0, 1, 2, 3, 4:
			if c, ok := pick(r, &idle); ok {
				waiting = append(waiting, c)
				b.p.Checkout(&c.w)
			}
		case 5, 6, 7, 8:
			if lent := answered(); len(lent) > 0 {
				give(lent[r.IntN(len(lent))], (*Lease[*fakeConn]).Release)
			}
		case 9:
			if lent := answered(); len(lent) > 0 {
				give(lent[r.IntN(len(lent))], func(l *Lease[*fakeConn]) { l.Discard("test") })
			}
		case 10:
			if len(waiting) > 0 {
				i := r.IntN(len(waiting))
				if c := waiting[i]; c.w.Withdraw() {
					waiting = append(waiting[:i:i], waiting[i+1:]...)
					idle = append(idle, c)
				}
			}
		case 11, 12, 13, 14:
			if f, ok := pick(r, &b.tasks); ok {
				f()
			}
		case 15:
			d := time.Duration(r.IntN(60)) * time.Millisecond
			for _, b := range w.pools {
				b.clock = b.clock.Add(d)
			}
		case 16:
			b.p.Tick()
		case 17:
			if paused[b] = !paused[b]; paused[b] {
				b.p.Pause()
			} else {
				b.p.Resume()
			}
		case 18:
			limit = 1 + r.IntN(6)
			most = max(most, limit)
			w.b.SetLimit(limit)
		case 19:
			b.p.Resize(r.IntN(2), 1+r.IntN(5))
		case 20:
			b.fail = []error{nil, nil, errDown, errTransient, errRejected}[r.IntN(5)]
		case 21:
			switch r.IntN(3) {
			case 0:
				b.p.Suspect()
			case 1:
				b.p.Reconnect()
			case 2:
				b.p.Kill()
			}
		}
		w.holds(most)
	}
	for _, b := range w.pools {
		b.fail = nil
		b.p.Resume()
		b.p.Resize(0, 3)
	}
	for range 200 {
		for _, c := range answered() {
			give(c, (*Lease[*fakeConn]).Release)
		}
		if len(waiting) == 0 {
			break
		}
		w.pass(10 * time.Millisecond)
		w.holds(most)
	}
	if len(waiting) > 0 {
		t.Fatalf("%d clients are waiting and nothing happens: %+v", len(waiting), w.b.Stats())
	}
	w.end()
}

// holds checks what must be so at any time.
func (w *town) holds(most int) {
	w.t.Helper()
	used, closing, queued := 0, 0, 0
	for i, b := range w.pools {
		s := b.p.Stats()
		used += s.Total()
		closing += s.Closing
		if sh := b.p.share; sh.used != s.Total() || sh.closing != s.Closing {
			w.t.Fatalf("pool %d has %d connections, %d of them being closed; counted %d, %d", i, s.Total(), s.Closing, sh.used, sh.closing)
		}
		if !b.p.share.queued && s.Waiting > s.Opening && s.Total() < min(s.Max, w.b.mu.limit) && !s.Paused && s.Trouble == nil {
			w.t.Fatalf("somebody waits in pool %d, which asks for nothing: %+v", i, s)
		}
		if b.p.share.queued {
			queued++
			if s.Waiting == 0 || s.Paused || s.Closed {
				w.t.Fatalf("pool %d queues for nothing: %+v", i, s)
			}
		}
	}
	if got := w.b.Stats(); got.Used != used || got.Queued != queued || w.b.mu.closing != closing {
		w.t.Fatalf("got %+v, want %d used, %d queued, %d being closed", got, used, queued, closing)
	}
	if used > most {
		w.t.Fatalf("got %d connections, with %d allowed", used, most)
	}
	if queued > 0 && used < w.b.mu.limit {
		w.t.Fatalf("%d pools queue although %d of %d connections are used", queued, used, w.b.mu.limit)
	}
	if w.b.mu.settling || w.b.pressed.Load() != (queued > 0 || used-closing > w.b.mu.limit) {
		w.t.Fatal("the budget is not settled")
	}
}

func TestManyPoolsUnderOneBudget(t *testing.T) {
	const pools, clients, rounds, limit = 12, 15, 250, 7
	var failed atomic.Int32
	conns := &stressConns{}
	budget := NewBudget(limit)
	ctx, cancel := context.WithCancel(t.Context())
	var ran, wg sync.WaitGroup
	var all []*Pool[*stressConn]
	for range pools {
		p := New(Options{Budget: budget, Settings: Settings{
			Max: 5, CheckoutTimeout: 20 * time.Second, IdleTimeout: 3 * time.Millisecond, HealthInterval: time.Millisecond,
			Lifetime: 20 * time.Millisecond, LifetimeJitter: 5 * time.Millisecond, AliveAfter: 1, ConnectAttempts: 10,
			ConnectBackoff: time.Millisecond, MaxBackoff: time.Millisecond,
		}}, conns.hooks(t, nil))
		all = append(all, p)
		ran.Go(func() { _ = p.Run(ctx) })
		for range clients {
			wg.Go(func() {
				c := &stressClient{answer: make(chan any, 1)}
				c.w.To = c
				for range rounds {
					p.Checkout(&c.w)
					if rand.IntN(10) == 0 && c.w.Withdraw() {
						continue
					}
					l, ok := (<-c.answer).(*Lease[*stressConn])
					if !ok {
						failed.Add(1)
						continue
					}
					useStressed(t, l)
				}
			})
		}
	}
	ran.Go(func() { // an operator who cannot leave it alone
		for ctx.Err() == nil {
			p := all[rand.IntN(pools)]
			switch rand.IntN(6) {
			case 0:
				p.Pause()
				p.Resume()
			case 1:
				p.Resize(0, 1+rand.IntN(5))
			case 2:
				p.Reconnect()
			case 3:
				p.Suspect()
			case 4:
				budget.SetLimit(1 + rand.IntN(limit))
			case 5:
				budget.Stats()
				time.Sleep(time.Millisecond)
			}
		}
	})
	wg.Wait()
	cancel()
	ran.Wait()
	for _, p := range all {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if conns.open.Load() != 0 || budget.Stats().Used != 0 || budget.Stats().Queued != 0 {
		t.Errorf("got %d connections open after Close, %+v", conns.open.Load(), budget.Stats())
	}
	if conns.most.Load() > limit {
		t.Errorf("got %d connections at once, want %d at most", conns.most.Load(), limit)
	}
	t.Logf("at most %d connections, %d checkouts failed", conns.most.Load(), failed.Load())
}
