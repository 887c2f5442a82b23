package loop

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// tape is chance as the fuzz engine has it: a byte for each choice, then those of a generator.
type tape struct {
	b    []byte
	then rand.Source
}

func (p *tape) Uint64() uint64 {
	if len(p.b) == 0 {
		return p.then.Uint64()
	}
	v := uint64(p.b[0])
	p.b = p.b[1:]
	return v * 0x0101010101010101
}

// taped is a model whose order of events is the engine's.
func taped(t *testing.T, order []byte, shards, size int) *Memory {
	t.Helper()
	m := newModel(t, 1, shards, size)
	m.rnd = rand.New(&tape{order, rand.NewPCG(1, 1)})
	m.Lent = func(_ *MemoryClient, b *MemoryBackend) { wantFresh(t, b) }
	return m
}

// understood is what the model of a server runs as PostgreSQL does.
var understood = regexp.MustCompile(`^(` + strings.NewReplacer(
	"NAME", `[a-z]{1,9}|pgkennel_\w{1,30}`, "SETTING", `"?app"?\."?[a-z]"?|"?timezone"?|"?application_name"?`, "VALUE", `'[a-z0-9 ./@-]{0,99}'|\$[1-9]`, "KEY", `'?\d{1,4}'?|\$[1-9]`,
).Replace(strings.Join([]string{
	`BEGIN( ISOLATION LEVEL (READ COMMITTED|SERIALIZABLE))?`, `(COMMIT|ROLLBACK)( AND CHAIN)?`, `(SAVEPOINT|RELEASE|ROLLBACK TO) (NAME)`,
	`SET (LOCAL )?(SETTING) TO (VALUE)`, `(RESET|SHOW) (SETTING)`, `RESET ALL`, `DISCARD (ALL|SEQUENCES)`, `SELECT 1/0`, `SELECT pg_advisory_(un)?lock\((VALUE)\)`,
	`SELECT (VALUE)( FROM orders WHERE tenant_id = (KEY)( LIMIT [1-9])?)?`, `COPY orders( \(tenant_id, v\))? FROM STDIN`,
	`COPY \(SELECT (VALUE) FROM orders WHERE tenant_id = (KEY)\) TO STDOUT`, `LISTEN (NAME)|UNLISTEN \*`, `CREATE TEMP TABLE tmp \(a int\)|DROP TABLE tmp|SELECT (VALUE) FROM tmp`,
	`DECLARE (NAME) CURSOR (WITH HOLD )?FOR SELECT (VALUE)( FROM orders WHERE tenant_id = (KEY))?`, `(FETCH|CLOSE) (NAME)`, `PREPARE (NAME) AS SELECT( (VALUE))?`, `(EXECUTE|DEALLOCATE) (NAME)`, `DEALLOCATE ALL`,
	`SELECT FROM pg_catalog\.generate_series\(.*`,
}, "|")) + `)$`)

// ends runs a model until all clients are gone, however long they wait for; nothing may be left of them.
func (m *Memory) ends(t *testing.T) {
	t.Helper()
	for quiet := 0; m.Clients() > 0; {
		if m.Step() {
			quiet = 0
			continue
		}
		m.Advance(time.Second)
		if quiet++; quiet > 1000 {
			for _, c := range m.clients {
				t.Errorf("%T waits for ever in state %s", c.actor, c.sess.State())
			}
			t.FailNow()
		}
	}
	for m.Step() {
	}
	m.Advance(settleTimeout)
	for m.Step() {
	}
	wantNothingLeft(t, m)
}

// rambler is a client that says what it was given, hears that it is answered by whole messages, and leaves.
type rambler struct {
	t         *testing.T
	say       []byte
	said      bool
	encrypted int // answers to requests for encryption that may come still
	in        []byte
}

func (r *rambler) Receive(b []byte) (out []byte, done bool) {
	r.in = append(r.in, b...)
	for len(r.in) > 0 && r.encrypted > 0 && r.in[0] == 'N' && (len(r.in) == 1 || r.in[1] != 0) {
		r.encrypted--
		r.in = r.in[1:]
	}
	list, rest := frames(r.in)
	for _, f := range list {
		sound(r.t, f)
		if bytes.Contains(f.body, []byte("secret of ")) {
			r.t.Errorf("heard %q, which is another's", f.body)
		}
	}
	if len(rest) > 0 && !strings.ContainsRune(toClients, rune(rest[0])) {
		r.t.Fatalf("heard %q", rest)
	}
	r.in = append([]byte(nil), rest...)
	if !r.said {
		r.said = true
		return r.say, true
	}
	return nil, true
}

