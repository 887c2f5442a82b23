package loop

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/pool"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"

	"github.com/pgkennel/pgkennel/tenant"
)

// nobody is an observer that counts nothing.
type nobody struct{}

func (nobody) Unit(*session.Account, *session.UnitCounts)   {}
func (nobody) Login(string)                                 {}
func (nobody) Connected(*session.Account)                   {}
func (nobody) Closed(*session.Account, session.CloseReason) {}
func (nobody) Refused(*session.Account, string)             {}
func (nobody) Pinned(*session.Account, backend.Taint, bool) {}
func (nobody) Unpinned(*session.Account)                    {}
func (nobody) Error(*session.Account, string, bool)         {}

// modelCluster is a cluster of model servers.
type modelCluster struct {
	r *router.Router
	n int

	book *judge.Book
}

func (c modelCluster) Router() *router.Router     { return c.r }
func (c modelCluster) Shards() int                { return c.n }
func (c modelCluster) Parameters() []pgwire.Param { return modelParams }
func (c modelCluster) Code() *judge.Book          { return c.book }
func (c modelCluster) SchemaChanged() func()      { return func() {} }

// newModel returns a driver over n shards of model servers, with up to size backends each.
func newModel(t *testing.T, seed uint64, n, size int) *Memory {
	t.Helper()
	r := modelRouter(t, n)
	acct := &session.Account{
		User: "app", Database: "prod", ServerUser: "app", Credential: auth.NewCredential(auth.PlainPassword("x")),
		Cluster: modelCluster{r, n, nil}, Statements: true,
	}
	sh := &session.Shared{
		Log: slog.New(slog.DiscardHandler), Observer: nobody{}, Cache: parser.NewCache(1 << 20),
		Registry: state.NewRegistry(), Code: new(judge.Changes), Probes: session.NewProbes(), Descriptions: session.NewDescriptions(), Method: auth.MethodTrust, Auth: &auth.ServerOptions{},
		MaxMessage: 1 << 20, MaxBatch: 1 << 20,
		Accounts: func(a tenant.Asked) (*session.Account, tenant.Refusal) {
			if a.User == "app" && a.Database == "prod" {
				return acct, tenant.Welcome
			}
			return nil, tenant.UnknownUser
		},
	}
	var servers []func() MemoryServer
	pid := uint32(1000)
	for i := range n {
		servers = append(servers, func() MemoryServer { pid++; return newModelServer(i, pid) })
	}
	m := NewMemory(seed, sh, pool.Settings{Max: size, CheckoutTimeout: time.Hour}, servers)
	return m
}

// actor is an application that checks every answer.
type actor struct {
	t      *testing.T
	rnd    *rand.Rand
	name   string
	shards int
	strict bool // no faults: answers are exactly as expected
	left   int  // units to send
	unhurt bool // nobody cancels what it runs
	pins   bool // it leaves on its backend what can't follow it

	in      []byte
	started bool
	done    bool
	expect  []string
	history []string

	// The application's view.
	tx       byte
	v        string // app.v
	saved    string
	saves    []save
	fixed    int
	poisoned bool
	names    map[string]bool
	seq      int
}

type save struct{ name, v string }

func newActor(t *testing.T, seed uint64, name string, shards, units int, strict bool) *actor {
	return &actor{
		t: t, rnd: rand.New(rand.NewPCG(seed, 7)), name: name, shards: shards, left: units, strict: strict,
		tx: 'I', fixed: -1, names: map[string]bool{},
	}
}

func (a *actor) Closed(broken bool) {
	if a.strict && !a.done {
		a.t.Errorf("%s: connection closed early; expected %v after %v", a.name, a.expect, a.history)
	}
	a.done = true
}

