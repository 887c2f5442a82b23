package store

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	if w.mark, err = s.headAt(ctx, at.revision); err != nil {
		end()
		return nil, err
	}
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
	mark    mark         // as of when it did last
	told    struct {     // what the watch has told since then
		sync.Mutex
		list []told
	}
	down   bool      // the watcher was told that etcd can't be reached
	behind time.Time // since when a change is known that etcd has not told of; zero = none is
}

// mark is the last change as of a revision. The value of each is random: an etcd that was restored from a backup, and has gone on from there beyond what was
// seen, has another one.
type mark struct {
	at, head int64
	value    string
}

// told is a change that the watch told of.
type told struct {
	key      string
	revision int64
	hash     uint64 // of the value; 0 = deleted
}

func hashed(value []byte) uint64 { return max(maphash.Bytes(seed, value), 1) }

// headAt reads the mark of a revision, 0 being the present one.
func (s *etcdStore) headAt(ctx context.Context, revision int64) (m mark, err error) {
	resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.GetResponse, error) {
		return c.Get(ctx, s.key(headKey), etcd.WithRev(revision))
	})
	if err != nil {
		return m, err
	}
	return markOf(resp, revision), nil
}

func markOf(resp *etcd.GetResponse, at int64) mark {
	m := mark{at: at}
	for _, kv := range resp.Kvs {
		m.head, m.value = kv.ModRevision, string(kv.Value)
	}
	return m
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
	if w.mark, err = w.s.headAt(ctx, at.revision); err != nil {
		return err
	}
	w.told.list = nil // nothing is received now
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
	now := markOf(resp, resp.Header.Revision)
	known, err := w.sameHistory(ctx, now)
	if err != nil {
		return err
	}
	switch {
	case now.head <= seen:
		w.mark, w.behind = now, time.Time{}
		w.told.Lock()
		w.told.list = w.told.list[known:]
		w.told.Unlock()
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

// sameHistory looks whether etcd still has behind it what the feed knows: an etcd that was restored from a backup has the same name, and perhaps more revisions
// by now, but not the same ones. It returns how many of those that the watch told of are known to be in it.
func (w *etcdWatch) sameHistory(ctx context.Context, now mark) (int, error) {
	w.told.Lock()
	list := w.told.list
	w.told.Unlock()
	same := true
	var err error
	if now.head != w.mark.head || now.value != w.mark.value {
		var had mark
		had, err = w.s.headAt(ctx, w.mark.at)
		same = had == w.mark
	}
	const most = 100 // of the operations of a transaction
	for rest := list; same && err == nil && len(rest) > 0; rest = rest[min(most, len(rest)):] {
		same, err = w.inHistory(ctx, rest[:min(most, len(rest))])
	}
	switch {
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev), err == nil && !same:
		return 0, errMissed
	case err != nil:
		return 0, err
	}
	return len(list), nil
}

func (w *etcdWatch) inHistory(ctx context.Context, list []told) (bool, error) {
	var ops []etcd.Op
	for _, t := range list {
		ops = append(ops, etcd.OpGet(t.key, etcd.WithRev(t.revision)))
	}
	resp, err := request(ctx, w.s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
		return c.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil {
		return false, err
	}
	for i, t := range list {
		var hash uint64
		for _, kv := range resp.Responses[i].GetResponseRange().Kvs {
			if hash = hashed(kv.Value); kv.ModRevision != t.revision {
				return false, nil
			}
		}
		if hash != t.hash {
			return false, nil
		}
	}
	return true, nil
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
			t := told{key: string(e.Kv.Key), revision: e.Kv.ModRevision}
			if e.Type == mvccpb.Event_PUT {
				t.hash = hashed(e.Kv.Value)
				r, _, err := envelope.Read(id, e.Kv.Value)
				if err != nil {
					w.s.report(err) // it is told of as deleted: nobody must go on with what it was
				} else {
					r.Revision = e.Kv.ModRevision
					st.record = r
				}
			}
			w.told.Lock()
			w.told.list = append(w.told.list, t)
			w.told.Unlock()
			w.feed.put(id, st)
			w.seen.Store(max(w.seen.Load(), e.Kv.ModRevision))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.s.failure(ctx, errors.New("the watch ended"))
}
