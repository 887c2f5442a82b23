package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/client/v3"

	"github.com/pgkennel/pgkennel/tenant"
)

// A lease is what keys hang on that go when their owner does. It is ours to keep, and not etcd's concurrency.Session: that counts the time from an answer,
// so it may believe in its lease when etcd has ended it already, and its Mutex waits without a limit for an etcd that hangs.
type lease struct {
	id etcd.LeaseID
	// failing is closed when it could not be renewed once, lost when etcd may have ended it.
	failing, lost chan struct{}
	// end gives it back to etcd, if that answers in time.
	end func()
}

// grant makes a lease, and keeps it until end is called, ctx is done or the store is closed.
func (s *etcdStore) grant(ctx context.Context) (*lease, error) {
	run, done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	var client *etcd.Client
	resp, err := request(run, s, func(ctx context.Context, c *etcd.Client) (*etcd.LeaseGrantResponse, error) {
		client = c
		return c.Grant(ctx, int64((s.o.TTL+time.Second-1)/time.Second))
	})
	if err != nil {
		done()
		return nil, err
	}
	l := &lease{id: resp.ID, failing: make(chan struct{}), lost: make(chan struct{})}
	run, cancel := context.WithCancel(run)
	ended := make(chan struct{})
	go func() {
		defer done()
		defer close(ended)
		s.keep(run, l, sent.Add(time.Duration(resp.TTL)*time.Second))
		close(l.lost)
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), s.o.Timeout)
		defer stop()
		if _, err := client.Revoke(ctx, l.id); err != nil {
			s.log.DebugContext(ctx, "a lease is left to run out", "error", err)
		}
	}()
	l.end = func() {
		cancel()
		<-ended
	}
	return l, nil
}

// keep renews a lease until ctx is done or it is lost. until is when etcd may end it: counted from before it was asked, on a clock that is ours.
func (s *etcdStore) keep(ctx context.Context, l *lease, until time.Time) {
	fail := sync.OnceFunc(func() { close(l.failing) })
	for {
		wait := time.Until(until) - s.o.TTL*2/3
		if wait <= 0 { // it failed
			wait = min(s.o.TTL/20, max(time.Until(until), 0))
		}
		if !pause(ctx, wait) || !time.Now().Before(until) {
			return
		}
		limited, cancel := context.WithDeadline(ctx, until)
		sent := time.Now()
		resp, err := request(limited, s, func(ctx context.Context, c *etcd.Client) (*etcd.LeaseKeepAliveResponse, error) {
			return c.KeepAliveOnce(ctx, l.id)
		})
		cancel()
		switch {
		case err == nil && resp.TTL > 0:
			until = sent.Add(time.Duration(resp.TTL) * time.Second)
		case err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		default:
			fail()
		}
	}
}

// Lock implements tenant.Directory. Who wants a lock writes a key; the key with the lowest revision has it, and each waits for the one before its own.
func (s *etcdStore) Lock(ctx context.Context, name string) (unlock func(), lost <-chan struct{}, err error) {
	// The lease outlives ctx, which is for waiting only.
	l, err := s.grantWithin(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := s.acquire(ctx, l, s.key("locks", url.PathEscape(name))+"/"); err != nil {
		go l.end() // Close waits for it
		return nil, nil, err
	}
	return sync.OnceFunc(l.end), l.lost, nil
}

// grantWithin makes a lease while ctx lasts, that stays when it is over.
func (s *etcdStore) grantWithin(ctx context.Context) (*lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		l   *lease
		err error
	}
	made := make(chan result)
	own := context.WithoutCancel(ctx)
	go func() {
		l, err := s.grant(own)
		select {
		case made <- result{l, err}:
		case <-ctx.Done():
			if l != nil {
				l.end()
			}
		}
	}()
	select {
	case r := <-made:
		return r.l, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// acquire waits until the lease has the lock whose keys are below a prefix.
func (s *etcdStore) acquire(ctx context.Context, l *lease, prefix string) error {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-l.failing:
		case <-l.lost:
		case <-waiting.Done():
		}
		cancel(fmt.Errorf("etcd: %w: the lease could not be renewed", ErrUnreachable))
	}()
	err := s.queue(waiting, prefix, fmt.Sprintf("%s%016x", prefix, l.id), l.id)
	if err != nil && ctx.Err() == nil && context.Cause(waiting) != nil {
		err = context.Cause(waiting)
	}
	if s.ctx.Err() != nil {
		err = ErrClosed
	}
	return err
}

// queue puts a key into the queue of a lock, and returns when it is the first.
func (s *etcdStore) queue(ctx context.Context, prefix, key string, id etcd.LeaseID) error {
	put, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.PutResponse, error) {
		return c.Put(ctx, key, "", etcd.WithLease(id))
	})
	if err != nil {
		return err
	}
	mine := put.Header.Revision
	for {
		var client *etcd.Client
		resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
			client = c
			opts := append(etcd.WithLastCreate(), etcd.WithMaxCreateRev(mine-1))
			return c.Txn(ctx).If(etcd.Compare(etcd.CreateRevision(key), "=", mine)).Then(etcd.OpGet(prefix, opts...)).Commit()
		})
		switch {
		case err != nil:
			return err
		case !resp.Succeeded:
			return fmt.Errorf("etcd: %w: the lease was lost", ErrUnreachable)
		}
		before := resp.Responses[0].GetResponseRange().Kvs
		if len(before) == 0 {
			return nil
		}
		if err := s.gone(ctx, client, string(before[0].Key), resp.Header.Revision); err != nil {
			return err
		}
	}
}

// gone waits until a key is not there any more, or may not be: who calls it looks again.
func (s *etcdStore) gone(ctx context.Context, c *etcd.Client, key string, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range c.Watch(etcd.WithRequireLeader(ctx), key, etcd.WithRev(revision+1)) {
		if resp.Err() != nil {
			break
		}
		for _, e := range resp.Events {
			if e.Type == mvccpb.Event_DELETE {
				return nil
			}
		}
	}
	if !pause(ctx, 50*time.Millisecond) {
		return ctx.Err()
	}
	return nil
}

// Alive implements tenant.Directory. It returns when ctx is done.
func (s *etcdStore) Alive(ctx context.Context, h tenant.Host) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	wait := 50 * time.Millisecond
	for {
		l, err := s.grant(ctx)
		if err == nil {
			_, err = request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.PutResponse, error) {
				return c.Put(ctx, s.key("hosts", h.Name), string(value), etcd.WithLease(l.id))
			})
			if err == nil {
				wait = 50 * time.Millisecond
				select {
				case <-l.lost:
				case <-ctx.Done():
				}
			}
			l.end()
		}
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was asked to end
		case errors.Is(err, ErrClosed) || s.ctx.Err() != nil:
			return ErrClosed
		}
		s.log.WarnContext(ctx, "the directory does not know that this host is there", "error", err)
		pause(ctx, wait)
		wait = backoff(wait, 2*time.Second)
	}
}

// Hosts implements tenant.Directory.
func (s *etcdStore) Hosts(ctx context.Context) ([]tenant.Host, error) {
	var list []tenant.Host
	_, err := s.scan(ctx, "hosts/", 0, func(_ string, kv *mvccpb.KeyValue) {
		var h tenant.Host
		if json.Unmarshal(kv.Value, &h) == nil {
			list = append(list, h)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b tenant.Host) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
