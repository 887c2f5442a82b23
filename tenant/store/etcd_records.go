package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/client/v3"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// headKey is written with each change of a record, and never twice the same.
const headKey = "head"

// Get implements tenant.Directory.
func (s *etcdStore) Get(ctx context.Context, id string) (*tenant.Record, error) {
	before, err := s.load(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case before == nil:
		return nil, tenant.ErrNotFound
	}
	return before.record, before.err
}

// stored is a record as etcd has it.
type stored struct {
	record   *tenant.Record
	revision int64
	err      error // why it can't be read
	at       int64
	raw      []byte
	// claims has those that were asked for and that somebody has.
	claims map[string]claim
}

// claim is who has a claim, and since which revision.
type claim struct {
	id       string
	revision int64
}

// load reads a record, nil if there is none, and who has claims, all as of one revision.
func (s *etcdStore) load(ctx context.Context, id string, ask ...string) (*stored, error) {
	ops := []etcd.Op{etcd.OpGet(s.key("records", id))}
	for _, c := range ask {
		ops = append(ops, etcd.OpGet(s.key("claims", c)))
	}
	resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
		return c.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil {
		return nil, err
	}
	st := &stored{claims: make(map[string]claim)}
	for i, c := range ask {
		for _, kv := range resp.Responses[i+1].GetResponseRange().Kvs {
			st.claims[c] = claim{string(kv.Value), kv.ModRevision}
		}
	}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		st.raw, st.revision = kv.Value, kv.ModRevision
		if st.record, st.at, st.err = envelope.Read(id, kv.Value); st.err == nil {
			st.record.Revision = kv.ModRevision
		}
	}
	if st.raw == nil && len(ask) == 0 {
		return nil, nil
	}
	return st, nil
}

// Find implements tenant.Directory. Between the claim and the record somebody may change both, so the record has to have the claim.
func (s *etcdStore) Find(ctx context.Context, claim string) (*tenant.Record, error) {
	for {
		resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.GetResponse, error) {
			return c.Get(ctx, s.key("claims", claim))
		})
		if err != nil {
			return nil, err
		}
		if len(resp.Kvs) == 0 {
			return nil, tenant.ErrNotFound
		}
		id := string(resp.Kvs[0].Value)
		st, err := s.load(ctx, id, claim)
		switch {
		case err != nil:
			return nil, err
		case st.claims[claim].id != id:
			continue
		case st.raw == nil:
			return nil, tenant.ErrNotFound
		}
		return st.record, st.err
	}
}

