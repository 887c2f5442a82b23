package loop

import (
	"strings"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// scripted is a client that a test speaks for.
type scripted struct {
	out    []byte
	in     []byte
	got    []string
	auth   []byte // the last message of the exchange
	closed bool
}

func (s *scripted) Receive(b []byte) (out []byte, done bool) {
	s.in = append(s.in, b...)
	if len(s.in) > 0 && (s.in[0] == 'N' || s.in[0] == 'S' && len(s.in) == 1) && len(s.got) == 0 { // the answer to SSLRequest or GSSENCRequest
		s.got = append(s.got, string(s.in[:1])+"!")
		s.in = s.in[1:]
	}
	list, rest := frames(s.in)
	for _, f := range list {
		if f.typ == pgwire.MsgAuthentication {
			s.auth = append([]byte(nil), f.body...)
		}
		if f.typ != pgwire.MsgParameterStatus && f.typ != pgwire.MsgBackendKeyData {
			s.got = append(s.got, token(f))
		}
	}
	s.in = append([]byte(nil), rest...)
	out, s.out = s.out, nil
	return out, false
}

func (s *scripted) Closed(bool) { s.closed = true }

// talk is a conversation of a scripted client.
type talk struct {
	t *testing.T
	m *Memory
	c *MemoryClient
	s *scripted
}

func newTalk(t *testing.T, m *Memory) *talk {
	t.Helper()
	s := &scripted{}
	return &talk{t, m, m.Connect(s), s}
}

// leaves ends the client, of which nothing is to be left.
func (k *talk) leaves() {
	k.t.Helper()
	k.c.sess.Gone()
	for k.m.Step() {
	}
	wantNothingLeft(k.t, k.m)
}

// send sends b and wants the given answer, until nothing happens any more.
func (k *talk) send(b []byte, want string) {
	k.t.Helper()
	k.c.toSession = append(k.c.toSession, b...)
	k.expect(want)
}

func (k *talk) expect(want string) {
	k.t.Helper()
	for k.m.Step() {
	}
	got := strings.Join(k.s.got, " ")
	k.s.got = nil
	if got != want {
		k.t.Fatalf("got %q, want %q", got, want)
	}
}

func (k *talk) query(sql, want string) {
	k.t.Helper()
	k.send(pgwire.AppendQuery(nil, sql), want)
}

func (k *talk) login(want string, params ...string) {
	k.t.Helper()
	k.send(startup(pgwire.Version30, params...), want)
}

func startup(version uint32, params ...string) []byte {
	list := []pgwire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: "prod"}}
	for i := 0; i < len(params); i += 2 {
		list = append(list, pgwire.Param{Name: params[i], Value: params[i+1]})
	}
	return pgwire.AppendStartupMessage(nil, version, list)
}

func TestStartupPackets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tls, required bool
		send          []string // packets, each after the answer to the one before it
		want          []string
	}{
		"plain":                {send: []string{"start"}, want: []string{"R Z:I"}},
		"no TLS":               {send: []string{"ssl", "start"}, want: []string{"N!", "R Z:I"}},
		"no TLS, twice":        {send: []string{"ssl", "ssl"}, want: []string{"N!", "E:0A000"}},
		"GSS":                  {send: []string{"gss", "start"}, want: []string{"N!", "R Z:I"}},
		"GSS, twice":           {send: []string{"gss", "gss"}, want: []string{"N!", "E:0A000"}},
		"TLS":                  {tls: true, required: true, send: []string{"ssl", "start"}, want: []string{"S!", "R Z:I"}},
		"TLS in TLS":           {tls: true, send: []string{"ssl", "ssl"}, want: []string{"S!", "E:0A000"}},
		"TLS required":         {tls: true, required: true, send: []string{"start"}, want: []string{"E:08004"}},
		"no user":              {send: []string{"nobody"}, want: []string{"E:28000"}},
		"protocol 2":           {send: []string{"old"}, want: []string{"E:0A000"}},
		"protocol 3.2":         {send: []string{"new"}, want: []string{"R Z:I"}},
		"options":              {send: []string{"options"}, want: []string{"R Z:I"}},
		"replication":          {send: []string{"replication"}, want: []string{"E:42501"}},
		"no replication":       {send: []string{"no replication"}, want: []string{"R Z:I"}},
		"role":                 {send: []string{"role"}, want: []string{"E:42501"}},
		"lexing":               {send: []string{"lexing"}, want: []string{"E:0A000"}},
		"refused by a server":  {send: []string{"bad"}, want: []string{"R E:22023"}},
		"of no length at all":  {send: []string{"\x00\x00\x00\x01"}, want: []string{""}},
		"not even a whole one": {send: []string{"\x00\x00\x00\x09\x00\x03\x00\x00x"}, want: []string{"E:08P01"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(t, 1, 2, 1)
			m.sh.TLS, m.sh.TLSRequired = c.tls, c.required
			k := newTalk(t, m)
			for i, p := range c.send {
				b := []byte(p)
				switch p {
				case "start":
					b = startup(pgwire.Version30)
				case "ssl":
					b = pgwire.AppendSSLRequest(nil)
				case "gss":
					b = pgwire.AppendGSSENCRequest(nil)
				case "nobody":
					b = pgwire.AppendStartupMessage(nil, pgwire.Version30, []pgwire.Param{{Name: "database", Value: "prod"}})
				case "old":
					b = startup(2 << 16)
				case "new":
					b = startup(pgwire.Version32)
				case "options":
					b = startup(pgwire.Version30, "options", "-c app.v=1 -c pgdog.shard=0")
				case "replication":
					b = startup(pgwire.Version30, "replication", "database")
				case "no replication":
					b = startup(pgwire.Version30, "replication", "off")
				case "role":
					b = startup(pgwire.Version30, "role", "x")
				case "lexing":
					b = startup(pgwire.Version30, "standard_conforming_strings", "off")
				case "bad":
					b = startup(pgwire.Version30, "app.v", "bad")
				}
				k.send(b, c.want[i])
			}
			k.c.sess.Gone()
			wantNothingLeft(t, m)
		})
	}
}

