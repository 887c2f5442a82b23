package store

import (
	"context"
	"sync"
)

// locks are named locks within this process. The zero value is ready.
type locks struct {
	mu struct {
		sync.Mutex
		held map[string]*held
	}
}

// held is a lock that somebody has or waits for.
type held struct {
	room chan struct{} // has an element while somebody has it
	uses int           // guarded by locks.mu
}

// lock waits for a lock until ctx is done, or the store's context is.
func (l *locks) lock(ctx, store context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.mu.held == nil {
		l.mu.held = make(map[string]*held)
	}
	h := l.mu.held[name]
	if h == nil {
		h = &held{room: make(chan struct{}, 1)}
		l.mu.held[name] = h
	}
	h.uses++
	l.mu.Unlock()
	if err = ctx.Err(); err == nil {
		select {
		case h.room <- struct{}{}:
			return sync.OnceFunc(func() {
				<-h.room
				l.leave(name, h)
			}), nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-store.Done():
			err = ErrClosed
		}
	}
	l.leave(name, h)
	return nil, err
}

func (l *locks) leave(name string, h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.uses--; h.uses == 0 {
		delete(l.mu.held, name)
	}
}
