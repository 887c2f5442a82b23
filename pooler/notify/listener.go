package notify

import (
	"encoding/binary"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// maxQueue bounds what waits for one session, in bytes.
const maxQueue = 4 << 20

// entryBytes is what a notification weighs in a queue beside its message, which all who listen share.
const entryBytes = 64

// Listener is what one session listens to. Its methods are called by the session's driver, one at a time.
type Listener struct {
	set *Set
	to  Client
	pid uint32 // as the client was told

	mu       sync.Mutex
	channels map[string]bool // true: since a commit; false: prepared
	own      process         // that has the session's LISTEN under way
	queue    []entry
	bytes    int
	woken    bool // Hear is due
	over     bool // nothing more is for it
}

type process struct {
	hub *Hub
	pid uint32
}

// entry is a notification for a session. held: it is from the session itself, in the transaction whose end decides whether it listens.
type entry struct {
	channel string
	message []byte
	held    bool
	due     bool // whatever is not listened to any more: see Sweep
}

// Listen returns a listener for a client who was told that pid is its server's process.
func (s *Set) Listen(to Client, pid uint32) *Listener {
	s.group.listeners.Add(1)
	return &Listener{set: s, to: to, pid: pid, channels: make(map[string]bool)}
}

// Prepare has the channels listened to, for a LISTEN that is about to run. It returns what waits until that is so.
func (l *Listener) Prepare(channels []string) (wait func() *pgwire.Error) {
	l.mu.Lock()
	for _, c := range channels {
		if _, ok := l.channels[c]; !ok {
			l.channels[c] = false
		}
	}
	l.mu.Unlock()
	var asked []*request
	for _, h := range l.set.hubs {
		for _, c := range channels {
			asked = append(asked, h.listen(c, l))
		}
	}
	return waitFor(asked)
}

// Arrive returns what waits until everything that is committed by now has arrived, where somebody listens.
func (l *Listener) Arrive() (wait func()) {
	asked := make([]*request, 0, len(l.set.hubs))
	for _, h := range l.set.hubs {
		asked = append(asked, h.ask())
	}
	return func() { _ = waitFor(asked)() } // where it fails the session is told otherwise: see Client.Lost
}

func waitFor(asked []*request) func() *pgwire.Error {
	return func() (e *pgwire.Error) {
		for _, r := range asked {
			<-r.done
			if e == nil {
				e = r.err
			}
		}
		return e
	}
}

// Knows reports whether everything has arrived that others said on the connection that the session has now: what is yet to come is the session's.
func (l *Listener) Knows(c *backend.Conn) bool {
	for _, h := range l.set.hubs {
		if !c.Voice.Sole(h.passed.Load()) && h.lives() {
			return false
		}
	}
	return true
}

// Own notes that the session's LISTEN is about to run on c: what c says from now on may be for the session.
func (l *Listener) Own(c *backend.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = process{pid: c.PID}
	for _, h := range l.set.hubs {
		if v, _ := h.o.Voice(c.PID); v == &c.Voice {
			l.own.hub = h
		}
	}
}

// Change is LISTEN, UNLISTEN, or, without a channel, UNLISTEN *.
type Change struct {
	Channel string
	Listen  bool
}

// Commit takes over what a transaction did, in its order.
func (l *Listener) Commit(changes []Change) {
	l.mu.Lock()
	missed := false
	for _, c := range changes {
		switch {
		case c.Listen:
			_, prepared := l.channels[c.Channel]
			missed = missed || !prepared
			l.channels[c.Channel] = true
		case c.Channel == "":
			for name := range l.channels {
				l.channels[name] = false
			}
		default:
			if _, known := l.channels[c.Channel]; known {
				l.channels[c.Channel] = false
			}
		}
	}
	for i := range l.queue {
		l.queue[i].held = l.queue[i].held && !l.channels[l.queue[i].channel]
	}
	l.mu.Unlock()
	if missed { // only a bug leads there
		l.set.group.start(func() { l.to.Lost(errLost, false) })
	}
}

// Sweep notes, in front of an UNLISTEN, that what has arrived is for the client whatever it listens to behind that.
func (l *Listener) Sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.queue {
		l.queue[i].due = l.queue[i].due || !l.queue[i].held
	}
}

// Settle is the end of a transaction, and of all that was to run with it: what is not listened to by now is forgotten. It reports whether anything is.
func (l *Listener) Settle() (listens bool) {
	l.mu.Lock()
	kept := l.queue[:0]
	for _, e := range l.queue {
		if l.channels[e.channel] || e.due {
			e.held = false
			kept = append(kept, e)
		} else {
			l.bytes -= len(e.message) + entryBytes
		}
	}
	clear(l.queue[len(kept):])
	l.queue, l.own = kept, process{}
	var left []string
	for name, listens := range l.channels {
		if !listens {
			left = append(left, name)
			delete(l.channels, name)
		}
	}
	listens = len(l.channels) > 0
	l.mu.Unlock()
	for _, h := range l.set.hubs {
		for _, c := range left {
			h.unlisten(c, l)
		}
	}
	return listens
}

// Next returns the next notification, as a message; nil = there is none.
func (l *Listener) Next() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || l.over {
		l.queue = nil
		return nil
	}
	e := l.queue[0]
	l.queue[0] = entry{}
	l.queue = l.queue[1:]
	l.bytes -= len(e.message) + entryBytes
	return e.message
}

// Close ends the listening, of a session that ends too, or listens to nothing.
func (l *Listener) Close() {
	l.mu.Lock()
	names := make([]string, 0, len(l.channels))
	for c := range l.channels {
		names = append(names, c)
	}
	clear(l.channels)
	l.queue, l.over = nil, true
	l.mu.Unlock()
	for _, h := range l.set.hubs {
		for _, c := range names {
			h.unlisten(c, l)
		}
	}
	l.set.group.listeners.Add(-1)
}

// hear takes a notification. It reports whether the client has to be woken for it.
func (l *Listener) hear(n *notification) (wake bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	listens, known := l.channels[n.channel]
	held := !listens
	if !known || l.over || held && l.own != (process{n.hub, n.pid}) {
		return false
	}
	message := n.message
	if n.told == l.pid && !n.sure { // it is not to take for its own what another one may have said
		message = n.plain()
	}
	l.bytes += len(message) + entryBytes
	if l.bytes > maxQueue {
		l.over, l.queue = true, nil
	} else {
		l.queue = append(l.queue, entry{n.channel, message, held, false})
	}
	wake = !l.woken && (!held || l.over)
	l.woken = l.woken || wake
	return wake
}

// wake tells the client.
func (l *Listener) wake() {
	l.mu.Lock()
	l.woken = false
	over := l.over && l.bytes > maxQueue
	l.mu.Unlock()
	if over {
		l.to.Lost(errFull, true)
		return
	}
	l.to.Hear()
}

// notification is one on its way to those who listen.
type notification struct {
	hub     *Hub
	channel string
	pid     uint32 // the server's
	told    uint32 // the client's, by whom it is as far as is known
	sure    bool   // and that is certain
	message []byte // with told
	other   []byte // with pid
}

// plain is the message as the server sent it.
func (n *notification) plain() []byte {
	if n.other == nil {
		n.other = append([]byte(nil), n.message...)
		binary.BigEndian.PutUint32(n.other[pgwire.HeaderBytes:], n.pid)
	}
	return n.other
}
