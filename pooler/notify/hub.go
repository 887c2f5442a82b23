package notify

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Hub is one connection that listens for all.
type Hub struct {
	o     Options
	group *Group
	// passed is the epoch of the last question that was answered.
	passed atomic.Uint64
	// reads counts what came, piece by piece.
	reads atomic.Uint64
	// up: it is connected, which it is before anything is asked, and not about to end.
	up   atomic.Bool
	work chan struct{} // capacity 1: there is something to write

	mu struct {
		sync.Mutex
		running  bool // a goroutine connects, or is connected
		conn     net.Conn
		server   string // to which, as in backend.Login
		found    string // which one others found at its address last; empty = not known
		channels map[string]*channel
		todo     []*request // not sent yet
		owed     []*request // sent, in their order
		asking   *request   // that of todo which asks nothing but for an answer
		asked    bool       // such a one is under way
		failures int        // to connect, in a row
		failed   time.Time  // the last of them
		closing  bool       // it is unused
	}
	// Of the reader: which server it is connected to, and what it needs at each notification.
	server  string
	scratch []*Listener
	wakes   struct {
		sync.Mutex
		list   []*Listener
		signal chan struct{} // capacity 1
	}
}

// channel is one that is listened to.
type channel struct {
	of     map[*Listener]struct{}
	listen *request // the LISTEN
}

// request is something to ask the server; an empty text asks for no more than an answer.
type request struct {
	sql   string
	sent  bool
	epoch uint64
	err   *pgwire.Error
	done  chan struct{} // closed when it is answered
}

// How long failures to connect are remembered, and how long one who waits for that waits at most.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// maxMessage bounds what the server says at once, in bytes.
const maxMessage = 1 << 20

// listen adds a listener to a channel. When all that it returns is answered, the channel is listened to, and everything that was committed before has
// arrived: who comes second needs an answer of the server only, and shares that with others.
func (h *Hub) listen(name string, l *Listener) []*request {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := h.mu.channels[name]
	if ch == nil {
		ch = &channel{of: make(map[*Listener]struct{})}
		h.mu.channels[name] = ch
		h.group.channels.Add(1)
	}
	ch.of[l] = struct{}{}
	if ch.listen == nil || ch.listen.failed() {
		ch.listen = h.requestLocked("LISTEN " + quote(name))
	}
	if !ch.listen.sent {
		return []*request{ch.listen}
	}
	return []*request{ch.listen, h.askLocked()}
}

// answered reports whether it is.
func (r *request) answered() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// failed reports whether the answer is an error.
func (r *request) failed() bool { return r.answered() && r.err != nil }

// unlisten removes a listener from a channel.
func (h *Hub) unlisten(name string, l *Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := h.mu.channels[name]
	if ch == nil {
		return
	}
	if _, ok := ch.of[l]; !ok {
		return
	}
	if delete(ch.of, l); len(ch.of) > 0 {
		return
	}
	delete(h.mu.channels, name)
	h.group.channels.Add(-1)
	if h.mu.running {
		h.requestLocked("UNLISTEN " + quote(name))
	}
	if len(h.mu.channels) == 0 && h.mu.conn != nil {
		time.AfterFunc(h.o.Linger, h.unused)
	}
}

// ask asks for an answer, before which everything arrives that is committed by now. Where nobody is connected there is nothing to wait for.
func (h *Hub) ask() *request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.askLocked()
}

func (h *Hub) askLocked() *request {
	if !h.mu.running {
		r := &request{done: make(chan struct{})}
		close(r.done)
		return r
	}
	if h.mu.asking == nil {
		h.mu.asking = h.requestLocked("")
	}
	return h.mu.asking
}

// lives reports whether notifications arrive.
func (h *Hub) lives() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.running
}

func (h *Hub) requestLocked(sql string) *request {
	r := &request{sql: sql, done: make(chan struct{})}
	h.mu.todo = append(h.mu.todo, r)
	if !h.mu.running {
		h.mu.running = h.group.start(h.run)
		if !h.mu.running {
			h.failLocked(errAway)
		}
	}
	h.signal()
	return r
}

func (h *Hub) signal() {
	select {
	case h.work <- struct{}{}:
	default:
	}
}

// quote writes a name as SQL.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// failLocked answers all requests with e.
func (h *Hub) failLocked(e *pgwire.Error) {
	for _, r := range append(h.mu.owed, h.mu.todo...) {
		r.err = e
		close(r.done)
	}
	h.mu.owed, h.mu.todo, h.mu.asking, h.mu.asked = nil, nil, nil, false
}

