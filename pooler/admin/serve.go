package admin

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

const (
	// maxMessageBytes is the longest message that the console takes: its commands are short.
	maxMessageBytes = 1 << 20
	readBufferBytes = 4 << 10
	// keepBytes is the largest write buffer kept between answers.
	keepBytes = 64 << 10
	// lastWords is how long a client that is told to go has to take it in.
	lastWords = time.Second
)

// Serve talks with the client over conn until it leaves (nil), conn fails, or ctx ends: then the client gets 57P01 and Serve
// returns ctx's cause. The login is over and ReadyForQuery was sent; read is conn, behind what was read of it
// already. The caller closes conn.
func (n *Conn) Serve(ctx context.Context, conn net.Conn, read io.Reader) error {
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Now().Add(lastWords)) // an answer under way may be SHUTDOWN's
	})
	defer stop()
	in := bufio.NewReaderSize(read, readBufferBytes)
	var out, body []byte
	for {
		typ, b, err := readMessage(in, body)
		if err != nil {
			return n.farewell(ctx, conn, err)
		}
		if cap(b) <= keepBytes {
			body = b
		}
		var done bool
		out, done = n.Handle(ctx, out[:0], typ, b)
		if len(out) > 0 {
			if _, err := conn.Write(out); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		if cap(out) > keepBytes {
			out = nil
		}
	}
}

// farewell tells the client why the conversation ends, where it can be told.
func (n *Conn) farewell(ctx context.Context, conn net.Conn, err error) error {
	var last *pgwire.Error
	switch e, ok := errors.AsType[*pgwire.Error](err); {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		last = pgwire.Fatalf(pgwire.CodeAdminShutdown, "terminating connection due to administrator command")
	case ok:
		last = e.WithSeverity(pgwire.SeverityFatal)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(lastWords))
	_, _ = conn.Write(pgwire.AppendErrorResponse(nil, last)) // it may be gone already
	return err
}

// readMessage reads one message; its body is valid until the next call with the same buffer.
func readMessage(in *bufio.Reader, buf []byte) (typ byte, body []byte, err error) {
	var header [pgwire.HeaderBytes]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return 0, nil, err
	}
	typ = header[0]
	length := int64(binary.BigEndian.Uint32(header[1:])) - 4
	if length < 0 || length > maxMessageBytes {
		return 0, nil, pgwire.Errorf(pgwire.CodeProtocolViolation, "invalid message length")
	}
	if int64(cap(buf)) < length {
		buf = make([]byte, length)
	}
	buf = buf[:length]
	if _, err := io.ReadFull(in, buf); err != nil {
		return 0, nil, err
	}
	return typ, buf, nil
}
