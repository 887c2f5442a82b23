package admin

import "time"

// Stats are the sums of one database since the process started.
type Stats struct {
	Assignments           uint64 // times that a client was given a backend
	Transactions, Queries uint64
	Received, Sent        uint64        // bytes from and to clients
	TransactionTime       time.Duration // that transactions had a backend
	QueryTime             time.Duration // that backends were busy with statements
	WaitTime              time.Duration // that clients waited for a backend
	ClientParses          uint64        // prepared statements made by clients
	ServerParses          uint64        // and made on backends
	Binds                 uint64
	Errors, Refusals      uint64 // error responses to clients; those of them that the router made
}

// DatabaseStats are the sums of a database.
type DatabaseStats struct {
	Database string
	Stats
}

// Averages are PgBouncer's: counts and bytes are per second, times are per transaction, query and assignment.
type Averages struct {
	Assignments, Transactions, Queries uint64
	Received, Sent                     uint64
	TransactionTime, QueryTime         time.Duration
	WaitTime                           time.Duration
	ClientParses, ServerParses, Binds  uint64
}

// averager keeps the samples of the last two ticks. Averages are over the time since the older one, as in PgBouncer: at least
// one stats_period, at most two. It reads no clock and is not safe for concurrent use.
type averager struct {
	older, newer       map[string]Stats
	olderTime, newTime time.Time
}

// newAverager starts with a second in which nothing happened, so that the first averages are rates as well.
func newAverager(now time.Time) *averager {
	return &averager{olderTime: now.Add(-time.Second), newTime: now}
}

// tick takes a sample.
func (a *averager) tick(now time.Time, stats []DatabaseStats) {
	a.older, a.olderTime = a.newer, a.newTime
	a.newer, a.newTime = make(map[string]Stats, len(stats)), now
	for _, s := range stats {
		a.newer[s.Database] = s.Stats
	}
}

// average is the averages of one database, whose sums are now current.
func (a *averager) average(now time.Time, current DatabaseStats) Averages {
	return average(current.Stats, a.older[current.Database], now.Sub(a.olderTime))
}

// averageAll is the averages of all databases together.
func (a *averager) averageAll(now time.Time, current []DatabaseStats) Averages {
	var cur, old Stats
	for _, s := range current {
		cur.add(s.Stats)
		o := a.older[s.Database]
		if o.restarted(s.Stats) {
			o = Stats{}
		}
		old.add(o)
	}
	return average(cur, old, now.Sub(a.olderTime))
}

// restarted reports that the sums are not the continuation of s: the database went away and came back.
func (s Stats) restarted(now Stats) bool {
	return now.Transactions < s.Transactions || now.Queries < s.Queries || now.Assignments < s.Assignments ||
		now.Received < s.Received || now.Sent < s.Sent
}

func average(cur, old Stats, span time.Duration) Averages {
	if span <= 0 {
		return Averages{}
	}
	if old.restarted(cur) {
		old = Stats{}
	}
	perSecond := func(cur, old uint64) uint64 {
		if cur < old {
			return 0
		}
		return uint64(float64(cur-old) / span.Seconds())
	}
	each := func(cur, old time.Duration, n, oldN uint64) time.Duration {
		if n <= oldN || cur < old {
			return 0
		}
		return (cur - old) / time.Duration(n-oldN) //nolint:gosec // not that many
	}
	return Averages{
		Assignments:     perSecond(cur.Assignments, old.Assignments),
		Transactions:    perSecond(cur.Transactions, old.Transactions),
		Queries:         perSecond(cur.Queries, old.Queries),
		Received:        perSecond(cur.Received, old.Received),
		Sent:            perSecond(cur.Sent, old.Sent),
		TransactionTime: each(cur.TransactionTime, old.TransactionTime, cur.Transactions, old.Transactions),
		QueryTime:       each(cur.QueryTime, old.QueryTime, cur.Queries, old.Queries),
		WaitTime:        each(cur.WaitTime, old.WaitTime, cur.Assignments, old.Assignments),
		ClientParses:    perSecond(cur.ClientParses, old.ClientParses),
		ServerParses:    perSecond(cur.ServerParses, old.ServerParses),
		Binds:           perSecond(cur.Binds, old.Binds),
	}
}

func (s *Stats) add(o Stats) {
	s.Assignments += o.Assignments
	s.Transactions += o.Transactions
	s.Queries += o.Queries
	s.Received += o.Received
	s.Sent += o.Sent
	s.TransactionTime += o.TransactionTime
	s.QueryTime += o.QueryTime
	s.WaitTime += o.WaitTime
	s.ClientParses += o.ClientParses
	s.ServerParses += o.ServerParses
	s.Binds += o.Binds
	s.Errors += o.Errors
	s.Refusals += o.Refusals
}

func micros(d time.Duration) uint64 { return uint64(max(d, 0).Microseconds()) } //nolint:gosec // not negative
