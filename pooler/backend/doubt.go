package backend

import "github.com/pgkennel/pgkennel/pooler/state"

// doubt says that Have is not all that the connection has, as far as the meaning of statements is concerned (state.Parses).
type doubt struct {
	key   uint64 // of statements that are prepared meanwhile; 0 = no doubt
	local bool   // up to the end of the transaction
	count uint64
}

// Doubt notes that a command is about to be sent that changes settings which statements are prepared under: behind it Have is not what the connection
// has until the owner is Sure again; if local, until the end of the transaction. What is prepared meanwhile is for this moment only.
func (c *Conn) Doubt(local bool) {
	c.doubt.count++
	c.doubt.key = state.MomentKey(c.doubt.count)
	c.doubt.local = c.doubt.local || local
}

// DoubtLocal notes that a SET LOCAL of such a setting is about to be sent. What is prepared under it may be used again where the same is set.
func (c *Conn) DoubtLocal(name, value string) {
	c.doubt.key = state.LocalKey(c.ParseKey(), name, value)
	c.doubt.local = true
}

// Moment is the key of settings of no other moment, for what is prepared amid a message that changes some.
func (c *Conn) Moment() uint64 {
	c.doubt.count++
	return state.MomentKey(c.doubt.count)
}

// InDoubt reports whether what the connection has differs from Have.
func (c *Conn) InDoubt() bool { return c.doubt.key != 0 }

// Sure notes that Have is what the connection has, SET LOCAL aside.
func (c *Conn) Sure() {
	if !c.doubt.local {
		c.doubt.key = 0
	}
}

// ParseKey tells apart the settings under which the connection prepares a statement now.
func (c *Conn) ParseKey() uint64 {
	if c.doubt.key != 0 {
		return c.doubt.key
	}
	return c.Have.ParseKey()
}
