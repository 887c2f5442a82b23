package integration

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// stormKind is what a client of the storm can do.
type stormKind int

const (
	opMark stormKind = iota + 1
	opBig
	opLook
	opInsert
	opSet
	opSetLocal
	opReset
	opBegin
	opCommit
	opRollback
	opSavepoint
	opRollbackTo
	opRelease
	opWrong
	opTempMake
	opTempInsert
	opTempRead
	opTempDrop
	opLock
	opUnlock
	opXLock
	opListen
	opUnlisten
	opNotify
	opNotifyOther
	opCopyIn
	opCopyFail
	opCopyBad
	opCopyOut
	opPrepare
	opExecute
	opDeallocate
	opDeclare
	opFetch
	opHold
	opFetchHold
	opCloseHold
	opParse
	opBind
	opCloseStatement
	opPortal
	opPortalMore
	opFunction
	opEmpty
	opTimeout
	opDiscard
)

// stormOp is one operation.
type stormOp struct {
	kind     stormKind
	extended bool
	describe bool
	flush    bool
	beside   bool   // other statements of a Query, which make a transaction block of their own
	text     string // the marker
	arg      string // a name, or a value
	n        int
}

// stormUnit is what is answered by one ReadyForQuery: a Query of one or more operations, or those up to a Sync.
type stormUnit struct {
	extended bool
	ops      []*stormOp
	later    []byte // what is to be sent when the server asks for it
	tail     []byte // what is to be sent behind that, or in place of it
}

// place says where in its unit an operation can be.
func (k stormKind) place() (alone, first, last bool) {
	switch k {
	case opCopyIn, opCopyFail, opCopyBad, opFunction, opDiscard, opTimeout, opEmpty, opReset, opListen, opUnlisten, opDeallocate:
		return true, true, true
	case opBegin:
		return false, true, false
	case opCommit, opRollback:
		return false, false, true
	default:
		return false, false, false
	}
}

// protocol says which of the two protocols an operation can be in; 0 = either.
func (k stormKind) protocol() byte {
	switch k {
	case opParse, opBind, opCloseStatement, opPortal, opPortalMore:
		return 'x'
	case opFunction, opTimeout, opDiscard:
		return 'q'
	default:
		return 0
	}
}

// sql is an operation's text.
func (o *stormOp) sql(c *stormClient) string {
	switch o.kind {
	case opMark:
		return "SELECT '" + o.text + "'"
	case opBig:
		return fmt.Sprintf("SELECT repeat('%s', %d)", o.text, o.n)
	case opLook:
		var b strings.Builder
		fmt.Fprintf(&b, "SELECT '%s'", o.text)
		for _, name := range stormSettings {
			fmt.Fprintf(&b, ", COALESCE(current_setting('%s', true), '')", name)
		}
		return b.String() + ", (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())" +
			", to_regclass('pg_temp.scratch') IS NOT NULL"
	case opInsert:
		return fmt.Sprintf("INSERT INTO ledger VALUES (%d, %d)", c.number, o.n)
	case opSet:
		return fmt.Sprintf("SET %s = '%s'", stormSettings[o.n], o.arg)
	case opSetLocal:
		return fmt.Sprintf("SET LOCAL %s = '%s'", stormSettings[o.n], o.arg)
	case opReset:
		return "RESET " + stormSettings[o.n]
	case opBegin:
		return "BEGIN"
	case opCommit:
		return "COMMIT"
	case opRollback:
		return "ROLLBACK"
	case opSavepoint:
		return "SAVEPOINT " + o.arg
	case opRollbackTo:
		return "ROLLBACK TO " + o.arg
	case opRelease:
		return "RELEASE " + o.arg
	case opWrong:
		return map[string]string{
			"22012": "SELECT 1/0", "42601": "SELEC 1", "42P01": "SELECT * FROM nowhere", "22P02": "SELECT 'one'::int", "42703": "SELECT nothing FROM ledger",
		}[o.arg]
	case opTempMake:
		return "CREATE TEMP TABLE scratch (who text)"
	case opTempInsert:
		return "INSERT INTO pg_temp.scratch VALUES ('" + c.name + "')"
	case opTempRead:
		return "SELECT count(*), count(*) FILTER (WHERE who <> '" + c.name + "') FROM pg_temp.scratch"
	case opTempDrop:
		return "DROP TABLE pg_temp.scratch"
	case opLock:
		return fmt.Sprintf("SELECT pg_try_advisory_lock(%d, %d)", c.number, o.n)
	case opUnlock:
		return fmt.Sprintf("SELECT pg_advisory_unlock(%d, %d)", c.number, o.n)
	case opXLock:
		return fmt.Sprintf("SELECT pg_advisory_xact_lock(%d, %d)", c.number, o.n)
	case opListen:
		return "LISTEN " + c.name
	case opUnlisten:
		return "UNLISTEN " + c.name
	case opNotify:
		return fmt.Sprintf("NOTIFY %s, '%s %d'", c.name, c.speaker(), o.n)
	case opNotifyOther:
		return fmt.Sprintf("NOTIFY %s, '%s %d'", o.arg, c.speaker(), o.n)
	case opCopyIn, opCopyFail, opCopyBad:
		return "COPY ledger FROM STDIN"
	case opCopyOut:
		return "COPY (SELECT '" + o.text + " ' || i FROM generate_series(1, 3) i) TO STDOUT"
	case opPrepare:
		return "PREPARE " + o.arg + " (text) AS SELECT '" + o.arg + " ' || $1"
	case opExecute:
		return "EXECUTE " + o.arg + " ('" + o.text + "')"
	case opDeallocate:
		return "DEALLOCATE " + o.arg
	case opDeclare:
		return "DECLARE cur CURSOR FOR " + c.series()
	case opFetch:
		return fmt.Sprintf("FETCH %d FROM cur", o.n)
	case opHold:
		return "DECLARE held CURSOR WITH HOLD FOR " + c.series()
	case opFetchHold:
		return fmt.Sprintf("FETCH %d FROM held", o.n)
	case opCloseHold:
		return "CLOSE held"
	case opParse:
		return "SELECT $1::text, '" + o.arg + "', current_setting('application_name')"
	case opPortal:
		return c.series()
	case opTimeout:
		return "SAVEPOINT st; SET LOCAL statement_timeout = 2; SELECT pg_sleep(9)"
	case opDiscard:
		return "DISCARD ALL"
	case opEmpty, opBind, opCloseStatement, opPortalMore, opFunction:
		return ""
	default:
		panic("storm: no such operation")
	}
}

