// Package session is the state machine of one client connection: handshake, transactions, simple and extended protocol,
// COPY. Bytes from the client, answers of a backend, outcomes and ticks go in; what is to be done comes out as calls of
// its Driver. It knows no socket, clock, lock or goroutine: the same inputs give the same outputs, and whoever drives it sees to it
// that one thing happens at a time.
package session

import (
	"log/slog"
	"sync"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/topology"
	"github.com/pgkennel/pgkennel/tenant"
)

// AnyShard asks for a backend of whichever shard is readiest.
const AnyShard topology.ShardID = -1

// Driver is what a session asks of whoever drives it. Every call returns at once; none calls back into the session before it returns. Byte
// slices are valid only during the call.
type Driver interface {
	// Now is the time of this step, in nanoseconds of a monotonic clock.
	Now() int64
	// ToClient sends to the client.
	ToClient(b []byte)
	// ToBackend sends to a server connection.
	ToBackend(c *backend.Conn, b []byte)
	// Checkout takes a backend of the shard for the account from its pool, rather one whose Have has the given Mark, or returns nil: Granted or
	// CheckoutFailed follows.
	Checkout(a *Account, shard topology.ShardID, mark uint64) *backend.Conn
	// Dedicate opens a connection to a server of the shard with these startup parameters, which is for this session only and is piped; Dedicated or
	// CheckoutFailed follows. It is not the pools', and Discard ends it.
	Dedicate(a *Account, shard topology.ShardID, params []pgwire.Param)
	// Withdraw takes a checkout that was not answered yet back.
	Withdraw()
	// Release gives a clean backend back to its pool.
	Release(c *backend.Conn)
	// Discard closes a backend.
	Discard(c *backend.Conn, reason string)
	// Part takes a backend over that has something to finish by itself; clean: that is DISCARD ALL. See backend.Settler.
	Part(c *backend.Conn, clean bool)
	// CancelBackend sends a cancel request to a backend's server.
	CancelBackend(c *backend.Conn)
	// Calm takes over a backend that is Calmable; it goes back to its pool when no cancel request can reach what it runs next.
	Calm(c *backend.Conn)
	// CancelRequest handles a client's cancel request, which is all that this connection is for. CancelDone says when that is done.
	CancelRequest(pid uint32, secret []byte)
	// Register gives the session its cancel key; secret has n bytes.
	Register(n int) (pid uint32, secret []byte)
	// StartTLS begins the handshake with the client as its server, after what was sent so far.
	StartTLS()
	// Offload runs job where it blocks nobody. It returns true when the job is done already, else Resume follows.
	Offload(job func(), kind Job) bool
	// Quick runs job, which takes some 100 µs of a processor and waits for nobody, if the thread has time for it; false = it has not run.
	Quick(job func()) bool
	// Parameters asks for a server's parameters; ParametersKnown or CheckoutFailed follows.
	Parameters(a *Account)
	// Ear lets the session listen for notifications; Hear follows where some wait. Nil = it can't.
	Ear(a *Account) Ear
	// Close ends the connection after what was sent so far, which the client is to read in spite of what it has to say.
	Close(more More)
}

// More is what a client may have to say when its session ends.
type More uint8

// It has nothing to say, or is not to be told anything; it may have begun to, which is not known here; it is at it.
const (
	NoMore More = iota
	MaybeMore
	MoreComes
)

// Job says how a job takes its time.
type Job uint8

// Brief jobs take some milliseconds of a processor at most, heavy ones may take more, and what waits does so for others, sessions among them.
const (
	Brief Job = iota
	Heavy
	Waits
)

