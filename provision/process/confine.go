package process

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
)

// What a tenant burns within its limit is in its neighbours' way all the same: its quota lets it have all CPUs at once at the begin of each period, with credit
// that it saved up while it could not run, and whoever is woken then waits for it, up to a tick of the scheduler. So an instance that uses much of its limit is
// confined to as many CPUs as that has. All others may run anywhere, and Linux wakes them up where there is room. This is no limit: where it can't be had, nothing
// is refused.

const (
	// confineEvery is how often it is looked who uses much.
	confineEvery = time.Second
	// calmFor is how long a confined instance has to use little until it is set free: who burns in turns with pauses stays where it is.
	calmFor = 10 * time.Second
	// slight is what an instance has to use, in thousandths of a core, to be looked at more closely.
	slight = 5
)

// occupant is an instance, as seen by who shares out CPUs.
type occupant struct {
	id    string
	limit int           // thousandths of a core; 0 = none
	use   int           // what it used since the last look, in the same
	calm  time.Duration // how long that has been little
	at    []int         // what it is confined to; nil = nothing
}

// cores is how many CPUs it is confined to, if it is.
func (o *occupant) cores() int { return (o.limit + 999) / 1000 }

// much and little are what begins its confinement, and what ends it.
func (o *occupant) much() bool   { return o.use >= min(500, o.limit/2) }
func (o *occupant) little() bool { return o.use < min(250, o.limit/4) }

// shareOut decides which instances are confined, and to which of the CPUs that they may have.
func shareOut(cpus []int, elapsed time.Duration, list []occupant) []occupant {
	list = slices.Clone(list)
	var confined []*occupant
	for i := range list {
		o := &list[i]
		if o.limit == 0 || o.cores() >= len(cpus) {
			o.at, o.calm = nil, 0
			continue
		}
		if o.calm += elapsed; o.at == nil || !o.little() {
			o.calm = 0
		}
		if o.at == nil && o.much() || o.at != nil && o.calm < calmFor {
			confined = append(confined, o)
		} else {
			o.at, o.calm = nil, 0
		}
	}
	slices.SortFunc(confined, func(a, b *occupant) int { return cmp.Or(b.use-a.use, cmp.Compare(a.id, b.id)) })
	load := make(map[int]int, len(cpus)) // what confined instances use of each CPU
	add := func(o *occupant, sign int) {
		for _, cpu := range o.at {
			load[cpu] += sign * o.use / len(o.at)
		}
	}
	sum := func(at []int) (all int) {
		for _, cpu := range at {
			all += load[cpu]
		}
		return all
	}
	best := func(o *occupant) []int {
		order := slices.Clone(cpus)
		slices.SortFunc(order, func(a, b int) int {
			stays := func(cpu int) int {
				if slices.Contains(o.at, cpu) {
					return 0
				}
				return 1
			}
			// The last one rather than the first, which is where most hosts have their interrupts.
			return cmp.Or(load[a]-load[b], stays(a)-stays(b), b-a)
		})
		at := order[:o.cores()]
		slices.Sort(at)
		return at
	}
	var unplaced []*occupant
	for _, o := range confined {
		if len(o.at) != o.cores() || slices.ContainsFunc(o.at, func(cpu int) bool { return !slices.Contains(cpus, cpu) }) {
			unplaced = append(unplaced, o)
		} else {
			add(o, 1)
		}
	}
	for _, o := range unplaced {
		o.at = best(o)
		add(o, 1)
	}
	for _, o := range confined {
		add(o, -1)
		// Not for a gain that the next second may take back.
		if to, now := best(o), sum(o.at); now-sum(to) > now/4+slight {
			o.at = to
		}
		add(o, 1)
	}
	return list
}

// confiner looks after all instances of a driver.
type confiner struct {
	groups *groups
	log    *slog.Logger

	mu struct {
		sync.Mutex
		last time.Time
		seen map[string]share
		told bool // that it can't be done
	}
}

// share is what is known of an instance from the last look.
type share struct {
	used  time.Duration
	moved int64 // bytes that it has read and written
	calm  time.Duration
	at    []int
	// burns: it uses much, or did not long ago; idle is how long it has used little. slow: some of its processes may have the long slice.
	burns, slow bool
	idle        time.Duration
}

