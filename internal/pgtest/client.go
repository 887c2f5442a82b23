package pgtest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// DefaultTimeout is how long a Client or a FakeConn waits for the other side before the test fails.
const DefaultTimeout = 20 * time.Second

// Client speaks the protocol message by message. Methods without an error result fail the test instead. Not safe for
// concurrent use, except that Close may come from anywhere.
type Client struct {
	Conn    net.Conn
	Timeout time.Duration // of each Receive and Send

	// Filled by Connect and Login.
	PID    uint32
	Secret []byte
	Params map[string]string // last ParameterStatus of each name

	t    testing.TB
	addr string
	fe   *pgproto3.Frontend
}

// Login says who connects and how.
type Login struct {
	User, Database string
	Password       string
	Params         map[string]string // further startup parameters
	Version        uint32            // protocol version; 0 means 3.0
	TLS            *tls.Config       // asks for TLS with it; nil means plain
}

// Dial connects to host:port, or to a unix socket if addr begins with a slash. Nothing is sent. The connection is
// closed when t ends.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(t.Context(), DefaultTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	c := NewClient(t, conn)
	c.addr = addr
	return c
}

// NewClient speaks over a connection that the test made itself. It takes ownership of conn.
func NewClient(t testing.TB, conn net.Conn) *Client {
	t.Helper()
	c := &Client{Conn: conn, Timeout: DefaultTimeout, Params: map[string]string{}, t: t}
	c.fe = pgproto3.NewFrontend(conn, conn)
	t.Cleanup(c.Close)
	return c
}

// Connect dials and logs in, up to the first ReadyForQuery.
func Connect(t testing.TB, addr string, login Login) *Client {
	t.Helper()
	c := Dial(t, addr)
	if err := c.Login(login); err != nil {
		t.Fatalf("login at %s: %v", addr, err)
	}
	return c
}

// Connect logs in to the instance over TCP.
func (i *Instance) Connect(t testing.TB, login Login) *Client {
	t.Helper()
	return Connect(t, i.Addr(), login)
}

// Login goes through TLS, startup and authentication up to ReadyForQuery. A refusal is returned as *ServerError.
func (c *Client) Login(login Login) error {
	c.t.Helper()
	if login.TLS != nil {
		if err := c.StartTLS(login.TLS); err != nil {
			return err
		}
	}
	c.Startup(login)
	return c.authenticate(login)
}

// StartTLS sends SSLRequest and goes through the handshake.
func (c *Client) StartTLS(config *tls.Config) error {
	c.t.Helper()
	c.Send(&pgproto3.SSLRequest{})
	answer := c.ReadRaw(1)
	if answer[0] != 'S' {
		return fmt.Errorf("TLS refused with %q", answer)
	}
	secured := tls.Client(c.Conn, config)
	if err := secured.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	if err := secured.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.Conn = secured
	c.fe = pgproto3.NewFrontend(secured, secured)
	return nil
}

// Startup sends the startup message.
func (c *Client) Startup(login Login) {
	c.t.Helper()
	params := map[string]string{}
	if login.User != "" {
		params["user"] = login.User
	}
	if login.Database != "" {
		params["database"] = login.Database
	}
	maps.Copy(params, login.Params)
	version := login.Version
	if version == 0 {
		version = pgproto3.ProtocolVersion30
	}
	c.Send(&pgproto3.StartupMessage{ProtocolVersion: version, Parameters: params})
}

// Send writes the messages in one write.
func (c *Client) Send(msgs ...pgproto3.FrontendMessage) {
	c.t.Helper()
	var buf []byte
	for _, msg := range msgs {
		var err error
		if buf, err = msg.Encode(buf); err != nil {
			c.t.Fatalf("encode %T: %v", msg, err)
		}
	}
	c.Write(buf)
}

// Write sends bytes as they are.
func (c *Client) Write(data []byte) {
	c.t.Helper()
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.Timeout)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
	if _, err := c.Conn.Write(data); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// ReadRaw reads exactly n bytes that are not in a frame, such as the answer to SSLRequest. It must come before the
// first Receive, which reads ahead.
func (c *Client) ReadRaw(n int) []byte {
	c.t.Helper()
	if err := c.Conn.SetReadDeadline(time.Now().Add(c.Timeout)); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(c.Conn, buf); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return buf
}

