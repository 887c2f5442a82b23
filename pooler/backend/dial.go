package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Address is where a PostgreSQL server listens. A host that begins with a slash is the directory of its unix socket.
type Address struct {
	Host string
	Port int
}

// Network is the network's name as package net wants it: "tcp" or "unix".
func (a Address) Network() string {
	if strings.HasPrefix(a.Host, "/") {
		return "unix"
	}
	return "tcp"
}

// String is host:port, or the unix socket's path. It is what package net dials.
func (a Address) String() string {
	port := strconv.Itoa(a.Port)
	if a.Network() == "unix" {
		return strings.TrimSuffix(a.Host, "/") + "/.s.PGSQL." + port
	}
	return net.JoinHostPort(a.Host, port)
}

// DialOptions say how to reach a server and whom to log in. They may be shared; nothing changes them.
type DialOptions struct {
	Address  Address
	User     string
	Database string // empty = the server takes the user's name
	// Credential answers the server's request for a password; nil = there is none.
	Credential *auth.ClientCredential
	// Auth bounds what the server may ask for; nil = the defaults.
	Auth *auth.ClientOptions
	// Params are further startup parameters, in order. They must not name "user" or "database": those are the identity, and the
	// last one of a name would count.
	Params []pgwire.Param
	// Ask is a query of one column that is asked as soon as the login is complete, as part of it; empty = none. Its rows are in Login.Answers.
	Ask string
	TLS TLSOptions
	// ConnectTimeout bounds everything up to the first ReadyForQuery, or to the answer to Ask; 0 = only the context does.
	ConnectTimeout time.Duration
	TCP            TCPOptions
	// Sealed connections find out when their server process began, which their tenants' seals are bound to.
	Sealed bool
	// Identified connections find out which server they lead to: see Login.Server.
	Identified bool

	by    *way // to the server at Address; nil = by Address itself
	finds bool // find out where the connection comes from for the server
}

// TCPOptions are the settings of a TCP socket, of either side. The zero value leaves everything to the system, without keepalives.
type TCPOptions struct {
	KeepAlive bool
	// Idle is the time before the first probe, Interval the time between probes, Probes how many may be lost. 0 = the system's.
	Idle     time.Duration
	Interval time.Duration
	Probes   int
	// UserTimeout is how long sent data may stay unacknowledged (Linux only); 0 = the system's.
	UserTimeout time.Duration
	// CongestionControl is the algorithm's name (Linux only); empty = the system's.
	CongestionControl string
}