func (a *actor) Receive(b []byte) (out []byte, done bool) {
	if !a.started {
		a.started = true
		out = pgwire.AppendStartupMessage(nil, pgwire.Version30, []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}, {Name: "application_name", Value: a.name}})
		a.expect = []string{"R", "K", "Z:I"}
		return out, false
	}
	a.in = append(a.in, b...)
	var list []frame
	list, rest := frames(a.in)
	for _, f := range list {
		a.check(f)
	}
	a.in = append([]byte(nil), rest...)
	if a.done {
		return nil, true
	}
	// Without an answer under way, or sometimes with one: the next unit.
	for a.left > 0 && (len(a.expect) == 0 || a.strict && len(a.expect) < 40 && a.rnd.IntN(3) == 0) {
		a.left--
		out = append(out, a.unit()...)
	}
	if a.left == 0 && len(a.expect) == 0 {
		a.done = true
		return append(out, pgwire.MsgTerminate, 0, 0, 0, 4), true
	}
	return out, false
}

// token is what a message looks like in an expectation.
func token(f frame) string {
	switch f.typ {
	case pgwire.MsgDataRow:
		return "D:" + f.value()
	case pgwire.MsgCommandComplete:
		tag, _ := pgwire.DecodeCommandTag(f.body)
		return "C:" + string(tag)
	case pgwire.MsgReadyForQuery:
		return "Z:" + string(f.body)
	case pgwire.MsgErrorResponse:
		e, _ := pgwire.DecodeError(f.body)
		return "E:" + e.Code
	}
	return string(f.typ)
}

func (a *actor) check(f frame) {
	got := token(f)
	if f.typ == pgwire.MsgParameterStatus || f.typ == pgwire.MsgNoticeResponse {
		return
	}
	if f.typ == pgwire.MsgDataRow && !strings.HasPrefix(got, "D:"+a.name) && got != "D:" {
		a.t.Fatalf("%s: got another's row %q after %v", a.name, got, a.history)
	}
	if !a.strict {
		// With faults, units are answered one at a time; an error may stand for any rest of an answer.
		if got == "E:57014" && a.unhurt {
			a.t.Fatalf("%s: cancelled by others", a.name)
		}
		if f.typ == pgwire.MsgReadyForQuery {
			a.expect = nil
			a.recover(f.body[0])
		}
		return
	}
	if len(a.expect) == 0 {
		a.t.Fatalf("%s: got %q, expected nothing, after %v", a.name, got, a.history)
	}
	want := a.expect[0]
	a.expect = a.expect[1:]
	if got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, want[:len(want)-1])) {
		detail := ""
		if f.typ == pgwire.MsgErrorResponse {
			e, _ := pgwire.DecodeError(f.body)
			detail = e.Message + " " + e.Detail
		}
		a.t.Fatalf("%s: got %q (%s), want %q; then %v; after:\n%s", a.name, got, detail, want, a.expect, strings.Join(a.history, "\n"))
	}
}

// recover takes over the transaction status when faults make the model's own useless.
func (a *actor) recover(tx byte) {
	a.tx = tx
	a.poisoned = tx == 'E'
	if tx == 'I' {
		a.fixed, a.saves = -1, nil
	}
}

// unit makes the next unit and what it is to be answered.
func (a *actor) unit() []byte {
	a.seq++
	if a.tx == 'E' && (a.poisoned || len(a.saves) == 0 || a.rnd.IntN(2) == 0) {
		return a.simple([]string{"ROLLBACK", "COMMIT"}[a.rnd.IntN(2)])
	}
	if a.pins && a.rnd.IntN(4) == 0 {
		return a.pin()
	}
	switch n := a.rnd.IntN(100); {
	case n < 20:
		return a.simple(fmt.Sprintf("SELECT '%s-%d' FROM orders WHERE tenant_id = %d", a.name, a.seq, a.key()))
	case n < 25:
		return a.simple(fmt.Sprintf("SELECT '%s-%d'", a.name, a.seq))
	case n < 35:
		return a.simple("SHOW app.v")
	case n < 43:
		return a.simple(fmt.Sprintf("SET app.v TO '%s-%d'", a.name, a.seq))
	case n < 45:
		return a.simple("SELECT 1/0")
	case n < 55:
		return a.simple([]string{"BEGIN", "COMMIT", "ROLLBACK", "BEGIN", "COMMIT"}[a.rnd.IntN(5)])
	case n < 59:
		if a.tx == 'I' {
			return a.simple("BEGIN")
		}
		return a.simple(fmt.Sprintf("SAVEPOINT s%d", a.seq))
	case n < 62:
		if len(a.saves) == 0 {
			return a.simple("SHOW app.v")
		}
		return a.simple("ROLLBACK TO " + a.saves[a.rnd.IntN(len(a.saves))].name)
	case n < 64:
		return a.simple("RESET app.v")
	default:
		return a.extended()
	}
}

