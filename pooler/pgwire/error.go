package pgwire

import (
	"fmt"
	"strconv"
)

// Severities PostgreSQL uses in ErrorResponse and NoticeResponse.
const (
	SeverityError   = "ERROR"
	SeverityFatal   = "FATAL"
	SeverityPanic   = "PANIC"
	SeverityWarning = "WARNING"
	SeverityNotice  = "NOTICE"
	SeverityDebug   = "DEBUG"
	SeverityInfo    = "INFO"
	SeverityLog     = "LOG"
)

// Error is what ErrorResponse and NoticeResponse carry: PostgreSQL's error, or one of ours in the same form. It is what a
// client sees, so its text names no host, no other tenant and no secret.
type Error struct {
	Severity          string // never localised; field V, or S where the server sends no V
	LocalizedSeverity string // field S where it differs from Severity
	Code              string // SQLSTATE; empty when a server left it out
	Message           string
	Detail            string
	Hint              string
	Position          int // 1-based character in the query text; 0 = none
	InternalPosition  int // 1-based character in InternalQuery; 0 = none
	InternalQuery     string
	Where             string
	Schema            string
	Table             string
	Column            string
	DataType          string
	Constraint        string
	File              string
	Line              int
	Routine           string

	// Extra holds what the fields above cannot: unknown field types, and numbers that are none.
	Extra []ErrorField
}

// ErrorField is one field of an ErrorResponse as it travels.
type ErrorField struct {
	Type  byte
	Value string
}

// Errorf returns an Error of severity ERROR: the statement failed, the connection lives on.
func Errorf(code, format string, args ...any) *Error {
	return newError(SeverityError, code, format, args)
}

// Fatalf returns an Error of severity FATAL: the connection ends after it.
func Fatalf(code, format string, args ...any) *Error {
	return newError(SeverityFatal, code, format, args)
}

// Warningf returns an Error of severity WARNING, to be sent as a notice.
func Warningf(code, format string, args ...any) *Error {
	return newError(SeverityWarning, code, format, args)
}

// Noticef returns an Error of severity NOTICE with the code of successful completion, to be sent as a notice.
func Noticef(format string, args ...any) *Error {
	return newError(SeverityNotice, CodeSuccessfulCompletion, format, args)
}

func newError(severity, code, format string, args []any) *Error {
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	return &Error{Severity: severity, Code: code, Message: msg}
}

// Error gives "SQLSTATE: message".
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Code + ": " + e.Message
}

// IsFatal reports whether the connection ends with this error.
func (e *Error) IsFatal() bool { return e.Severity == SeverityFatal || e.Severity == SeverityPanic }

// WithDetail returns a copy of e with its detail set. Like every With method it leaves e alone, so shared values stay as they are.
func (e *Error) WithDetail(format string, args ...any) *Error {
	c := *e
	c.Detail = sprintf(format, args)
	return &c
}

// WithHint returns a copy of e with its hint set.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = sprintf(format, args)
	return &c
}

// WithRoutine returns a copy of e with the routine set: PostgreSQL's place for the name of the code that refused.
func (e *Error) WithRoutine(routine string) *Error {
	c := *e
	c.Routine = routine
	return &c
}

// WithPosition returns a copy of e that points at a 1-based character of the query text.
func (e *Error) WithPosition(position int) *Error {
	c := *e
	c.Position = position
	return &c
}

// WithSeverity returns a copy of e with another severity.
func (e *Error) WithSeverity(severity string) *Error {
	c := *e
	c.Severity, c.LocalizedSeverity = severity, ""
	return &c
}

func sprintf(format string, args []any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}

// DecodeError decodes the body of an ErrorResponse or NoticeResponse. Unknown fields are kept in Extra; a repeated field's last
// value counts, as in libpq. A body without SQLSTATE or message is accepted: servers that are not PostgreSQL send them.
func DecodeError(body []byte) (*Error, error) {
	r := reader{b: body}
	e := &Error{}
	var localized string
	for {
		typ := r.byte()
		if typ == 0 {
			break
		}
		value := string(r.cstring())
		if r.fault != faultNone {
			break
		}
		if typ == 'S' {
			localized = value
			continue
		}
		e.set(typ, value)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	switch {
	case e.Severity == "":
		e.Severity = localized
	case localized != e.Severity:
		e.LocalizedSeverity = localized
	}
	return e, nil
}

// text returns where the text field of that type lives, nil for types that are numbers or unknown.
func (e *Error) text(typ byte) *string {
	switch typ {
	case 'V':
		return &e.Severity
	case 'C':
		return &e.Code
	case 'M':
		return &e.Message
	case 'D':
		return &e.Detail
	case 'H':
		return &e.Hint
	case 'q':
		return &e.InternalQuery
	case 'W':
		return &e.Where
	case 's':
		return &e.Schema
	case 't':
		return &e.Table
	case 'c':
		return &e.Column
	case 'd':
		return &e.DataType
	case 'n':
		return &e.Constraint
	case 'F':
		return &e.File
	case 'R':
		return &e.Routine
	default:
		return nil
	}
}

// number returns where the numeric field of that type lives.
func (e *Error) number(typ byte) *int {
	switch typ {
	case 'P':
		return &e.Position
	case 'p':
		return &e.InternalPosition
	case 'L':
		return &e.Line
	default:
		return nil
	}
}

func (e *Error) set(typ byte, value string) {
	if p := e.text(typ); p != nil {
		*p = value
		return
	}
	if p := e.number(typ); p != nil {
		if n, err := strconv.ParseInt(value, 10, 32); err == nil && n > 0 {
			*p = int(n)
			return
		}
	}
	e.Extra = append(e.Extra, ErrorField{Type: typ, Value: value})
}

// errorFields is the order in which PostgreSQL sends them.
const errorFields = "CMDHPpqWstcdnFLR"

// AppendErrorResponse appends an ErrorResponse. A missing severity is sent as ERROR and a missing SQLSTATE as XX000, which
// clients rely on being there.
func AppendErrorResponse(dst []byte, e *Error) []byte {
	return appendError(dst, MsgErrorResponse, e, SeverityError, CodeInternalError)
}

// AppendNoticeResponse appends a NoticeResponse. A missing severity is sent as NOTICE and a missing SQLSTATE as 00000.
func AppendNoticeResponse(dst []byte, e *Error) []byte {
	return appendError(dst, MsgNoticeResponse, e, SeverityNotice, CodeSuccessfulCompletion)
}

func appendError(dst []byte, typ byte, e *Error, severity, code string) []byte {
	dst, start := begin(dst, typ)
	if e.Severity != "" {
		severity = e.Severity
	}
	localized := severity
	if e.LocalizedSeverity != "" {
		localized = e.LocalizedSeverity
	}
	dst = appendField(dst, 'S', localized)
	dst = appendField(dst, 'V', severity)
	for i := range len(errorFields) {
		f := errorFields[i]
		if p := e.number(f); p != nil {
			if *p > 0 {
				dst = append(dst, f)
				dst = strconv.AppendInt(dst, int64(*p), 10)
				dst = append(dst, 0)
			}
			continue
		}
		v := *e.text(f)
		switch {
		case f == 'C' && v == "":
			v = code
		case f == 'M': // always sent: clients take it for granted
		case v == "":
			continue
		}
		dst = appendField(dst, f, v)
	}
	for _, f := range e.Extra {
		if f.Type != 0 { // a zero type would end the message early
			dst = appendField(dst, f.Type, f.Value)
		}
	}
	return end(append(dst, 0), start)
}

func appendField(dst []byte, typ byte, value string) []byte {
	return appendString(append(dst, typ), value)
}
