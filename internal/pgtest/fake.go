package pgtest

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// FakeServer plays PostgreSQL on a loopback port. Each connection is logged in and then handled by a Handler on a
// goroutine of its own; all of them are gone when the test ends.
type FakeServer struct {
	Addr string

	t       testing.TB
	opts    fakeOptions
	handler Handler
	ln      net.Listener
	closed  chan struct{} // closed with the server; what Stall waits for
	once    sync.Once
	wg      sync.WaitGroup
	cancels chan CancelKey

	mu struct {
		sync.Mutex
		conns map[net.Conn]struct{}
		total int
	}
}

// CancelKey is what a CancelRequest carried.
type CancelKey struct {
	PID    uint32
	Secret string // the bytes
}

// Handler conducts one connection after its login. An error it returns fails the test, except that the client has
// gone. When it returns, the connection is closed.
type Handler func(c *FakeConn) error

// FakeOption changes how a FakeServer receives its clients.
type FakeOption func(*fakeOptions)

type fakeOptions struct {
	login  Handler
	tls    *tls.Config
	params map[string]string
}

// FakeLogin replaces what comes between the startup message and the Handler: authentication, parameters, key,
// ReadyForQuery. The default trusts everybody.
func FakeLogin(login Handler) FakeOption { return func(o *fakeOptions) { o.login = login } }

// FakeTLS makes the server accept SSLRequest with config. Without it the answer is 'N'.
func FakeTLS(config *tls.Config) FakeOption { return func(o *fakeOptions) { o.tls = config } }

// FakeParam sets a ParameterStatus that the default login reports.
func FakeParam(name, value string) FakeOption {
	return func(o *fakeOptions) { o.params[name] = value }
}

// NewFakeServer listens on a free port of 127.0.0.1 until t ends.
func NewFakeServer(t testing.TB, handler Handler, opts ...FakeOption) *FakeServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("fake server: %v", err)
	}
	s := &FakeServer{
		Addr: ln.Addr().String(), t: t, handler: handler, ln: ln, closed: make(chan struct{}),
		cancels: make(chan CancelKey, 1024),
		opts: fakeOptions{params: map[string]string{
			"server_version": "15.18", "server_encoding": "UTF8", "client_encoding": "UTF8", "DateStyle": "ISO, MDY",
			"TimeZone": "UTC", "integer_datetimes": "on", "standard_conforming_strings": "on", "IntervalStyle": "postgres",
			"is_superuser": "off", "session_authorization": "fake", "application_name": "",
			"default_transaction_read_only": "off", "in_hot_standby": "off",
		}},
	}
	s.opts.login = (*FakeConn).Welcome
	for _, opt := range opts {
		opt(&s.opts)
	}
	s.mu.conns = map[net.Conn]struct{}{}
	s.wg.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// Close stops listening, cuts every connection and waits for their handlers.
func (s *FakeServer) Close() {
	s.once.Do(func() { close(s.closed) })
	s.ln.Close()
	s.mu.Lock()
	for conn := range s.mu.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Accepted tells how many connections with a startup message there were so far.
func (s *FakeServer) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.total
}

// WaitCancel returns the next CancelRequest's key.
func (s *FakeServer) WaitCancel(t testing.TB) CancelKey {
	t.Helper()
	timeout := time.NewTimer(DefaultTimeout)
	defer timeout.Stop()
	select {
	case key := <-s.cancels:
		return key
	case <-timeout.C:
		t.Fatal("no CancelRequest came")
	}
	return CancelKey{}
}

func (s *FakeServer) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.mu.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() {
				s.mu.Lock()
				delete(s.mu.conns, conn)
				s.mu.Unlock()
			}()
			s.serve(conn)
		})
	}
}

func (s *FakeServer) serve(raw net.Conn) {
	c := &FakeConn{Conn: raw, server: s}
	defer func() { c.Conn.Close() }()
	started, err := c.startup()
	if err == nil && started {
		if err = s.opts.login(c); err == nil {
			err = s.handler(c)
		}
	}
	if err == nil || gone(err) {
		return
	}
	select {
	case <-s.closed: // it was we who cut the connection
	default:
		s.t.Errorf("fake server, connection %d: %v", c.Number, err)
	}
}

// gone tells that the client left, which no handler has to expect.
func gone(err error) bool {
	var netErr *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		(errors.As(err, &netErr) && !netErr.Timeout())
}

// FakeConn is one client's connection to a FakeServer. It belongs to its handler.
type FakeConn struct {
	Conn    net.Conn
	Number  int // counts the server's connections, from 1
	Startup *pgproto3.StartupMessage
	PID     uint32 // given out by Welcome
	Secret  []byte

	server *FakeServer
	be     *pgproto3.Backend
}