// Put implements tenant.Directory.
func (s *etcdStore) Put(ctx context.Context, r *tenant.Record, e tenant.Entry) (*tenant.Record, error) {
	for {
		before, err := s.load(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		if before == nil {
			before = &stored{}
		}
		if err := before.matches(r); err != nil {
			return nil, err
		}
		e := complete(e, r)
		at := max(e.Time.UnixNano(), before.at+1)
		value, written, err := envelope.Write(r, at, before.raw)
		if err != nil {
			return nil, err
		}
		revision, ok, err := s.commit(ctx, before, written, value, e, at)
		if err != nil {
			return nil, err
		}
		if ok {
			written.Revision = revision
			return written, nil
		}
	}
}

// matches reports whether r may replace what is stored.
func (st *stored) matches(r *tenant.Record) error {
	switch {
	case st.err != nil:
		return st.err
	case st.revision != r.Revision:
		return tenant.ErrConflict
	}
	return nil
}

// Delete implements tenant.Directory.
func (s *etcdStore) Delete(ctx context.Context, r *tenant.Record, e tenant.Entry) error {
	for {
		before, err := s.load(ctx, r.ID)
		switch {
		case err != nil:
			return err
		case before == nil:
			return tenant.ErrNotFound
		}
		if err := before.matches(r); err != nil {
			return err
		}
		e := complete(e, before.record)
		at := max(e.Time.UnixNano(), before.at+1)
		if _, ok, err := s.commit(ctx, before, nil, nil, e, at); err != nil || ok {
			return err
		}
	}
}

// commit writes a record, or deletes it if after is nil, with its claims and an entry of the audit, if all is as it was when it was read. Else it
// returns false, and the record has to be read again.
func (s *etcdStore) commit(ctx context.Context, before *stored, after *tenant.Record, value []byte, e tenant.Entry, at int64) (int64, bool, error) {
	entry, err := json.Marshal(e)
	if err != nil {
		return 0, false, err
	}
	m := plan(before.record, after)
	record := s.key("records", e.ID)
	revision := before.revision
	held, err := s.load(ctx, e.ID, slices.Concat(m.keep, m.take, m.release)...)
	if err != nil || held.revision != revision {
		return 0, false, err
	}
	ifs := []etcd.Cmp{etcd.Compare(etcd.ModRevision(record), "=", revision)}
	var ops []etcd.Op
	for _, c := range slices.Concat(m.keep, m.take) {
		has, taken := held.claims[c]
		key := s.key("claims", c)
		ifs = append(ifs, etcd.Compare(etcd.ModRevision(key), "=", has.revision))
		switch {
		case taken && has.id != e.ID:
			return 0, false, &tenant.TakenError{Claim: c, ID: has.id}
		case !taken:
			ops = append(ops, etcd.OpPut(key, e.ID))
		}
	}
	for _, c := range m.release {
		if has := held.claims[c]; has.id == e.ID {
			key := s.key("claims", c)
			ifs = append(ifs, etcd.Compare(etcd.ModRevision(key), "=", has.revision))
			ops = append(ops, etcd.OpDelete(key))
		}
	}
	if after != nil {
		ops = append(ops, etcd.OpPut(record, string(value)))
	} else {
		ops = append(ops, etcd.OpDelete(record))
	}
	name := entryName(at)
	ops = append(ops, etcd.OpPut(s.key(headKey), e.ID+" "+name))
	ops = append(ops, etcd.OpPut(s.key("audit", name), string(entry)), etcd.OpPut(s.key("trails", e.ID, name), string(entry)))
	resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
		return c.Txn(ctx).If(ifs...).Then(ops...).Commit()
	})
	if err != nil {
		return 0, false, err
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// page is how many keys are read at a time.
const page = 1000

// read is as of when keys were read.
type read struct {
	revision int64
	cluster  uint64
}

// scan reads keys below the prefix, at most limit if that is not zero, in their order and as of one revision.
func (s *etcdStore) scan(ctx context.Context, below string, limit int, each func(id string, kv *mvccpb.KeyValue)) (at read, err error) {
	prefix := s.key(below)
	from, end := prefix, etcd.GetPrefixRangeEnd(prefix)
	for n := 0; ; {
		size := page
		if limit > 0 {
			size = min(size, limit-n)
		}
		resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.GetResponse, error) {
			return c.Get(ctx, from, etcd.WithRange(end), etcd.WithLimit(int64(size)), etcd.WithRev(at.revision))
		})
		if err != nil {
			return at, err
		}
		if at.revision == 0 {
			at = read{resp.Header.Revision, resp.Header.ClusterId}
		}
		for _, kv := range resp.Kvs {
			each(strings.TrimPrefix(string(kv.Key), prefix), kv)
		}
		if n += len(resp.Kvs); !resp.More || limit > 0 && n >= limit {
			return at, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// list reads all records. Those that can't be read are errors, joined, and isDamaged.
func (s *etcdStore) list(ctx context.Context) (list []*tenant.Record, at read, err error) {
	for {
		var damaged []error
		list = nil
		at, err = s.scan(ctx, "records/", 0, func(id string, kv *mvccpb.KeyValue) {
			r, _, err := envelope.Read(id, kv.Value)
			if err != nil {
				damaged = append(damaged, err)
				return
			}
			r.Revision = kv.ModRevision
			list = append(list, r)
		})
		switch {
		case err == nil:
			return list, at, errors.Join(damaged...)
		case !errors.Is(err, rpctypes.ErrCompacted): // else it was compacted between two pages
			return nil, at, err
		}
	}
}

// List implements tenant.Directory.
func (s *etcdStore) List(ctx context.Context) ([]*tenant.Record, error) {
	list, _, err := s.list(ctx)
	byName(list)
	return list, err
}

// Audit implements tenant.Directory. Without a limit it returns all.
func (s *etcdStore) Audit(ctx context.Context, id string, limit int) ([]tenant.Entry, error) {
	below := "audit/"
	if id != "" {
		below = "trails/" + id + "/"
	}
	var list []tenant.Entry
	var damaged error
	_, err := s.scan(ctx, below, limit, func(_ string, kv *mvccpb.KeyValue) {
		var e tenant.Entry
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			damaged = fmt.Errorf("an entry of the audit: %w", err)
			return
		}
		list = append(list, e)
	})
	return list, errors.Join(err, damaged)
}

// prunedAtOnce are the entries that go in one transaction, with their copies in the trails: etcd takes 128 operations.
const prunedAtOnce = 60

// Prune implements tenant.Directory. Names of entries begin with their time, the latest first.
func (s *etcdStore) Prune(ctx context.Context, before time.Time, most int) (int, error) {
	prefix := s.key("audit/")
	end := etcd.GetPrefixRangeEnd(prefix)
	from := end // of those that go
	if !before.IsZero() {
		from = s.key("audit", entryTime(before.UnixNano()))
	}
	if most > 0 {
		n := 0
		_, err := s.scan(ctx, "audit/", most+1, func(name string, _ *mvccpb.KeyValue) {
			if n++; n == most+1 {
				from = min(from, prefix+name)
			}
		})
		if err != nil {
			return 0, err
		}
	}
	for n := 0; ; {
		resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.GetResponse, error) {
			return c.Get(ctx, from, etcd.WithRange(end), etcd.WithLimit(prunedAtOnce))
		})
		if err != nil || len(resp.Kvs) == 0 {
			return n, err
		}
		var ops []etcd.Op
		for _, kv := range resp.Kvs {
			var e tenant.Entry
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return n, fmt.Errorf("an entry of the audit: %w", err)
			}
			name := strings.TrimPrefix(string(kv.Key), prefix)
			ops = append(ops, etcd.OpDelete(string(kv.Key)), etcd.OpDelete(s.key("trails", e.ID, name)))
		}
		_, err = request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
			return c.Txn(ctx).Then(ops...).Commit()
		})
		if err != nil {
			return n, err
		}
		n += len(resp.Kvs)
	}
}

