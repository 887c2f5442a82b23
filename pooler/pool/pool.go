// Package pool keeps the connections of one (endpoint, login): it opens them, lends them, checks them and closes them.
// It knows no SQL and no socket; the connection type and what is done with it come in as Hooks.
//
// puddle constructs the connections and caps their number. The pool takes every constructed connection out of puddle
// at once and keeps it as a Lease: in its own last-in-first-out idle list, so that few connections stay hot, or lent
// to a holder. Who finds none idle waits in one first-come-first-served queue; nobody overtakes it.
//
// The pool never blocks its callers. Opening, closing and health checks run as background tasks started by
// Options.Go; by default each is a goroutine, and Close waits for all of them. What depends on time happens in Tick,
// which Run calls when it is due; a deterministic driver calls Tick itself instead.
//
// Locks: Pool.mu -> Budget.mu, which is a leaf. No hook, observer, granter or task runs under either, and puddle's own lock is
// never taken under them. Nobody holds two pools' locks.
package pool

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/puddle/v2"
)

// Settings are the options that may change while the pool lives (see Reconfigure). Zero durations mean no limit
// unless stated otherwise.
type Settings struct {
	Min int // connections to keep open
	Max int // connections open, being opened or being closed, together; at least 1

	CheckoutTimeout time.Duration // how long a waiter waits
	IdleTimeout     time.Duration // a connection above Min that was idle for so long is closed
	Lifetime        time.Duration // a connection so old is closed when it is idle or released
	LifetimeJitter  time.Duration // Lifetime varies by up to so much, down or up
	HealthInterval  time.Duration // an idle connection not known to be good for so long is checked; 0 = never
	HealthTimeout   time.Duration // a check that takes longer has failed
	AliveAfter      time.Duration // Hooks.Alive is asked about connections idle for so long; 0 = 500 ms

	ConnectTimeout  time.Duration // an open that takes longer has failed
	ConnectAttempts int           // failed opens in a row after which waiters are failed; 0 = 1
	ConnectDelay    time.Duration // between those attempts
	ConnectBackoff  time.Duration // pause after the last of them, doubled each time; 0 = 100 ms
	MaxBackoff      time.Duration // limit of that pause; 0 = 2 s
	RejectedDelay   time.Duration // pause after a Rejected open; 0 = 5 s
}

// Options of a pool.
type Options struct {
	Settings
	Name   string  // for errors; not shown to clients
	Owner  any     // see Pool.Owner
	Budget *Budget // that it shares with other pools; nil = none. Nothing queues there for Min.

	Now  func() time.Time // nil = time.Now
	Go   func(func())     // starts a background task; nil = a goroutine
	Rand func() float64   // [0, 1), for jitter; nil = math/rand
}

// Hooks are what the pool does with connections. None of them is called with a lock of the pool held.
type Hooks[C any] struct {
	// Open makes a connection that is ready for use. It may block and must obey ctx.
	Open func(ctx context.Context) (C, error)
	// Close closes a connection that nobody holds. It may block for a short time; until it returns, the connection
	// counts towards Max.
	Close func(c C, reason Reason)
	// Check tells whether an idle connection still works, by asking the server. It may block and must obey ctx.
	// Nil = no checks.
	Check func(ctx context.Context, c C) error
	// Alive tells, without blocking, whether an idle connection was left alone by its server: open, and nothing to
	// read. Nil = not asked.
	Alive func(c C) bool
	// Interrupt makes the holder of a lent connection fail soon, as closing its socket would; the holder then
	// discards it. It must not block and runs concurrently with the holder. Nil = holders are only waited for.
	Interrupt func(c C)
	// Classify tells what an error of Open means. Nil = Unreachable.
	Classify func(err error) Failure
	// Observer hears of events; nil = nobody.
	Observer Observer
}

// Observer hears what happens in a pool, before those who wait hear of it. Its methods are called concurrently,
// without a lock of the pool, and must be quick.
type Observer interface {
	Opened(took time.Duration)
	OpenFailed(took time.Duration, f Failure, err error)
	Closed(reason Reason)
	Checked(took time.Duration, err error) // a health check ended; nil = the connection is good
	Waited(took time.Duration)             // a checkout that had to wait was granted
}

