package backend

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// conversation is what a client says, and the steps that go with it.
type conversation struct {
	name  string
	steps string
	say   []byte
	// behind are steps that are asked for at CopyInResponse: their messages are behind the data.
	behind string
	ready  int // how many ReadyForQuery end it
}

func parse(name, sql string) []byte { return pgwire.AppendParse(nil, name, sql, nil) }

func bind(portal, name string, params ...string) []byte {
	var values [][]byte
	for _, p := range params {
		values = append(values, []byte(p))
	}
	return pgwire.AppendBind(nil, portal, name, pgwire.FormatText, values, pgwire.FormatText)
}

func say(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func query(sql string) []byte                       { return pgwire.AppendQuery(nil, sql) }
func execute(portal string, rows uint32) []byte     { return pgwire.AppendExecute(nil, portal, rows) }
func describe(k pgwire.TargetKind, n string) []byte { return pgwire.AppendDescribe(nil, k, n) }

var (
	syncMsg  = pgwire.AppendSync(nil)
	flushMsg = pgwire.AppendFlush(nil)
	copyDone = pgwire.AppendCopyDone(nil)
)

// conversations that a real server answers in every way it has.
func conversations() []conversation {
	data := say(pgwire.AppendCopyData(nil, "1\tone\n2\ttwo\n"), pgwire.AppendCopyData(nil, "3\tthree\n"))
	return []conversation{
		{name: "several statements", steps: "Q", ready: 1, say: query("SELECT 1; SET TimeZone TO 'Europe/Berlin'; SELECT g FROM generate_series(1, 50) g; SELECT 1/0; SELECT 2")},
		{name: "parameters", steps: "Qi Q", ready: 2, say: say(query("SET TimeZone TO 'Europe/Berlin'"), query("SET application_name TO 'x'; SELECT 1; SET client_encoding TO LATIN1"))},
		{name: "empty", steps: "Q Q Q", ready: 3, say: say(query(""), query(";;"), query(" SELECT 1 ;; "))},
		{name: "notices", steps: "Qi Q", ready: 2, say: say(
			query("DO $$ BEGIN RAISE NOTICE 'ours'; END $$; SELECT 1"),
			query("DO $$ BEGIN RAISE NOTICE 'hers'; RAISE WARNING '%', repeat('x', 100000); END $$; SELECT 1; DROP TABLE IF EXISTS nothing"))},
		{name: "large rows", steps: "Q Qi", ready: 2, say: say(
			query("SELECT repeat('x', n), n, NULL FROM unnest(ARRAY[10, 100000, 3, 300000, 1]) n"), query("SELECT repeat('y', 200000)"))},
		{name: "many columns", steps: "Q", ready: 1, say: query("SELECT " + strings.Repeat("1 AS a_rather_long_name_for_a_column,", 500) + "2")},
		{name: "pipeline", steps: "P B d E D P B E C C S", ready: 1, say: say(
			parse("a", "SELECT $1::int + g FROM generate_series(1, 3) g"), bind("", "a", "1"), describe('P', ""), execute("", 0), describe('S', "a"),
			parse("", "SET application_name TO 'x'"), bind("p", ""), execute("p", 0),
			pgwire.AppendClose(nil, 'S', "a"), pgwire.AppendClose(nil, 'P', "nothing"), syncMsg)},
		{name: "error in the middle", steps: "P B E Pi B E S P S", ready: 2, say: say(
			parse("", "SELECT 1"), bind("", ""), execute("", 0), parse("", "SELECT 1/$1"), bind("", "", "0"), execute("", 0), syncMsg,
			parse("", "SELEKT"), syncMsg)},
		{name: "suspended", steps: "P B E E E E S", ready: 1, say: say(
			parse("", "SELECT generate_series(1, 5)"), bind("p", ""), execute("p", 2), flushMsg, execute("p", 2), flushMsg, execute("p", 2), execute("p", 2), syncMsg)},
		{name: "no rows, no data", steps: "P D B d E S", ready: 1, say: say(
			parse("", "DISCARD PLANS"), describe('S', ""), bind("", ""), describe('P', ""), execute("", 0), syncMsg)},
		{name: "empty portal", steps: "P B E S", ready: 1, say: say(parse("", ""), bind("", ""), execute("", 0), syncMsg)},
		{name: "transaction", steps: "Q Q Q Q", ready: 4, say: say(query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("COMMIT"))},
		{name: "commit fails at Sync", steps: "P B E S", ready: 1, say: say(parse("", "INSERT INTO deferred VALUES (1)"), bind("", ""), execute("", 0), syncMsg)},
		{name: "copy out", steps: "Q Qi", ready: 2, say: say(
			query("COPY (SELECT g, repeat('x', 2000) FROM generate_series(1, 100) g) TO STDOUT; SELECT 1"), query("COPY (SELECT 1) TO STDOUT"))},
		{name: "copy out, extended", steps: "P B E S", ready: 1, say: say(parse("", "COPY (SELECT repeat('x', 100000)) TO STDOUT"), bind("", ""), execute("", 0), syncMsg)},
		{name: "copy in", steps: "Q", ready: 1, say: say(query("COPY t FROM STDIN; SELECT count(*) FROM t"), data, copyDone)},
		{name: "copy in fails", steps: "Q Q", ready: 2, say: say(
			query("COPY t FROM STDIN"), pgwire.AppendCopyData(nil, "nonsense\n"), copyDone, query("SELECT 1"))},
		{name: "copy in is failed", steps: "Q", ready: 1, say: say(query("COPY t FROM STDIN"), data, pgwire.AppendCopyFail(nil, "changed my mind"))},
		// The first two Syncs count for nothing.
		{name: "copy in, extended", steps: "P B E L S L S", behind: "L S", ready: 1, say: say(
			parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), syncMsg, syncMsg, data, copyDone, syncMsg)},
		{name: "copy in, extended, fails", steps: "P B E S", behind: "P S", ready: 1, say: say(
			parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), syncMsg, pgwire.AppendCopyData(nil, "nonsense\n"), copyDone,
			parse("", "SELECT 1"), syncMsg)},
		{name: "copy in behind a Query", steps: "Q S", behind: "", ready: 1, say: say(query("COPY t FROM STDIN"), syncMsg, data, copyDone)},
		{name: "extended ended by a Query", steps: "P B E Q", ready: 1, say: say(parse("", "SELECT 1"), bind("", ""), execute("", 0), query("SELECT 2"))},
		{name: "an error swallows the Query", steps: "P Q B S", ready: 1, say: say(parse("", "SELEKT"), query("SELECT 2"), bind("", ""), syncMsg)},
		{name: "notification", steps: "Q Q", ready: 2, say: say(query("LISTEN c"), query("NOTIFY c, 'payload'"))},
	}
}

