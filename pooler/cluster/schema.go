package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// maxSchemaRetry bounds the pause after a reading of the schema that failed; the first is a second.
const maxSchemaRetry = 30 * time.Second

// schemaState is the snapshot of the tables and who waits for the next one.
type schemaState struct {
	now  atomic.Pointer[topology.Schema]
	kick chan struct{} // capacity 1: somebody asked

	mu      sync.Mutex
	asked   chan struct{} // closed after the next reading that begins from now; nil = nobody asked
	reasons map[string]struct{}
	differ  string // what was last logged of differences between shards
	ended   bool   // nobody reads any more
}

func (s *schemaState) init() {
	s.kick = make(chan struct{}, 1)
	s.reasons = make(map[string]struct{})
}

// Schema returns the last snapshot of the tables, nil before the first.
func (c *Cluster[C]) Schema() *topology.Schema { return c.schema.now.Load() }

// ReadsSchema reports whether there is to be a snapshot, and a login to read it with.
func (c *Cluster[C]) ReadsSchema() bool {
	o := c.opts.Load()
	return o.LoadSchema && o.Service != nil
}

// restAfter is how many times as long as a reading took nothing is read then, if Options.SchemaGap is not shorter: who changes tables waits for the next one, and
// migrations do so again and again.
const restAfter = 3

// RefreshSchema asks for a new snapshot, for a reason that is logged (a constant). Requests are put together, and
// readings keep Options.SchemaGap. The channel is closed when a reading that began after the call has ended, whether
// it succeeded or not; it is closed already where nothing is read, and when Run has ended.
func (c *Cluster[C]) RefreshSchema(reason string) <-chan struct{} {
	s := &c.schema
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.ReadsSchema() || c.isClosed() || s.ended {
		done := make(chan struct{})
		close(done)
		return done
	}
	if s.asked == nil {
		s.asked = make(chan struct{})
	}
	s.reasons[reason] = struct{}{}
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return s.asked
}

// answerLocked lets those go on who wait for a reading that does not come.
func (s *schemaState) answerLocked() {
	if s.asked != nil {
		close(s.asked)
		s.asked = nil
	}
}

// schemaLoop reads the schema at the start, when asked, and periodically.
func (c *Cluster[C]) schemaLoop(ctx context.Context) {
	s := &c.schema
	s.mu.Lock()
	s.ended = false
	s.mu.Unlock()
	defer func() { // nobody waits for what doesn't come any more
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = true
		s.answerLocked()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var retry time.Duration
	first := true
	for {
		reason := "start"
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if !first {
				reason = "interval"
			}
		case <-s.kick:
			reason = "asked"
		}
		o := c.opts.Load()
		if !o.LoadSchema || o.Service == nil { // who introduces one asks
			timer.Stop()
			s.mu.Lock()
			s.answerLocked()
			s.mu.Unlock()
			continue
		}
		begun := time.Now()
		err := c.readSchema(ctx, o, reason)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		gap := time.Until(begun.Add(o.SchemaGap))
		switch {
		case err != nil:
			if c.speaksAgainst(err) {
				c.dismiss(o.Service)
			}
			retry = min(max(2*retry, time.Second), maxSchemaRetry)
			c.log().Warn("schema not read", "reason", reason, "retry_in", retry, "error", err)
			wait = retry
		default:
			retry, first = 0, false
			wait = o.SchemaInterval
			gap = min(gap, restAfter*time.Since(begun))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gap):
		}
		timer.Stop()
		if wait > 0 {
			timer.Reset(wait)
		}
	}
}

// readSchema reads the schema from one shard that can be reached, publishes it, and tells those who asked.
func (c *Cluster[C]) readSchema(ctx context.Context, o *Options, reason string) error {
	s := &c.schema
	s.mu.Lock()
	asked := s.asked
	s.asked = nil
	for r := range s.reasons {
		reason = r
	}
	clear(s.reasons)
	s.mu.Unlock()
	if asked != nil {
		defer close(asked)
	}

	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.SchemaTimeout)
	defer cancel()
	var errs []error
	candidates := c.candidates()
	if o.RestShard != nil { // what has no entry is read from where it lives, if that can be
		there, elsewhere := onShard(candidates, *o.RestShard)
		candidates = append(there, elsewhere...)
	}
	for _, e := range candidates {
		schema, err := c.readFrom(ctx, e, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("shard %d: %w", e.shard, err))
			continue
		}
		c.gather(ctx, e, o, schema)
		if old := s.now.Load(); old != nil {
			schema.Epoch = old.Epoch
		}
		schema.Epoch++
		s.now.Store(schema)
		c.log().Info("schema read", "reason", reason, "shard", e.shard, "epoch", schema.Epoch, "relations", len(schema.Relations),
			"duration", time.Since(begun))
		if c.hooks.SchemaChanged != nil {
			c.hooks.SchemaChanged(schema)
		}
		c.compareShards(ctx, e, o, schema)
		return nil
	}
	return errors.Join(errs...)
}

