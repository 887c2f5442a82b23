package metrics

import "time"

// Totals are the sums of one cluster since the process started, as SHOW STATS has them.
type Totals struct {
	Assignments           uint64 // checkouts that got a backend
	Transactions, Queries uint64
	Received, Sent        uint64 // bytes, the clients' side
	TransactionTime       time.Duration
	QueryTime             time.Duration
	WaitTime              time.Duration // spent waiting for a backend
	ClientParses, Binds   uint64
	ServerParses          uint64
	Errors, Refusals      uint64
	ClientConnects        uint64
	CheckoutTimeouts      uint64
}

func (t *Totals) add(o Totals) {
	t.Assignments += o.Assignments
	t.Transactions += o.Transactions
	t.Queries += o.Queries
	t.Received += o.Received
	t.Sent += o.Sent
	t.TransactionTime += o.TransactionTime
	t.QueryTime += o.QueryTime
	t.WaitTime += o.WaitTime
	t.ClientParses += o.ClientParses
	t.Binds += o.Binds
	t.ServerParses += o.ServerParses
	t.Errors += o.Errors
	t.Refusals += o.Refusals
	t.ClientConnects += o.ClientConnects
	t.CheckoutTimeouts += o.CheckoutTimeouts
}

// Totals sums up a cluster, its shards and its pools. Pools that are gone count on.
func (m *Metrics) Totals(cluster string) Totals {
	m.retired.Lock()
	t := m.retired.totals[cluster]
	m.retired.Unlock()
	for _, c := range m.clusters.all() {
		if c.name == cluster {
			t.add(c.totals())
		}
	}
	for _, s := range m.shards.all() {
		if s.key.cluster == cluster {
			t.add(s.totals())
		}
	}
	for _, p := range m.pools.all() {
		if p.key.Cluster == cluster {
			t.add(p.totals())
		}
	}
	return t
}

func (m *Metrics) retire(cluster string, t Totals) {
	m.retired.Lock()
	defer m.retired.Unlock()
	sum := m.retired.totals[cluster]
	sum.add(t)
	m.retired.totals[cluster] = sum
}

func (c *Cluster) totals() Totals {
	t := Totals{
		Transactions:   c.Transactions.Load(),
		Queries:        c.Queries.Load(),
		Received:       c.ReceivedBytes.Load(),
		Sent:           c.SentBytes.Load(),
		ClientParses:   c.Parses.Load(),
		Binds:          c.Binds.Load(),
		Errors:         c.ServerErrors.Total() + c.OwnErrors.Total(),
		ClientConnects: c.Connects.Load(),
	}
	c.Refusals.each(func(_ string, n uint64) { t.Refusals += n })
	return t
}

func (s *Shard) totals() Totals {
	return Totals{TransactionTime: s.Transactions.Sum(), QueryTime: s.Statements.Sum()}
}

func (p *Pool) totals() Totals {
	s := p.source.Load().state()
	return Totals{
		Assignments:      s.Checkouts,
		WaitTime:         p.CheckoutWait.Sum(),
		ServerParses:     p.Parses.Load(),
		CheckoutTimeouts: s.Timeouts,
	}
}
