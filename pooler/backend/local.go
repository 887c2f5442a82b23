package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Locals know which servers at a loopback address are of this host, and log in to those by their unix socket: what goes over it costs a tenth less CPU than over TCP. The
// first connection of a login is by TCP, and so is one now and then, for what pg_hba.conf says of TCP still counts. If it ends, as the server says, where it began here, no
// proxy is in between, and the parent of its process is the server's first one. From then on the socket is taken at which that process listens (SO_PEERCRED, unix(7)), if
// the server asks for the same proof there: for other sockets, as for TCP, pg_hba.conf may have other rules. Where it has, connections stay with TCP. The zero value is ready.
type Locals struct {
	mu    sync.Mutex
	ways  map[wayKey]way
	first map[wayKey]chan struct{} // connections by TCP that others wait for; closed when they are made, or not
}

// wayKey is what rules of pg_hba.conf distinguish.
type wayKey struct {
	address        Address
	user, database string
}

// way leads to a server by its socket.
type way struct {
	server process         // that listens
	method pgwire.AuthType // what it asked for by TCP
	path   string          // of its socket; empty = it has not been used yet
	since  time.Time       // when it was found by TCP
	closed time.Time       // it is not taken before
}

// process is one of this host, and whose it is: a number alone may be another's by now, and sockets outlive who listened first.
type process struct{ pid, uid int }

const (
	// maxWays bounds what is remembered.
	maxWays = 10_000
	// firstFor is how long others wait for the first connection of a login. Most pools begin with several at once, which would all stay with TCP.
	firstFor = 250 * time.Millisecond
	// wayFor is how long a way is believed.
	wayFor = 5 * time.Minute
	// Where a way is refused, or can't be had, it is not asked for again for so long; it is where it failed for another reason, soon.
	refusedFor = time.Hour
	failedFor  = 5 * time.Second
)

// Dial is Dial by the shortest way.
func (x *Locals) Dial(ctx context.Context, o DialOptions) (*Login, error) {
	if !o.shortens() {
		return Dial(ctx, o)
	}
	begun, timeout := time.Now(), o.ConnectTimeout
	k := wayKey{o.Address, o.User, o.Database}
	w, known, done := x.begin(ctx, k)
	defer done()
	if known && time.Since(w.since) > wayFor { // what TCP says counts
		o.finds = true
		l, err := Dial(ctx, o)
		if err != nil {
			return nil, err
		}
		w = w.renewed(l)
		x.learn(k, w)
		if time.Now().Before(w.closed) {
			return l, nil
		}
		goodbye(l)
		o.finds = false
	}
	left := func() time.Duration {
		if timeout <= 0 {
			return 0
		}
		return max(timeout-time.Since(begun), time.Millisecond)
	}
	finds := !known
	o.ConnectTimeout = left()
	if known && !time.Now().Before(w.closed) {
		l, path, err := w.dial(ctx, o)
		late := timeout > 0 && time.Since(begun) >= timeout
		switch {
		case err == nil:
			if path != w.path {
				w.path = path
				x.learn(k, w)
			}
			return l, nil
		case ctx.Err() != nil || w.path != "" && sameByTCP(err):
			return nil, err
		case late: // there is no time for another way
			w.closed = time.Now().Add(failedFor)
			x.learn(k, w)
			return nil, err
		case refused(err):
			w.closed = time.Now().Add(refusedFor)
		default:
			w.closed = time.Now().Add(failedFor)
		}
		finds = true // it may be another server by now; and if it refuses by TCP as well, the way is as good as before
	}
	o.ConnectTimeout, o.finds = left(), finds
	l, err := Dial(ctx, o)
	switch {
	case err != nil:
	case finds:
		x.learn(k, w.renewed(l))
	case w.server.pid > 0 && parentOf(int(l.PID)) != w.server:
		x.learn(k, way{}) // the next one asks
	}
	return l, err
}

// renewed is the way that a login by TCP has found; it is what it was, but for its age, if that is the same.
func (w way) renewed(l *Login) way {
	now := l.found()
	if now.closed.IsZero() && now.server == w.server && now.method == w.method {
		now.path, now.closed = w.path, w.closed
	}
	return now
}