// series is what cursors read.
func (c *stormClient) series() string {
	return fmt.Sprintf("SELECT '%s ' || i FROM generate_series(1, %d) i", c.name, stormRows)
}

// encode appends an operation of the extended protocol.
func (o *stormOp) encode(b []byte, c *stormClient) []byte {
	switch o.kind {
	case opParse:
		b = encode(b, &pgproto3.Parse{Name: o.arg, Query: o.sql(c)})
	case opBind:
		b = encode(b, &pgproto3.Bind{PreparedStatement: o.arg, Parameters: [][]byte{[]byte(o.text)}}, &pgproto3.Execute{})
	case opCloseStatement:
		b = encode(b, &pgproto3.Close{ObjectType: 'S', Name: o.arg})
	case opPortal:
		b = encode(b, &pgproto3.Parse{Query: o.sql(c)}, &pgproto3.Bind{DestinationPortal: "portal"}, &pgproto3.Execute{Portal: "portal", MaxRows: uint32(o.n)})
	case opPortalMore:
		b = encode(b, &pgproto3.Execute{Portal: "portal", MaxRows: uint32(o.n)})
	default:
		b = encode(b, &pgproto3.Parse{Query: o.sql(c)}, &pgproto3.Bind{})
		if o.describe {
			b = encode(b, &pgproto3.Describe{ObjectType: 'P'})
		}
		b = encode(b, &pgproto3.Execute{})
	}
	if o.flush {
		b = encode(b, &pgproto3.Flush{})
	}
	return b
}

// copied is what a COPY sends.
func (o *stormOp) copied(c *stormClient) []byte {
	row := func(i int) []byte { return fmt.Appendf(nil, "%d\t%d\n", c.number, o.n+i) }
	switch o.kind {
	case opCopyIn:
		return encode(nil, &pgproto3.CopyData{Data: append(row(0), row(1)...)}, &pgproto3.CopyData{Data: row(2)}, &pgproto3.CopyDone{})
	case opCopyFail:
		return encode(nil, &pgproto3.CopyData{Data: row(0)}, &pgproto3.CopyFail{Message: "enough"})
	case opCopyBad:
		return encode(nil, &pgproto3.CopyData{Data: append(row(0), "one\ttwo\n"...)}, &pgproto3.CopyDone{})
	default:
		return nil
	}
}

// encode appends a unit. Of a COPY whose rows wait for the server to ask for them, only what comes before.
func (u *stormUnit) encode(b []byte, c *stormClient, patient bool) []byte {
	first := u.ops[0]
	switch {
	case first.kind == opFunction:
		return encode(b, &pgproto3.FunctionCall{Function: 1598})
	case u.extended:
		for _, o := range u.ops {
			b = o.encode(b, c)
		}
		u.tail = encode(nil, &pgproto3.Sync{})
	default:
		texts := make([]string, 0, len(u.ops))
		for _, o := range u.ops {
			texts = append(texts, o.sql(c))
		}
		b = encode(b, &pgproto3.Query{String: strings.Join(texts, "; ")})
	}
	if rows := first.copied(c); rows != nil {
		if u.later = nil; patient {
			u.later = append(rows, u.tail...)
			return encode(b, &pgproto3.Flush{})
		}
		b = append(b, rows...)
	}
	return append(b, u.tail...)
}

func encode(b []byte, msgs ...pgproto3.FrontendMessage) []byte {
	for _, m := range msgs {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err)
		}
	}
	return b
}