// Shared is what all sessions of a pooler have in common. It is read only.
type Shared struct {
	Log      *slog.Logger
	Observer Observer
	Cache    *parser.Cache
	Registry *state.Registry
	// Code counts the changes of functions, triggers and the like.
	Code *judge.Changes
	// Accounts finds who may log in where, nil = nobody; what else is returned says why, for the log only. An account with a refusal is whose password is
	// asked for: so the client can't tell by the salt that there is something to refuse.
	Accounts func(tenant.Asked) (*Account, tenant.Refusal)
	// Descriptions remembers what servers say of statements; nil = nothing is remembered.
	Descriptions *Descriptions
	// Probes remembers what servers report for startup parameters.
	Probes *Probes
	// TLS: the listener offers it; TLSRequired: it insists.
	TLS, TLSRequired bool
	// Method is how clients prove who they are.
	Method auth.Method
	Auth   *auth.ServerOptions
	// MaxMessage bounds a client's message, in bytes; MaxBatch what is collected before a Sync.
	MaxMessage, MaxBatch int
	// QuerySize limits the text of a statement, in bytes; 0 = none. QuerySizeWarns: longer ones run, and the first of a session is logged.
	QuerySize      int
	QuerySizeWarns bool
	// LoginTimeout in nanoseconds; 0 = none.
	LoginTimeout int64
	// Statements bounds the prepared statements of one session, in bytes.
	Statements                        int
	LogConnections, LogDisconnections bool
}

// phase is where a session is in its life.
type phase uint8

const (
	phaseStartup phase = iota + 1 // waits for a startup packet
	phaseTLS                      // the driver does the handshake
	phaseAuth                     // in the authentication exchange
	phaseLogin                    // waits for the server's parameters, or for what it makes of the client's own
	phaseReady                    // serves statements
	phasePiped                    // passes on what client and server say: a replication connection
	phaseClosed
)

// waiting is what a session waits for before it goes on with its input.
type waiting uint8

const (
	waitNothing   waiting = iota
	waitBackend           // a checkout
	waitJob               // Offload
	waitAnswer            // ReadyForQuery to what was sent
	waitInternal          // ReadyForQuery to something of ours, before the unit itself is sent
	waitParams            // the server's parameters
	waitCancel            // what the cancel request cancels
	waitDedicated         // a connection of its own
)

// Session is one client connection. What only those at work need is apart: see work.
type Session struct {
	sh  *Shared
	drv Driver

	// ID names the session in log and console; Client is the peer's address.
	ID     uint64
	Client string

	acct *Account
	// serverLogin is what the client proved to know, to log in to servers with.
	serverLogin *auth.ClientCredential
	// work is nil while the session rests.
	*work
	rest *rest // what is not usual of a session that rests; nil = nothing

	base *state.Set // what the client chose at its start
	path *searchPath
	// unnamed is the unnamed prepared statement, names are the others; each name, and unnamed, holds a reference.
	unnamed *state.Prepared
	// unnamedTold is what the client was told of it; nil = nothing.
	unnamedTold *state.Shape
	names       map[string]*named
	listens     *listens // nil = to nothing
	told        *told    // parameters as the client knows them: see know

	stats Counters
	idle  int64 // deadline between units, in the driver's nanoseconds; 0 = none

	errors uint32
	bytes  int32 // of the prepared statements
	untold int32 // the units at whose end told may differ from what the server has
	TLS    bool
	phase  phase
	wait   waiting
	reason CloseReason
	minor  uint8 // of the protocol's version
	// tx is the transaction status as the client sees it.
	tx pgwire.TxStatus
	// yielded: much was answered in one go; what is left of the input waits for Continue.
	yielded bool
	// skip: an error was answered; what the client sends is dropped up to its Sync.
	skip bool
	// readsSequences: the client asks for lastval or currval, which are state of the server's session: nothing of others may be left there.
	readsSequences bool
	foreign        bool // client_encoding is not UTF8
	// long: it was logged that the client sends longer statements than the operator expects.
	long bool
	// pinTold: it was logged that the session was pinned, or would have been.
	pinTold bool
}

// Stats are a session's counters, for the console.
type Stats struct {
	Counters
	Errors uint32
}

// Counters are those of Stats that count by more than ones.
type Counters struct {
	Connected, LastRequest int64
	Queries, Transactions  uint64
	BytesIn, BytesOut      uint64
}

// clock holds the deadlines of a session at work, in the driver's nanoseconds; 0 = none.
type clock struct {
	login     int64
	query     int64
	wait      int64 // when the checkout began
	unitStart int64
	txStart   int64
	// cancelled: query is not the statement's own deadline any more, but the one for the server's answer to its cancellation.
	cancelled bool
}

