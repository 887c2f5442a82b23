package backend

import "strings"

// Taint is what a session left on a connection that can't be taken off it: a tainted connection is closed at release.
type Taint uint32

// The taints.
const (
	TaintListen Taint = 1 << iota
	TaintTemp
	TaintAdvisoryLock
	TaintHoldCursor
	TaintSQLPrepare
	TaintUnjudged
	TaintRole
	TaintPreparedTx
	TaintLargeObject
	TaintCancelled
	TaintContext  // the settings that it should carry could not be set
	TaintSchemas  // it was used for so many tenants' schemas that what it knows of them takes too much memory
	TaintCode     // code of tables may have left what DISCARD ALL takes away
	TaintProtocol // it is not known what it will send next
)

var taintNames = [...]string{
	"listen", "temp", "advisory_lock", "hold_cursor", "sql_prepare", "unjudged", "session_authorization",
	"prepared_transaction", "large_object", "cancelled", "context", "schemas", "code", "protocol",
}

// String names the taints, for the log.
func (t Taint) String() string {
	var names []string
	for i, n := range taintNames {
		if t&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// First is the name of the first taint, the label of the metric.
func (t Taint) First() string {
	for i, n := range taintNames {
		if t&(1<<i) != 0 {
			return n
		}
	}
	return "none"
}

// Taint marks the connection.
func (c *Conn) Taint(t Taint) { c.taint |= t }

// Unlistens takes the mark of LISTEN off a connection that is about to be sent UNLISTEN *. It returns false, and does nothing, where something else is left.
func (c *Conn) Unlistens() bool {
	if c.taint != TaintListen {
		return false
	}
	c.taint = 0
	if !c.Clean() {
		c.taint = TaintListen
		return false
	}
	return true
}

// Tainted returns what was marked.
func (c *Conn) Tainted() Taint { return c.taint }

// Cleaned takes the marks off: the connection was reset by DISCARD ALL.
func (c *Conn) Cleaned() {
	c.taint = 0
	c.Have = nil
	c.Unnamed = nil
	c.Statements.Clear()
}
