package notify

import (
	"encoding/binary"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/tenant"
)

// maxQueue bounds what waits for one session, in bytes.
const maxQueue = 4 << 20

// maxChannels bounds what a session of a tenant listens to that shares the connection that does: the server looks for a notification's channel
// among all that it listens to.
const maxChannels = 1000

// entryBytes is what a notification weighs in a queue beside its message, which all who listen share.
const entryBytes = 64

// Listener is what one session listens to. Its methods are called by the session's driver, one at a time.
type Listener struct {
	set *Set
	to  Client
	pid uint32 // as the client was told
	// tenant is who listens, and hears what is certain to be its own; nil = who hears everybody.
	tenant *tenant.Tenant

	mu       sync.Mutex
	channels map[string]bool // true: since a commit; false: prepared
	expects  bool            // what is prepared may be committed: see Expect
	queue    []entry
	bytes    int
	woken    bool // Hear is due
	over     bool // nothing more is for it
}

// entry is a notification for a session. held: the end of the session's transaction decides whether it listens to that.
type entry struct {
	channel string
	message []byte
	held    bool
	due     bool // whatever is not listened to any more: see Sweep
}

// Listen returns a listener for a client who was told that pid is its server's process, and who hears a tenant, or, where that is nil, everybody.
func (s *Set) Listen(to Client, pid uint32, t *tenant.Tenant) *Listener {
	s.group.listeners.Add(1)
	if t != nil {
		s.audience.come(t, s)
	}
	return &Listener{set: s, to: to, pid: pid, tenant: t, channels: make(map[string]bool)}
}

// Wait waits for the server. It returns an error where that is lost, or stop was closed.
type Wait func(stop <-chan struct{}) *pgwire.Error

// Prepare has the channels listened to, for a LISTEN that is about to run. It returns what waits until that is so, and everything that was committed before has arrived.
func (l *Listener) Prepare(channels []string) Wait {
	if !l.add(channels) {
		return func(<-chan struct{}) *pgwire.Error { return errChannels }
	}
	var asked []*request
	for _, h := range l.set.hubs {
		for _, c := range channels {
			asked = append(asked, h.listen(c, l)...)
		}
	}
	return waitFor(asked)
}

// add notes channels that are to be listened to. It returns false where those are too many, and notes none.
func (l *Listener) add(channels []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var added []string
	for _, c := range channels {
		if _, ok := l.channels[c]; ok {
			continue
		}
		if l.tenant != nil && len(l.channels) == maxChannels {
			for _, c := range added {
				delete(l.channels, c)
			}
			return false
		}
		l.channels[c] = false
		added = append(added, c)
	}
	return true
}

// Arrive returns what waits until everything that is committed by now has arrived, where somebody listens.
func (l *Listener) Arrive() Wait {
	asked := make([]*request, 0, len(l.set.hubs))
	for _, h := range l.set.hubs {
		asked = append(asked, h.ask())
	}
	return waitFor(asked)
}

func waitFor(asked []*request) Wait {
	return func(stop <-chan struct{}) (e *pgwire.Error) {
		for _, r := range asked {
			select {
			case <-r.done:
			case <-stop:
				return errStopped
			}
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

// Expect notes, when everything older has arrived, that what was prepared may be committed from now on: what arrives is kept until that is known. The
// commit is answered after others may have notified because of it.
func (l *Listener) Expect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expects = true
	l.keepLocked(func(e *entry) bool { return !e.held })
}

// keepLocked drops the entries that keep is false for.
func (l *Listener) keepLocked(keep func(e *entry) bool) {
	kept := l.queue[:0]
	for i := range l.queue {
		if e := &l.queue[i]; keep(e) {
			kept = append(kept, *e)
		} else {
			l.bytes -= len(e.message) + entryBytes
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
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
			listens, prepared := l.channels[c.Channel]
			missed = missed || !prepared || !listens && !l.expects
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
	l.keepLocked(func(e *entry) bool {
		e.held = false
		return l.channels[e.channel] || e.due
	})
	l.expects = false
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
	if l.tenant != nil {
		l.set.audience.leave(l.tenant, l.set)
	}
	l.set.group.listeners.Add(-1)
}

// hear takes a notification. It reports whether the client has to be woken for it.
func (l *Listener) hear(n *notification) (wake bool) {
	if l.tenant != nil && (n.by == nil || !n.by.Same(l.tenant)) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listens, known := l.channels[n.channel]
	held := !listens
	if !known || l.over || held && !l.expects {
		return false
	}
	message := n.message
	if !n.sure && (n.told == l.pid || l.tenant != nil) { // it is not to take for its own what another one may have said, nor to hear of others' clients
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
	channel string
	pid     uint32         // the server's
	told    uint32         // the client's, by whom it is as far as is known
	sure    bool           // and that is certain
	by      *tenant.Tenant // whose it is for certain; nil = not known
	message []byte         // with told
	other   []byte         // with pid
}

// plain is the message as the server sent it.
func (n *notification) plain() []byte {
	if n.other == nil {
		n.other = append([]byte(nil), n.message...)
		binary.BigEndian.PutUint32(n.other[pgwire.HeaderBytes:], n.pid)
	}
	return n.other
}
