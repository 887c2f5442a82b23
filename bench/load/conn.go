package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// Conn is a connection that blocks. It is not safe for concurrent use.
type Conn struct {
	conn   net.Conn
	frames frames
	buf    []byte
}

// bufferSize is how much is read at a time.
const bufferSize = 128 << 10

// Connect dials and logs in.
func Connect(ctx context.Context, addr, user, database string) (*Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn}
	if err := c.login(user, database); err != nil {
		conn.Close()
		return nil, fmt.Errorf("login at %s: %w", addr, err)
	}
	return c, nil
}

func (c *Conn) login(user, database string) error {
	if err := c.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.conn.Write(appendStartup(nil, user, database)); err != nil {
		return err
	}
	c.buf = make([]byte, 4096)
	if _, err := c.untilReady(func(kind byte, body []byte) error {
		if kind == 'R' && (len(body) < 4 || binary.BigEndian.Uint32(body) != 0) {
			return errors.New("the server asks for a password")
		}
		return nil
	}); err != nil {
		return err
	}
	c.buf = nil // one that is idle keeps none
	return c.conn.SetDeadline(time.Time{})
}

// Close closes the connection without a word.
func (c *Conn) Close() error { return c.conn.Close() }

// Query runs a statement, or the whole of a COPY to the client, and counts the bytes of the answer.
func (c *Conn) Query(ctx context.Context, sql string) (int64, error) {
	defer c.interrupt(ctx)()
	if _, err := c.conn.Write(AppendQuery(nil, sql)); err != nil {
		return 0, err
	}
	return c.untilReady(nil)
}

// CopyIn runs a COPY FROM STDIN with lines, which are sent times over, each time in one message.
func (c *Conn) CopyIn(ctx context.Context, sql string, lines []byte, times int) (int64, error) {
	defer c.interrupt(ctx)()
	if _, err := c.conn.Write(AppendQuery(nil, sql)); err != nil {
		return 0, err
	}
	data := binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+len(lines))) //nolint:gosec // a few lines
	data = append(data, lines...)
	sent := int64(0)
	for range times {
		// An error of the server's comes while this side still writes; it is short, and waits to be read below.
		if _, err := c.conn.Write(data); err != nil {
			return sent, err
		}
		sent += int64(len(lines))
	}
	if _, err := c.conn.Write([]byte{'c', 0, 0, 0, 4}); err != nil {
		return sent, err
	}
	_, err := c.untilReady(nil)
	return sent, err
}

// interrupt has the end of ctx end what blocks, until the function that it returns is called.
func (c *Conn) interrupt(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
}

// untilReady reads up to ReadyForQuery and counts bytes. An ErrorResponse is its error. A login looks at each message.
func (c *Conn) untilReady(each func(kind byte, body []byte) error) (total int64, err error) {
	if c.buf == nil {
		c.buf = make([]byte, bufferSize)
	}
	for ready := false; !ready; {
		n, readErr := c.conn.Read(c.buf)
		if readErr != nil {
			return total, errors.Join(readErr, err)
		}
		total += int64(n)
		c.frames.feed(c.buf[:n], func(kind byte, body []byte) {
			switch {
			case kind == 'Z':
				ready = true
			case kind == 'E' && err == nil:
				err = errors.New(message(body))
				ready = each != nil // no ReadyForQuery follows the error of a login
			case each != nil && err == nil:
				err = each(kind, body)
				ready = ready || err != nil
			}
		})
	}
	return total, err
}

// Rest frees the buffer of a connection that will have nothing to do for a while.
func (c *Conn) Rest() { c.buf = nil }