// New returns the session of a client that has just connected.
func New(sh *Shared, drv Driver, id uint64, client string) *Session {
	s := &Session{sh: sh, drv: drv, ID: id, Client: client, phase: phaseStartup, tx: pgwire.TxIdle, work: borrow()}
	s.hs = &handshake{}
	s.stats.Connected = drv.Now()
	if sh.LoginTimeout > 0 {
		s.clock.login = drv.Now() + sh.LoginTimeout
	}
	return s
}

// Input takes bytes from the client.
func (s *Session) Input(b []byte) {
	s.stir()
	s.stats.BytesIn += uint64(len(b))
	if len(s.in) > 0 {
		s.in = append(s.in, b...)
		s.drain()
		return
	}
	n := s.consume(b)
	if s.phase == phaseClosed {
		return
	}
	if n < len(b) {
		s.in = append(heldInput(len(b)-n), b[n:]...)
	}
	s.retire()
}

// inputs are lent to sessions that have to hold what came, which is little most of the time: an idle session has none.
var inputs = sync.Pool{New: func() any { return new([heldBytes]byte) }}

const heldBytes = 1 << 10

func heldInput(n int) []byte {
	if n > heldBytes {
		return nil
	}
	return inputs.Get().(*[heldBytes]byte)[:0] //nolint:forcetypeassert // it holds nothing else
}

// dropInput gives the buffer of what was held back.
func (s *Session) dropInput() {
	if cap(s.in) == heldBytes {
		inputs.Put((*[heldBytes]byte)(s.in[:heldBytes]))
	}
	s.in = nil
}

// Resume goes on after something that the session waited for outside of the protocol: the end of an Offload.
func (s *Session) Resume() {
	if s.wait != waitJob {
		return
	}
	s.wait = waitNothing
	switch {
	case s.phase == phaseLogin:
		s.stepped()
	case s.hs != nil && s.hs.console.ready:
		s.consoleAnswered()
	default:
		s.arrived()
	}
	s.drain()
}

// drain works off the input that is held.
func (s *Session) drain() {
	if s.phase == phaseClosed || s.consuming {
		return
	}
	if s.copy.mode == copyDecided && !s.blocked() {
		s.copyStart() // it may have all of the client's data already
	}
	n := s.consume(s.in)
	if n > 0 && s.phase != phaseClosed {
		rest := copy(s.in, s.in[n:])
		s.in = s.in[:rest]
		if rest == 0 {
			s.dropInput()
		}
	}
	s.retire()
}

// consume handles whole units at the front of b and returns how many bytes it has done with.
func (s *Session) consume(b []byte) int {
	pos := 0
	s.consuming = true
	limit, units := s.stats.BytesOut+yieldBytes, 0
	for s.phase != phaseClosed && !s.blocked() && pos < len(b) {
		if s.retiring != nil {
			if s.retire(); s.phase == phaseClosed {
				break
			}
		}
		if units++; units > yieldUnits || s.stats.BytesOut > limit {
			s.yielded = true
			break
		}
		var n int
		switch s.phase {
		case phaseStartup:
			n = s.startup(b[pos:])
		case phaseAuth:
			n = s.authenticate(b[pos:])
		case phaseReady:
			if s.acct.Console != nil {
				n = s.consoleStep(b[pos:])
			} else {
				n = s.step(b[pos:])
			}
		case phasePiped:
			n = s.pass(b[pos:])
		case phaseTLS, phaseLogin, phaseClosed:
		}
		if n == 0 {
			break
		}
		pos += n
		s.scanned, s.scannedItems = 0, 0
	}
	s.consuming = false
	return pos
}

// blocked reports whether the session can't go on with its input now.
func (s *Session) blocked() bool { return s.wait != waitNothing || s.yielded }

// What a session answers in one go, in bytes and in units: then its driver sees to it that the client reads, and that others have their turn.
const (
	yieldBytes = 256 << 10
	yieldUnits = 1 << 10
)

// Yielded reports whether the session has stopped in the middle of its input for its answers to be read; Continue has to follow.
func (s *Session) Yielded() bool { return s.yielded }