// pin is something that pins the session, uses what does, or gives that up.
func (a *actor) pin() []byte {
	list := []string{
		"SELECT pg_advisory_lock('%s')", "SELECT pg_advisory_unlock('')", "/* pgdog_shard: 1 */ CREATE TEMP TABLE tmp (a int)", "/* pgdog_shard: 1 */ DROP TABLE tmp", "DISCARD ALL",
		"PREPARE x1 AS SELECT '%s'", "EXECUTE x1", "DEALLOCATE x1", "LISTEN x", "UNLISTEN *", "DECLARE h CURSOR WITH HOLD FOR SELECT '%s'", "FETCH h", "CLOSE h",
	}
	sql := strings.ReplaceAll(list[a.rnd.IntN(len(list))], "%s", fmt.Sprintf("%s-%d", a.name, a.seq))
	a.note("%s", sql)
	a.expect = []string{"Z"}
	if a.rnd.IntN(2) == 0 {
		return pgwire.AppendQuery(nil, sql)
	}
	out := pgwire.AppendBind(pgwire.AppendParse(nil, "", sql, nil), "", "", pgwire.FormatText, nil, pgwire.FormatText)
	return pgwire.AppendSync(pgwire.AppendExecute(out, "", 0))
}

// key is a tenant: in a transaction mostly of its shard.
func (a *actor) key() int {
	k := a.rnd.IntN(30)
	if a.fixed >= 0 && a.rnd.IntN(8) > 0 {
		k = k - k%a.shards + a.fixed
	}
	return k
}

func (a *actor) note(format string, args ...any) {
	a.history = append(a.history, fmt.Sprintf("[%c fixed %d] ", a.tx, a.fixed)+fmt.Sprintf(format, args...))
	if len(a.history) > 30 {
		a.history = a.history[1:]
	}
}

func (a *actor) simple(sql string) []byte {
	a.note("Q %s", sql)
	delete(a.names, "")
	a.expect = append(a.expect, a.effect(sql, false)...)
	a.expect = append(a.expect, "Z:"+string(a.tx))
	return pgwire.AppendQuery(nil, sql)
}