func (*rambler) Closed(bool) {}

// toClients are the types of all messages that a client is ever sent.
const toClients = "RSKZTDCENI123tnsGHdcAv"

// sound checks a message for a client.
func sound(t *testing.T, f frame) {
	t.Helper()
	if !strings.ContainsRune(toClients, rune(f.typ)) {
		t.Fatalf("heard a message of type %q: %q", f.typ, f.body)
	}
	var err error
	switch f.typ {
	case pgwire.MsgErrorResponse: // others are not looked at on their way
		_, err = pgwire.DecodeError(f.body)
	case pgwire.MsgReadyForQuery:
		_, err = pgwire.DecodeReadyForQuery(f.body)
	case pgwire.MsgParameterStatus:
		_, _, err = pgwire.DecodeParameterStatus(f.body)
	}
	if err != nil {
		t.Fatalf("heard %c %q: %v", f.typ, f.body, err)
	}
}

// FuzzClient: whatever a client says, from its first byte or behind its login, and however that is cut and comes between what others say, it is answered by
// whole messages or closed; who is there besides hears its own answers, and nothing is left.
func FuzzClient(f *testing.F) {
	hello := startup(pgwire.Version30)
	f.Add(hello, false, []byte{})
	f.Add(append(pgwire.AppendSSLRequest(nil), hello...), false, []byte{1})
	f.Add(pgwire.AppendCancelRequest(nil, 1, []byte("abcd")), false, []byte{2})
	f.Add(append(startup(pgwire.Version32, "timezone", "x", "_pq_.a", "b"), pgwire.AppendQuery(nil, "SELECT 'a'")...), false, []byte{})
	for _, sql := range []string{
		"SELECT 'a' FROM orders WHERE tenant_id = 2", "BEGIN; SET LOCAL app.v TO 'x'; SELECT 'a'", "COPY orders FROM STDIN", "COPY orders TO STDOUT",
		"DECLARE c CURSOR WITH HOLD FOR SELECT 'a'", "PREPARE p AS SELECT 'a'; EXECUTE p; DEALLOCATE ALL", "SELECT pg_advisory_lock('1')", "LISTEN a; UNLISTEN *", "DISCARD ALL",
		"SAVEPOINT a", "CREATE TEMP TABLE tmp (a int)", "SET ROLE x", "SHOW timezone", "", ";;", "SELECT '", "/*",
	} {
		q := pgwire.AppendQuery(nil, sql)
		f.Add(pgwire.AppendQuery(append(pgwire.AppendQuery(nil, "BEGIN"), q...), "SELECT 'b' FROM orders WHERE tenant_id = 3"), true, []byte{0, 255, 0, 128})
		b := pgwire.AppendParse(nil, "s", sql, nil)
		b = pgwire.AppendBind(b, "p", "s", pgwire.FormatText, nil, pgwire.FormatText)
		b = pgwire.AppendDescribe(b, pgwire.TargetPortal, "p")
		b = pgwire.AppendFlush(pgwire.AppendExecute(b, "p", 1))
		b = append(pgwire.AppendExecute(b, "p", 0), "d\x00\x00\x00\x06a\nc\x00\x00\x00\x04f\x00\x00\x00\x05\x00"...)
		b = pgwire.AppendClose(pgwire.AppendSync(b), pgwire.TargetStatement, "s")
		f.Add(pgwire.AppendSync(b), true, []byte{7, 7, 255, 0})
	}
	f.Add([]byte("F\x00\x00\x00\x0e\x00\x00\x03\xbb\x00\x00\x00\x00\x00\x00Q\x7f\xff\xff\xff"), true, []byte{})
	f.Fuzz(func(t *testing.T, b []byte, in bool, order []byte) {
		m := taped(t, order, 2, 1)
		for i, open := range m.servers {
			m.servers[i] = func() MemoryServer {
				s := open()
				s.(*modelServer).knows = understood //nolint:forcetypeassert // all are
				return s
			}
		}
		say := bytes.Clone(b)
		if in {
			say = append(bytes.Clone(hello), say...)
		}
		m.Connect(&rambler{t: t, say: say, encrypted: 2})
		m.Connect(newActor(t, 1, "secret of c1", 2, 6, true))
		m.ends(t)
	})
}

