package backend

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Locals know which servers at a loopback address are of this host, and log in to those by their unix socket: what goes over it costs a fifth less CPU than over TCP. The
// first connection of a login is by TCP. From then on the socket is taken if it belongs to the server process whose child answered there (SO_PEERCRED, unix(7)), and if
// the server asks for the same proof: pg_hba.conf may have other rules for sockets, and where it has, connections stay with TCP. The zero value is ready.
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
	server process // that listens
	method uint32  // what it asked for by TCP
	path   string  // of its socket; empty = not looked for yet
	closed bool    // not while that process runs
}

// process is one of this host, and whose it is: a number alone may be another's by now, and sockets outlive who listened first.
type process struct{ pid, uid int }

// maxWays bounds what is remembered.
const maxWays = 10_000

// firstFor is how long others wait for the first connection of a login. Most pools begin with several at once, which would all stay with TCP.
const firstFor = 250 * time.Millisecond

// Dial is Dial by the shortest way.
func (x *Locals) Dial(ctx context.Context, o DialOptions) (*Login, error) {
	if !o.shortens() {
		return Dial(ctx, o)
	}
	k := wayKey{o.Address, o.User, o.Database}
	w, known, done := x.begin(ctx, k)
	defer done()
	if known && !w.closed {
		l, path, err := w.dial(ctx, o)
		switch {
		case err == nil:
			if path != w.path {
				w.path = path
				x.learn(k, w)
			}
			return l, nil
		case ctx.Err() != nil || sameByTCP(err):
			return nil, err
		}
		w.closed = true
		x.learn(k, w)
	}
	l, err := Dial(ctx, o)
	if err == nil {
		if server := parentOf(int(l.PID)); server.pid > 1 && (!known || w.server != server) {
			x.learn(k, way{server: server, method: l.method})
		}
	}
	return l, err
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

// shortens reports whether the server may be reached by its socket: it is to be at this host, and nobody wants TLS or a certificate of us.
func (o *DialOptions) shortens() bool {
	if o.TLS.Mode != TLSDisabled && o.TLS.Mode != TLSPrefer || o.TLS.base != nil && len(o.TLS.base.Certificates) > 0 {
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
	err = errNoWay
	for _, path = range paths {
		o.by = &way{server: w.server, method: w.method, path: path}
		if l, err = Dial(ctx, o); err == nil || sameByTCP(err) {
			return l, path, err
		}
	}
	return nil, "", err
}

// errNoWay is none that anybody sees.
var errNoWay = errors.New("not by a unix socket")

// sameByTCP reports that an error is an answer of the server's that it gives by TCP as well.
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