// effect is what the application expects of sql, and what it makes of its view.
func (a *actor) effect(sql string, extended bool) []string {
	row := func(v string) []string {
		if extended {
			return []string{"D:" + v}
		}
		return []string{"T", "D:" + v}
	}
	w := strings.Fields(sql)
	if a.tx == 'E' && w[0] != "ROLLBACK" && w[0] != "COMMIT" {
		return []string{"E:25P02"}
	}
	fail := func(code string) []string {
		if a.tx == 'T' {
			a.tx = 'E'
			if a.fixed < 0 {
				a.poisoned = true
			}
		}
		return []string{"E:" + code}
	}
	switch w[0] {
	case "BEGIN":
		if a.tx == 'I' {
			a.tx, a.saved, a.saves, a.fixed = 'T', a.v, nil, -1
		}
		if a.tx == 'T' && len(a.history) > 0 && a.fixed == -1 {
			return []string{"C:BEGIN"}
		}
		return []string{"C:BEGIN"}
	case "COMMIT", "ROLLBACK":
		if len(w) > 1 { // ROLLBACK TO x
			for i := range slices.Backward(a.saves) {
				if a.saves[i].name == w[2] {
					a.v, a.saves, a.tx = a.saves[i].v, a.saves[:i+1], 'T'
				}
			}
			return []string{"C:ROLLBACK"}
		}
		tag := w[0]
		if a.tx == 'E' {
			tag = "ROLLBACK"
		}
		if tag == "ROLLBACK" && a.tx != 'I' {
			a.v = a.saved
		}
		a.tx, a.fixed, a.saves, a.poisoned = 'I', -1, nil, false
		return []string{"C:" + tag}
	case "SAVEPOINT":
		a.saves = append(a.saves, save{w[1], a.v})
		return []string{"C:SAVEPOINT"}
	case "SET":
		a.v = strings.Trim(w[3], "'")
		return []string{"C:SET"}
	case "RESET":
		a.v = ""
		return []string{"C:RESET"}
	case "SHOW":
		return append(row(a.v), "C:SHOW")
	}
	if strings.Contains(sql, "1/0") {
		return fail("22012")
	}
	marker := strings.Split(sql, "'")[1]
	if _, key, ok := strings.Cut(sql, "tenant_id = "); ok {
		k := 0
		fmt.Sscan(strings.Trim(key, "'"), &k) //nolint:errcheck // the model wrote it
		shard := k % a.shards
		if a.tx == 'T' {
			if a.fixed >= 0 && a.fixed != shard {
				return fail("0A000")
			}
			a.fixed = shard
		}
		return append(row(fmt.Sprintf("%s@%d", marker, shard)), "C:SELECT 1")
	}
	return append(row(marker+"@*"), "C:SELECT 1")
}

// extended makes an extended batch of one statement: parsed under a name or none, or bound again, described or not, flushed in between or not.
func (a *actor) extended() []byte {
	var out []byte
	k := a.key()
	const sql = "SELECT $1 FROM orders WHERE tenant_id = $2"
	marker := fmt.Sprintf("%s-%d", a.name, a.seq)
	name := ""
	if a.rnd.IntN(3) > 0 {
		name = fmt.Sprintf("q%d", a.rnd.IntN(3))
	}
	a.note("X %s key %d", name, k)
	refused := a.tx == 'T' && a.fixed >= 0 && a.fixed != k%a.shards
	parsed := a.names[name]
	if a.tx == 'E' {
		if !parsed {
			name = ""
			out = pgwire.AppendParse(out, name, sql, nil)
		}
		a.expect = append(a.expect, "E:25P02", "Z:E")
		return a.bind(out, name, marker, k)
	}
	if name == "" || !parsed {
		if a.rnd.IntN(12) == 0 {
			// A Parse that fails, and what is behind it is skipped.
			out = pgwire.AppendParse(out, name, "SELECT '"+marker+"' FROM parse_error WHERE tenant_id = "+fmt.Sprint(k), nil)
			out = pgwire.AppendBind(out, "", name, pgwire.FormatText, nil, pgwire.FormatText)
			out = pgwire.AppendExecute(out, "", 0)
			out = pgwire.AppendSync(out)
			if a.tx == 'T' {
				a.tx = 'E'
				if a.fixed < 0 {
					a.poisoned = true
				}
			}
			if name == "" {
				delete(a.names, "")
			}
			a.note("  which fails")
			a.expect = append(a.expect, "E:42P01", "Z:"+string(a.tx))
			return out
		}
		out = pgwire.AppendParse(out, name, sql, nil)
		switch split := a.rnd.IntN(4); {
		case split == 0:
			// Described on its own first.
			out = pgwire.AppendDescribe(out, pgwire.TargetStatement, name)
			out = pgwire.AppendSync(out)
			a.expect = append(a.expect, "1", "t", "T", "Z:"+string(a.tx))
			a.names[name] = true
		case split == 1:
			out = pgwire.AppendDescribe(out, pgwire.TargetStatement, name)
			out = pgwire.AppendFlush(out)
			a.expect = append(a.expect, "1", "t", "T")
			a.names[name] = true
			if refused {
				a.tx, a.expect = 'E', append(a.expect, "E:0A000", "Z:E")
				return a.bind(out, name, marker, k)
			}
		case refused:
			a.tx, a.expect = 'E', append(a.expect, "E:0A000", "Z:E")
			return a.bind(out, name, marker, k)
		default:
			a.expect = append(a.expect, "1")
			a.names[name] = true
		}
	}
	if refused {
		a.tx, a.expect = 'E', append(a.expect, "E:0A000", "Z:E")
		return a.bind(out, name, marker, k)
	}
	out = a.bind(out, name, marker, k)
	a.expect = append(a.expect, "2")
	a.expect = append(a.expect, a.effect(fmt.Sprintf("SELECT '%s' FROM orders WHERE tenant_id = %d", marker, k), true)...)
	a.expect = append(a.expect, "Z:"+string(a.tx))
	return out
}

