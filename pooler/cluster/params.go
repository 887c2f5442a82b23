package cluster

import (
	"context"
	"slices"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// parameters are what one server reported.
type parameters struct {
	endpoint any // whose server it was
	list     []pgwire.Param
}

func (p *parameters) version() string {
	for _, v := range p.list {
		if v.Name == "server_version" {
			return v.Value
		}
	}
	return ""
}

// learn keeps the parameters of the first connection ever made, and follows its endpoint when the server there is
// another version.
func (c *Cluster[C]) learn(e *endpoint[C], reported []pgwire.Param) {
	old := c.params.Load()
	if old != nil && old.endpoint != any(e) {
		return
	}
	now := &parameters{endpoint: e, list: slices.Clone(reported)}
	if old == nil || old.version() != now.version() {
		c.params.CompareAndSwap(old, now)
	}
}

// Parameters returns what the cluster's servers report, as one of them did at a login: nil before any connection was
// made. The slice must not be changed.
func (c *Cluster[C]) Parameters() []pgwire.Param {
	if p := c.params.Load(); p != nil {
		return p.list
	}
	return nil
}

// WaitParameters returns the Parameters, making a connection as l, in the role, to any shard that can be reached if need be. It may
// block until a checkout is answered. The error is a *pgwire.Error, or ctx's cause.
func (c *Cluster[C]) WaitParameters(ctx context.Context, role topology.Role, l *Login) ([]pgwire.Param, error) {
	if p := c.Parameters(); p != nil {
		return p, nil
	}
	w := &asker[C]{answered: make(chan error, 1)}
	w.w.To = w
	c.Checkout(AnyShard, role, l, &w.w)
	select {
	case err := <-w.answered:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		if w.w.Withdraw() {
			return nil, context.Cause(ctx)
		}
		if err := <-w.answered; err != nil {
			return nil, err
		}
	}
	return c.Parameters(), nil
}

// asker checks out to no other end than that there is a connection.
type asker[C any] struct {
	w        Waiter[C]
	answered chan error
}

// Granted implements Granter.
func (a *asker[C]) Granted(l *pool.Lease[C]) {
	l.Release()
	a.answered <- nil
}

// CheckoutFailed implements Granter.
func (a *asker[C]) CheckoutFailed(err *pgwire.Error) { a.answered <- err }
