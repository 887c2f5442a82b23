package exec

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// beginContext begins the transaction of a Context. Its isolation level is said because a default of serializable, read only and deferrable
// would have it wait for others' transactions.
const beginContext = "BEGIN ISOLATION LEVEL READ COMMITTED"

// Context appends what turns the settings of c into want, if anything: outside a transaction as one committed
// transaction, so that a setting that fails leaves the connection in a failed transaction, where whatever was written
// behind it can't run. Inside a transaction the settings are part of it. It reports whether anything was appended.
func Context(dst []byte, c *backend.Conn, want *state.Set, inTransaction bool) ([]byte, bool) {
	have := c.Have
	c.Sure()
	if have.Equal(want) {
		return dst, false
	}
	c.Have = want
	end := ""
	if !inTransaction {
		dst = lead(dst, c, beginContext, RefContext)
		end = "COMMIT"
	}
	if v, lacks := have.Seal(want); lacks {
		if c.Start == 0 {
			end = unsealable + end
		} else {
			dst = seal(dst, c, v)
		}
	}
	before := len(dst)
	dst = settings(dst, have, want, end)
	if mid := withEncoding(have, want); mid != have && !ascii(dst[before+pgwire.HeaderBytes:]) {
		// PostgreSQL reads a message as a whole, and values that are not ASCII in the client's encoding only.
		dst = settings(dst[:before], have, mid, "")
		askInternal(c, RefContext)
		dst = settings(dst, mid, want, end)
	}
	askInternal(c, RefContext)
	return dst, true
}

// seal appends what sets a setting to its seal for the connection. A seal that is in the text of a Query would be in pg_stat_activity, where others on the
// same login could find it, to use it when the connection is theirs.
func seal(dst []byte, c *backend.Conn, v state.Var) []byte {
	dst = pgwire.AppendParse(dst, "", sealSQL, sealTypes)
	start := len(dst)
	dst = append(dst, pgwire.MsgBind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)                  // of no portal's name and no statement's, all in text, with two parameters
	dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(v.Name))), v.Name...) //nolint:gosec // it is short
	at := len(dst)
	dst = v.Sealer.AppendSeal(append(dst, 0, 0, 0, 0), v.Value, c.PID, c.Start)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4)) //nolint:gosec // it is short
	dst = finish(append(dst, 0, 0), start)                      // the result in text, too
	dst = pgwire.AppendExecute(dst, "", 0)
	askLead(c, RefContext)
	return dst
}

const sealSQL = "SELECT pg_catalog.set_config($1,$2,false)"

var sealTypes = []uint32{pgwire.OIDText, pgwire.OIDText}

// unsealable fails where the database has not told when its process began.
const unsealable = `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'the database is not prepared for sealed tenants',
HINT = 'An administrator does that by pgkennel secure apply.'; END $$;`

// settings appends a Query that turns have into want, and ends with end.
func settings(dst []byte, have, want *state.Set, end string) []byte {
	start := len(dst)
	dst = append(dst, pgwire.MsgQuery, 0, 0, 0, 0)
	dst = have.AppendDiff(dst, want)
	dst = append(dst, end...)
	return finish(append(dst, 0), start)
}

// withEncoding returns have with the client_encoding that want has.
func withEncoding(have, want *state.Set) *state.Set {
	const name = "client_encoding"
	if v, ok := want.Get(name); ok {
		return have.With(v)
	}
	return have.Without(name)
}

// Begin appends the beginning of a client's transaction: its BEGIN, and what was queued behind it. A failure of any of it leaves the
// connection where what is written behind can't run. The last of it need not end with a ReadyForQuery: see Await.
func Begin(dst []byte, c *backend.Conn, prologue []string) []byte {
	first, rest := "BEGIN", prologue
	if len(prologue) > 0 {
		first, rest = prologue[0], prologue[1:]
	}
	dst = lead(dst, c, first, RefPrologue)
	if len(rest) == 0 {
		return dst
	}
	for _, sql := range rest {
		if !ascii(sql) { // it may be in an encoding that one of them sets: each is a message of its own
			for _, sql := range rest {
				dst = Internal(dst, c, RefPrologue, sql)
			}
			return dst
		}
	}
	return Internal(dst, c, RefPrologue, rest...)
}

// lead appends the beginning of a transaction in the extended protocol and without a Sync. If the server refuses a BEGIN that came as a
// Query, it goes on with what is behind it, outside of any transaction. After an error here it skips everything up to the
// next Sync, and the machine breaks the connection. So nothing may be sent behind the first Sync that follows until its ReadyForQuery has come.
func lead(dst []byte, c *backend.Conn, sql string, ref int32) []byte {
	dst = pgwire.AppendParse(dst, "", sql, nil)
	dst = pgwire.AppendBind(dst, "", "", pgwire.FormatText, nil, pgwire.FormatText)
	dst = pgwire.AppendExecute(dst, "", 0)
	askLead(c, ref)
	return dst
}

// askLead notes a statement of ours that is prepared, bound and executed, and has to succeed.
func askLead(c *backend.Conn, ref int32) {
	for _, kind := range [...]backend.StepKind{backend.StepParse, backend.StepBind, backend.StepExecute} {
		c.Ask(backend.Step{Kind: kind, Internal: true, Must: true, Ref: ref})
	}
	c.Unnamed = nil
}

// Await appends a Sync where the answers owed would not end with a ReadyForQuery, for who has to wait for them.
func Await(dst []byte, c *backend.Conn) []byte {
	if c.Synced() {
		return dst
	}
	return Sync(dst, c, true, RefPrologue)
}

// Internal appends a Query of ours.
func Internal(dst []byte, c *backend.Conn, ref int32, sql ...string) []byte {
	start := len(dst)
	dst = append(dst, pgwire.MsgQuery, 0, 0, 0, 0)
	for i, s := range sql {
		if i > 0 {
			dst = append(dst, "\n;"...) // a statement may end in a comment
		}
		dst = append(dst, s...)
	}
	dst = finish(append(dst, 0), start)
	askInternal(c, ref)
	return dst
}

func askInternal(c *backend.Conn, ref int32) {
	c.Unnamed = nil // a simple Query drops it
	c.Ask(backend.Step{Kind: backend.StepQuery, Internal: true, Ref: ref})
}

// finish fills in the length of the message that began at start.
func finish(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-1)) //nolint:gosec // it is made of messages within their limits
	return dst
}

// ascii reports whether every byte of s is ASCII.
func ascii[T ~string | ~[]byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