// run connects and serves the connection until it ends.
func (h *Hub) run() {
	ctx, cancel := context.WithCancel(h.group.ctx)
	defer cancel()
	h.mu.Lock()
	pause := time.Duration(0)
	if n := h.mu.failures; n > 0 {
		pause = time.Until(h.mu.failed.Add(min(firstPause<<min(n-1, 10), lastPause)))
	}
	h.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
	login, err := h.o.Dial(ctx)
	if err != nil {
		h.mu.Lock()
		h.mu.failures++
		h.mu.failed = time.Now()
		h.mu.Unlock()
		if ctx.Err() == nil {
			h.o.Log.Warn("can't listen", "error", err)
		}
		h.end(h.o.Refuse(err), false)
		return
	}
	stop := context.AfterFunc(ctx, func() { login.Conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it unblocks what it can
	defer stop()
	h.group.hubs.Add(1)
	h.up.Store(true)
	h.server = login.Server
	h.mu.Lock()
	h.mu.conn, h.mu.server, h.mu.failures = login.Conn, login.Server, 0
	if h.mu.found != "" && h.mu.found != login.Server { // meanwhile
		login.Conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it is there, or broken
	}
	h.mu.Unlock()
	h.signal()
	var tasks sync.WaitGroup
	tasks.Go(func() { h.write(ctx, login.Conn) })
	tasks.Go(func() { h.wake(ctx) })
	tasks.Go(func() { h.watch(ctx, login.Conn) })
	err = h.read(login.Conn, login.Leftover)
	h.up.Store(false)
	cancel()
	login.Conn.Close()
	h.group.hubs.Add(-1)
	tasks.Wait()
	h.mu.Lock()
	closing := h.mu.closing
	h.mu.Unlock()
	if !closing && h.group.ctx.Err() == nil {
		h.o.Log.Warn("the connection that listens was lost", "error", err)
	}
	h.end(errAway, true)
}

// end is when there is no connection any more. Who listens has missed something, or may.
func (h *Hub) end(e *pgwire.Error, lost bool) {
	h.mu.Lock()
	h.mu.running, h.mu.conn = false, nil
	if h.mu.closing && len(h.mu.owed) == 0 { // nothing was asked of it since, and nobody listened
		h.mu.closing = false
		if len(h.mu.todo) > 0 {
			h.mu.running = h.group.start(h.run)
		}
		if h.mu.running || len(h.mu.todo) == 0 {
			h.mu.Unlock()
			return
		}
	}
	h.mu.closing = false
	h.failLocked(e)
	var all []*Listener
	if lost {
		all = h.takeLocked()
	}
	h.mu.Unlock()
	for _, l := range all {
		l.to.Lost(errLost, false)
	}
}

// takeLocked returns who listens; then nobody does.
func (h *Hub) takeLocked() (all []*Listener) {
	seen := make(map[*Listener]struct{})
	for _, ch := range h.mu.channels {
		for l := range ch.of {
			if _, ok := seen[l]; !ok {
				seen[l] = struct{}{}
				all = append(all, l)
			}
		}
	}
	h.group.channels.Add(-int64(len(h.mu.channels)))
	clear(h.mu.channels)
	return all
}

// retire ends the sessions that listen and the connection.
func (h *Hub) retire() {
	h.mu.Lock()
	all := h.takeLocked()
	if h.mu.conn != nil {
		h.mu.closing = true
		h.up.Store(false)
		h.mu.conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it is there, or broken
	}
	h.mu.Unlock()
	for _, l := range all {
		l.to.Lost(errLost, false)
	}
}

var (
	errSilent = errors.New("the server does not answer")
	errMuddle = errors.New("the server sent what can't be read")
)

// unused ends a connection over which nobody listens.
func (h *Hub) unused() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.mu.channels) > 0 || len(h.mu.todo)+len(h.mu.owed) > 0 || h.mu.conn == nil {
		return
	}
	h.mu.closing = true
	h.up.Store(false)
	h.mu.conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it is there, or broken
}

// write sends requests.
func (h *Hub) write(ctx context.Context, conn net.Conn) {
	var out []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.work:
		}
		if out = h.next(out[:0]); len(out) == 0 {
			continue
		}
		if _, err := conn.Write(out); err != nil {
			conn.Close() // the reader finds out
			return
		}
	}
}

// next appends what is to be sent now.
func (h *Hub) next(out []byte) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closing {
		return out
	}
	kept := h.mu.todo[:0]
	for _, r := range h.mu.todo {
		if r.sql == "" {
			if h.mu.asked { // who asks meanwhile asks together
				kept = append(kept, r)
				continue
			}
			h.mu.asking, h.mu.asked = nil, true
		}
		r.sent, r.epoch = true, h.group.Epoch.Add(1)
		h.mu.owed = append(h.mu.owed, r)
		out = pgwire.AppendQuery(out, r.sql)
	}
	clear(h.mu.todo[len(kept):])
	h.mu.todo = kept
	return out
}