// listen has a conversation with a real server and returns its answer, as bytes.
func listen(t *testing.T, c *pgtest.Client, v conversation) []byte {
	t.Helper()
	c.Write(v.say)
	var b []byte
	buf := make([]byte, 64<<10)
	ready, pos := 0, 0
	for ready < v.ready {
		if err := c.Conn.SetReadDeadline(time.Now().Add(pgtest.DefaultTimeout)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Conn.Read(buf)
		if n == 0 {
			t.Fatalf("%s: %v after %s", v.name, err, outline(b))
		}
		b = append(b, buf[:n]...)
		for {
			typ, total, ok := pgwire.Header(b[pos:])
			if !ok || pos+total > len(b) {
				break
			}
			if typ == pgwire.MsgReadyForQuery {
				ready++
			}
			pos += total
		}
	}
	// A message too many would be the start of the next answer.
	c.Write(say(syncMsg))
	rest := make([]byte, 6)
	if _, err := io.ReadFull(c.Conn, rest); err != nil || rest[0] != 'Z' {
		t.Fatalf("%s: %v; the server went on with %q", v.name, err, rest)
	}
	return b[:pos]
}

// play feeds a stream to a new machine, cut by next, and returns what its owner heard.
func play(t testing.TB, v conversation, b []byte, next func(left int) int) ([]string, []byte, *Conn, error) {
	t.Helper()
	conn, r := newConn(steps(v.steps))
	r.onCopyIn = func(*Step) {
		for _, s := range steps(v.behind) {
			s.Ref += 100
			conn.Ask(s)
		}
	}
	for len(b) > 0 {
		piece := bytes.Clone(b[:next(len(b))])
		b = b[len(piece):]
		if err := conn.Feed(piece); err != nil {
			return r.take(), r.all, conn, err
		}
		for i := range piece {
			piece[i] = 0xEE // whoever kept it is found out
		}
	}
	return r.take(), r.all, conn, nil
}

// TestAnyChunkingIsTheSame cuts what a real server sent in every possible way.
func TestAnyChunkingIsTheSame(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.CreateDatabase(t, "CREATE TABLE t (id int, v text)",
		"CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE deferred (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
	for _, v := range conversations() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			c := pg.Connect(t, pgtest.Login{User: pgtest.Superuser, Database: db})
			b := listen(t, c, v)
			events, relayed, conn, err := play(t, v, b, func(left int) int { return left })
			if err != nil {
				t.Fatalf("%v after %q, of %s", err, events, outline(b))
			}
			if conn.Pending() != 0 {
				t.Fatalf("%d answers owed after %q", conn.Pending(), events)
			}
			if v.name == "parameters" {
				for _, p := range []string{"TimeZone=Europe/Berlin", "application_name=x", "client_encoding=LATIN1"} {
					if !slices.Contains(events, "parameter "+p) {
						t.Errorf("got %q, want to hear of %s", events, p)
					}
				}
			}
			for i := 0; i < len(relayed); { // whole messages, and none that is the owner's business
				typ, total, ok := pgwire.Header(relayed[i:])
				if !ok || i+total > len(relayed) || strings.IndexByte("ZSEG", typ) >= 0 {
					t.Fatalf("relayed %s", outline(relayed))
				}
				i += total
			}
			check := func(how string, next func(left int) int) {
				t.Helper()
				e, r, conn, err := play(t, v, b, next)
				if err != nil || conn.Pending() != 0 || conn.MidMessage() {
					t.Fatalf("%s: %v, %d owed", how, err, conn.Pending())
				}
				if d := cmp.Diff(events, e); d != "" {
					t.Fatalf("%s: events (-whole +cut):\n%s", how, d)
				}
				if !bytes.Equal(r, relayed) {
					t.Fatalf("%s: relayed %d bytes, want %d", how, len(r), len(relayed))
				}
			}
			if len(b) < 100000 {
				check("byte by byte", func(int) int { return 1 })
			}
			for _, n := range []int{2, 3, 5, 7, 64, 4096} {
				check("pieces", func(left int) int { return min(n, left) })
			}
			for seed := range uint64(20) {
				rnd := rand.New(rand.NewPCG(seed, 9))
				size := 1 + rnd.IntN(1<<rnd.IntN(17))
				check("random pieces", func(left int) int { return min(left, 1+rnd.IntN(size)) })
			}
		})
	}
}