func (a *actor) bind(out []byte, name, marker string, k int) []byte {
	out = pgwire.AppendBind(out, "", name, pgwire.FormatText, [][]byte{[]byte(marker), fmt.Append(nil, k)}, pgwire.FormatText)
	out = pgwire.AppendExecute(out, "", 0)
	return pgwire.AppendSync(out)
}

// runModel runs a model to its end.
func runModel(t *testing.T, m *Memory, limit int) {
	t.Helper()
	for i := 0; m.Clients() > 0; i++ {
		if i > limit {
			t.Fatalf("no end after %d steps", i)
		}
		if !m.Step() {
			if m.Clients() == 0 {
				return
			}
			m.Advance(time.Second)
			if i > limit/2 {
				for _, c := range m.clients {
					a := c.actor.(*actor)
					t.Logf("%s: state %s, expects %v, after %v", a.name, c.sess.State(), a.expect, a.history)
				}
				t.Fatal("stuck")
			}
		}
	}
}

func TestEveryAnswerBelongsToItsQuestion(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed, 1+int(seed%3), 1+int(seed%4))
			for i := range 6 {
				m.Connect(newActor(t, seed*100+uint64(i), fmt.Sprintf("c%d", i), 1+int(seed%3), 60, true))
			}
			runModel(t, m, 2_000_000)
		})
	}
}

func TestFaultsLeakNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed, 3, 2)
			m.Faults = 5
			for i := range 8 {
				m.Connect(newActor(t, seed*100+uint64(i), fmt.Sprintf("c%d", i), 3, 60, false))
			}
			runModel(t, m, 2_000_000)
		})
	}
}

// changing has tables change under the statements that its servers have, and returns how often they did.
func changing(m *Memory, seed uint64) *int {
	n := new(int)
	for i, open := range m.servers {
		m.servers[i] = func() MemoryServer {
			s := open().(*modelServer) //nolint:forcetypeassert // all are
			s.changes, s.changed = rand.New(rand.NewPCG(seed, uint64(s.pid))), n
			return s
		}
	}
	return n
}

// TestChangedTablesAreNobodysError: outside of transactions, and before anything of a unit has run, nobody hears that a table has changed under a
// statement that was prepared before.
func TestChangedTablesAreNobodysError(t *testing.T) {
	t.Parallel()
	var all atomic.Int64
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, seed, 1+int(seed%3), 1+int(seed%4))
			n := changing(m, seed)
			for i := range 6 {
				m.Connect(newActor(t, seed*100+uint64(i), fmt.Sprintf("c%d", i), 1+int(seed%3), 60, true))
			}
			runModel(t, m, 2_000_000)
			all.Add(int64(*n))
		})
	}
	t.Cleanup(func() {
		if all.Load() < 100 {
			t.Errorf("%d changes are too few", all.Load())
		}
	})
}
