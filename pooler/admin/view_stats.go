package admin

import "strings"

// The three orders that PgBouncer has them in.
const (
	statTotals   = "server_assignment_count xact_count query_count received sent xact_time query_time wait_time client_parse_count server_parse_count bind_count"
	statAverages = "server_assignment_count xact_count query_count recv sent xact_time query_time wait_time client_parse_count server_parse_count bind_count"
	// SHOW STATS_TOTALS and STATS_AVERAGES have other names than SHOW STATS, the latter a prefix in three of them.
	statColumns  = "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time client_parse_count server_parse_count bind_count"
	statColumns2 = "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time avg_client_parse_count avg_server_parse_count avg_bind_count"
	// SHOW TOTALS has the names of PgBouncer's variables.
	statNames = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time wait_time ps_client_parse_count ps_server_parse_count ps_bind_count"
)

// numerics makes a column specification of the names.
func numerics(prefix, names string) string {
	var b strings.Builder
	for n := range strings.FieldsSeq(names) {
		b.WriteString(prefix + n + "/n ")
	}
	return b.String()
}

func statViews() []*view {
	return []*view{
		{
			name: "stats", help: "traffic by database since the start, and averages of the last stats_period",
			columns: columns("database " + numerics("total_", statTotals) + numerics("avg_", statAverages) + numerics("total_", "error_count refused_count")),
			fill:    plain(fillStats),
		},
		{
			name: "stats_totals", help: "the totals of SHOW STATS",
			columns: columns("database " + numerics("", statColumns) + numerics("", "error_count refused_count")),
			fill:    plain(fillStatsTotals),
		},
		{
			name: "stats_averages", help: "the averages of SHOW STATS",
			columns: columns("database " + numerics("", statColumns2)),
			fill:    plain(fillStatsAverages),
		},
		{
			name: "totals", help: "SHOW STATS of all databases together",
			columns: columns("name value/n"),
			fill:    plain(fillTotals),
		},
		{
			name: "prepared", help: "prepared statements that clients share",
			columns: columns("name statement used_by/4 memory_used/8"),
			fill:    plain(fillPrepared),
		},
		{
			name: "query_cache", help: "the parse cache",
			columns: columns("hits/8 misses/8 evictions/8 entries/8 memory_used/8 memory_max/8 parse_time/8"),
			fill:    plain(fillQueryCache),
		},
		{
			name: "mem", help: "memory of larger parts, in bytes",
			columns: columns("name size/8 used/8 free/8 memtotal/8"),
			fill:    plain(fillMem),
		},
	}
}

func fillStats(c *Console, w *writer) {
	stats := c.Inspector.Stats()
	averages := c.averages(stats)
	for i, s := range stats {
		w.text(s.Database)
		w.totals(s.Stats)
		w.averages(averages[i])
		w.uint64(s.Errors)
		w.uint64(s.Refusals)
	}
}

func fillStatsTotals(c *Console, w *writer) {
	for _, s := range c.Inspector.Stats() {
		w.text(s.Database)
		w.totals(s.Stats)
		w.uint64(s.Errors)
		w.uint64(s.Refusals)
	}
}

func fillStatsAverages(c *Console, w *writer) {
	stats := c.Inspector.Stats()
	for i, a := range c.averages(stats) {
		w.text(stats[i].Database)
		w.averages(a)
	}
}

func fillTotals(c *Console, w *writer) {
	stats := c.Inspector.Stats()
	var total Stats
	for _, s := range stats {
		total.add(s.Stats)
	}
	c.mu.Lock()
	average := c.mu.averages.averageAll(c.Now(), stats)
	c.mu.Unlock()
	names := strings.Fields(statNames)
	for i, n := range totalNumbers(total) {
		w.text("total_" + names[i])
		w.uint64(n)
	}
	for i, n := range averageNumbers(average) {
		w.text("avg_" + names[i])
		w.uint64(n)
	}
}

// averages are those of each database, in the order of stats.
func (c *Console) averages(stats []DatabaseStats) []Averages {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Averages, len(stats))
	for i, s := range stats {
		out[i] = c.mu.averages.average(c.Now(), s)
	}
	return out
}

func totalNumbers(s Stats) [11]uint64 {
	return [...]uint64{
		s.Assignments, s.Transactions, s.Queries, s.Received, s.Sent,
		micros(s.TransactionTime), micros(s.QueryTime), micros(s.WaitTime),
		s.ClientParses, s.ServerParses, s.Binds,
	}
}

func averageNumbers(a Averages) [11]uint64 {
	return [...]uint64{
		a.Assignments, a.Transactions, a.Queries, a.Received, a.Sent,
		micros(a.TransactionTime), micros(a.QueryTime), micros(a.WaitTime),
		a.ClientParses, a.ServerParses, a.Binds,
	}
}

func (w *writer) totals(s Stats) {
	for _, n := range totalNumbers(s) {
		w.uint64(n)
	}
}

func (w *writer) averages(a Averages) {
	for _, n := range averageNumbers(a) {
		w.uint64(n)
	}
}

func fillPrepared(c *Console, w *writer) {
	for _, p := range c.Inspector.Prepared() {
		w.text(p.Name)
		w.private(p.Statement)
		w.int(p.UsedBy)
		w.int(p.Bytes)
	}
}

func fillQueryCache(c *Console, w *writer) {
	q := c.Inspector.QueryCache()
	w.uint64(q.Hits)
	w.uint64(q.Misses)
	w.uint64(q.Evictions)
	w.int64(q.Entries)
	w.int64(q.Bytes)
	w.int64(q.MaxBytes)
	w.us(q.ParseTime)
}

func fillMem(c *Console, w *writer) {
	for _, m := range c.Inspector.Memory() {
		w.text(m.Name)
		w.int64(m.Size)
		w.int64(m.Used)
		w.int64(m.Free)
		w.int64(m.Total)
	}
}