// Drop implements tenant.Directory.
func (s *etcdStore) Drop(ctx context.Context, id string, e tenant.Entry) error {
	for {
		before, err := s.load(ctx, id)
		switch {
		case err != nil:
			return err
		case before == nil:
			return tenant.ErrNotFound
		case !droppable(before.err):
			return errors.Join(tenant.ErrReadable, before.err)
		}
		e := complete(e, &tenant.Record{ID: id})
		entry, err := json.Marshal(e)
		if err != nil {
			return err
		}
		record := s.key("records", id)
		ifs := []etcd.Cmp{etcd.Compare(etcd.ModRevision(record), "=", before.revision)}
		ops := []etcd.Op{etcd.OpDelete(record)}
		_, err = s.scan(ctx, "claims/", 0, func(name string, kv *mvccpb.KeyValue) {
			if key := s.key("claims", name); string(kv.Value) == id && len(ops) <= envelope.MaxClaims {
				ifs = append(ifs, etcd.Compare(etcd.ModRevision(key), "=", kv.ModRevision))
				ops = append(ops, etcd.OpDelete(key))
			}
		})
		if err != nil {
			return err
		}
		name := entryName(e.Time.UnixNano())
		ops = append(ops, etcd.OpPut(s.key(headKey), id+" "+name), etcd.OpPut(s.key("audit", name), string(entry)), etcd.OpPut(s.key("trails", id, name), string(entry)))
		resp, err := request(ctx, s, func(ctx context.Context, c *etcd.Client) (*etcd.TxnResponse, error) {
			return c.Txn(ctx).If(ifs...).Then(ops...).Commit()
		})
		if err != nil || resp.Succeeded {
			return err
		}
	}
}

// entryName names an entry of the audit: the latest is first.
func entryName(at int64) string {
	return fmt.Sprintf("%s-%016x", entryTime(at), rand.Uint64()) //nolint:gosec // it tells entries of one nanosecond apart, no more
}

func entryTime(at int64) string {
	return fmt.Sprintf("%016x", uint64(math.MaxInt64-at)) //nolint:gosec // times are after 1970
}
