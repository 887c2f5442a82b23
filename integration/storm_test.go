package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

var (
	stormLong    = flag.Int64("storm", 0, "how many transactions the storm has; 0 = as many as a run of all tests can afford")
	stormClients = flag.Int("storm-clients", 0, "how many clients the storm has; 0 = a few, or 500 with -storm")
	stormSeed    = flag.Uint64("storm-seed", 0, "the seed of the storm; 0 = any")
)

// stormPool is how many server connections they share.
const stormPool = 10

const stormSchema = "CREATE TABLE ledger (client int NOT NULL, n int NOT NULL)"

// TestStorm has clients do at random whatever a client can do, and leave, cancel, and lose their servers in the midst of it, and holds each answer to what
// PostgreSQL would say to that client alone.
func TestStorm(t *testing.T) {
	t.Parallel()
	s := start(t, spec{schema: stormSchema, general: fmt.Sprintf(
		"default_pool_size = %d\ncheckout_timeout = 60_000\nlog_connections = false\nlog_disconnections = false\nshutdown_timeout = 5_000", stormPool)})
	st := &storm{t: t, addr: s.addr, login: s.login()}
	st.rage(s.shards[0], func(r *rand.Rand) { st.mischief(s, r) })
	eventually(t, "nothing is left of the clients", func() bool {
		return s.metric(t, "session_clients") == 0 && s.metric(t, "session_clients_pinned") == 0 && s.metric(t, "listen_sessions") == 0 &&
			s.shards[0].rows(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")[0] == "0"
	})
	for _, row := range s.console(t, "SHOW POOLS") {
		if row["database"] == cluster && (row["sv_active"] != "0" || row["cl_waiting"] != "0") {
			t.Errorf("got %v", row)
		}
	}
}

// TestStormWithoutUs shows that what the storm expects is what PostgreSQL does.
func TestStormWithoutUs(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	db := i.CreateDatabase(t)
	i.Exec(t, db, stormSchema)
	st := &storm{t: t, addr: i.Addr(), login: pgtest.Login{User: pgtest.Superuser, Database: db}, direct: true}
	st.rage(shard{i, db}, nil)
}

// rage runs the storm, and looks at what is stored.
func (st *storm) rage(sh shard, mischief func(*rand.Rand)) {
	t := st.t
	clients, transactions, seed := 16, int64(1000), *stormSeed
	if st.direct {
		clients, transactions = 4, 400
	}
	if *stormLong > 0 {
		transactions = *stormLong
		if clients = 500; st.direct {
			clients = 40
		}
	}
	if *stormClients > 0 {
		clients = *stormClients
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-storm-seed=%d", seed)
	st.clients = clients
	st.left.Store(transactions)
	began := time.Now()
	var wg, chaos sync.WaitGroup
	over := make(chan struct{})
	if mischief != nil {
		chaos.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1<<40))
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(50+r.IntN(400)) * time.Millisecond):
					mischief(r)
				}
			}
		})
	}
	all := make([]*stormClient, clients)
	for i := range all {
		c := &stormClient{
			storm: st, number: i, name: fmt.Sprintf("c%dx", i), rnd: rand.New(rand.NewPCG(seed, uint64(i))),
			stored: map[int]bool{}, maybe: map[int]bool{}, heard: map[string]int{},
		}
		all[i] = c
		wg.Go(c.run)
	}
	wg.Wait()
	close(over)
	chaos.Wait()
	f := &st.figures
	t.Logf("%d clients, %d transactions in %.0f s: %d units, %d errors, %d notifications, %d cancel requests, %d statements cancelled, %d clients left in the midst, %d servers lost, %d listeners sent away",
		clients, transactions-st.left.Load(), time.Since(began).Seconds(), f.units.Load(), f.errors.Load(), f.notes.Load(), f.cancels.Load(), f.cancelled.Load(), f.breaks.Load(), f.losses.Load(), f.moved.Load())
	st.audit(sh, all)
}

