package backend

import "sync/atomic"

// Voice is the client for whom a connection's server process speaks: others hear no more of who notifies than the process. It may be read by anybody.
//
// What is on its way may be by who had the connection before. So with the client goes an epoch: whoever counts epochs up and then finds that
// everything sent before has arrived knows that what is to come is by this client.
type Voice struct {
	of atomic.Uint64 // client << 32 | epoch
}

// first is an epoch before all others: of the first client nobody was in front.
const first = 1 << 30

// Lend notes that a client has the connection from now on.
func (v *Voice) Lend(client uint32, epoch *atomic.Uint32) {
	of := v.of.Load()
	switch {
	case uint32(of>>32) == client:
	case of == 0:
		v.of.Store(uint64(client)<<32 | uint64(epoch.Load()-first))
	default:
		v.of.Store(uint64(client)<<32 | uint64(epoch.Load()))
	}
}

// Client is who has the connection, or had it last; 0 = nobody.
func (v *Voice) Client() uint32 { return uint32(v.of.Load() >> 32) }

// Sole reports whether nobody else had it, of whom something may be on its way, when all from before the given epoch has arrived.
func (v *Voice) Sole(passed uint32) bool {
	of := v.of.Load()
	return int32(passed-uint32(of)) > 0 //nolint:gosec // epochs go around
}
