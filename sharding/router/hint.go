package router

import (
	"strconv"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// hint finds the shard that was addressed: by a comment, else by the session.
func (rt *Route) hint(in *Input) (shard topology.ShardID, hinted bool, err *pgwire.Error) {
	h := rt.message.Hints
	if h.Conflict {
		return 0, false, hintInvalid("routing comments disagree", "Two comments name different shards or keys, or one names nothing.")
	}
	if h.Shard != "" || h.ShardingKey != "" {
		return rt.router.resolve(Hint{Shard: h.Shard, ShardingKey: h.ShardingKey}, in.UTF8 && !rt.message.Transcoded)
	}
	if in.Hint == (Hint{}) {
		return 0, false, nil
	}
	return rt.router.resolve(in.Hint, in.UTF8)
}

// resolve finds the shard of a hint that is not empty.
func (r *Router) resolve(h Hint, utf8 bool) (shard topology.ShardID, hinted bool, err *pgwire.Error) {
	if h.Shard != "" {
		n, bad := strconv.ParseUint(h.Shard, 10, 31)
		if bad != nil || int64(n) >= int64(r.shards) {
			return 0, false, hintInvalid("invalid shard "+strconv.Quote(clip(h.Shard)), "Database %q has shards 0 to %d.", r.cluster, r.shards-1)
		}
		shard, hinted = topology.ShardID(n), true
	}
	if h.ShardingKey == "" {
		return shard, hinted, nil
	}
	of, err := r.keyShard(h.ShardingKey, utf8)
	if err == nil && hinted && of != shard {
		err = hintInvalid("shard and sharding key disagree", "The key lives on another shard than the one that is named beside it.")
	}
	return of, err == nil, err
}

// keyShard finds where a key lives, if all sharded tables agree on that.
func (r *Router) keyShard(text string, utf8 bool) (shard topology.ShardID, err *pgwire.Error) {
	if len(r.entries) == 0 {
		return 0, hintInvalid("no sharding key to choose a shard by", "Database %q has no sharded tables.", r.cluster)
	}
	t := r.entries[0].typ
	for _, e := range r.entries {
		if e.typ != t {
			return 0, hintInvalid("sharding key without a table is ambiguous", "The sharded tables of database %q have keys of several types.", r.cluster)
		}
	}
	key, ok := sharding.ParseKey(t, text)
	switch {
	case !ok:
		return 0, hintInvalid("invalid sharding key "+strconv.Quote(clip(text)), "The sharded tables of database %q have keys of type %s.", r.cluster, t)
	case !utf8 && !key.ASCII():
		return 0, needsUTF8("a sharding key")
	}
	for i, e := range r.entries {
		s, ok := e.mapping.Lookup(key)
		switch {
		case !ok:
			return 0, tenantUnknown(e.table(), e.column, key.String())
		case i > 0 && s != shard:
			return 0, hintInvalid("sharding key without a table is ambiguous", "The sharded tables of database %q place it on different shards.", r.cluster)
		}
		shard = s
	}
	return shard, nil
}

// table is the entry's table for messages.
func (e *entry) table() string {
	if e.name == "" {
		return "*"
	}
	return e.name
}