// burn follows whether an instance uses much CPU, or much of what it may read and write, and lets others go first meanwhile. Who waits for the disk takes a CPU
// whenever it answers, for as long as it has something to write, and holds up those that the disk answers, too.
func (c *confiner) burn(id string, s *share, use int, elapsed time.Duration) {
	moved, limit := c.groups.moved(id)
	bytes := moved - s.moved
	s.moved = moved
	limit = int64(float64(limit) * elapsed.Seconds())
	if use >= slight {
		o := occupant{limit: cmp.Or(c.groups.quota(id), 1000), use: use}
		s.burns = s.burns || o.much() || limit > 0 && bytes >= limit/2
		if !o.little() || limit > 0 && bytes >= limit/4 {
			s.idle = -elapsed
		}
	}
	if s.idle += elapsed; s.idle >= calmFor {
		s.burns = false
	}
	if s.burns || s.slow {
		s.slow = setSlices(c.groups.pids(id), s.burns) || s.burns
	}
}

// look does what has to be done, if that is not what was just done. An instance that is there for the first time, as all are after pgkennel was started anew, stays
// as it is until more is known.
func (c *confiner) look(ctx context.Context, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, elapsed := c.mu.last.IsZero(), now.Sub(c.mu.last)
	if !first && elapsed < confineEvery*9/10 {
		return
	}
	c.mu.last = now
	cpus := c.cpus(ctx, first)
	before := c.mu.seen
	c.mu.seen = make(map[string]share, len(before))
	var list []occupant
	for _, id := range c.groups.accounted() {
		used, ok := c.groups.used(id)
		if !ok {
			continue
		}
		s, known := before[id]
		if !known {
			s = share{used: used, slow: true}
			s.moved, _ = c.groups.moved(id)
			if cpus != nil {
				s.at = c.groups.confinedTo(id, cpus)
			}
			c.mu.seen[id] = s
			continue
		}
		use := int(max(used-s.used, 0) * 1000 / elapsed)
		s.used = used
		c.burn(id, &s, use, elapsed)
		c.mu.seen[id] = s
		if s.at != nil || use >= slight {
			list = append(list, occupant{id: id, limit: c.groups.quota(id), use: use, calm: s.calm, at: s.at})
		}
	}
	if cpus != nil {
		c.apply(ctx, cpus, shareOut(cpus, elapsed, list))
	}
}

// cpus are those that instances may have; nil = nobody can be confined, or need be.
func (c *confiner) cpus(ctx context.Context, first bool) []int {
	if err := c.groups.confines(); err != nil {
		if runtime.NumCPU() > 1 {
			c.tell(ctx, err)
		}
		return nil
	}
	cpus, err := c.groups.allowed()
	if err != nil {
		c.tell(ctx, err)
		return nil
	}
	if len(cpus) < 2 && !first {
		return nil
	}
	return cpus
}

func (c *confiner) apply(ctx context.Context, cpus []int, list []occupant) {
	anew := map[string]bool{} // whose CPUs have to be written
	if c.groups.outdated(cpus) {
		// What all have may have become more, which has to come first, or less, which has to come last.
		_ = c.groups.outer(cpus)
		for id := range c.mu.seen {
			anew[id] = true
		}
		defer func() {
			if err := c.groups.outer(cpus); err != nil {
				c.tell(ctx, err)
			}
		}()
	}
	for _, o := range list {
		s := c.mu.seen[o.id]
		if !slices.Equal(s.at, o.at) {
			c.log.DebugContext(ctx, "instance is confined", "instance", o.id, "cpus", o.at)
			anew[o.id] = true
		}
		s.at, s.calm = o.at, o.calm
		c.mu.seen[o.id] = s
	}
	for id, s := range c.mu.seen {
		var err error
		switch {
		case anew[id]:
			err = c.groups.confine(id, s.at, cpus)
		case s.at != nil:
			err = c.groups.gather(id)
		}
		if err != nil && c.groups.has(id) {
			c.tell(ctx, err)
			delete(c.mu.seen, id) // what it has now is looked up
		}
	}
}

// tell says once that instances are not confined.
func (c *confiner) tell(ctx context.Context, err error) {
	if !c.mu.told {
		c.mu.told = true
		c.log.InfoContext(ctx, "instances that use much CPU are not kept to some of the CPUs", "reason", err)
	}
}
