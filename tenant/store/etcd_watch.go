package store

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	etcd "go.etcd.io/etcd/client/v3"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// probeEvery is how often who watches asks whether etcd is there, and whether it knows of the last change.
const probeEvery = time.Second

// Watch implements tenant.Directory. It reads all records before it returns.
func (s *etcdStore) Watch(ctx context.Context) (<-chan tenant.Change, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	list, at, err := s.list(ctx)
	if err != nil && !isDamaged(err) {
		end()
		return nil, err
	}
	s.report(err)
	w := &etcdWatch{s: s, feed: newFeed(), cluster: at.cluster}
	w.seen.Store(at.revision)
	w.feed.reset(list)
	out, followed := make(chan tenant.Change), make(chan struct{})
	go func() {
		defer close(followed)
		w.follow(ctx)
	}()
	go func() {
		defer end()
		w.feed.run(ctx, out)
		<-followed
	}()
	return out, nil
}

// report logs records that can't be read.
func (s *etcdStore) report(err error) {
	if err != nil {
		s.log.Error("the directory has records that can't be read", "error", err)
	}
}

// etcdWatch is one Watch.
type etcdWatch struct {
	s       *etcdStore
	feed    *feed
	cluster uint64
	seen    atomic.Int64 // the revision up to which the feed knows everything
	down    bool         // the watcher was told that etcd can't be reached
	behind  time.Time    // since when a change is known that etcd has not told of; zero = none is
}

// errMissed means that changes may have been missed: everything has to be read anew.
var errMissed = errors.New("changes may have been missed")

// follow keeps the feed up to date until ctx is done.
func (w *etcdWatch) follow(ctx context.Context) {
	wait := 50 * time.Millisecond
	for {
		began := time.Now()
		err := w.stream(ctx)
		if errors.Is(err, errMissed) {
			err = w.again(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.reach(err)
		}
		if time.Since(began) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		if !pause(ctx, wait) {
			return
		}
		wait = backoff(wait, 2*time.Second)
	}
}

// again reads all records.
func (w *etcdWatch) again(ctx context.Context) error {
	list, at, err := w.s.list(ctx)
	if err != nil && !isDamaged(err) {
		return err
	}
	w.s.report(err)
	w.cluster = at.cluster
	w.seen.Store(at.revision)
	w.feed.renew(list)
	w.down = false
	return nil
}

// reach tells the watcher whether etcd can be reached.
func (w *etcdWatch) reach(err error) {
	w.down = err != nil
	w.feed.reach(err)
}

// stream has etcd tell of changes after those that were seen, until it does not any more, and returns why. Meanwhile it asks now and then whether etcd is
// still there: a connection may be dead for long without anybody noticing.
func (w *etcdWatch) stream(ctx context.Context) error {
	c, err := request(ctx, w.s, func(_ context.Context, c *etcd.Client) (*etcd.Client, error) { return c, nil })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var why error // read it after ended
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		why = w.receive(ctx, c)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	ticks := time.NewTicker(probeEvery)
	defer ticks.Stop()
	w.behind = time.Time{}
	for {
		err := w.probe(ctx)
		switch {
		case errors.Is(err, errMissed):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		select {
		case <-ended:
			return why
		case <-ticks.C:
		}
	}
}

// probe asks etcd for its revision and for that of the last change. errMissed means that the watch does not tell of what has changed.
func (w *etcdWatch) probe(ctx context.Context) error {
	resp, err := request(ctx, w.s, func(ctx context.Context, c *etcd.Client) (*etcd.GetResponse, error) {
		return c.Get(ctx, w.s.key(headKey))
	})
	if err != nil {
		if ctx.Err() == nil {
			w.reach(err)
		}
		return err
	}
	seen := w.seen.Load()
	if resp.Header.ClusterId != w.cluster || resp.Header.Revision < seen {
		return errMissed // it was made anew, or restored from a backup
	}
	var head int64
	for _, kv := range resp.Kvs {
		head = kv.ModRevision
	}
	switch {
	case head <= seen:
		w.behind = time.Time{}
		if w.down {
			w.reach(nil)
		}
	case w.behind.IsZero():
		w.behind = time.Now()
	case time.Since(w.behind) > w.s.o.Timeout:
		return errMissed
	}
	return nil
}

// receive puts changes into the feed until the watch ends, and returns why it did. etcd's client goes on by itself after it lost its connection.
func (w *etcdWatch) receive(ctx context.Context, c *etcd.Client) error {
	prefix := w.s.key("records/")
	for resp := range c.Watch(etcd.WithRequireLeader(ctx), prefix, etcd.WithPrefix(), etcd.WithRev(w.seen.Load()+1)) {
		if resp.CompactRevision != 0 {
			return errMissed
		}
		if err := resp.Err(); err != nil {
			return w.s.failure(ctx, err)
		}
		for _, e := range resp.Events {
			id := strings.TrimPrefix(string(e.Kv.Key), prefix)
			st := state{revision: e.Kv.ModRevision}
			if e.Type == mvccpb.Event_PUT {
				r, _, err := envelope.Read(id, e.Kv.Value)
				if err != nil {
					w.s.report(err) // it is told of as deleted: nobody must go on with what it was
				} else {
					r.Revision = e.Kv.ModRevision
					st.record = r
				}
			}
			w.feed.put(id, st)
			w.seen.Store(max(w.seen.Load(), e.Kv.ModRevision))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.s.failure(ctx, errors.New("the watch ended"))
}
