package pgtest

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Format renders messages of the server in one line for comparison, for instance
//
//	RowDescription(id, name) DataRow(1, ∅) CommandComplete(SELECT 1) ReadyForQuery(I)
//
// Values are text as they came. Errors show severity, SQLSTATE and message; the other fields are for tests that look at
// the message itself (see Failure).
func Format(msgs ...pgproto3.BackendMessage) string {
	parts := make([]string, 0, len(msgs))
	for _, msg := range msgs {
		parts = append(parts, formatOne(msg))
	}
	return strings.Join(parts, " ")
}

func formatOne(msg pgproto3.BackendMessage) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", msg), "*pgproto3.")
	inside := func(parts ...string) string { return name + "(" + strings.Join(parts, ", ") + ")" }
	switch m := msg.(type) {
	case *pgproto3.RowDescription:
		var columns []string
		for _, f := range m.Fields {
			columns = append(columns, string(f.Name))
		}
		return inside(columns...)
	case *pgproto3.DataRow:
		var values []string
		for _, v := range m.Values {
			if v == nil {
				values = append(values, "∅")
			} else {
				values = append(values, string(v))
			}
		}
		return inside(values...)
	case *pgproto3.CommandComplete:
		return inside(string(m.CommandTag))
	case *pgproto3.ReadyForQuery:
		return inside(string(m.TxStatus))
	case *pgproto3.ErrorResponse:
		return inside(m.Severity, m.Code, m.Message)
	case *pgproto3.NoticeResponse:
		return inside(m.Severity, m.Code, m.Message)
	case *pgproto3.ParameterStatus:
		return inside(m.Name + "=" + m.Value)
	case *pgproto3.ParameterDescription:
		var types []string
		for _, oid := range m.ParameterOIDs {
			types = append(types, fmt.Sprint(oid))
		}
		return inside(types...)
	case *pgproto3.NotificationResponse:
		return inside(m.Channel, m.Payload)
	case *pgproto3.CopyData:
		return inside(fmt.Sprintf("%q", m.Data))
	}
	return name
}

// Rows picks the data rows out of an answer, columns joined by "|" and NULL as "∅", like Instance.Query.
func Rows(msgs []pgproto3.BackendMessage) []string {
	var rows []string
	for _, msg := range msgs {
		if row, ok := msg.(*pgproto3.DataRow); ok {
			var columns []string
			for _, v := range row.Values {
				if v == nil {
					columns = append(columns, "∅")
				} else {
					columns = append(columns, string(v))
				}
			}
			rows = append(rows, strings.Join(columns, "|"))
		}
	}
	return rows
}

// Failure picks the first error out of an answer, nil if there is none.
func Failure(msgs []pgproto3.BackendMessage) *pgproto3.ErrorResponse {
	for _, msg := range msgs {
		if e, ok := msg.(*pgproto3.ErrorResponse); ok {
			return e
		}
	}
	return nil
}
