package pooler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/admin"
)

// Shutdown begins a shutdown; Run returns at its end.
func (p *Pooler) Shutdown() { p.shutdown(admin.ShutdownDrain) }

// Hurry ends a shutdown at once, or begins one that does not wait.
func (p *Pooler) Hurry() { p.shutdown(admin.ShutdownImmediate) }

// urgency orders the modes of a shutdown; 0 = none.
func urgency(m admin.ShutdownMode) int {
	switch m {
	case admin.ShutdownWaitForClients:
		return 1
	case admin.ShutdownWaitForServers:
		return 2
	case admin.ShutdownDrain:
		return 3
	case admin.ShutdownImmediate:
		return 4
	}
	return 0
}

// shutdown begins a shutdown, or makes the one under way more urgent. It returns false where that one is as urgent already.
func (p *Pooler) shutdown(mode admin.ShutdownMode) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, now := urgency(p.mu.mode), urgency(mode)
	if now <= was {
		return false
	}
	p.mu.mode = mode
	p.log.Info("shutting down", "mode", mode.String())
	for i, c := range [...]chan struct{}{p.ending, p.evicting, p.limited, p.hurry} {
		if i >= was && i < now {
			close(c)
		}
	}
	return true
}

// leaveTick is how often it is looked whether the last client has left.
const leaveTick = 20 * time.Millisecond

// drain lets sessions end, then closes everything.
func (p *Pooler) drain() {
	p.listeners.close()
	p.waitForClients()
	p.stop()

	ctx, cancel := context.WithCancel(context.Background()) // it outlives whoever ordered the shutdown
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		select {
		case <-p.limited:
		case <-ctx.Done():
			return
		}
		conf := p.state.Load().cfg.Shutdown
		if p.hurried(ctx, conf.Timeout) || conf.TerminationTimeout <= 0 {
			return
		}
		p.log.Info("cancelling what still runs", "clients", p.driver.Len())
		for _, c := range p.driver.Clients() {
			wg.Go(c.Cancel) // bounded by cancelTimeout
		}
		p.hurried(ctx, conf.TerminationTimeout)
	})
	p.driver.Drain(ctx)
	cancel()
	wg.Wait()
	p.ears.Close()

	closing, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	p.mu.Lock()
	units := make([]*unit, 0, len(p.mu.units))
	for _, u := range p.mu.units {
		units = append(units, u)
	}
	p.mu.Unlock()
	if p.follower != nil {
		units = append(units, p.follower.end()...)
	}
	for _, u := range units {
		if err := u.cl.Close(closing); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			p.log.Warn("cluster close", "cluster", u.name(), "error", err)
		}
	}
}

// hurried waits for a time; it returns true, earlier, when all is over or the shutdown has become immediate.
func (p *Pooler) hurried(ctx context.Context, d time.Duration) bool {
	limit := time.NewTimer(d)
	defer limit.Stop()
	select {
	case <-limit.C:
		return false
	case <-p.hurry:
	case <-ctx.Done():
	}
	return true
}

// waitForClients returns when only operators are connected, or when clients are to be closed.
func (p *Pooler) waitForClients() {
	tick := time.NewTicker(leaveTick)
	defer tick.Stop()
	for int64(p.driver.Len()) > p.operators.Load() {
		select {
		case <-p.evicting:
			return
		case <-tick.C:
		}
	}
}
