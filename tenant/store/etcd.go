package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// EtcdOptions say where a directory is kept, and how it is reached.
type EtcdOptions struct {
	// Endpoints are the members of one cluster: http:// or https:// addresses, or host:port.
	Endpoints []string
	// Prefix is in front of all keys; empty = /pgkennel/.
	Prefix string
	// CA, Cert and Key are files in PEM: whom to trust, and who this is. Cert and Key are read anew for each connection.
	CA, Cert, Key  string
	User, Password string
	// Timeout is how long one request may take; 0 = 3 s. DialTimeout is how long the first connection may take, with logging in; 0 = Timeout.
	Timeout, DialTimeout time.Duration
	// TTL is how long locks and hosts outlive who does not say any more that it is there; 0 = 10 s. etcd takes no less than 2 s.
	TTL time.Duration
	Log *slog.Logger // nil = none
}

// etcdStore is a directory in etcd. Below the prefix it has:
//
//	format                 of the directory
//	records/ID             envelopes; a record's revision is the key's
//	claims/CLAIM           the ID of who has it
//	audit/TIME-RANDOM      entries of the audit, the time counting down, so that the latest come first
//	trails/ID/TIME-RANDOM  the same by tenant
//	locks/NAME/LEASE       who has a lock and who waits for it, in the order of their revisions
//	hosts/NAME             tenant.Host
//	head                   written with each change of a record, so that who watches can tell whether it knows of the last one
type etcdStore struct {
	o      EtcdOptions
	prefix string
	config etcd.Config
	log    *slog.Logger

	// ctx ends with Close.
	ctx    context.Context //nolint:containedctx // the root context of what the store runs
	cancel context.CancelFunc
	runs   sync.WaitGroup
	mu     struct {
		sync.Mutex
		closed  bool
		client  *etcd.Client // nil until etcd was reached, and has a format that this version knows
		dialing *dialing     // nil = nobody makes it
	}
}

var _ tenant.Directory = (*etcdStore)(nil)

// OpenEtcd returns the directory that is kept in etcd. It does not wait for etcd: who asks while it can't be reached gets ErrUnreachable.
func OpenEtcd(ctx context.Context, o EtcdOptions) (tenant.Directory, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.Timeout = or(o.Timeout, 3*time.Second)
	o.DialTimeout = or(o.DialTimeout, o.Timeout)
	o.TTL = max(or(o.TTL, 10*time.Second), 2*time.Second)
	s := &etcdStore{o: o, prefix: o.Prefix, log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.prefix == "" {
		s.prefix = "/pgkennel/"
	}
	if !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	endpoints, secure, err := o.endpoints()
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.config = etcd.Config{
		Endpoints: endpoints, Username: o.User, Password: o.Password, DialTimeout: o.DialTimeout,
		// A connection that etcd, or the machine it is on, does not answer is given up. gRPC allows for no less.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: o.Timeout,
		Context: s.ctx, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: o.Timeout,
		}), grpc.WithChainUnaryInterceptor(explain)},
	}
	if secure {
		if s.config.TLS, err = o.tls(); err != nil {
			s.cancel()
			return nil, err
		}
	}
	return s, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// endpoints returns them with their schemes, and whether that is https.
func (o *EtcdOptions) endpoints() (list []string, secure bool, err error) {
	if len(o.Endpoints) == 0 {
		return nil, false, errors.New("etcd: there are no endpoints")
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, false, errors.New("etcd: a certificate needs its key, and a key its certificate")
	}
	secure = o.CA != "" || o.Cert != "" || strings.HasPrefix(o.Endpoints[0], "https://")
	for _, e := range o.Endpoints {
		scheme, address, ok := strings.Cut(e, "://")
		switch {
		case !ok:
			address, scheme = e, "http"
			if secure {
				scheme = "https"
			}
		case scheme != "http" && scheme != "https":
			return nil, false, fmt.Errorf("etcd: endpoint %q: it begins with neither http:// nor https://", e)
		case secure != (scheme == "https"):
			return nil, false, fmt.Errorf("etcd: endpoint %q: either all of them have TLS or none, and those with a CA or certificate have it", e)
		}
		if address == "" {
			return nil, false, fmt.Errorf("etcd: endpoint %q has no address", e)
		}
		list = append(list, scheme+"://"+address)
	}
	return list, secure, nil
}

