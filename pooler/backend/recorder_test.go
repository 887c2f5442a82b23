package backend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// recorder is an owner that writes down what it is told; what is relayed in several pieces without anything between is one event.
type recorder struct {
	events []string
	run    []byte // relayed since the last event
	all    []byte // relayed ever
	calls  int    // of Relay
	// Hooks, called after the event is written down.
	onReady, onCopyIn, onComplete, onFailed, onSkipped func(s *Step)
}

func (r *recorder) Relay(b []byte) {
	r.calls++
	r.run = append(r.run, b...)
	r.all = append(r.all, b...)
}

func (r *recorder) event(format string, args ...any) {
	r.flush()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *recorder) flush() {
	if len(r.run) > 0 {
		r.events = append(r.events, "relay "+outline(r.run))
		r.run = nil
	}
}

func (r *recorder) Complete(s *Step, tag []byte) {
	if tag == nil {
		r.event("complete %s", label(s))
	} else {
		r.event("complete %s %s", label(s), tag)
	}
	call(r.onComplete, s)
}

func (r *recorder) Failed(s *Step, msg []byte) {
	e, err := pgwire.DecodeError(msg[pgwire.HeaderBytes:])
	if err != nil {
		r.event("failed %s: %v", label(s), err)
		return
	}
	r.event("failed %s %s", label(s), e.Code)
	call(r.onFailed, s)
}

func (r *recorder) Skipped(s *Step) { r.event("skipped %s", label(s)); call(r.onSkipped, s) }
func (r *recorder) CopyIn(s *Step, msg []byte) {
	r.event("copy in %s %c", label(s), msg[0])
	call(r.onCopyIn, s)
}
func (r *recorder) Parameter(name, value string) { r.event("parameter %s=%s", name, value) }
func (r *recorder) Ready(s *Step, tx pgwire.TxStatus) {
	r.event("ready %s %c", label(s), tx)
	call(r.onReady, s)
}

func call(f func(s *Step), s *Step) {
	if f != nil {
		f(s)
	}
}

// take returns what happened since it was called last.
func (r *recorder) take() []string {
	r.flush()
	e := r.events
	r.events = nil
	return e
}

// label names a step: its kind, its Ref, and whether it is internal.
func label(s *Step) string {
	l := s.Kind.String()
	if s.Internal {
		l += " internal"
	}
	if s.Ref != 0 {
		l += fmt.Sprintf(" #%d", s.Ref)
	}
	return l
}

// outline is the types of the messages in b; of one that is cut, how much of it is there.
func outline(b []byte) string {
	var parts []string
	for len(b) > 0 {
		typ, total, ok := pgwire.Header(b)
		if !ok || total > len(b) || total < 0 {
			parts = append(parts, fmt.Sprintf("%c[%d]", b[0], len(b)))
			break
		}
		parts = append(parts, string(typ))
		b = b[total:]
	}
	return strings.Join(parts, "")
}

// steps makes steps of a short notation: P(arse) B(ind) C(lose) D(escribe statement) d(escribe portal) E(xecute) S(ync) Q(uery) L(ocal),
// with a small i behind those that are internal. Each has its place, from 1, as Ref.
func steps(notation string) (list []Step) {
	kinds := map[rune]StepKind{
		'P': StepParse, 'B': StepBind, 'C': StepClose, 'D': StepDescribeStatement, 'd': StepDescribePortal, 'E': StepExecute, 'S': StepSync,
		'Q': StepQuery, 'L': StepLocal,
	}
	for _, r := range notation {
		switch r {
		case ' ':
		case 'i':
			list[len(list)-1].Internal = true
		default:
			s := Step{Kind: kinds[r], Ref: int32(len(list) + 1)}
			if s.Kind == 0 {
				panic("unknown step " + string(r))
			}
			if s.Kind == StepLocal {
				s.Answer = pgwire.AppendParseComplete(nil)
			}
			list = append(list, s)
		}
	}
	return list
}

// stream makes the server's messages of a notation: words of the type, and after a colon what is in it.
func stream(notation string) (b []byte) {
	for w := range strings.FieldsSeq(notation) {
		typ, arg, _ := strings.Cut(w, ":")
		b = appendMessage(b, typ[0], arg)
	}
	return b
}

func appendMessage(b []byte, typ byte, arg string) []byte {
	name, value, _ := strings.Cut(arg, "=")
	switch typ {
	case pgwire.MsgParseComplete:
		return pgwire.AppendParseComplete(b)
	case pgwire.MsgBindComplete:
		return pgwire.AppendBindComplete(b)
	case pgwire.MsgCloseComplete:
		return pgwire.AppendCloseComplete(b)
	case pgwire.MsgNoData:
		return pgwire.AppendNoData(b)
	case pgwire.MsgPortalSuspended:
		return pgwire.AppendPortalSuspended(b)
	case pgwire.MsgEmptyQuery:
		return pgwire.AppendEmptyQuery(b)
	case pgwire.MsgCommandComplete:
		return pgwire.AppendCommandComplete(b, strings.ReplaceAll(arg, "_", " "))
	case pgwire.MsgReadyForQuery:
		return pgwire.AppendReadyForQuery(b, pgwire.TxStatus((arg + "I")[0]))
	case pgwire.MsgErrorResponse:
		if arg == "" {
			arg = "42601"
		}
		return pgwire.AppendErrorResponse(b, pgwire.Errorf(arg, "message"))
	case pgwire.MsgNoticeResponse:
		return pgwire.AppendNoticeResponse(b, pgwire.Noticef("%s", arg))
	case pgwire.MsgParameterStatus:
		return pgwire.AppendParameterStatus(b, name, value)
	case pgwire.MsgRowDescription:
		return pgwire.AppendRowDescription(b, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
	case pgwire.MsgDataRow:
		return pgwire.AppendTextRow(b, arg)
	case pgwire.MsgParameterDescription:
		return pgwire.AppendParameterDescription(b, []uint32{23})
	case pgwire.MsgCopyIn:
		return pgwire.AppendCopyInResponse(b, pgwire.FormatText, 1)
	case pgwire.MsgCopyOut:
		return pgwire.AppendCopyOutResponse(b, pgwire.FormatText, 1)
	case pgwire.MsgCopyData:
		return pgwire.AppendCopyData(b, arg)
	case pgwire.MsgCopyDone:
		return pgwire.AppendCopyDone(b)
	}
	n := len(arg) + 4
	return append(append(b, typ, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)), arg...)
}

const maxTestMessage = 1 << 20

// newConn returns a machine and the recorder that owns it.
func newConn(list []Step) (*Conn, *recorder) {
	c := New(&Login{PID: 1, Params: []pgwire.Param{{Name: "TimeZone", Value: "UTC"}}}, maxTestMessage)
	r := &recorder{}
	c.Own(r)
	for _, s := range list {
		c.Ask(s)
	}
	return c, r
}
