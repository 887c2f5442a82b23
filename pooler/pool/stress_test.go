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

// stressConn notices when two use it at once, or when it is used after its end.
type stressConn struct {
	users  atomic.Int32
	closed atomic.Bool
}

// stressConns are those of a test, some of which can't be opened, or die.
type stressConns struct{ open, most atomic.Int32 }

// hooks open and close them; check may be nil.
func (s *stressConns) hooks(t *testing.T, check func(context.Context, *stressConn) error) Hooks[*stressConn] {
	return Hooks[*stressConn]{
		Open: func(context.Context) (*stressConn, error) {
			if rand.IntN(20) == 0 {
				return nil, errDown
			}
			for n := s.open.Add(1); ; {
				old := s.most.Load()
				if n <= old || s.most.CompareAndSwap(old, n) {
					return new(stressConn), nil
				}
			}
		},
		Close: func(c *stressConn, _ Reason) {
			if c.closed.Swap(true) {
				t.Error("closed twice")
			}
			s.open.Add(-1)
		},
		Check: check,
		Alive: func(*stressConn) bool { return rand.IntN(50) != 0 },
	}
}

// useStressed uses a connection and gives it back, or has it closed.
func useStressed(t *testing.T, l *Lease[*stressConn]) {
	if l.Conn().users.Add(1) != 1 || l.Conn().closed.Load() {
		t.Error("a connection is used twice or after its end")
	}
	l.Conn().users.Add(-1)
	if rand.IntN(20) == 0 {
		l.Discard("test")
	} else {
		l.Release()
	}
}

func TestManyGoroutines(t *testing.T) {
	const clients, rounds, limit = 300, 60, 7
	conns := &stressConns{}
	p := New(Options{Settings: Settings{
		Min: 2, Max: limit, CheckoutTimeout: 2 * time.Second, IdleTimeout: time.Millisecond, HealthInterval: time.Millisecond,
		Lifetime: 20 * time.Millisecond, LifetimeJitter: 5 * time.Millisecond, AliveAfter: 1, ConnectAttempts: 3,
		ConnectBackoff: time.Millisecond, MaxBackoff: time.Millisecond,
	}}, conns.hooks(t, func(context.Context, *stressConn) error {
		if rand.IntN(30) == 0 {
			return errSick
		}
		return nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	var ran sync.WaitGroup
	ran.Go(func() { _ = p.Run(ctx) })
	ran.Go(func() { // an operator who cannot leave it alone
		for ctx.Err() == nil {
			switch rand.IntN(6) {
			case 0:
				p.Pause()
				p.Resume()
			case 1:
				p.Resize(rand.IntN(3), 1+rand.IntN(limit))
			case 2:
				p.Reconnect()
			case 3:
				p.Suspect()
			case 4:
				p.Stats()
				p.Connections()
			case 5:
				time.Sleep(time.Millisecond)
			}
		}
	})

	var granted, failed, withdrawn atomic.Int32
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c := &stressClient{answer: make(chan any, 1)}
			c.w.To = c
			for range rounds {
				l := p.TryCheckout()
				if l == nil {
					p.Checkout(&c.w)
					if rand.IntN(10) == 0 && c.w.Withdraw() {
						withdrawn.Add(1)
						continue
					}
					switch a := (<-c.answer).(type) {
					case error:
						if !errors.Is(a, ErrCheckoutTimeout) && !errors.Is(a, errDown) {
							t.Errorf("got %v", a)
						}
						failed.Add(1)
						continue
					case *Lease[*stressConn]:
						l = a
					}
				}
				granted.Add(1)
				useStressed(t, l)
			}
			select {
			case a := <-c.answer:
				t.Errorf("answered twice: %v", a)
			default:
			}
		})
	}
	wg.Wait()
	cancel()
	ran.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if conns.open.Load() != 0 {
		t.Errorf("got %d connections open after Close", conns.open.Load())
	}
	if conns.most.Load() > limit {
		t.Errorf("got %d connections at once, want %d at most", conns.most.Load(), limit)
	}
	t.Logf("granted %d, failed %d, withdrawn %d", granted.Load(), failed.Load(), withdrawn.Load())
}

type stressClient struct {
	w      Waiter[*stressConn]
	answer chan any
}

func (c *stressClient) Granted(l *Lease[*stressConn]) { c.answer <- l }
func (c *stressClient) CheckoutFailed(err error)      { c.answer <- err }
