package pooler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/loop"
)

const (
	// cancelTimeout bounds a cancel request to a server or to a peer, the wait for its turn included.
	cancelTimeout = 10 * time.Second
	// mostCancels is how many connections for cancel requests are open to one address at once, mostCancelsQueued how many requests wait for those.
	mostCancels, mostCancelsQueued = 8, 512
	// mostCancelling is how many clients may be here to cancel at once, mostForOne how many of them what one other runs.
	mostCancelling, mostForOne = 1000, 16
)

// errManyCancels fails a cancel request that is one too many.
var errManyCancels = errors.New("too many cancel requests are under way")

// lanes bound the cancel requests to each address. The lock is a leaf.
type lanes struct {
	mu sync.Mutex
	to map[backend.Address]*lane
}

type lane struct {
	open  int             // connections
	queue []chan struct{} // each is closed when its turn has come
}

// enter returns when it is the caller's turn to connect to an address; leave has to follow.
func (l *lanes) enter(ctx context.Context, to backend.Address) error {
	l.mu.Lock()
	x := l.to[to]
	if x == nil {
		if l.to == nil {
			l.to = make(map[backend.Address]*lane)
		}
		x = &lane{}
		l.to[to] = x
	}
	switch {
	case x.open < mostCancels:
		x.open++
		l.mu.Unlock()
		return nil
	case len(x.queue) >= mostCancelsQueued:
		l.mu.Unlock()
		return errManyCancels
	}
	turn := make(chan struct{})
	x.queue = append(x.queue, turn)
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	for i, c := range x.queue {
		if c == turn {
			x.queue = append(x.queue[:i], x.queue[i+1:]...)
			l.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	l.mu.Unlock()
	l.leave(to) // the turn came at the last moment
	return context.Cause(ctx)
}

func (l *lanes) leave(to backend.Address) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.to[to]
	if len(x.queue) > 0 {
		close(x.queue[0])
		x.queue = x.queue[1:]
		return
	}
	if x.open--; x.open == 0 {
		delete(l.to, to)
	}
}

// flight is one cancel request to a server.
type flight struct {
	done chan struct{}
	err  error // once it is done
}

// flights are the requests for one backend: one at a time is under way, and one more stands for all who came meanwhile.
type flights struct {
	mu         sync.Mutex
	last, next *flight // next has not begun
}

// cancel has the server of b told to cancel, and returns when it has been.
func (p *Pooler) cancel(b *loop.Backend) error {
	l := b.Owner.(*link)
	l.cancels.mu.Lock()
	if f := l.cancels.next; f != nil {
		l.cancels.mu.Unlock()
		<-f.done
		return f.err
	}
	f, before := &flight{done: make(chan struct{})}, l.cancels.last
	l.cancels.last, l.cancels.next = f, f
	l.cancels.mu.Unlock()
	defer close(f.done)
	if before != nil {
		<-before.done
	}
	ctx, end := context.WithTimeout(context.Background(), cancelTimeout) // the client may be gone
	defer end()
	f.err = p.lanes.enter(ctx, l.dial.Address)
	l.cancels.mu.Lock()
	l.cancels.next = nil
	l.cancels.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	defer p.lanes.leave(l.dial.Address)
	f.err = backend.Cancel(ctx, l.dial, b.Conn.PID, b.Conn.Secret)
	return f.err
}

// Cancel implements loop.Source.
func (s source) Cancel(b *loop.Backend) bool {
	err := s.p.cancel(b)
	switch {
	case err == nil:
		s.p.metrics.Cancels.Inc("sent")
	case errors.Is(err, errManyCancels):
		s.p.metrics.Cancels.Inc("throttled")
	default:
		l := b.Owner.(*link)
		s.p.metrics.Cancels.Inc("failed")
		s.p.log.Warn("cancel failed", "cluster", l.u.name(), "shard", l.info.Shard, "backend_pid", b.Conn.PID, "error", err)
	}
	return err == nil
}

// CancelRequest implements loop.Source. Who is here to cancel takes no client's place, but there are not more than mostCancelling of those.
func (s source) CancelRequest(pid uint32, secret []byte) {
	p := s.p
	p.clients.Add(-1)
	defer p.clients.Add(1)
	defer p.cancelling.Add(-1)
	if p.cancelling.Add(1) > mostCancelling {
		p.metrics.Cancels.Inc("throttled")
		return
	}
	key, passed := p.passed(secret)
	c, ok := p.keys.enter(pid, key)
	switch {
	case ok:
		defer p.keys.leave(c)
		c.Cancel()
	case c != nil:
		p.metrics.Cancels.Inc("throttled")
	case passed:
		p.metrics.Cancels.Inc("unknown_key")
	default:
		p.metrics.Cancels.Inc(p.passOn(pid, secret))
	}
}
