package backend

import (
	"context"
	"errors"
	"io"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Cancel asks a server to cancel what the connection with this PID and secret runs, over a connection of its own to which the options'
// address, TLS, time-out and TCP settings apply. It returns when the server has closed that connection, which PostgreSQL does after it has
// sent the signal: a statement that is sent later is not hit. The server never says whether there was anything to cancel. It blocks:
// not for the loop. Every error is a *DialError.
func Cancel(ctx context.Context, o DialOptions, pid uint32, secret []byte) error {
	a, err := connect(ctx, o, func(a *attempt) error {
		if err := a.write(pgwire.AppendCancelRequest(nil, pid, secret)); err != nil {
			return err
		}
		// A server that sends something is no PostgreSQL. Behind a reset the request may be anywhere still, whoever it was that sent it.
		switch n, err := a.conn.Read(make([]byte, 1)); {
		case n > 0:
			return failed(FailureProtocol, "%w: an answer to a cancel request", ErrProtocol)
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF): // over TLS the latter is a close without a goodbye
			return nil
		default:
			return failed(FailureUnreachable, "end of a cancel request: %w", err)
		}
	})
	if err != nil {
		return err
	}
	_ = a.raw.Close() // without TLS's goodbye, for which nobody is there
	return nil
}