// startup reads the first packets. It tells false when the connection was for a cancel request or left.
func (c *FakeConn) startup() (bool, error) {
	c.be = pgproto3.NewBackend(c.Conn, c.Conn)
	for {
		msg, err := c.be.ReceiveStartupMessage()
		if err != nil {
			return false, fmt.Errorf("startup: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.SSLRequest:
			if c.server.opts.tls == nil {
				if err := c.SendRaw([]byte("N")); err != nil {
					return false, err
				}
				continue
			}
			if err := c.SendRaw([]byte("S")); err != nil {
				return false, err
			}
			c.Conn = tls.Server(c.Conn, c.server.opts.tls)
			c.be = pgproto3.NewBackend(c.Conn, c.Conn)
		case *pgproto3.GSSEncRequest:
			if err := c.SendRaw([]byte("N")); err != nil {
				return false, err
			}
		case *pgproto3.CancelRequest:
			c.server.cancels <- CancelKey{PID: m.ProcessID, Secret: string(m.SecretKey)}
			return false, nil
		case *pgproto3.StartupMessage:
			c.Startup = &pgproto3.StartupMessage{ProtocolVersion: m.ProtocolVersion, Parameters: m.Parameters}
			c.server.mu.Lock()
			c.server.mu.total++
			c.Number = c.server.mu.total
			c.server.mu.Unlock()
			c.PID = uint32(1000 + c.Number)
			c.Secret = binary.BigEndian.AppendUint32(nil, 0xfa4e0000|uint32(c.Number))
			return true, nil
		default:
			return false, fmt.Errorf("startup: unexpected %T", msg)
		}
	}
}

// Welcome is the default login: AuthenticationOk, parameters, key, ReadyForQuery.
func (c *FakeConn) Welcome() error {
	msgs := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for name, value := range c.server.opts.params {
		msgs = append(msgs, &pgproto3.ParameterStatus{Name: name, Value: value})
	}
	msgs = append(msgs, &pgproto3.BackendKeyData{ProcessID: c.PID, SecretKey: c.Secret}, Ready('I'))
	return c.Send(msgs...)
}

// Receive reads the client's next message, valid until the next call. It waits as long as the client likes.
func (c *FakeConn) Receive() (pgproto3.FrontendMessage, error) { return c.be.Receive() }

// Expect reads as many messages as there are names, such as "Parse", and checks their kinds in order.
func (c *FakeConn) Expect(names ...string) error {
	if err := c.Conn.SetReadDeadline(time.Now().Add(DefaultTimeout)); err != nil {
		return err
	}
	for i, name := range names {
		msg, err := c.Receive()
		if err != nil {
			return fmt.Errorf("expect %s: %w", name, err)
		}
		if got := strings.TrimPrefix(reflect.TypeOf(msg).String(), "*pgproto3."); got != name {
			return fmt.Errorf("got message %s (%+v), want %s, number %d of %v", got, msg, name, i+1, names)
		}
	}
	return c.Conn.SetReadDeadline(time.Time{})
}

// ExpectQuery reads a Query message and checks its text.
func (c *FakeConn) ExpectQuery(sql string) error {
	if err := c.Conn.SetReadDeadline(time.Now().Add(DefaultTimeout)); err != nil {
		return err
	}
	msg, err := c.Receive()
	if err != nil {
		return fmt.Errorf("expect Query %q: %w", sql, err)
	}
	if q, ok := msg.(*pgproto3.Query); !ok || q.String != sql {
		return fmt.Errorf("got %T %+v, want Query %q", msg, msg, sql)
	}
	return c.Conn.SetReadDeadline(time.Time{})
}

// Send writes the messages in one write.
func (c *FakeConn) Send(msgs ...pgproto3.BackendMessage) error {
	frames, err := Encode(msgs...)
	if err != nil {
		return err
	}
	return c.SendRaw(frames)
}

// SendRaw writes bytes as they are.
func (c *FakeConn) SendRaw(data []byte) error {
	_, err := c.Conn.Write(data)
	return err
}

// Cut writes only the first n bytes of the messages and closes the connection.
func (c *FakeConn) Cut(n int, msgs ...pgproto3.BackendMessage) error {
	frames, err := Encode(msgs...)
	if err != nil {
		return err
	}
	if err := c.SendRaw(frames[:min(n, len(frames))]); err != nil {
		return err
	}
	return c.Conn.Close()
}

// Dribble writes the messages in pieces of n bytes, each a write of its own.
func (c *FakeConn) Dribble(n int, msgs ...pgproto3.BackendMessage) error {
	frames, err := Encode(msgs...)
	if err != nil {
		return err
	}
	for piece := range slices.Chunk(frames, n) {
		if err := c.SendRaw(piece); err != nil {
			return err
		}
	}
	return nil
}

// Garbage writes n random bytes, the same for the same seed.
func (c *FakeConn) Garbage(n int, seed uint64) error {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // cannot fail
	return c.SendRaw(data)
}

// Stall neither reads nor writes until the server closes.
func (c *FakeConn) Stall() error {
	<-c.server.closed
	return nil
}

// Drain reads and forgets until the client leaves.
func (c *FakeConn) Drain() error {
	_, err := io.Copy(io.Discard, c.Conn)
	return err
}

// Reset closes the connection with a TCP reset instead of an orderly end.
func (c *FakeConn) Reset() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return c.Conn.Close()
}

// Encode is the messages' bytes.
func Encode(msgs ...pgproto3.BackendMessage) ([]byte, error) {
	var frames []byte
	for _, msg := range msgs {
		var err error
		if frames, err = msg.Encode(frames); err != nil {
			return nil, fmt.Errorf("encode %T: %w", msg, err)
		}
	}
	return frames, nil
}
