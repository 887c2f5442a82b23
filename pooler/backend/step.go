package backend

import (
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// Owner is the session that has a connection, as far as the connection's machine is concerned. The bytes and steps that it gets are
// valid only during the call. It may Ask in any of its calls, and Own in all but Skipped.
type Owner interface {
	// Relay passes whole messages, or pieces of a large one, on to the client as they are.
	Relay(b []byte)
	// Complete reports that step is answered by a CommandComplete with tag, or, tag being nil, by its own completion message.
	// A Query step completes once per statement. The message itself is relayed.
	Complete(step *Step, tag []byte)
	// Failed reports an ErrorResponse to step; msg is the whole message, which the owner relays or replaces.
	Failed(step *Step, msg []byte)
	// Skipped reports a step that PostgreSQL skipped because of an error before it.
	Skipped(step *Step)
	// CopyIn reports CopyInResponse for step; msg is the whole message, which the owner relays or not.
	CopyIn(step *Step, msg []byte)
	// Parameter reports a ParameterStatus.
	Parameter(name, value string)
	// Ready reports ReadyForQuery at the end of step (Sync, Query or Internal). Nothing is relayed.
	Ready(step *Step, tx pgwire.TxStatus)
}

// StepKind is what PostgreSQL was asked for.
type StepKind uint8

// The kinds of steps.
const (
	StepParse StepKind = iota + 1
	StepBind
	StepClose
	StepDescribeStatement
	StepDescribePortal
	StepExecute
	StepSync
	StepQuery // a simple Query; ends with its ReadyForQuery
	StepLocal // answered here: Answer is relayed in its turn; if internal, the owner is only told that its turn has come
)

var stepNames = [...]string{
	"", "Parse", "Bind", "Close", "Describe statement", "Describe portal", "Execute", "Sync", "Query", "local",
}

// String names the kind, for errors.
func (k StepKind) String() string {
	if int(k) < len(stepNames) {
		return stepNames[k]
	}
	return "unknown"
}

// Step is one answer owed.
type Step struct {
	Kind StepKind
	// Internal: nobody but us asked; nothing of the answer is relayed.
	Internal bool
	// Tells: it is internal, and its rows are passed to the owner all the same, among whatever else comes meanwhile.
	Tells bool
	// Must: should it fail, the connection is broken, for what is behind it must not run.
	Must bool
	// DataFollows: COPY data is sent behind it without a CopyInResponse being awaited, so a Sync behind it stands behind the data, too.
	DataFollows bool
	// Unnamed: a Parse as the unnamed statement.
	Unnamed bool
	// Stale: a Close of what is to be prepared anew.
	Stale bool
	// Call: a Query that is a FunctionCall.
	Call bool
	// Ref is the owner's.
	Ref int32
	// Prepared is what a Parse or Close is about, or the Execute of a PREPARE.
	Prepared *state.Prepared
	// Refusal replaces the error that the step is bound to bring.
	Refusal *pgwire.Error
	// Answer of StepLocal.
	Answer []byte
	// Shape of the statement that a Bind or Describe is about, on the connection; Told is what the owner's client was told of it. A description
	// goes to both. nil = nobody wants to know.
	Shape, Told *state.Shape
}

// prepares reports whether the connection has Prepared when the step has succeeded.
func (s *Step) prepares() bool {
	return s.Prepared != nil && !s.Unnamed && (s.Kind == StepParse || s.Kind == StepExecute)
}

// carries reports whether messages of the given type, which end no step, may be part of the answer to s.
func (s *Step) carries(typ byte) bool {
	if typ == pgwire.MsgFunctionCallResponse {
		return s.Call
	}
	switch s.Kind {
	case StepExecute:
		return typ != pgwire.MsgRowDescription && typ != pgwire.MsgParameterDescription && s.Refusal == nil
	case StepQuery:
		return typ != pgwire.MsgParameterDescription
	case StepDescribeStatement:
		return typ == pgwire.MsgRowDescription || typ == pgwire.MsgParameterDescription
	case StepDescribePortal:
		return typ == pgwire.MsgRowDescription
	case StepParse, StepBind, StepClose, StepSync, StepLocal:
	}
	return false
}

// nobody owns a connection that no session has.
type nobody struct{}

func (nobody) Relay([]byte)                 {}
func (nobody) Complete(*Step, []byte)       {}
func (nobody) Failed(*Step, []byte)         {}
func (nobody) Skipped(*Step)                {}
func (nobody) CopyIn(*Step, []byte)         {}
func (nobody) Parameter(string, string)     {}
func (nobody) Ready(*Step, pgwire.TxStatus) {}