// TestSCRAM: the exchange goes on whether its steps are made at once or elsewhere.
func TestSCRAM(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		for password, want := range map[string]string{"x": "R R Z:I", "y": "E:28P01"} {
			m := newModel(t, seed, 1, 1)
			m.sh.Method = auth.MethodSCRAM
			k := newTalk(t, m)
			k.send(startup(pgwire.Version30), "R")
			client := auth.NewClient("app", auth.NewClientCredential(password), &auth.ClientOptions{})
			for _, want := range []string{"R", want} {
				out, _, err := client.Step(nil, k.lastBody())
				if err != nil {
					t.Fatal(err)
				}
				k.send(out, want)
			}
			k.c.sess.Gone()
		}
	}
	for name, b := range map[string][]byte{
		"E:08P01": pgwire.AppendQuery(nil, "SELECT 1"),
		"":        pgwire.AppendTerminate(nil),
	} {
		m := newModel(t, 1, 1, 1)
		m.sh.Method = auth.MethodSCRAM
		k := newTalk(t, m)
		k.send(startup(pgwire.Version30), "R")
		k.send(b, name)
		if !k.c.sess.Closed() {
			t.Error("the session goes on")
		}
	}
}

// TestOwnSettings: hints are kept here, in both protocols.
func TestOwnSettings(t *testing.T) {
	t.Parallel()
	k := newTalk(t, newModel(t, 1, 2, 1))
	k.login("R Z:I")
	k.query("SET pgdog.shard TO 1", "C:SET Z:I")
	k.query("SHOW pgdog.shard", "T D:1 C:SHOW Z:I")
	k.query("SELECT 'a'", "T D:a@1 C:SELECT 1 Z:I")
	k.query("BEGIN", "C:BEGIN Z:T")
	k.query("SELECT 'a'", "T D:a@1 C:SELECT 1 Z:T")
	k.query("SET pgdog.shard TO 0", "E:25001 Z:E")
	k.query("ROLLBACK", "C:ROLLBACK Z:I")
	k.query("RESET pgdog.shard", "C:RESET Z:I")
	k.query("SET LOCAL pgdog.shard TO 0", "E:0A000 Z:I")
	k.query("SHOW pgdog.nothing", "E:42704 Z:I")
	k.query("SET pgdog.shard TO 1; SELECT 'a'", "E:0A000 Z:I")
	b := pgwire.AppendParse(nil, "", "SHOW pgdog.sharding_key", nil)
	b = pgwire.AppendDescribe(b, pgwire.TargetStatement, "")
	b = pgwire.AppendBind(b, "", "", pgwire.FormatText, nil, pgwire.FormatText)
	b = pgwire.AppendExecute(b, "", 0)
	k.send(pgwire.AppendSync(b), "1 t T 2 D: C:SHOW Z:I")
}