func (o *EtcdOptions) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("etcd: CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd: CA: %s has no certificate", o.CA)
		}
	}
	if o.Cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
			if err != nil {
				return nil, fmt.Errorf("etcd: certificate: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, nil
}

// key is the key of something below the prefix.
func (s *etcdStore) key(parts ...string) string { return s.prefix + strings.Join(parts, "/") }

// dialing is the making of the client. All who need it wait for the same.
type dialing struct {
	done chan struct{}
	err  error // read it after done
}

// connect returns the client; if there is none yet it has it made.
func (s *etcdStore) connect(ctx context.Context) (*etcd.Client, error) {
	s.mu.Lock()
	d := s.mu.dialing
	switch {
	case s.mu.closed:
		s.mu.Unlock()
		return nil, ErrClosed
	case s.mu.client != nil:
		defer s.mu.Unlock()
		return s.mu.client, nil
	case d == nil:
		d = &dialing{done: make(chan struct{})}
		s.mu.dialing = d
		s.runs.Go(func() { s.dial(d) }) //nolint:contextcheck // it is not for the one who asked first only
	}
	s.mu.Unlock()
	select {
	case <-d.done:
		if d.err != nil {
			return nil, d.err
		}
		return s.client()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial makes the client, and looks whether this version can use what is in etcd.
func (s *etcdStore) dial(d *dialing) {
	ctx, cancel := context.WithTimeout(context.WithValue(s.ctx, reasonKey{}, new(reason)), s.o.DialTimeout)
	defer cancel()
	c, err := etcd.New(s.config) // it logs in, for as long as DialTimeout
	if err != nil {
		err = s.failure(ctx, err)
	} else if err = s.checkFormat(ctx, c); err != nil {
		c.Close()
	}
	s.mu.Lock()
	if s.mu.dialing, d.err = nil, err; err == nil {
		s.mu.client = c // Close waits for this, and closes it
	}
	s.mu.Unlock()
	close(d.done)
}

func (s *etcdStore) client() (*etcd.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, ErrClosed
	}
	return s.mu.client, nil
}

// checkFormat finds out whether this version can use what is there; where nothing is, it says that it is of this version.
func (s *etcdStore) checkFormat(ctx context.Context, c *etcd.Client) error {
	key := s.key("format")
	resp, err := c.Txn(ctx).If(etcd.Compare(etcd.CreateRevision(key), "=", 0)).
		Then(etcd.OpPut(key, fmt.Sprint(envelope.Format))).Else(etcd.OpGet(key)).Commit()
	if err != nil {
		return s.failure(ctx, err)
	}
	if resp.Succeeded {
		return nil
	}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		if err := checkFormat(kv.Value); err != nil {
			return fmt.Errorf("etcd: directory %s: %w", s.prefix, err)
		}
	}
	return nil
}

// request calls f with the client, and gives it as long as one request may take.
func request[T any](ctx context.Context, s *etcdStore, f func(context.Context, *etcd.Client) (T, error)) (result T, err error) {
	if err = ctx.Err(); err != nil {
		return result, err
	}
	c, err := s.connect(ctx)
	if err == nil {
		limited, cancel := context.WithTimeout(context.WithValue(ctx, reasonKey{}, new(reason)), s.o.Timeout)
		defer cancel()
		if result, err = f(limited, c); err != nil {
			err = s.failure(limited, err)
		}
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return result, err
}

// reason is why a request did not get through, as gRPC has it: etcd's client makes the deadline of it.
type reason struct{ atomic.Pointer[string] }

type reasonKey struct{}

// explain is an interceptor that notes the reason of a failure.
func explain(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if r, ok := ctx.Value(reasonKey{}).(*reason); ok && err != nil {
		text := status.Convert(err).Message()
		r.Store(&text)
	}
	return err
}

// failure says of an error whether etcd can't be reached; ctx is a request's.
func (s *etcdStore) failure(ctx context.Context, err error) error {
	var known rpctypes.EtcdError
	switch {
	case s.ctx.Err() != nil:
		return ErrClosed
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, ErrUnreachable), errors.Is(err, ErrClosed), errors.Is(err, ErrNewer):
		return err
	case errors.As(err, &known) && !unavailable[known]:
		return fmt.Errorf("etcd: %w", err)
	}
	if r, ok := ctx.Value(reasonKey{}).(*reason); ok && r.Load() != nil {
		return fmt.Errorf("etcd: %w: %s", ErrUnreachable, *r.Load())
	}
	return fmt.Errorf("etcd: %w: %w", ErrUnreachable, err)
}

// unavailable are etcd's own errors that say that it can't do anything now.
var unavailable = func() map[rpctypes.EtcdError]bool {
	m := make(map[rpctypes.EtcdError]bool)
	for _, err := range []error{
		rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrStopped, rpctypes.ErrTimeout,
		rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrUnhealthy, rpctypes.ErrTooManyRequests,
	} {
		if e, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err)); ok {
			m[e] = true
		}
	}
	return m
}()

// begin registers something that runs until ctx is done or the store is closed: its context ends with either, and Close waits for end.
func (s *etcdStore) begin(ctx context.Context) (run context.Context, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, nil, ErrClosed
	}
	s.runs.Add(1)
	run, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return run, func() {
		stop()
		cancel()
		s.runs.Done()
	}, nil
}

// Close implements tenant.Directory.
func (s *etcdStore) Close() error {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.cancel()
	s.runs.Wait()
	s.mu.Lock()
	c := s.mu.client
	s.mu.client = nil
	s.mu.Unlock()
	if c != nil {
		c.Close()
	}
	return nil
}