// Pool is the connections of one (endpoint, login). Safe for concurrent use.
type Pool[C any] struct {
	name  string
	owner any
	share *share // of the budget; nil = there is none
	hooks Hooks[C]
	clock func() time.Time // nil = the real one
	spawn func(func())
	rand  func() float64

	// ctx is the root context of opens and checks; Close cancels it.
	ctx    context.Context //nolint:containedctx // root context of the tasks this type runs
	cancel context.CancelCauseFunc

	wake chan struct{} // capacity 1: Run must look again

	mu struct {
		sync.Mutex
		set   Settings
		store *puddle.Pool[*Lease[C]] // of the present Max

		all      []*Lease[C]    // every connection; Lease.index is its place
		idle     leaseList[C]   // can be lent; most recently used first
		doubtful leaseList[C]   // not lent before a check says that they are good
		waiters  waiterQueue[C] // in order of arrival; empty when closed
		leased   int            // of all: lent
		checking int            // of all: checks in flight
		closing  int            // of all: being closed
		opening  int            // opens in flight, not in all
		tasks    int            // background tasks not yet over
		epoch    uint64         // connections of an older epoch are closed when released
		gen      uint64         // connections not verified in this generation are doubtful
		paused   bool
		closed   bool
		wakeAt   Instant       // when Run looks next; 0 = never
		quiet    chan struct{} // closed when nothing is lent; nil = nobody asks
		ended    chan struct{} // closed when a background task ends; nil = nobody asks
		drained  chan struct{} // closed when closed, no connection and no task is left

		trouble trouble
		count   Counters
	}
}

// New makes a pool. It opens nothing and starts nothing; Run fills it up to Min.
func New[C any](o Options, h Hooks[C]) *Pool[C] {
	p := &Pool[C]{name: o.Name, owner: o.Owner, hooks: h, clock: o.Now, spawn: o.Go, rand: o.Rand, wake: make(chan struct{}, 1)}
	if p.spawn == nil {
		p.spawn = func(f func()) { go f() }
	}
	if p.rand == nil {
		p.rand = rand.Float64
	}
	if h.Classify == nil {
		p.hooks.Classify = func(error) Failure { return Unreachable }
	}
	if h.Observer == nil {
		p.hooks.Observer = nobody{}
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background()) // outlives every caller; ended by Close
	p.mu.drained = make(chan struct{})
	p.mu.set = o.Settings.normal()
	p.mu.store = p.newStore(p.mu.set.Max)
	if o.Budget != nil {
		p.share = &share{b: o.Budget, of: p}
	}
	return p
}

// Name returns the name given in Options.
func (p *Pool[C]) Name() string { return p.name }

// Owner returns what was given in Options: how whoever made the pool finds back from a Lease.
func (p *Pool[C]) Owner() any { return p.owner }

func (p *Pool[C]) newStore(limit int) *puddle.Pool[*Lease[C]] {
	store, err := puddle.NewPool(&puddle.Config[*Lease[C]]{
		Constructor: p.construct,
		Destructor:  func(*Lease[C]) {},       // connections are hijacked and closed by closeTask
		MaxSize:     int32(min(limit, 1<<30)), //nolint:gosec // it fits
	})
	if err != nil {
		panic("pool: " + err.Error()) // only for a limit below 1, which normal excludes
	}
	return store
}

// normal returns the settings with defaults filled in and contradictions resolved.
func (s Settings) normal() Settings {
	s.Max = max(s.Max, 1)
	s.Min = min(max(s.Min, 0), s.Max)
	s.ConnectAttempts = max(s.ConnectAttempts, 1)
	if s.AliveAfter <= 0 {
		s.AliveAfter = 500 * time.Millisecond
	}
	if s.ConnectBackoff <= 0 {
		s.ConnectBackoff = 100 * time.Millisecond
	}
	if s.MaxBackoff <= 0 {
		s.MaxBackoff = 2 * time.Second
	}
	s.MaxBackoff = max(s.MaxBackoff, s.ConnectBackoff)
	if s.RejectedDelay <= 0 {
		s.RejectedDelay = 5 * time.Second
	}
	return s
}

type nobody struct{}

func (nobody) Opened(time.Duration)                     {}
func (nobody) OpenFailed(time.Duration, Failure, error) {}
func (nobody) Closed(Reason)                            {}
func (nobody) Checked(time.Duration, error)             {}
func (nobody) Waited(time.Duration)                     {}