// TestTwoShards: what is refused, and what begins anew elsewhere.
func TestTwoShards(t *testing.T) {
	t.Parallel()
	k := newTalk(t, newModel(t, 1, 2, 1))
	k.login("R Z:I")
	k.query("BEGIN ISOLATION LEVEL SERIALIZABLE", "C:BEGIN Z:T")
	k.query("SELECT 'a' FROM orders WHERE tenant_id = 2", "T D:a@0 C:SELECT 1 Z:T")
	k.query("SELECT 'a' FROM orders WHERE tenant_id = 3", "E:0A000 Z:E")
	k.query("ROLLBACK", "C:ROLLBACK Z:I")
	both := pgwire.AppendParse(nil, "", "SELECT 'a' FROM orders WHERE tenant_id = $1", nil)
	for _, key := range []string{"2", "3"} {
		both = pgwire.AppendBind(both, "", "", pgwire.FormatText, [][]byte{[]byte(key)}, pgwire.FormatText)
		both = pgwire.AppendExecute(both, "", 0)
	}
	k.send(pgwire.AppendSync(both), "1 2 D:a@0 C:SELECT 1 E:0A000 Z:I")
	k.query("COPY orders (tenant_id, v) FROM STDIN", "G")
	k.send(pgwire.AppendCopyData(nil, "2\ta\n"), "")
	k.send(pgwire.AppendCopyData(nil, "3\ta\n"), "E:0A000 Z:I")
	k.query("COPY orders (tenant_id, v) FROM STDIN", "G")
	k.send(pgwire.AppendCopyFail(nil, "x"), "E:57014 Z:I")
	k.query("SET client_encoding TO 'SJIS'", "E:0A000 Z:I")
	k.query("SET standard_conforming_strings TO off", "E:0A000 Z:I")
	k.query("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", "C:SET Z:I")
}

// TestEnds: how a session is ended from outside, and what it says of itself before.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string // a Query before it
		do   func(k *talk)
		want string
		why  session.CloseReason
	}{
		"kill":                {"", func(k *talk) { k.c.sess.Kill(session.ErrShutdown, session.CloseKilled) }, "E:57P01", session.CloseKilled},
		"kill in transaction": {"BEGIN; SELECT 'a'", func(k *talk) { k.c.sess.Kill(session.ErrShutdown, session.CloseShutdown) }, "E:57P01", session.CloseShutdown},
		"idle":                {"", func(k *talk) { k.m.Advance(2 * time.Minute) }, "E:57P05", session.CloseIdle},
		"idle in transaction": {"BEGIN", func(k *talk) { k.m.Advance(2 * time.Minute) }, "E:25P03", session.CloseIdleTx},
		"a bad length":        {"", func(k *talk) { k.c.toSession = []byte{'Q', 0, 0, 0, 1} }, "E:08P01", session.CloseProtocol},
		"an unknown type":     {"", func(k *talk) { k.c.toSession = []byte{'!', 0, 0, 0, 4} }, "E:08P01", session.CloseProtocol},
		"a bug":               {"BEGIN; SELECT 'a'", func(k *talk) { k.c.Discard(k.c.sess.Abandon(), "bug") }, "", session.CloseInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newModel(t, 1, 1, 1)
			a := account(m.sh)
			a.IdleTimeout, a.IdleTransactionTimeout = int64(time.Minute), int64(time.Minute)
			k := newTalk(t, m)
			k.login("R Z:I")
			if c.in != "" {
				k.c.toSession = pgwire.AppendQuery(nil, c.in)
				for m.Step() {
				}
				k.s.got = nil
				if s := k.c.sess; s.State() != "active" || s.Idle() || s.Tx() != pgwire.TxActive {
					t.Errorf("got state %s, status %c", s.State(), s.Tx())
				}
			} else if s := k.c.sess; s.State() != "idle" || !s.Idle() || s.Backend() != nil {
				t.Errorf("got state %s", s.State())
			}
			c.do(k)
			k.expect(c.want)
			if s := k.c.sess; !s.Closed() || s.Reason() != c.why || s.Deadline() != 0 {
				t.Errorf("got %v, want %v", s.Reason(), c.why)
			}
			wantNothingLeft(t, m)
		})
	}
}

// lastBody is the server's last authentication message, as it came.
func (k *talk) lastBody() []byte { return k.s.auth }

// echo is a console that answers with what it was asked, and ends at a Terminate.
type echo struct{ cancelled int }

func (e *echo) Open(string, uint64) session.Conversation { return e }

func (e *echo) Handle(dst []byte, typ byte, body []byte) (out []byte, done bool) {
	if typ == pgwire.MsgTerminate {
		return dst, true
	}
	return pgwire.AppendReadyForQuery(pgwire.AppendCommandComplete(dst, strings.TrimSuffix(string(body), "\x00")), pgwire.TxIdle), false
}

func (e *echo) Cancel() { e.cancelled++ }

func TestConsole(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		m := newModel(t, seed, 1, 1)
		e := &echo{}
		account(m.sh).Console = e
		k := newTalk(t, m)
		k.login("R Z:I", "application_name", "psql")
		k.query("SHOW x", "C:SHOW x Z:I")
		k.send(append(pgwire.AppendQuery(nil, "a"), pgwire.AppendQuery(nil, "b")...), "C:a Z:I C:b Z:I")
		k.c.sess.Cancel()
		if e.cancelled != 1 {
			t.Errorf("cancelled %d times", e.cancelled)
		}
		if seed%2 == 0 {
			k.send([]byte{'Q', 0xff, 0xff, 0xff, 0xff}, "E:08P01")
		} else {
			k.send(pgwire.AppendTerminate(nil), "")
		}
		if !k.c.sess.Closed() {
			t.Error("the session goes on")
		}
	}
}