// Next receives one message, which stays valid, or the error that ended the connection.
func (c *Client) Next() (pgproto3.BackendMessage, error) {
	if err := c.Conn.SetReadDeadline(time.Now().Add(c.Timeout)); err != nil {
		return nil, err
	}
	msg, err := c.fe.Receive()
	if err != nil {
		return nil, err
	}
	kept, err := clone(msg)
	if err != nil {
		return nil, err
	}
	switch m := kept.(type) {
	case *pgproto3.ParameterStatus:
		c.Params[m.Name] = m.Value
	case *pgproto3.BackendKeyData:
		c.PID, c.Secret = m.ProcessID, m.SecretKey
	}
	return kept, nil
}

// Receive is Next for tests that expect a message.
func (c *Client) Receive() pgproto3.BackendMessage {
	c.t.Helper()
	msg, err := c.Next()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return msg
}

// UntilReady receives up to and including ReadyForQuery.
func (c *Client) UntilReady() []pgproto3.BackendMessage {
	c.t.Helper()
	var msgs []pgproto3.BackendMessage
	for {
		msg, err := c.Next()
		if err != nil {
			c.t.Fatalf("receive after %s: %v", Format(msgs...), err)
		}
		msgs = append(msgs, msg)
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return msgs
		}
	}
}

// Query sends one Query message and returns the whole answer.
func (c *Client) Query(sql string) []pgproto3.BackendMessage {
	c.t.Helper()
	c.Send(&pgproto3.Query{String: sql})
	return c.UntilReady()
}

// Answer is Query rendered by Format: what most tests compare.
func (c *Client) Answer(sql string) string {
	c.t.Helper()
	return Format(c.Query(sql)...)
}

// Extended sends Parse, Bind, Describe, Execute and Sync of one unnamed statement with text parameters in one write,
// and returns the whole answer.
func (c *Client) Extended(sql string, params ...string) []pgproto3.BackendMessage {
	c.t.Helper()
	bind := &pgproto3.Bind{}
	for _, p := range params {
		bind.Parameters = append(bind.Parameters, []byte(p))
	}
	c.Send(&pgproto3.Parse{Query: sql}, bind, &pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{}, &pgproto3.Sync{})
	return c.UntilReady()
}

// ExpectClosed reads until the server closes the connection, and returns what came before. A server that keeps it
// open fails the test.
func (c *Client) ExpectClosed() []pgproto3.BackendMessage {
	c.t.Helper()
	var msgs []pgproto3.BackendMessage
	for {
		msg, err := c.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Fatalf("connection still open after %s", Format(msgs...))
		}
		if err != nil {
			return msgs
		}
		msgs = append(msgs, msg)
	}
}

// Cancel sends a CancelRequest with this client's key on a connection of its own, and waits until the server closes it.
func (c *Client) Cancel() {
	c.t.Helper()
	if c.addr == "" {
		c.t.Fatal("cancel: the client did not dial an address")
	}
	SendCancel(c.t, c.addr, c.PID, c.Secret)
}

// SendCancel sends a CancelRequest with any key, of any length, and waits until the server closes the connection.
func SendCancel(t testing.TB, addr string, pid uint32, secret []byte) {
	t.Helper()
	c := Dial(t, addr)
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(secret)))
	packet = binary.BigEndian.AppendUint32(packet, 80877102)
	packet = binary.BigEndian.AppendUint32(packet, pid)
	c.Write(append(packet, secret...))
	c.ExpectClosed()
	c.Close()
}

// Terminate says goodbye and closes.
func (c *Client) Terminate() {
	c.t.Helper()
	c.Send(&pgproto3.Terminate{})
	c.Close()
}

// Close closes the connection without a word, as a dying client does.
func (c *Client) Close() { c.Conn.Close() }

// clone copies a message out of the reader's buffer.
func clone(msg pgproto3.BackendMessage) (pgproto3.BackendMessage, error) {
	frame, err := msg.Encode(nil)
	if err != nil {
		return nil, err
	}
	kept, ok := reflect.TypeAssert[pgproto3.BackendMessage](reflect.New(reflect.TypeOf(msg).Elem()))
	if !ok {
		return nil, fmt.Errorf("%T is no backend message", msg)
	}
	return kept, kept.Decode(frame[5:])
}

// ServerError is an ErrorResponse as a Go error.
type ServerError struct{ *pgproto3.ErrorResponse }

func (e *ServerError) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Severity, e.Code, e.Message)
}
