package pooler

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/metrics"
)

// doors are where orders for tenants come in: a unix socket for root and the own user, and a TCP port for those who have the token.
type doors struct {
	socket, port net.Listener
	tls          atomic.Pointer[backend.ServerTLS] // of port, anew with each configuration
}

// listen opens what the configuration names.
func (d *doors) listen(ctx context.Context, cfg *config.Config) (err error) {
	var lc net.ListenConfig
	if path := cfg.Admin.Socket; path != "" {
		if err := clearStale(ctx, path); err != nil {
			return err
		}
		if d.socket, err = listenPrivate(ctx, path); err != nil {
			return fmt.Errorf("listen for orders: %w", err)
		}
	}
	if cfg.Admin.APIPort == 0 {
		return nil
	}
	if d.port, err = lc.Listen(ctx, "tcp", net.JoinHostPort(cfg.Admin.APIHost, strconv.Itoa(cfg.Admin.APIPort))); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	if cfg.TLS.Certificate == "" {
		return nil
	}
	t, err := apiTLS(cfg)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	d.tls.Store(t)
	d.port = tls.NewListener(d.port, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		return d.tls.Load().Config().GetConfigForClient(h)
	}})
	return nil
}

// apiTLS is the certificate of the API, that of clients' connections; whom it serves is known by the token.
func apiTLS(cfg *config.Config) (*backend.ServerTLS, error) {
	return backend.NewServerTLS(backend.ServerTLSFiles{Certificate: cfg.TLS.Certificate, Key: cfg.TLS.PrivateKey})
}

// serve has both answered: run runs a listener until the end.
func (d *doors) serve(p *Pooler, run func(net.Listener, http.Handler)) {
	if d.socket != nil {
		run(d.socket, http.HandlerFunc(p.socketOrder))
	}
	if d.port != nil {
		run(d.port, http.HandlerFunc(p.portOrder))
	}
}

// APIAddr is where the API is served, nil if at no port.
func (p *Pooler) APIAddr() net.Addr {
	if p.doors.port == nil {
		return nil
	}
	return p.doors.port.Addr()
}

type callerKey struct{}

// Caller is who gives the order that came by a request with this context, for Options.API.
func Caller(ctx context.Context) string {
	who, _ := ctx.Value(callerKey{}).(string)
	return who
}

func (p *Pooler) order(w http.ResponseWriter, r *http.Request, who string) {
	p.opts.API.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
}

type peerKey struct{}

// socketOrder serves root and who this process runs as.
func (p *Pooler) socketOrder(w http.ResponseWriter, r *http.Request) {
	uid, ok := r.Context().Value(peerKey{}).(int)
	if !ok || uid != 0 && uid != os.Geteuid() {
		p.log.Warn("order refused", "door", "socket", "uid", uid)
		turnAway(w)
		http.Error(w, "only root and the user that pgkennel runs as may give orders here", http.StatusForbidden)
		return
	}
	p.order(w, r, "socket uid "+strconv.Itoa(uid))
}

// portOrder serves those who have the token.
func (p *Pooler) portOrder(w http.ResponseWriter, r *http.Request) {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want := p.state.Load().cfg.Admin.APIToken.Reveal()
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want)) // their lengths tell nothing
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !ok || want == "" {
		p.log.Warn("order refused", "door", "api", "client", r.RemoteAddr)
		turnAway(w)
		w.Header().Set("WWW-Authenticate", `Bearer realm="pgkennel"`)
		http.Error(w, "the request has not the token of api_token_file", http.StatusUnauthorized)
		return
	}
	p.order(w, r, "api")
}

// turnAway has a connection end with the refusal. What else its client announced is waited for no longer: else who has no token could keep as many as it likes.
func turnAway(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedBodyTimeout)) // where that can't be, nobody waits
}

const (
	refusedBodyTimeout = 500 * time.Millisecond
	orderHeaderTimeout = 5 * time.Second
	orderIdleTimeout   = 2 * time.Minute
	orderHeaderBytes   = 16 << 10
)

// serveOrders answers HTTP on l until ctx is done; requests under way then get a few seconds. They may take long: the handler has their deadlines.
func (p *Pooler) serveOrders(ctx context.Context, l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: orderHeaderTimeout, IdleTimeout: orderIdleTimeout, MaxHeaderBytes: orderHeaderBytes,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			if uid, ok := peerUID(nc); ok {
				ctx = context.WithValue(ctx, peerKey{}, uid)
			}
			return ctx
		},
	}
	if err := metrics.Run(ctx, l, srv); err != nil {
		p.log.Error("no more orders are taken", "address", l.Addr().String(), "error", err)
	}
}

// listenPrivate opens a unix socket that nobody else can connect to, from the first moment on.
func listenPrivate(ctx context.Context, path string) (net.Listener, error) {
	// Made under another name, so that it has its mode before it can be found.
	var lc net.ListenConfig
	hidden := path + ".new"
	if err := os.Remove(hidden); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := lc.Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener) //nolint:forcetypeassert // of the network unix
	u.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, 0o600); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, err
	}
	return &privateListener{u, path}, nil
}

// privateListener takes its socket's file away at its end.
type privateListener struct {
	*net.UnixListener
	path string
}

// Close implements net.Listener.
func (l *privateListener) Close() error {
	os.Remove(l.path) // else it is clearStale's
	return l.UnixListener.Close()
}