// FuzzChunks: whatever a server sends, the machine makes the same of it however it is cut, up to what breaks it.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"T D:1 C:X Z", "1 2 T D:1 D:2 C:SELECT_2 Z", "E Z", "N:x S:a=b A:x Z", "G C:COPY_1 Z", "H d:1 c C:X Z", "t n Z"} {
		for _, n := range []string{"Q", "Qi Q", "P B d E S", "D L S", "E S"} {
			f.Add(n, stream(s), uint64(7))
		}
	}
	f.Fuzz(func(t *testing.T, notation string, b []byte, seed uint64) {
		for _, r := range notation {
			if !strings.ContainsRune("PBCDdESQLi ", r) {
				t.Skip()
			}
		}
		if strings.HasPrefix(strings.TrimLeft(notation, " "), "i") || len(notation) > 100 {
			t.Skip()
		}
		v := conversation{steps: notation, behind: "L S"}
		events, relayed, conn, err := play(t, v, b, func(left int) int { return left })
		rnd := rand.New(rand.NewPCG(seed, 9))
		cutEvents, cutRelayed, cut, cutErr := play(t, v, b, func(left int) int { return 1 + rnd.IntN(min(left, 40)) })
		if err != nil || cutErr != nil {
			if err == nil || cutErr == nil || err.Error() != cutErr.Error() {
				t.Fatalf("whole: %v, cut: %v", err, cutErr)
			}
			if !bytes.HasPrefix(cutRelayed, relayed) { // rows in front of what broke it may have gone out already
				t.Fatalf("whole: %q, cut: %q", relayed, cutRelayed)
			}
			return
		}
		if d := cmp.Diff(events, cutEvents); d != "" {
			t.Fatalf("events (-whole +cut):\n%s", d)
		}
		if !bytes.Equal(relayed, cutRelayed) || conn.Pending() != cut.Pending() || conn.Clean() != cut.Clean() || conn.MidMessage() != cut.MidMessage() {
			t.Fatalf("whole: %q, %d owed; cut: %q, %d owed", relayed, conn.Pending(), cutRelayed, cut.Pending())
		}
	})
}