// audit holds what is stored to what the clients were told: each row once.
func (st *storm) audit(sh shard, all []*stormClient) {
	t := st.t
	eventually(t, "what was in the midst of something is over", func() bool {
		return sh.rows(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'")[0] == "0"
	})
	stored := 0
	for _, row := range sh.rows(t, "SELECT client, n, count(*) FROM ledger GROUP BY client, n") {
		f := strings.Split(row, "|")
		client, _ := strconv.Atoi(f[0])
		n, _ := strconv.Atoi(f[1])
		c := all[client]
		if f[2] != "1" || !c.stored[n] && !c.maybe[n] {
			t.Errorf("client %d: row %d is there %s times, committed: %v, perhaps: %v", client, n, f[2], c.stored[n], c.maybe[n])
		}
		delete(c.stored, n)
		stored++
	}
	for _, c := range all {
		if len(c.stored) > 0 {
			t.Errorf("client %d lacks %d rows", c.number, len(c.stored))
		}
	}
	if stored == 0 {
		t.Error("nothing was stored")
	}
}

// mischief does something to all at once.
func (st *storm) mischief(s *stand, r *rand.Rand) {
	switch n := r.IntN(20); {
	case n < 2:
		st.killed.Store(time.Now().Add(time.Minute).UnixNano())
		s.shards[0].rows(st.t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1")
		st.killed.Store(time.Now().UnixNano())
	case n < 6:
		s.console(st.t, "RELOAD")
	case n < 8:
		st.retired.Store(time.Now().Add(time.Minute).UnixNano())
		s.console(st.t, "RECONNECT "+cluster)
		st.retired.Store(time.Now().UnixNano())
	case n < 10:
		st.retired.Store(time.Now().Add(time.Minute).UnixNano())
		if _, err := s.tryConsole("PAUSE " + cluster); err != nil {
			st.abandoned.Store(true)
			st.t.Errorf("PAUSE: %v\n%v\n%v\n%v", err, s.console(st.t, "SHOW CLIENTS"), s.console(st.t, "SHOW SERVERS"), s.shards[0].rows(st.t, "SELECT pid, state, wait_event, query FROM pg_stat_activity WHERE datname = current_database()"))
		}
		st.retired.Store(time.Now().UnixNano())
		s.console(st.t, "RESUME "+cluster)
	case n < 12:
		old := "default_pool_size = " + strconv.Itoa(stormPool)
		s.edit("pgdog.toml", old, "default_pool_size = 6")
		s.console(st.t, "RELOAD")
		s.edit("pgdog.toml", "default_pool_size = 6", old)
		s.console(st.t, "RELOAD")
	}
}

// unit makes up what is to be sent next, for a session that is as the shadow is.
func (c *stormClient) unit(shadow *stormModel) *stormUnit {
	u := &stormUnit{extended: c.rnd.IntN(2) == 0}
	for most := []int{1, 1, 1, 2, 3, 5}[c.rnd.IntN(6)]; len(u.ops) < most; {
		o := c.op(shadow)
		alone, first, last := o.kind.place()
		if !u.extended && (o.arg == "42601" || o.kind == opRollbackTo) { // nothing of a Query that is wrong runs; mixed_message
			alone, first = true, true
		}
		if p := o.kind.protocol(); first && len(u.ops) > 0 || p == 'x' && !u.extended || p == 'q' && (u.extended && len(u.ops) > 0) {
			continue
		} else if p == 'q' {
			u.extended = false
		}
		o.extended = u.extended
		u.ops = append(u.ops, o)
		if a := shadow.expect(o); a.code != "" {
			shadow.fail()
			if c.rnd.IntN(3) > 0 {
				break
			}
		} else if a.effect != nil {
			a.effect()
		}
		if alone || last {
			break
		}
	}
	for _, o := range u.ops {
		o.beside = !u.extended && len(u.ops) > 1
	}
	if shadow.status != 'E' {
		shadow.sync()
	}
	return u
}

// weights of operations outside of a transaction block, and in one.
var weights = []struct {
	kind        stormKind
	idle, block int
}{
	{opMark, 10, 8},
	{opBig, 1, 1},
	{opLook, 8, 8},
	{opInsert, 8, 12},
	{opSet, 3, 3},
	{opSetLocal, 0, 3},
	{opReset, 2, 2},
	{opBegin, 20, 0},
	{opCommit, 0, 24},
	{opRollback, 0, 6},
	{opSavepoint, 0, 5},
	{opRollbackTo, 0, 3},
	{opRelease, 0, 2},
	{opWrong, 2, 3},
	{opTempMake, 1, 1},
	{opTempInsert, 1, 1},
	{opTempRead, 1, 1},
	{opLock, 1, 1},
	{opXLock, 0, 2},
	{opListen, 6, 4},
	{opUnlisten, 1, 0},
	{opNotify, 2, 3},
	{opNotifyOther, 2, 2},
	{opCopyIn, 2, 2},
	{opCopyFail, 1, 1},
	{opCopyBad, 1, 1},
	{opCopyOut, 2, 2},
	{opPrepare, 1, 1},
	{opExecute, 1, 1},
	{opDeclare, 0, 2},
	{opFetch, 0, 3},
	{opHold, 1, 1},
	{opFetchHold, 1, 1},
	{opParse, 4, 3},
	{opBind, 12, 10},
	{opCloseStatement, 2, 2},
	{opPortal, 1, 3},
	{opPortalMore, 0, 4},
	{opFunction, 1, 0},
	{opEmpty, 1, 1},
	{opTimeout, 0, 1},
	{opDiscard, 1, 0},
}

var weightIdle, weightBlock = func() (idle, block int) {
	for _, w := range weights {
		idle, block = idle+w.idle, block+w.block
	}
	return idle, block
}()

// op makes up an operation.
func (c *stormClient) op(m *stormModel) *stormOp {
	c.next++
	r := c.rnd
	o := &stormOp{text: fmt.Sprintf("%s-%d", c.name, c.next), describe: r.IntN(2) == 0, flush: r.IntN(8) == 0, kind: c.kind(m)}
	switch o.kind {
	case opBig:
		o.n = []int{300, 3000, 30000}[r.IntN(3)]
	case opInsert, opCopyIn, opCopyFail, opCopyBad, opNotify, opNotifyOther:
		o.n = c.next
		c.next += 2
		o.arg = fmt.Sprintf("c%dx", r.IntN(c.clients)/4*4)
		if o.arg == c.name {
			o.arg = "nobody"
		}
	case opSet, opSetLocal:
		o.n = r.IntN(len(stormSettings))
		o.arg = []string{o.text, fmt.Sprintf("%dkB", 1025+r.IntN(900)), fmt.Sprintf("%dms", 50001+r.IntN(900)), o.text}[o.n]
	case opReset:
		o.n = r.IntN(len(stormSettings))
	case opSavepoint, opRollbackTo, opRelease:
		o.arg = string("ab"[r.IntN(2)])
	case opWrong:
		o.arg = []string{"22012", "42601", "42P01", "22P02", "42703"}[r.IntN(5)]
	case opLock, opXLock:
		o.n = c.next
	case opUnlock:
		if o.n = c.next; len(m.locks) > 0 {
			o.n = m.locks[0]
		}
	case opPrepare, opExecute, opDeallocate:
		o.arg = string("pq"[r.IntN(2)])
	case opFetch, opFetchHold, opPortal, opPortalMore:
		o.n = 1 + r.IntN(3)
	case opParse, opBind, opCloseStatement:
		o.arg = fmt.Sprintf("s%d", r.IntN(3))
	}
	return o
}

func (c *stormClient) kind(m *stormModel) stormKind {
	r := c.rnd
	if m.status == 'E' && r.IntN(4) > 0 {
		return []stormKind{opRollback, opRollback, opCommit, opRollbackTo}[r.IntN(4)]
	}
	if m.pinned() && r.IntN(3) == 0 { // others wait for the server connection
		switch {
		case m.status != 'I':
			return opCommit
		case len(m.locks) > 0 && r.IntN(2) == 0:
			return opUnlock
		case m.world.temp >= 0 && r.IntN(2) == 0:
			return opTempDrop
		case m.world.open.hold && r.IntN(2) == 0:
			return opCloseHold
		case len(m.prepared) > 0 && r.IntN(2) == 0:
			return opDeallocate
		default:
			return opDiscard
		}
	}
	total := weightIdle
	if m.status != 'I' {
		total = weightBlock
	}
	n := r.IntN(total)
	for _, w := range weights {
		weight := w.idle
		if m.status != 'I' {
			weight = w.block
		}
		if n -= weight; n < 0 {
			if w.kind == opListen && c.number%4 > 0 {
				return opMark
			}
			return w.kind
		}
	}
	panic("storm: weights")
}