// Apply sets the options on an open connection, with its first bytes still to come. It does nothing to other than TCP connections.
func (o TCPOptions) Apply(conn net.Conn) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return o.applyBare(conn)
	}
	if err := c.SetKeepAliveConfig(o.keepAlive()); err != nil {
		return fmt.Errorf("tcp keepalive: %w", err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return o.control(raw)
}

// keepAlive translates for package net, where 0 stands for values of its own and -1 for the system's.
func (o TCPOptions) keepAlive() net.KeepAliveConfig {
	c := net.KeepAliveConfig{Enable: o.KeepAlive, Idle: o.Idle, Interval: o.Interval, Count: o.Probes}
	if c.Idle <= 0 {
		c.Idle = -1
	}
	if c.Interval <= 0 {
		c.Interval = -1
	}
	if c.Count <= 0 {
		c.Count = -1
	}
	return c
}

// Failure says at which step Dial or Cancel failed, which is what callers act on.
type Failure uint8

// The failures.
const (
	// FailureNone: the error is none of Dial's.
	FailureNone Failure = iota
	// FailureUnreachable: no connection, or it broke: refused, timed out, name not found, reset. A reason to try another endpoint.
	FailureUnreachable
	// FailureTLS: the server refused TLS that is demanded, or its certificate, or ours, was not accepted.
	FailureTLS
	// FailureAuth: the server refused the login (class 28), or asked for something the credential cannot give.
	FailureAuth
	// FailureServer: the server said no for another reason, which errors.AsType[*pgwire.Error] gives: starting up (57P03), too many
	// connections (53300), no such database (3D000), a parameter it does not take.
	FailureServer
	// FailureProtocol: the other side does not speak PostgreSQL's protocol.
	FailureProtocol
	// FailureCanceled: the caller's context ended. It says nothing about the server.
	FailureCanceled
	// FailureOptions: the options contradict themselves; nothing was sent.
	FailureOptions
	// FailureVersion: the server is older than OldestServer, or does not tell what it is.
	FailureVersion
	// FailureAsk: the server did not answer what it was asked, which errors.AsType[*pgwire.Error] gives.
	FailureAsk
)

var failureNames = [...]string{
	FailureNone: "none", FailureUnreachable: "unreachable", FailureTLS: "tls", FailureAuth: "auth", FailureServer: "server",
	FailureProtocol: "protocol", FailureCanceled: "canceled", FailureOptions: "options", FailureVersion: "version", FailureAsk: "ask",
}

// String is the failure as logs and metrics name it.
func (f Failure) String() string {
	if int(f) < len(failureNames) {
		return failureNames[f]
	}
	return "unknown"
}

// DialError is what Dial and Cancel return. Its text names the server: it is for logs, not for clients.
type DialError struct {
	Failure Failure
	Address Address
	Err     error
}

// Error tells where, at which step, and why.
func (e *DialError) Error() string {
	return fmt.Sprintf("connect to %v: %v: %v", e.Address, e.Failure, e.Err)
}

// Unwrap gives the cause: a *pgwire.Error from the server, an error of package auth, a network error, the context's cause.
func (e *DialError) Unwrap() error { return e.Err }

// FailureOf classifies an error that came, perhaps wrapped, from Dial or Cancel.
func FailureOf(err error) Failure {
	if e, ok := errors.AsType[*DialError](err); ok {
		return e.Failure
	}
	return FailureNone
}

// ErrConnectTimeout is the cause when ConnectTimeout ran out.
var ErrConnectTimeout = errors.New("connect timeout")

// failure is an error with its class, on its way to a DialError.
type failure struct {
	kind Failure
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(kind Failure, format string, args ...any) error {
	return &failure{kind: kind, err: fmt.Errorf(format, args...)}
}

// attempt is one connection being made. It ends with the context: the deadline of its socket is the only thing another
// goroutine touches.
type attempt struct {
	opts DialOptions
	raw  net.Conn // the socket
	conn net.Conn // what to talk through: raw, or TLS over it
}

// connect opens the socket, agrees on TLS, and runs step; all of it within the context and ConnectTimeout. On success the attempt's
// connection is the caller's; otherwise it is closed.
func connect(ctx context.Context, o DialOptions, step func(*attempt) error) (*attempt, error) {
	dialCtx := ctx
	if o.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		dialCtx, cancel = context.WithTimeoutCause(ctx, o.ConnectTimeout, ErrConnectTimeout)
		defer cancel()
	}
	a := &attempt{opts: o}
	err := a.run(dialCtx, step)
	if err == nil {
		return a, nil
	}
	if a.raw != nil {
		a.raw.Close()
	}
	e := &DialError{Failure: FailureUnreachable, Address: o.Address, Err: err}
	if f, ok := errors.AsType[*failure](err); ok {
		e.Failure, e.Err = f.kind, f.err
	}
	switch {
	case ctx.Err() != nil: // whatever it looks like, the caller gave up
		e.Failure, e.Err = FailureCanceled, context.Cause(ctx)
	case dialCtx.Err() != nil:
		e.Failure, e.Err = FailureUnreachable, context.Cause(dialCtx)
	}
	return nil, e
}

func (a *attempt) run(ctx context.Context, step func(*attempt) error) error {
	d := net.Dialer{KeepAliveConfig: a.opts.TCP.keepAlive(), Control: a.opts.TCP.dialControl}
	network, address := a.opts.Address.Network(), a.opts.Address.String()
	by := a.opts.by
	if by != nil {
		network, address = "unix", by.path
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return failed(FailureUnreachable, "dial: %w", err)
	}
	a.raw, a.conn = conn, conn
	if by != nil && listener(conn) != by.server {
		return failed(FailureUnreachable, "%w", errOther)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // unblocks reads and writes
	})
	err = a.secure(ctx)
	if err == nil {
		err = step(a)
	}
	if !stop() && err == nil { // the deadline is set, or about to be: the connection is of no use
		return context.Cause(ctx)
	}
	return err
}

// secure asks for TLS if the options want it, and goes through the handshake. Unix sockets never use TLS, as in PostgreSQL.
func (a *attempt) secure(ctx context.Context) error {
	o := &a.opts
	if o.TLS.Mode == TLSDisabled || o.Address.Network() == "unix" || o.by != nil {
		return nil
	}
	if err := a.write(pgwire.AppendSSLRequest(nil)); err != nil {
		return err
	}
	// Room for a second byte: anything that comes before the handshake was not sent by the server, or not meant for TLS.
	var answer [2]byte
	n, err := a.raw.Read(answer[:])
	switch {
	case err != nil:
		return failed(FailureUnreachable, "answer to SSLRequest: %w", err)
	case n != 1:
		return failed(FailureProtocol, "%w: bytes after the answer to SSLRequest", ErrProtocol)
	case answer[0] == 'N':
		if o.TLS.Mode == TLSPrefer {
			return nil
		}
		return failed(FailureTLS, "server does not offer TLS")
	case answer[0] == 'S':
		return a.handshake(ctx)
	default: // an error message, perhaps; what it says is not authenticated and is not repeated
		return failed(FailureProtocol, "%w: answer %q to SSLRequest", ErrProtocol, answer[0])
	}
}

func (a *attempt) handshake(ctx context.Context) error {
	conn := tls.Client(a.raw, a.opts.TLS.config(a.opts.Address.Host))
	if err := conn.HandshakeContext(ctx); err != nil {
		return failed(FailureTLS, "handshake: %w", err)
	}
	a.conn = conn
	return nil
}

func (a *attempt) write(b []byte) error {
	if _, err := a.conn.Write(b); err != nil {
		return failed(FailureUnreachable, "write: %w", err)
	}
	return nil
}
