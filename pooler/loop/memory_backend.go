package loop

import (
	"slices"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

// MemoryBackend is a server connection of a Memory.
type MemoryBackend struct {
	Conn *backend.Conn

	m                *Memory
	server           MemoryServer
	client           *MemoryClient
	lease            *pool.Lease[*MemoryBackend]
	settler          *backend.Settler
	patience         int64 // the end of settler's time
	toServer, toConn []byte
	closed, broken   bool
	noticed          bool
	discarded        bool
	answering        bool
}

// request gives the server some of what was sent to it.
func (b *MemoryBackend) request() {
	if len(b.toServer) == 0 || b.broken {
		return // a fault took it, or what it would be answered
	}
	n := 1 + b.m.rnd.IntN(len(b.toServer))
	out, closed := b.server.Receive(slices.Clone(b.toServer[:n]))
	b.toServer = b.toServer[n:]
	b.toConn = append(b.toConn, out...)
	b.broken = b.broken || closed
}

// answer gives the machine some of what the server sent.
func (b *MemoryBackend) answer() {
	if len(b.toConn) == 0 {
		return // a fault took it
	}
	n := 1 + b.m.rnd.IntN(len(b.toConn))
	data := slices.Clone(b.toConn[:n])
	b.toConn = b.toConn[n:]
	if b.discarded {
		return
	}
	b.answering = true
	err := b.Conn.Feed(data)
	b.answering = false
	for i := range data {
		data[i] = 0xEE
	}
	if err != nil {
		b.broken, b.toConn = true, nil
		b.fail(err)
		return
	}
	b.settle()
}

func (b *MemoryBackend) settle() {
	if s := b.settler; s != nil && s.Settled() {
		b.settler = nil
		b.Conn.Own(nil)
		if s.Reusable() {
			b.lease.Mark(b.Conn.Have.Mark())
			b.lease.Release()
		} else {
			b.lease.Discard(pool.Reason(backend.TaintProtocol.First()))
		}
	}
}

// lost is the end of the stream.
func (b *MemoryBackend) lost() { b.fail(backend.ErrServerClosed) }

func (b *MemoryBackend) fail(err error) {
	b.noticed = true
	switch {
	case b.discarded:
	case b.client != nil:
		c := b.client
		b.client, b.discarded = nil, true
		b.m.tasks = append(b.m.tasks, func() { b.lease.Discard(pool.ReasonGone) })
		c.sess.Lost(err)
	case b.settler != nil:
		b.settler = nil
		b.lease.Discard(pool.ReasonGone)
	case b.lease != nil:
		b.lease.Pool().Expire(b.lease, pool.ReasonGone)
	}
}
