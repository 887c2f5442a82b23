package backend

import (
	"math"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/tenant"
)

// Voice is for whom a connection's server process speaks: others hear no more of who notifies than the process. It may be read by anybody.
//
// What is on its way may be by who had the connection before. So with the client, and with the tenant, goes an epoch: whoever counts epochs up and then finds that
// everything sent before has arrived knows that what is to come is by these.
type Voice struct {
	// Epoch counts; nil = nobody asks who speaks.
	Epoch *atomic.Uint64

	of atomic.Uint64 // client << 32 | epoch
	// tenant, and the epoch at which that changed; changing = it does.
	tenant atomic.Pointer[tenant.Tenant]
	since  atomic.Uint64
}

// first is an epoch before all others: of the first client nobody was in front.
const first = 1 << 30

// changing is an epoch behind all others.
const changing = math.MaxUint64

// Lend notes that a client has the connection from now on.
func (v *Voice) Lend(client uint32, epoch *atomic.Uint64) {
	of := v.of.Load()
	at := uint32(epoch.Load()) //nolint:gosec // it goes around
	switch {
	case uint32(of>>32) == client:
	case of == 0:
		v.of.Store(uint64(client)<<32 | uint64(at-first))
	default:
		v.of.Store(uint64(client)<<32 | uint64(at))
	}
}

// Client is who has the connection, or had it last; 0 = nobody.
func (v *Voice) Client() uint32 { return uint32(v.of.Load() >> 32) }

// Sole reports whether nobody else had it, of whom something may be on its way, when all from before the given epoch has arrived.
func (v *Voice) Sole(passed uint64) bool {
	of := v.of.Load()
	return int32(uint32(passed)-uint32(of)) > 0 //nolint:gosec // epochs go around
}

// Speak notes that the process speaks for a tenant from now on, nil = for none. Who has the connection calls it before anything is written that is that tenant's.
func (v *Voice) Speak(t *tenant.Tenant) {
	if v.tenant.Load().Same(t) {
		return
	}
	v.since.Store(changing)
	v.tenant.Store(t)
	if v.Epoch != nil {
		v.since.Store(v.Epoch.Load())
	}
}

// Speaker is for whom the process speaks; nil = for no tenant.
func (v *Voice) Speaker() *tenant.Tenant { return v.tenant.Load() }

// Speaks reports whether the process speaks for t.
func (v *Voice) Speaks(t *tenant.Tenant) bool { return v.tenant.Load().Same(t) }

// Tenant is for whom the process speaks; nil = none, or what arrives may be of others still, when all from before the given epoch has arrived.
func (v *Voice) Tenant(passed uint64) *tenant.Tenant {
	since := v.since.Load()
	t := v.tenant.Load()
	if passed <= since || v.since.Load() != since { // no epoch comes twice: one that passed is behind all that are noted from now on
		return nil
	}
	return t
}

// Audience is where tenants listen who share logins with others: there a notification is dropped where it is not certain whose it is.
type Audience interface {
	// Arrive returns what waits until everything has arrived, where sessions of t listen, that was committed up to an epoch; nil = it has, or none does.
	Arrive(t *tenant.Tenant, epoch uint64) func(stop <-chan struct{}) *pgwire.Error
}

// speaking is Conn.said while the connection may be notifying.
const speaking = math.MaxUint64

// Echo returns what waits until all has arrived that was said on the connection, which it is to do before somebody else speaks there; nil = it has.
func (c *Conn) Echo() (wait func(stop <-chan struct{}) *pgwire.Error) {
	if c.said == 0 {
		return nil
	}
	c.Fell()
	if wait = c.Audience.Arrive(c.Voice.Speaker(), c.said); wait == nil {
		c.said = 0
	}
	return wait
}

// Fell notes that what was said is committed, or never will be.
func (c *Conn) Fell() {
	if c.said == speaking {
		c.said = c.Voice.Epoch.Load()
	}
}

// Says notes that the tenant is about to run what may notify. It returns what waits until that is certain to be the tenant's; nil = it is.
func (c *Conn) Says() (wait func(stop <-chan struct{}) *pgwire.Error) {
	if c.Audience == nil {
		return nil
	}
	c.said = speaking
	return c.Audience.Arrive(c.Voice.Speaker(), c.Voice.since.Load())
}
