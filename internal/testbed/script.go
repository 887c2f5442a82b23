package testbed

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// Outcome condenses an answer to what scripts compare: rows, tags, errors, and the transaction status.
//
//	a|b; c|d; SELECT 2; I
//	42501 tenant_missing; E     a refusal of pgkennel's, with its name
//	22012; E                    an error of PostgreSQL's
func Outcome(msgs []pgproto3.BackendMessage) string {
	var parts []string
	for _, msg := range msgs {
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			parts = append(parts, pgtest.Rows([]pgproto3.BackendMessage{m})...)
		case *pgproto3.CommandComplete:
			parts = append(parts, string(m.CommandTag))
		case *pgproto3.EmptyQueryResponse:
			parts = append(parts, "empty")
		case *pgproto3.ErrorResponse:
			e := m.Code
			if m.File == "" && m.Routine != "" {
				e += " " + m.Routine
			}
			parts = append(parts, e)
		case *pgproto3.ReadyForQuery:
			parts = append(parts, string(m.TxStatus))
		case *pgproto3.CopyInResponse:
			parts = append(parts, "copy in")
		}
	}
	return strings.Join(parts, "; ")
}

// Short names for messages.

// Parse prepares a statement.
func Parse(name, sql string) pgproto3.FrontendMessage {
	return &pgproto3.Parse{Name: name, Query: sql}
}

// Bind makes a portal of a statement and parameters in text format.
func Bind(portal, name string, params ...string) pgproto3.FrontendMessage {
	b := &pgproto3.Bind{DestinationPortal: portal, PreparedStatement: name}
	for _, p := range params {
		b.Parameters = append(b.Parameters, []byte(p))
	}
	return b
}

// Run executes a portal.
func Run(portal string, rows uint32) pgproto3.FrontendMessage {
	return &pgproto3.Execute{Portal: portal, MaxRows: rows}
}

// Simple is a Query.
func Simple(sql string) pgproto3.FrontendMessage { return &pgproto3.Query{String: sql} }

// Describe describes a statement ('S') or a portal ('P').
func Describe(kind byte, name string) pgproto3.FrontendMessage {
	return &pgproto3.Describe{ObjectType: kind, Name: name}
}

// Sync and Flush.
var (
	Sync  = &pgproto3.Sync{}
	Flush = &pgproto3.Flush{}
)

// Statements are those of a pipeline, each with its Parse, Bind and Execute.
func Statements(list ...string) (messages []pgproto3.FrontendMessage) {
	for _, sql := range list {
		messages = append(messages, Parse("", sql), Bind("", ""), Run("", 0))
	}
	return messages
}

// Extended runs messages up to a Sync.
func Extended(c *pgtest.Client, messages ...pgproto3.FrontendMessage) string {
	c.Send(append(messages, Sync)...)
	return Outcome(c.UntilReady())
}
