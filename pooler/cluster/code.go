package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
)

const (
	// codeGap is from one reading of code to the next, at least: what is asked for meanwhile is read together. It grows up to maxCodeGap while readings find
	// nothing new: where tables are made and dropped all the time.
	codeGap    = 100 * time.Millisecond
	maxCodeGap = 5 * time.Second
	// maxCodeRetry bounds the pause after a reading that failed; the first is a second.
	maxCodeRetry = 30 * time.Second
	// codeTimeout bounds a reading.
	codeTimeout = 10 * time.Second
)

// What is looked at in one reading. Code that calls more than that is nobody's, or made for us.
const (
	maxCodeBytes  = 32 << 20
	maxCodeRounds = 50
	// maxHomonyms are relations of one name, in as many schemas: statements that name such without a schema are not looked at.
	maxHomonyms = 32
)

var (
	errTooMuchCode = errors.New("there is more code than is looked at")
	errNoService   = errors.New("there is no login to read it with")
)

// codeLoop reads, when asked, what the functions and triggers do that statements run, and again for as long as somebody asks.
func (c *Cluster[C]) codeLoop(ctx context.Context) {
	book := c.hooks.Book
	if book == nil {
		return
	}
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	var retry time.Duration
	gap := codeGap
	for {
		timed := false
		select {
		case <-ctx.Done():
			return
		case <-book.Asked():
		case <-again.C:
			if retry == 0 && !book.Used() {
				continue // whoever asks next is told that it is not known, and asks for it
			}
			timed = true
		}
		begun := time.Now()
		fresh, err := c.readCode(ctx, book)
		if ctx.Err() != nil {
			return
		}
		if gap = min(2*gap, maxCodeGap); fresh || timed {
			gap = codeGap
		}
		wait := gap
		again.Stop()
		if err == nil {
			retry = 0
			again.Reset(judge.Again)
		} else {
			retry = min(max(2*retry, time.Second), maxCodeRetry)
			level := c.log().Warn
			switch {
			case errors.Is(err, errNoService):
				level = c.log().Debug
			case sqlstate(err) == pgwire.CodeLockNotAvailable: // somebody is changing a table
				level, retry = c.log().Debug, time.Second
			}
			level("functions and triggers not read", "retry_in", retry, "error", err)
			again.Reset(retry)
			wait = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(begun.Add(wait))):
		}
	}
}

// readCode reads what was asked for from every shard. fresh: something is known now that was not.
func (c *Cluster[C]) readCode(ctx context.Context, book *judge.Book) (fresh bool, err error) {
	o := c.opts.Load()
	p := book.Begin(int64(pool.NowBy(c.clock)))
	defer book.End()
	if o.Service == nil {
		return false, errNoService
	}
	ctx, cancel := context.WithTimeout(ctx, codeTimeout)
	defer cancel()
	var graphs []*judge.Graph
	for _, s := range c.top.Load().list {
		e := s.primary
		if e == nil && len(s.replicas) > 0 {
			e = s.replicas[0]
		}
		if e == nil {
			return false, fmt.Errorf("shard %d: %w", s.id, errNoEndpoint)
		}
		g, err := c.codeFrom(ctx, e, o, p)
		if err != nil {
			return false, fmt.Errorf("shard %d: %w", s.id, err)
		}
		graphs = append(graphs, g)
	}
	before := book.Findings()
	fresh, worse := book.Store(p, judge.Join(p, graphs))
	c.tellFindings(before, book.Findings())
	if worse {
		// It was used before anybody looked: what it left is on some connection.
		c.log().Info("connections are replaced, for triggers or the like may have left something on them")
		c.Reconnect()
	}
	return fresh, nil
}

func (c *Cluster[C]) codeFrom(ctx context.Context, e *endpoint[C], o *Options, p *judge.Pending) (*judge.Graph, error) {
	conn, err := c.dialCatalog(ctx, e, o.Service)
	if err != nil {
		return nil, err
	}
	defer conn.close(ctx)
	return conn.code(ctx, p)
}

// tellFindings logs what is newly known not to be harmless.
func (c *Cluster[C]) tellFindings(before, now []judge.Finding) {
	known := make(map[judge.Finding]bool, len(before))
	for _, f := range before {
		known[f] = true
	}
	for _, f := range now {
		if known[f] {
			continue
		}
		what := "function"
		if f.Read || f.Write {
			what = "relation"
		}
		c.log().Info("code may leave something in its session", what, f.Name, "write", f.Write, "why", f.Why)
	}
}
