package backend

import "github.com/pgkennel/pgkennel/pooler/pgwire"

// Settler owns a connection that has something to finish after its session let go of it: a ROLLBACK, a DISCARD ALL, a Sync. Whoever drives the
// connection asks Settled after each Feed, and returns it to its pool if it is Clean then, or closes it.
type Settler struct {
	conn   *Conn
	failed bool
	clean  bool
	calms  bool
}

// NewSettler makes a settler the owner of c. clean: what is being finished is DISCARD ALL, after which nothing of the last session is left.
func NewSettler(c *Conn, clean bool) *Settler {
	s := &Settler{conn: c, clean: clean}
	c.Own(s)
	return s
}

// NewCalmer makes a settler the owner of c, to which a cancel request was sent, and sent entirely: once the server has answered something since, its
// signal has come. PostgreSQL ends the request's connection behind the signal, and looks at that before it runs what comes next.
func NewCalmer(c *Conn) *Settler {
	s := &Settler{conn: c, calms: true}
	c.Own(s)
	return s
}

// Settled reports whether everything that was owed is answered.
func (s *Settler) Settled() bool { return s.conn.Pending() == 0 }

// Reusable reports, once settled, whether the connection may go back to its pool.
func (s *Settler) Reusable() bool { return !s.failed && s.conn.Clean() }

// Relay implements Owner.
func (s *Settler) Relay([]byte) {}

// Complete implements Owner.
func (s *Settler) Complete(*Step, []byte) {}

// Failed implements Owner.
func (s *Settler) Failed(*Step, []byte) { s.failed = true }

// Skipped implements Owner.
func (s *Settler) Skipped(*Step) {}

// CopyIn implements Owner: nobody is there to send the data.
func (s *Settler) CopyIn(*Step, []byte) { s.failed = true; s.conn.Taint(TaintProtocol) }

// Parameter implements Owner.
func (s *Settler) Parameter(string, string) {}

// Ready implements Owner.
func (s *Settler) Ready(*Step, pgwire.TxStatus) {
	switch {
	case s.failed || s.conn.Pending() > 0:
	case s.clean:
		s.conn.Cleaned()
	case s.calms:
		s.conn.taint &^= TaintCancelled
	}
}