// FuzzTurns: whatever order things happen in, with a backend or two for several clients, each answer is that of its question.
func FuzzTurns(f *testing.F) {
	f.Add(uint64(1), uint8(0), false, []byte{})
	f.Add(uint64(2), uint8(1), false, []byte{0, 0, 0, 0, 255, 255})
	f.Add(uint64(3), uint8(2), true, []byte("interleaved"))
	f.Fuzz(func(t *testing.T, seed uint64, size uint8, faults bool, order []byte) {
		m := taped(t, order, 1+int(size>>4&1), 1+int(size%2))
		if faults {
			m.Faults = 10
		}
		for i := range 4 {
			m.Connect(newActor(t, seed+uint64(i), fmt.Sprint("c", i), len(m.pools), 12, !faults))
		}
		m.ends(t)
	})
}

// liar is a server that says something else in the place of some bytes of an answer.
type liar struct {
	*modelServer
	after, lost int // bytes
	lie         []byte
	ends        bool // behind that
	over        bool
}

func (l *liar) Receive(b []byte) (out []byte, closed bool) {
	out, closed = l.modelServer.Receive(b)
	switch n := len(out); {
	case l.over && l.ends:
		return nil, true
	case l.over:
		lost := min(l.lost, n)
		l.lost -= lost
		return out[lost:], closed
	case l.after > n:
		l.after -= n
		return out, closed
	}
	l.over = true
	lost := min(l.lost, len(out)-l.after)
	l.lost -= lost
	said := append(bytes.Clone(out[:l.after]), l.lie...)
	if l.ends {
		return said, true
	}
	return append(said, out[l.after+lost:]...), closed
}

// asker sends units one after the other, each when the one before it is answered.
type asker struct {
	t       *testing.T
	units   [][]byte
	want    string // of each answer; empty = it is answered by whole messages, once
	in      []byte
	got     []string
	started bool
	ready   bool // nothing is owed
	leaves  bool

	extended bool // what is asked
}

func (a *asker) Receive(b []byte) (out []byte, done bool) {
	if !a.started {
		a.started = true
		return startup(pgwire.Version30), false
	}
	a.in = append(a.in, b...)
	list, rest := frames(a.in)
	for _, f := range list {
		sound(a.t, f)
		if a.ready && !strings.ContainsRune("SNAE", rune(f.typ)) {
			a.t.Fatalf("heard %c %q, and had asked nothing", f.typ, f.body)
		}
		switch f.typ {
		case pgwire.MsgReadyForQuery:
			a.ready = true
		case 'G':
			out = append(out, "d\x00\x00\x00\x09a\t1\nbc\x00\x00\x00\x04"...)
			if a.extended { // the server has ignored the one before
				out = pgwire.AppendSync(out)
			}
		}
		if a.want != "" { // rows are not looked at on their way, whatever they are
			a.got = append(a.got, token(f))
		}
	}
	a.in = append([]byte(nil), rest...)
	if !a.ready {
		return out, false
	}
	if got := strings.Join(a.got, " "); a.want != "" && got != a.want && !strings.HasPrefix(got, "R ") {
		a.t.Fatalf("got %q, want %q", got, a.want)
	}
	if len(a.units) == 0 {
		a.leaves = true
		return nil, true
	}
	a.got, a.ready = nil, false
	a.extended = a.units[0][0] == pgwire.MsgParse
	out = append(out, a.units[0]...)
	a.units = a.units[1:]
	return out, false
}

func (a *asker) Closed(bool) {
	if a.want != "" && !a.leaves {
		a.t.Error("a client was closed whose server had done nothing")
	}
}