// goodbye ends a connection that nobody has.
func goodbye(l *Login) {
	_, _ = l.Conn.Write(pgwire.AppendTerminate(nil))
	_ = l.Conn.Close()
}

// found is the way to the server that answered by TCP, closed if there is none.
func (l *Login) found() way {
	w := way{method: l.method, since: time.Now()}
	if l.from == l.Conn.LocalAddr().String() {
		w.server = parentOf(int(l.PID))
	}
	// Of the methods that go by a password, in SCRAM alone the server proves that it is the one, and everybody else's has the same number, be it LDAP's.
	if w.server.pid <= 1 || !slices.Contains([]pgwire.AuthType{pgwire.AuthOk, pgwire.AuthSASL}, l.method) {
		w.closed = w.since.Add(wayFor)
	}
	return w
}

// begin returns the way of k. Of several who don't know one, the first goes by TCP, until done, and the others wait for what it finds.
func (x *Locals) begin(ctx context.Context, k wayKey) (w way, known bool, done func()) {
	done = func() {}
	x.mu.Lock()
	defer x.mu.Unlock()
	if w, known = x.ways[k]; known {
		return w, true, done
	}
	first := x.first[k]
	if first == nil {
		if x.first == nil {
			x.first = map[wayKey]chan struct{}{}
		}
		first = make(chan struct{})
		x.first[k] = first
		return w, false, func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			delete(x.first, k)
			close(first)
		}
	}
	x.mu.Unlock()
	select {
	case <-first:
	case <-ctx.Done():
	case <-time.After(firstFor):
	}
	x.mu.Lock()
	w, known = x.ways[k]
	return w, known, done
}

func (x *Locals) learn(k wayKey, w way) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.ways) >= maxWays {
		clear(x.ways) // logins that are no more; the others are found out anew
	}
	if x.ways == nil {
		x.ways = map[wayKey]way{}
	}
	x.ways[k] = w
}

// shortens reports whether the server may be reached by its socket: it is to be at this host, nobody wants TLS or a certificate of us, and it is not for replication, of which
// pg_hba.conf has rules of its own.
func (o *DialOptions) shortens() bool {
	if !tellsPeers || o.TLS.Mode != TLSDisabled && o.TLS.Mode != TLSPrefer || o.TLS.base != nil && len(o.TLS.base.Certificates) > 0 ||
		slices.ContainsFunc(o.Params, func(p pgwire.Param) bool { return p.Name == "replication" }) {
		return false
	}
	ip := net.ParseIP(o.Address.Host)
	return ip.IsLoopback() || o.Address.Host == "localhost"
}

// dial logs in by the socket, and returns which one that is.
func (w way) dial(ctx context.Context, o DialOptions) (l *Login, path string, err error) {
	paths := []string{w.path}
	if w.path == "" {
		paths = listening("/.s.PGSQL." + strconv.Itoa(o.Address.Port))
	}
	begun, timeout := time.Now(), o.ConnectTimeout
	err = fmt.Errorf("%w: nobody listens", errNoWay)
	for _, path = range paths {
		if timeout > 0 {
			o.ConnectTimeout = max(timeout-time.Since(begun), time.Millisecond)
		}
		o.by = &way{server: w.server, method: w.method, path: path}
		if l, err = Dial(ctx, o); !errors.Is(err, errOther) {
			return l, path, err
		}
	}
	return nil, "", err
}

var (
	// errNoWay: the server can't be reached by its socket, or not as by TCP. Nobody sees it.
	errNoWay = errors.New("not by a unix socket")
	// errOther: another process listens at the socket.
	errOther = fmt.Errorf("%w: another process listens there", errNoWay)
)

// sameByTCP reports that an error is an answer of the server's that it gives by TCP as well, where it has let the login in by both.
func sameByTCP(err error) bool {
	switch FailureOf(err) {
	case FailureServer, FailureVersion, FailureAsk, FailureCanceled:
		return true
	case FailureAuth:
		e, ok := errors.AsType[*pgwire.Error](err)
		return ok && e.Code == pgwire.CodeInvalidPassword
	default: // the way is none
		return false
	}
}

// refused reports that there is no way, and hardly will be soon: pg_hba.conf has other rules for it, or we may not use the socket.
func refused(err error) bool {
	return FailureOf(err) == FailureAuth || errors.Is(err, errNoWay) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES)
}