// TestCancel: a cancel request ends what waits for a backend, and what runs, whatever the key of others.
func TestCancel(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	first, second := newTalk(t, m), newTalk(t, m)
	first.login("R Z:I")
	second.login("R Z:I")
	first.query("BEGIN; SELECT 'a'", "C:BEGIN T D:a@0 C:SELECT 1 Z:T")
	second.query("SELECT 'b'", "")
	if s := second.c.sess; s.State() != "waiting" || s.WaitingSince() == 0 {
		t.Errorf("got state %s", s.State())
	}
	m.Connect(&canceller{key: pgwire.AppendCancelRequest(nil, second.c.pid, []byte{0, 0, 0, 0})})
	second.expect("")
	m.Connect(&canceller{key: pgwire.AppendCancelRequest(nil, second.c.pid, second.c.secret)})
	second.expect("E:57014 Z:I")
	m.Connect(&canceller{key: pgwire.AppendCancelRequest(nil, second.c.pid, second.c.secret)})
	second.expect("")
	second.query("SELECT 'b'", "")
	first.query("COMMIT", "C:COMMIT Z:I")
	second.expect("T D:b@0 C:SELECT 1 Z:I")
	// One that waits for rows to copy is cancelled at its server, which is for nobody else then.
	first.query("COPY orders (tenant_id, v) FROM STDIN", "G")
	m.Connect(&canceller{key: pgwire.AppendCancelRequest(nil, first.c.pid, first.c.secret)})
	first.expect("")
	first.send(pgwire.AppendCopyData(nil, "2\ta\n"), "E:57014 Z:I")
	second.query("SELECT 'b'", "T D:b@0 C:SELECT 1 Z:I")
	first.c.sess.Gone()
	second.c.sess.Gone()
	for m.Step() {
	}
	wantNothingLeft(t, m)
}

// TestCheckoutTimeout: who waits too long is told, and in a transaction that fails it.
func TestCheckoutTimeout(t *testing.T) {
	t.Parallel()
	m := newModel(t, 1, 1, 1)
	first, second := newTalk(t, m), newTalk(t, m)
	first.login("R Z:I")
	second.login("R Z:I")
	first.query("BEGIN; SELECT 'a'", "C:BEGIN T D:a@0 C:SELECT 1 Z:T")
	second.query("BEGIN", "C:BEGIN Z:T")
	second.query("SELECT 'b'", "")
	m.Advance(2 * time.Hour)
	second.expect("E:53300 Z:E")
	second.query("SELECT 'b'; SELECT 'c'", "E:25P02 Z:E")
	second.query("ROLLBACK", "C:ROLLBACK Z:I")
	third := newTalk(t, m)
	third.login("R", "app.base", "x")
	m.Advance(2 * time.Hour)
	third.expect("E:53300")
	if third.c.sess.Reason() != session.CloseUnavailable {
		t.Errorf("got %v", third.c.sess.Reason())
	}
}

// TestResetInFailedTransaction: what the client chose at its start is not said to a transaction that failed, which ends as it should.
func TestResetInFailedTransaction(t *testing.T) {
	t.Parallel()
	k := newTalk(t, newModel(t, 1, 1, 1))
	k.login("R Z:I", "app.base", "x")
	k.query("BEGIN", "C:BEGIN Z:T")
	k.query("SELECT 'a'", "T D:a@0 C:SELECT 1 Z:T")
	k.query("RESET app.base; SELECT 1/0", "C:RESET E:22012 Z:E")
	k.query("ROLLBACK", "C:ROLLBACK Z:I")
	k.query("SHOW app.base", "T D:x C:SHOW Z:I")
}

// TestBeginAndSetInOneBatch: both keep their text though both portals have no name.
func TestBeginAndSetInOneBatch(t *testing.T) {
	t.Parallel()
	k := newTalk(t, newModel(t, 1, 1, 1))
	k.login("R Z:I")
	var b []byte
	for _, sql := range []string{"BEGIN", "SET LOCAL app.v TO 'x'", "SHOW app.v"} {
		b = pgwire.AppendParse(b, "", sql, nil)
		b = pgwire.AppendBind(b, "", "", pgwire.FormatText, nil, pgwire.FormatText)
		b = pgwire.AppendExecute(b, "", 0)
	}
	k.send(pgwire.AppendSync(b), "1 2 C:BEGIN 1 2 C:SET 1 2 D:x C:SHOW Z:T")
	k.query("COMMIT", "C:COMMIT Z:I")
	k.query("SHOW app.v", "T D: C:SHOW Z:I")
}
