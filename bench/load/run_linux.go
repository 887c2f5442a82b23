package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// generator is one run.
type generator struct {
	o        *Options
	schedule *schedule // nil: as fast as answers come
	ep       int
	clients  []*client
	idle     queue[*client] // the longest idle first: all of them take turns
	backlog  queue[time.Duration]
	begin    time.Time
	buf      []byte
	out      []byte
	result   *Result
}

// client is one connection of a run.
type client struct {
	file   *os.File
	fd     int
	frames frames
	busy   bool
	meant  time.Duration // when the statement at work was meant to start
	failed bool
}

func run(ctx context.Context, o *Options) (r *Result, err error) {
	g := &generator{o: o, result: &Result{}, buf: make([]byte, bufferSize), ep: -1}
	if o.Rate > 0 {
		g.schedule = newSchedule(o.Rate, o.Seed)
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.connect(ctx); err != nil {
		return nil, err
	}
	// The thread's timers are to be exact; it is not given back, so that nobody else gets them.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		const prSetTimerSlack = 29
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0)
		done <- g.loop(ctx)
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	return g.result, nil
}

// connect logs all clients in.
func (g *generator) connect(ctx context.Context) (err error) {
	if g.ep, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	for i := range g.o.Clients {
		conn, err := Connect(ctx, g.o.Addr, g.o.User, g.o.Database)
		if err != nil {
			return err
		}
		file, err := conn.conn.(*net.TCPConn).File()
		conn.Close()
		if err != nil {
			return err
		}
		c := &client{file: file, fd: int(file.Fd())}
		g.clients = append(g.clients, c)
		if err := syscall.SetNonblock(c.fd, true); err != nil {
			return err
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)} // the client's number comes back with the event
		if err := syscall.EpollCtl(g.ep, syscall.EPOLL_CTL_ADD, c.fd, &event); err != nil {
			return fmt.Errorf("epoll_ctl: %w", err)
		}
		g.idle.push(c)
	}
	return nil
}

func (g *generator) close() error {
	var errs []error
	for _, c := range g.clients {
		errs = append(errs, c.file.Close())
	}
	if g.ep >= 0 {
		errs = append(errs, syscall.Close(g.ep))
	}
	return errors.Join(errs...)
}

// loop sends what is due and takes answers until all are there.
func (g *generator) loop(ctx context.Context) error {
	events := make([]syscall.EpollEvent, min(g.o.Clients, 256))
	g.begin = time.Now()
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Since(g.begin)
		over := now >= g.o.Length || g.o.Count > 0 && g.result.Sent >= g.o.Count
		if err := g.send(now, over); err != nil {
			return err
		}
		busy := len(g.clients) - g.idle.len()
		if over && busy == 0 && g.backlog.len() == 0 {
			g.result.Elapsed = now - g.o.Warm
			return nil
		}
		if now >= g.o.Length+patience {
			g.giveUp(now)
			return nil
		}
		if err := g.wait(g.pause(now, over)); err != nil {
			return err
		}
		n, err := syscall.EpollWait(g.ep, events, 0)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if err := g.receive(g.clients[e.Fd]); err != nil {
				return err
			}
		}
	}
}

// send gives the idle clients what is due.
func (g *generator) send(now time.Duration, over bool) error {
	if g.schedule == nil {
		for !over && g.idle.len() > 0 && (g.o.Count == 0 || g.result.Sent < g.o.Count) {
			if err := g.start(g.idle.pop(), time.Since(g.begin)); err != nil {
				return err
			}
		}
		return nil
	}
	for g.due(now) {
		g.backlog.push(g.schedule.take())
	}
	for g.backlog.len() > 0 && g.idle.len() > 0 {
		if err := g.start(g.idle.pop(), g.backlog.pop()); err != nil {
			return err
		}
	}
	return nil
}

// due tells whether another statement was meant to start by now.
func (g *generator) due(now time.Duration) bool {
	at := g.schedule.peek()
	return at <= now && at < g.o.Length && (g.o.Count == 0 || g.result.Sent+g.backlog.len() < g.o.Count)
}

// start sends a client's next statement.
func (g *generator) start(c *client, meant time.Duration) error {
	g.out = g.o.Statement(g.out[:0], g.result.Sent)
	g.result.Sent++
	c.busy, c.failed, c.meant = true, false, meant
	n, err := syscall.Write(c.fd, g.out)
	switch {
	case err != nil:
		return fmt.Errorf("write: %w", err)
	case n < len(g.out):
		return io.ErrShortWrite // statements are shorter than a socket's buffer
	}
	return nil
}

// pause is how long there is nothing to do but to wait for answers.
func (g *generator) pause(now time.Duration, over bool) time.Duration {
	const longest = 100 * time.Millisecond // for the end of the context
	wait := longest
	if g.schedule != nil && !over && g.idle.len() > 0 {
		wait = min(wait, g.schedule.peek()-now)
	}
	if !over {
		wait = min(wait, g.o.Length-now)
	}
	return max(wait, 0)
}

// wait waits for answers. epoll_wait(2) counts in milliseconds, which is too coarse; an epoll file can itself be waited for.
func (g *generator) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	var set syscall.FdSet
	if g.ep >= syscall.FD_SETSIZE {
		return errors.New("select: the number of the file is too large")
	}
	bits := syscall.FD_SETSIZE / len(set.Bits) // of one word
	set.Bits[g.ep/bits] |= 1 << (g.ep % bits)
	timeout := syscall.NsecToTimeval(int64(d))
	_, err := syscall.Select(g.ep+1, &set, nil, nil, &timeout)
	if err != nil && !errors.Is(err, syscall.EINTR) {
		return fmt.Errorf("select: %w", err)
	}
	return nil
}

// receive takes what has come for a client.
func (g *generator) receive(c *client) error {
	n, err := syscall.Read(c.fd, g.buf)
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return io.ErrUnexpectedEOF
	}
	c.frames.feed(g.buf[:n], func(kind byte, body []byte) {
		switch kind {
		case 'E':
			c.failed = true
			if g.result.Message == "" {
				g.result.Message = message(body)
			}
		case 'Z':
			g.answered(c)
		}
	})
	return nil
}

func (g *generator) answered(c *client) {
	if !c.busy {
		return
	}
	c.busy = false
	if c.failed {
		g.result.Failed++
	}
	g.measured(c.meant, time.Since(g.begin))
	g.idle.push(c)
}

// measured notes a latency, unless the run had yet to warm up.
func (g *generator) measured(meant, now time.Duration) {
	if meant >= g.o.Warm {
		g.result.Latencies = append(g.result.Latencies, now-meant)
	}
}

// giveUp counts what has no answer with the time that it has waited.
func (g *generator) giveUp(now time.Duration) {
	r := g.result
	r.Elapsed = now - g.o.Warm
	for _, c := range g.clients {
		if c.busy {
			r.Unanswered++
			g.measured(c.meant, now)
		}
	}
	for g.backlog.len() > 0 {
		r.Unanswered++
		g.measured(g.backlog.pop(), now)
	}
}

// queue is first in, first out.
type queue[T any] struct {
	list []T
	head int
}

func (q *queue[T]) len() int { return len(q.list) - q.head }

func (q *queue[T]) push(v T) {
	if q.head > 1024 && q.head > len(q.list)/2 {
		q.list = q.list[:copy(q.list, q.list[q.head:])]
		q.head = 0
	}
	q.list = append(q.list, v)
}

func (q *queue[T]) pop() T {
	v := q.list[q.head]
	q.head++
	return v
}