// Continue goes on after Yielded.
func (s *Session) Continue() {
	if s.yielded {
		s.yielded = false
		s.drain()
	}
}

// WantsInput reports whether more bytes from the client are welcome: false while much is held that can't be handled yet.
func (s *Session) WantsInput() bool {
	return s.phase != phaseClosed && (!s.blocked() || len(s.in) < inputLimit)
}

// inputLimit is how much of a client's pipeline is held while its head is being answered, in bytes.
const inputLimit = 256 << 10

// LoggedIn reports whether the client has.
func (s *Session) LoggedIn() bool { return s.phase == phaseReady }

// MayEncrypt reports whether the client may still ask for TLS.
func (s *Session) MayEncrypt() bool { return s.sh.TLS && !s.TLS && s.phase <= phaseTLS }

// Closed reports whether the session has ended.
func (s *Session) Closed() bool { return s.phase == phaseClosed }

// Idle reports whether the session is between transactions with nothing under way: it may be closed without loss.
func (s *Session) Idle() bool {
	if s.phase == phasePiped {
		return s.conn == nil || s.conn.PipeIdle() && !s.conn.MidMessage()
	}
	return s.phase != phaseReady || s.work == nil || !s.blocked() && s.tx == pgwire.TxIdle && !s.open && s.copy.mode == copyNone && (s.conn == nil || s.holds())
}

// Account is who the session belongs to; nil before its login.
func (s *Session) Account() *Account { return s.acct }

// Places are those of the tenants that the session is for, now or once its transaction ends.
func (s *Session) Places() (list []*Place) {
	accounts := []*Account{s.acct}
	if s.work != nil {
		accounts = append(accounts, s.visit.account, s.was)
	}
	for _, a := range accounts {
		if a != nil && a.Place != nil {
			list = append(list, a.Place)
		}
	}
	return list
}

// Backend is the server connection that the session holds; nil if none.
func (s *Session) Backend() *backend.Conn {
	if s.work == nil {
		return nil
	}
	return s.conn
}

// Tenant is whose the session is, or its transaction; nil = nobody's.
func (s *Session) Tenant() *tenant.Tenant {
	if s.acct == nil || s.at().Place == nil {
		return nil
	}
	return s.place().Tenant
}

// Shard is the shard of Backend.
func (s *Session) Shard() topology.ShardID {
	if s.work == nil {
		return 0
	}
	return s.connShard
}

// Snapshot returns the session's counters.
func (s *Session) Snapshot() Stats { return Stats{s.stats, s.errors} }

// State names what the session does, as PgBouncer's SHOW CLIENTS has it.
func (s *Session) State() string {
	switch {
	case s.phase == phasePiped:
		return "active"
	case s.phase != phaseReady:
		return "login"
	case s.wait == waitBackend:
		return "waiting"
	case s.Backend() != nil || s.wait != waitNothing || s.tx != pgwire.TxIdle:
		return "active"
	}
	return "idle"
}

// Names are the user and database that the client asked for; empty before it did.
func (s *Session) Names() (user, database string) {
	if s.acct != nil {
		return s.acct.User, s.acct.Database
	}
	if s.work == nil || s.hs == nil {
		return "", ""
	}
	return s.hs.user, s.hs.database
}

// Tx is the transaction status as the client sees it.
func (s *Session) Tx() pgwire.TxStatus { return s.tx }

// Minor is the minor version of the protocol that is spoken, 3 being the major one.
func (s *Session) Minor() uint16 { return uint16(s.minor) }

// WaitingSince is when the checkout under way began, in the driver's nanoseconds; 0 = there is none.
func (s *Session) WaitingSince() int64 {
	if s.wait != waitBackend {
		return 0
	}
	return s.clock.wait
}

// ToldParameter is a parameter as the client knows it, such as application_name.
func (s *Session) ToldParameter(name string) string { return s.told.value(name) }

// PreparedCount is the number of the session's prepared statements.
func (s *Session) PreparedCount() int {
	if s.unnamed != nil {
		return len(s.names) + 1
	}
	return len(s.names)
}

func (s *Session) toClient(b []byte) {
	s.stats.BytesOut += uint64(len(b))
	s.drv.ToClient(b)
}
