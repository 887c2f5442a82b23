package loop

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// step is how a step came about, for those who send what it left.
type step struct {
	reader             *Backend
	ev                 *socket // the client's
	begin              *start  // instead, where it has none
	own, waits, polled bool
	talks, yields      bool
	now                int64
}

// after does what a step asked for, without the lock.
func (c *Client) after(b, free *Backend, queue *waiter, todo *[]action, s *step) {
	defer c.caughtAfter()
	if todo != nil {
		for i := range *todo {
			c.do(&(*todo)[i], s)
		}
	}
	if free != nil {
		free.lease.ReleaseAt(pool.Instant(s.now))
	}
	if queue != nil {
		c.w.whenRead(queue.join) // who does not read gets nothing to do
	}
	if b != nil {
		b.w.mu.Lock()
		c.feedServer(b, s)
	}
	if s.talks || s.own && !s.polled {
		c.w.mu.Lock()
		c.feedClient(s)
	}
	if s.yields {
		c.w.whenRead(func() {
			c.g.spawn(func() { c.step(c.sess.Continue) })
		})
	}
}

// caughtAfter is caught for what is done without the lock.
func (c *Client) caughtAfter() {
	if r := recover(); r != nil {
		c.mu.Lock()
		c.now = nanos()
		func() {
			defer c.caught()
			c.bug(r)
		}()
		c.unlock(nil, false)
	}
}

// feedServer sends what is staged for b, whose writer is locked, and unlocks it.
func (c *Client) feedServer(b *Backend, s *step) {
	if s.own && !s.polled {
		s.begin.writes.Store(true)
		if (b.w.pendingLocked() > writeLimit || b.w.ev == nil) && !s.begin.watched.Swap(true) {
			c.g.present.watch(c)
		}
		b.w.flushAndWaitLocked()
		s.begin.writes.Store(false)
		return
	}
	b.w.flushLocked(c.g, s.ev, nil)
	if s.ev != nil && s.ev.isHeld() {
		if b.client.Load() != c { // it was let go meanwhile
			b.w.letGo(s.ev)
		}
		c.g.present.watch(c)
	}
}

// feedClient sends what is staged for the client, whose writer is locked, and unlocks it.
func (c *Client) feedClient(s *step) {
	switch {
	case s.waits && !s.polled:
		c.w.flushAndWaitLocked()
	case s.waits && s.reader != nil:
		ev := s.reader.ev
		c.w.flushLocked(c.g, s.ev, ev)
		if ev.isHeld() && s.reader.client.Load() != c {
			c.w.letGo(ev)
		}
	default:
		c.w.flushLocked(c.g, s.ev, nil)
	}
	if s.ev != nil && s.ev.isHeld() {
		c.g.present.watch(c)
	}
}

// do does what a step asked for.
func (c *Client) do(a *action, s *step) {
	g := c.g
	switch a.kind {
	case doFlush:
		a.b.w.mu.Lock()
		c.feedServer(a.b, s)
	case doRelease:
		if a.job == nil {
			a.b.lease.Release()
			break
		}
		b, job := a.b, a.job
		g.spawn(func() {
			job()
			b.lease.Release()
		})
	case doDiscard:
		if a.holds {
			a.b.parts(c, nil)
		}
		g.source.Discard(a.b, pool.Reason(a.reason), a.err)
	case doDrop:
		a.lease.Discard(pool.Reason(a.reason))
	case doPart:
		if a.holds {
			a.b.parts(c, a.settler)
		}
		a.b.w.mu.Lock()
		c.feedServer(a.b, s)
		a.b.settle(g.rollbackTimeout)
	case doCancel:
		b, done := a.b, a.done
		g.spawn(func() {
			b.cancelled(g.source.Cancel(b))
			if done != nil {
				done.Done()
			}
		})
	case doCalm:
		b := a.b
		g.spawn(b.calm)
	case doCancelRequest:
		pid, secret := a.pid, a.secret
		g.spawn(func() {
			g.source.CancelRequest(pid, secret)
			c.step(c.sess.CancelDone)
		})
	case doParameters:
		g.spawn(func() {
			e := g.source.Parameters(a.acct, c.sess.ServerLogin())
			c.step(func() {
				if e != nil {
					c.sess.CheckoutFailed(e)
				} else {
					c.sess.ParametersKnown()
				}
			})
		})
	case doDedicate:
		g.spawn(func() {
			b, e := g.source.Dedicate(a.acct, c.sess.ServerLogin(), a.shard, a.params)
			c.step(func() {
				switch {
				case e != nil:
					c.sess.CheckoutFailed(e)
				case b.adopt(c, nil):
					c.sess.Dedicated(b.Conn)
				default: // its server is gone already
					c.later(action{kind: doDiscard, b: b, reason: string(pool.ReasonGone)})
					c.sess.CheckoutFailed(errNoServer)
				}
			})
		})
	case doJob:
		run := g.spawn
		if a.brief {
			run = g.work
		}
		run(func() {
			a.job()
			c.offloaded()
		})
	}
}

// errNoServer fails what needs a server that has gone.
var errNoServer = pgwire.Errorf(pgwire.CodeConnectionFailure, "the connection to the server was lost").WithRoutine("shard_unavailable")