// asked are units whose answers a server may give wrongly.
func asked(kind byte) []byte {
	where := " FROM orders WHERE tenant_id = 2"
	b := pgwire.AppendParse(nil, "", "SELECT $1"+where, nil)
	switch kind % 10 {
	case 0:
		return pgwire.AppendQuery(nil, "SELECT 'a'"+where)
	case 1:
		return pgwire.AppendQuery(nil, "BEGIN")
	case 2:
		return pgwire.AppendQuery(nil, "COMMIT")
	case 3:
		return pgwire.AppendQuery(nil, "COPY orders FROM STDIN")
	case 4:
		return pgwire.AppendQuery(nil, "SET app.v TO 'x'")
	case 5:
		b = pgwire.AppendBind(b, "", "", pgwire.FormatText, [][]byte{[]byte("a")}, pgwire.FormatText)
		b = pgwire.AppendDescribe(b, pgwire.TargetPortal, "")
		return pgwire.AppendSync(pgwire.AppendExecute(b, "", 0))
	case 6:
		return pgwire.AppendSync(pgwire.AppendDescribe(b, pgwire.TargetStatement, ""))
	case 7: // a named one, and in two parts
		b = pgwire.AppendParse(nil, "s", "SELECT 'b'"+where, nil)
		b = pgwire.AppendFlush(pgwire.AppendDescribe(b, pgwire.TargetStatement, "s"))
		b = pgwire.AppendBind(b, "", "s", pgwire.FormatText, nil, pgwire.FormatText)
		return pgwire.AppendSync(pgwire.AppendClose(pgwire.AppendExecute(b, "", 1), pgwire.TargetStatement, "s"))
	case 8:
		return pgwire.AppendQuery(nil, "SELECT 'a'"+where+"; SELECT 'b'"+where)
	default:
		return pgwire.AppendQuery(nil, "SELECT pg_advisory_lock('1')"+where)
	}
}

// FuzzServer: whatever one server says, and leaves out, instead of an answer or in the middle of it, its client is answered by whole messages, once for each
// unit, or closed; it never waits longer than a statement may take. Who has another server hears nothing of it.
func FuzzServer(f *testing.F) {
	rare := map[string]string{
		"CopyInResponse": "G\x00\x00\x00\x07\x00\x00\x00", "CopyInResponse, columns": "G\x00\x00\x00\x0b\x01\x00\x02\x00\x01\x00\x01", "CopyOutResponse": "H\x00\x00\x00\x07\x00\x00\x00d\x00\x00\x00\x05xc\x00\x00\x00\x04",
		"CopyBothResponse": "W\x00\x00\x00\x07\x00\x00\x00", "NegotiateProtocolVersion": "v\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00",
		"NotificationResponse": "A\x00\x00\x00\x0d\x00\x00\x00\x01a\x00hi\x00", "FunctionCallResponse": "V\x00\x00\x00\x08\xff\xff\xff\xff", "PortalSuspended": "s\x00\x00\x00\x04",
		"AuthenticationOk": "R\x00\x00\x00\x08\x00\x00\x00\x00", "BackendKeyData": "K\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x02", "EmptyQueryResponse": "I\x00\x00\x00\x04",
		"ReadyForQuery": "Z\x00\x00\x00\x05I", "failed": "Z\x00\x00\x00\x05E", "FATAL": "E\x00\x00\x00\x1aSFATAL\x00C57P01\x00Mno\x00\x00\x00\x00\x00\x00\x00\x00", "ParameterStatus": "S\x00\x00\x00\x1bclient_encoding\x00LATIN1\x00",
		"long": "D\x7f\xff\xff\xff", "nothing": "",
	}
	for _, lie := range rare {
		for kind := range byte(10) {
			f.Add([]byte{1, kind, 5, kind}, uint16(20), uint16(kind), []byte(lie), kind == 3, []byte{})
			f.Add([]byte{kind, kind, 0}, uint16(0), uint16(1000), []byte(lie), false, []byte{})
		}
	}
	f.Fuzz(func(t *testing.T, kinds []byte, after, lost uint16, lie []byte, ends bool, order []byte) {
		m := taped(t, order, 2, 1)
		m.Ready = func() topology.ShardID { return 0 }
		m.Lent = nil // who has lied is found out in time, or it was none
		a := account(m.sh)
		a.QueryTimeout, a.CancelTimeout = int64(time.Minute), int64(time.Second)
		open, first := m.servers[0], true
		m.servers[0] = func() MemoryServer {
			s := open()
			if !first {
				return s
			}
			first = false
			return &liar{modelServer: s.(*modelServer), after: int(after % 512), lost: int(lost), lie: lie, ends: ends} //nolint:forcetypeassert // all are
		}
		var units, others [][]byte
		for _, kind := range kinds[:min(len(kinds), 12)] {
			units = append(units, asked(kind))
			others = append(others, pgwire.AppendQuery(nil, "SELECT 'mine' FROM orders WHERE tenant_id = 3"))
		}
		m.Connect(&asker{t: t, units: units})
		m.Connect(&asker{t: t, units: others, want: "T D:mine@1 C:SELECT 1 Z:I"})
		m.ends(t)
	})
}