// wake tells those who listen, which takes as long as it takes.
func (h *Hub) wake(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wakes.signal:
		}
		h.wakes.Lock()
		list := h.wakes.list
		h.wakes.list = nil
		h.wakes.Unlock()
		for _, l := range list {
			l.wake()
		}
	}
}

// watch closes a connection whose server is silent while it is asked something, or does not come to the answer in twice that time, whatever it says: nobody would
// know that nothing arrives any more, and others wait.
func (h *Hub) watch(ctx context.Context, conn net.Conn) {
	tick := time.NewTicker(h.o.Alive / ticks)
	defer tick.Stop()
	var last *request
	var reads uint64
	silent, waits := 0, 0 // ticks
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := h.reads.Load()
		silent, waits = silent+1, waits+1
		if now != reads {
			silent = 0
		}
		if reads = now; last == nil || last.answered() {
			last, silent, waits = h.ask(), 0, 0
		}
		if silent == ticks-1 || waits == 2*ticks-1 {
			h.o.Log.Warn("the connection that listens is closed", "error", errSilent)
			conn.Close()
			return
		}
	}
}

// ticks is how often watch looks in the time that the server has: what is asked at the first is due at the last.
const ticks = 4

// read takes what the server sends.
func (h *Hub) read(conn net.Conn, buf []byte) error {
	chunk := make([]byte, 16<<10)
	for {
		rest, err := h.consume(buf)
		if err != nil {
			return err
		}
		buf = append(buf[:0], rest...)
		n, err := conn.Read(chunk)
		h.reads.Add(1)
		if err != nil {
			return err
		}
		buf = append(buf, chunk[:n]...)
	}
}

// consume handles the messages at the front of b and returns the rest.
func (h *Hub) consume(b []byte) (rest []byte, err error) {
	for {
		typ, total, ok := pgwire.Header(b)
		if !ok {
			return b, nil
		}
		if total < 0 || total > maxMessage {
			return nil, errMuddle
		}
		if total > len(b) {
			return b, nil
		}
		if err := h.message(typ, b[:total]); err != nil {
			return nil, err
		}
		b = b[total:]
	}
}

func (h *Hub) message(typ byte, msg []byte) error {
	body := msg[pgwire.HeaderBytes:]
	switch typ {
	case pgwire.MsgNotification:
		return h.notified(msg)
	case pgwire.MsgErrorResponse:
		e, err := pgwire.DecodeError(body)
		if err != nil {
			return errMuddle
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if e.IsFatal() || len(h.mu.owed) == 0 {
			return e
		}
		h.mu.owed[0].err = e
	case pgwire.MsgReadyForQuery:
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.mu.owed) == 0 {
			return errMuddle
		}
		r := h.mu.owed[0]
		h.mu.owed[0] = nil
		h.mu.owed = h.mu.owed[1:]
		h.passed.Store(r.epoch)
		if r.sql == "" {
			h.mu.asked = false
			h.signal()
		}
		close(r.done)
	}
	return nil
}

// notified has a notification heard by those who listen.
func (h *Hub) notified(msg []byte) error {
	body := msg[pgwire.HeaderBytes:]
	if len(body) < 4 {
		return errMuddle
	}
	channel, _, ok := bytes.Cut(body[4:], []byte{0})
	if !ok {
		return errMuddle
	}
	n := notification{channel: string(channel), pid: binary.BigEndian.Uint32(body), message: append([]byte(nil), msg...)}
	v, heard := h.o.Voice(h.server, n.pid)
	if !heard {
		return nil
	}
	if n.told = n.pid; v != nil {
		passed := h.passed.Load()
		n.by = v.Tenant(passed)
		if client := v.Client(); client != 0 {
			n.told, n.sure = client, v.Sole(passed)
			binary.BigEndian.PutUint32(n.message[pgwire.HeaderBytes:], client)
		}
	}
	h.mu.Lock()
	list := h.scratch[:0]
	if ch := h.mu.channels[n.channel]; ch != nil {
		for l := range ch.of {
			list = append(list, l)
		}
	}
	h.mu.Unlock()
	woken := list[:0]
	for _, l := range list {
		if l.hear(&n) {
			woken = append(woken, l)
		}
	}
	if len(woken) > 0 {
		h.wakes.Lock()
		h.wakes.list = append(h.wakes.list, woken...)
		h.wakes.Unlock()
		select {
		case h.wakes.signal <- struct{}{}:
		default:
		}
	}
	clear(list)
	h.scratch = list[:0]
	return nil
}