// candidates are the endpoints to read from: primaries, and replicas of shards that have none, those known to be down last.
func (c *Cluster[C]) candidates() []*endpoint[C] {
	var good, down []*endpoint[C]
	for _, s := range c.top.Load().list {
		e := s.primary
		if e == nil && len(s.replicas) > 0 {
			e = s.replicas[0]
		}
		switch {
		case e == nil:
		case e.State() == Down:
			down = append(down, e)
		default:
			good = append(good, e)
		}
	}
	return append(good, down...)
}

// onShard parts endpoints into those of a shard and the others, in order.
func onShard[C any](list []*endpoint[C], shard topology.ShardID) (there, elsewhere []*endpoint[C]) {
	for _, e := range list {
		if e.shard == shard {
			there = append(there, e)
		} else {
			elsewhere = append(elsewhere, e)
		}
	}
	return there, elsewhere
}

// gather puts the relations of schemas that live elsewhere in the place of those that were read; of a shard that can't be reached, those that were known.
func (c *Cluster[C]) gather(ctx context.Context, from *endpoint[C], o *Options, schema *topology.Schema) {
	if len(o.SchemaShards) == 0 {
		return
	}
	take := func(of *topology.Schema, shard topology.ShardID) {
		if of == nil {
			return
		}
		for name, rel := range of.Relations {
			if at, ok := o.SchemaShards[name.Schema]; ok && at == shard {
				schema.Relations[name] = rel
			}
		}
		for f := range of.Functions {
			if at, ok := o.SchemaShards[f.Schema]; ok && at == shard {
				schema.Functions[f], schema.FunctionNames[f.Name] = true, true
			}
		}
	}
	maps.DeleteFunc(schema.Relations, func(name topology.QualifiedName, _ *topology.Relation) bool {
		at, ok := o.SchemaShards[name.Schema]
		return ok && at != from.shard
	})
	read := map[topology.ShardID]bool{from.shard: true}
	for _, shard := range o.SchemaShards {
		if read[shard] {
			continue
		}
		read[shard] = true
		var there *topology.Schema
		err := errNoEndpoint
		candidates, _ := onShard(c.candidates(), shard)
		for _, e := range candidates {
			if there, err = c.readFrom(ctx, e, o); err == nil {
				break
			}
		}
		if err != nil {
			c.log().Warn("schemas not read from their shard", "shard", shard, "error", err)
			there = c.schema.now.Load()
		}
		take(there, shard)
	}
}

var errNoEndpoint = errors.New("the shard has no endpoint")

func (c *Cluster[C]) readFrom(ctx context.Context, e *endpoint[C], o *Options) (*topology.Schema, error) {
	conn, err := c.dialCatalog(ctx, e, o.Service)
	if err != nil {
		return nil, err
	}
	defer conn.close(ctx)
	schema, err := conn.schema(ctx)
	if err != nil {
		return nil, err
	}
	if err := conn.definitions(ctx, schema, o.KeyColumns); err != nil {
		c.log().Warn("views not all read", "shard", e.shard, "error", err)
	}
	return schema, nil
}

// compareShards logs where the sharding keys of other shards differ from the snapshot's. Shards that can't be reached
// are left out.
func (c *Cluster[C]) compareShards(ctx context.Context, from *endpoint[C], o *Options, schema *topology.Schema) {
	if len(o.KeyColumns) == 0 {
		return
	}
	var report strings.Builder
	for _, e := range c.candidates() {
		if e.shard == from.shard || e.State() == Down {
			continue
		}
		conn, err := c.dialCatalog(ctx, e, o.Service)
		if err != nil {
			continue
		}
		columns, err := conn.keyColumns(ctx, o.KeyColumns)
		conn.close(ctx)
		if err != nil {
			c.log().Warn("sharding keys not compared", "shard", e.shard, "error", err)
			continue
		}
		for _, d := range differences(schema, columns, o.KeyColumns) {
			fmt.Fprintf(&report, "shard %d: %s\n", e.shard, d)
		}
	}
	differ := report.String()
	c.schema.mu.Lock()
	changed := differ != c.schema.differ
	c.schema.differ = differ
	c.schema.mu.Unlock()
	if changed && differ != "" {
		c.log().Warn("sharding keys differ between shards", "compared_with_shard", from.shard, "differences", differ)
	}
}
