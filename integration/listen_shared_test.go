package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// tellingSchema has a function and a trigger that notify.
const tellingSchema = `
CREATE FUNCTION say(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', $1); RETURN ''; END $$;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', NEW.note); RETURN NEW; END $$;
CREATE TRIGGER tell AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION tell();
GRANT EXECUTE ON FUNCTION say(text) TO PUBLIC;
`

// oneLogin is a stand whose tenants 1, 2 and 4 share the login app, and its connections.
func oneLogin(t *testing.T, mode string, connections int) *stand {
	t.Helper()
	s := prepare(t, spec{schema: rowsSchema, users: switching, general: fmt.Sprintf("default_pool_size = %d\n", connections)})
	db := s.shards[0].db
	tenancy := "[multi_tenant]\ncolumn = \"tenant_id\"\nmode = \"shared\"\n"
	if mode == "schema" {
		tenancy = fmt.Sprintf("[multi_tenant]\nisolation = \"schema\"\nmode = \"shared\"\nschema = \"t_{key}\"\nrole = \"%s_r{key}\"\n", db)
		s.shards[0].Exec(t, db, strings.Replace(fmt.Sprintf(tellingSchema, "countries"), "CREATE TRIGGER tell", "CREATE TRIGGER unused", 1))
		for _, key := range []int{1, 2, 4} {
			s.shards[0].Exec(t, db, fmt.Sprintf(`CREATE ROLE %[1]s_r%[2]d; GRANT %[1]s_r%[2]d TO app; CREATE SCHEMA t_%[2]d AUTHORIZATION %[1]s_r%[2]d;
CREATE TABLE t_%[2]d.orders (id bigserial, note text); CREATE TRIGGER tell AFTER INSERT ON t_%[2]d.orders FOR EACH ROW EXECUTE FUNCTION tell();
GRANT ALL ON t_%[2]d.orders, t_%[2]d.orders_id_seq TO %[1]s_r%[2]d`, db, key))
		}
	} else {
		s.shards[0].Exec(t, db, fmt.Sprintf(tellingSchema, "orders"))
	}
	s.edit("pgdog.toml", "[admin]", tenancy+"[admin]")
	s.startInside()
	return s
}

// tenantLogin is how a client logs in for a tenant.
func tenantLogin(mode string, key int) string {
	if mode == "sealed" && key < 3 {
		return []string{"", "app@one", "app@two"}[key]
	}
	return fmt.Sprint("app@", key)
}

// TestListenShared: over the one connection that tenants share each hears itself, from when on it listens, and is told of nobody else; who chooses its tenant,
// however it does, speaks for that.
func TestListenShared(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"row", "schema"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := oneLogin(t, mode, 1)
			p, x := protocols[0], protocols[1]
			say := func(sql string) pgproto3.FrontendMessage { return &pgproto3.Query{String: sql} }
			one, two, free := s.as(t, "app@1", nil), s.as(t, "app@2", nil), s.as(t, "app", nil)
			twice := s.as(t, "app@2", nil)
			for _, c := range []*pgtest.Client{one, two, twice} {
				p.play(t, c, "LISTEN news", "LISTEN; I")
			}
			expect := func(c *pgtest.Client, own bool, payloads ...string) {
				t.Helper()
				for _, want := range payloads {
					switch n := notification(t, c); {
					case n.Payload != want:
						t.Errorf("heard %q, want %q", n.Payload, want)
					case (n.PID == c.PID) != own || c != one && n.PID == one.PID || c == one && (n.PID == two.PID || n.PID == twice.PID):
						t.Errorf("%q is by %d", n.Payload, n.PID)
					}
				}
			}
			p.play(t, one, "SELECT say('function')", "; SELECT 1; I")
			x.play(t, s.as(t, "app@1", nil), "INSERT INTO orders (id, note) VALUES (100, 'trigger')", "INSERT 0 1; I", "NOTIFY news, 'plain'", "NOTIFY; I")
			p.play(t, two, "BEGIN; SELECT pg_notify('news', 'a'); NOTIFY news, 'b'; SAVEPOINT s; NOTIFY news, 'never'; ROLLBACK TO s", "BEGIN; ; SELECT 1; NOTIFY; SAVEPOINT; NOTIFY; ROLLBACK; T",
				"COMMIT AND CHAIN", "COMMIT; T", "SELECT 1", "1; SELECT 1; T", "ROLLBACK", "ROLLBACK; I")
			expect(one, false, "trigger", "plain")
			expect(twice, false, "a", "b")

			// Who has no tenant is heard by none; who chooses one is that.
			p.play(t, free, "NOTIFY news, 'of nobody'", "NOTIFY; I",
				"SET app.current_tenant = '2'", "SET; I", "NOTIFY news, 'chosen'", "NOTIFY; I", "RESET app.current_tenant", "RESET; I",
				"BEGIN", "BEGIN; T", "SET LOCAL app.current_tenant = '1'", "SET; T", "NOTIFY news, 'local'", "NOTIFY; T", "LISTEN news", "0A000 listen_visit; E", "ROLLBACK", "ROLLBACK; I",
				"BEGIN", "BEGIN; T", "SET LOCAL app.current_tenant = '1'", "SET; T", "NOTIFY news, 'local'", "NOTIFY; T", "COMMIT", "COMMIT; I",
				"/* pgkennel_tenant: 2 */ NOTIFY news, 'comment'", "NOTIFY; I", "NOTIFY news, 'of nobody'", "NOTIFY; I")
			if mode == "row" {
				p.play(t, free, "INSERT INTO orders (tenant_id, id, note) VALUES (2, 101, 'its key')", "INSERT 0 1; I")
			} else {
				p.play(t, free, "/* pgkennel_tenant: 2 */ INSERT INTO orders (note) VALUES ('its key')", "INSERT 0 1; I")
			}
			s.shards[0].Exec(t, s.shards[0].db, "NOTIFY news, 'of somebody else'")
			expect(one, false, "local")
			expect(twice, false, "chosen", "comment", "its key")
			expect(two, false, "chosen", "comment", "its key")
			p.play(t, free, "SET app.current_tenant = '2'", "SET; I", "LISTEN news", "LISTEN; I", "SET app.current_tenant = '1'", "55000 listen_visit; I", "RESET app.current_tenant", "55000 listen_visit; I")
			p.play(t, two, "NOTIFY news, 'to three'", "NOTIFY; I")
			expect(twice, false, "to three")
			expect(free, false, "to three")
			p.play(t, free, "UNLISTEN *", "UNLISTEN; I", "RESET app.current_tenant", "RESET; I")

			// While the connection that listens is silent: who has said something has its answer, its connection is nobody else's before that has arrived.
			gone := s.as(t, "app@1", nil)
			p.play(t, gone, "NOTIFY other", "NOTIFY; I") // its tenant has the connection
			goOn := stopEar(t, s)
			p.play(t, gone, "NOTIFY news, 'and gone'", "NOTIFY; I")
			gone.Close()
			two.Send(say("NOTIFY news, 'behind'"))
			eventually(t, "it waits for the connection", func() bool { return s.metric(t, "pool_clients_waiting") == 1 })
			goOn()
			expect(one, false, "and gone")
			if got := heard(two.UntilReady()); !slices.Equal(got, []string{"behind"}) {
				t.Errorf("heard %q", got)
			}
			expect(twice, false, "behind")

			// What is nobody's is not waited for. It arrives when its connection is a tenant's.
			goOn = stopEar(t, s)
			p.play(t, free, "NOTIFY news, 'of nobody'", "NOTIFY; I")
			p.play(t, one, "SELECT 1", "1; SELECT 1; I")
			one.Send(say("NOTIFY news, 'cancelled'"))
			eventually(t, "it is asked whose what arrives is", func() bool { return s.metric(t, "pool_backends_used") == 1 && s.metric(t, "pool_clients_waiting") == 0 })
			pgtest.SendCancel(t, s.addr, one.PID, one.Secret)
			if got := outcome(one.UntilReady()); got != "57014; I" {
				t.Errorf("who waited, and was cancelled: %s", got)
			}
			one.Send(say("NOTIFY news, 'late'"))
			goOn()
			if got := heard(one.UntilReady()); !slices.Equal(got, []string{"late"}) {
				t.Errorf("heard %q", got)
			}
			p.play(t, two, "NOTIFY news, 'end'", "NOTIFY; I")
			expect(twice, false, "end")

			var many strings.Builder
			for i := range 1001 {
				fmt.Fprintf(&many, "LISTEN c%d;", i)
			}
			p.play(t, two, many.String(), "53400 listen_channels; I")
			p.play(t, one, "BEGIN; SAVEPOINT s", "BEGIN; SAVEPOINT; T", many.String(), "53400 listen_channels; E",
				"ROLLBACK TO s", "ROLLBACK; T", "LISTEN other", "LISTEN; T", "ROLLBACK", "ROLLBACK; I")
			p.play(t, two, "NOTIFY c7; NOTIFY news, 'still'", "NOTIFY; NOTIFY; I")
			expect(twice, false, "still")
		})
	}
}

// TestListenSharedCostsNobodyElse: while the connection that listens is silent, tenants of whom nobody listens neither wait for it nor for the connections of who does.
func TestListenSharedCostsNobodyElse(t *testing.T) {
	t.Parallel()
	s := oneLogin(t, "row", 1)
	p := protocols[0]
	one, two, four := s.as(t, "app@1", nil), s.as(t, "app@2", nil), s.as(t, "app@4", nil)
	p.play(t, one, "LISTEN news", "LISTEN; I")
	goOn := stopEar(t, s)
	for _, c := range []*pgtest.Client{two, four, two} {
		p.play(t, c, "NOTIFY news, 'to nobody'", "NOTIFY; I", "SELECT say('nothing')", "; SELECT 1; I", "UPDATE orders SET note = note WHERE id = 1", "UPDATE 1; I")
	}
	one.Send(&pgproto3.Query{String: "NOTIFY news, 'to myself'"}) // who comes behind them waits until that has arrived
	goOn()
	if got := heard(one.UntilReady()); !slices.Equal(got, []string{"to myself"}) {
		t.Errorf("heard %q", got)
	}
}

// babble is who says what in TestListenSharedAtRandom.
type babble struct {
	t    *testing.T
	s    *stand
	mode string
	rnd  *rand.Rand
	name string
	n    int
	said map[int][]string // and it was answered, by tenant
}

// payload is one that nobody has said.
func (b *babble) payload(key int) string {
	b.n++
	return fmt.Sprint(key, " ", b.name, " ", b.n)
}

// talk says something for a tenant, in any way, by a client that is the tenant's.
func (b *babble) talk(c *pgtest.Client, key int) (left bool) {
	what := b.payload(key)
	run := func(list ...string) {
		for _, sql := range list {
			if e := pgtest.Failure(c.Query(sql)); e != nil {
				b.t.Errorf("%s: %s %s", sql, e.Code, e.Message)
			}
		}
	}
	notify := fmt.Sprintf("NOTIFY news, '%s'", what)
	switch b.rnd.IntN(11) {
	case 0, 1:
		run(notify)
	case 2:
		run("SELECT pg_notify('news', '" + what + "')")
	case 3:
		run("BEGIN", "SELECT 1", notify, "COMMIT")
	case 4:
		run("BEGIN; " + notify + "; COMMIT AND CHAIN")
		run("ROLLBACK")
	case 5:
		c.Send(slices.Concat(testbed.Statements("SELECT 1"), testbed.Statements("SELECT pg_notify('news', '"+what+"')"), []pgproto3.FrontendMessage{testbed.Sync})...)
		c.UntilReady()
	case 6:
		run("INSERT INTO orders (id, note) VALUES (" + fmt.Sprint(b.rnd.Int64()) + ", '" + what + "')")
	case 7:
		run("SELECT say('" + what + "')")
	case 8:
		run("BEGIN", "NOTIFY news, 'never'", "ROLLBACK", "SELECT 1")
		return false
	case 9:
		if b.mode == "sealed" {
			run(notify)
			break
		}
		run("CREATE TEMP TABLE x AS SELECT 1; " + notify + "; DROP TABLE pg_temp.x") // its connection is closed
	default:
		c.Send(&pgproto3.Query{String: notify})
		if b.rnd.IntN(2) == 0 {
			c.UntilReady()
			b.said[key] = append(b.said[key], what)
		}
		c.Close()
		return true
	}
	b.said[key] = append(b.said[key], what)
	return false
}

// choose says something for a tenant by a client that is nobody's.
func (b *babble) choose(c *pgtest.Client, key int) {
	what := b.payload(key)
	notify := fmt.Sprintf("NOTIFY news, '%s'", what)
	var list []string
	name := strings.TrimPrefix(tenantLogin(b.mode, key), "app@")
	switch b.rnd.IntN(4) {
	case 0:
		list = []string{fmt.Sprintf("SET app.current_tenant = '%d'", key), notify, "RESET app.current_tenant"}
	case 1:
		list = []string{"BEGIN", fmt.Sprintf("SET LOCAL app.current_tenant = '%d'", key), notify, "COMMIT"}
	case 2:
		list = []string{fmt.Sprintf("/* pgkennel_tenant: %s */ %s", name, notify)}
	default:
		list = []string{"NOTIFY news, 'of nobody'", "SELECT pg_notify('news', 'of nobody')"}
	}
	for _, sql := range list {
		if e := pgtest.Failure(c.Query(sql)); e != nil {
			b.t.Errorf("%s: %s %s", sql, e.Code, e.Message)
		}
	}
	if len(list) != 2 {
		b.said[key] = append(b.said[key], what)
	}
}

// TestListenSharedAtRandom: of many who speak in all ways, over few connections that tenants share, each tenant hears all that was answered, once and each in
// its order, and never another's.
func TestListenSharedAtRandom(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"row", "schema"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			babel(t, oneLogin(t, mode, 2), mode)
		})
	}
}

// babel is TestListenSharedAtRandom on a stand, and of TestSealed on its own.
func babel(t *testing.T, s *stand, mode string) {
	t.Helper()
	keys := []int{1, 2, 4}
	const rounds = 15
	var talkers, listeners sync.WaitGroup
	var all []*babble
	babbles := func(name string) *babble {
		b := &babble{t: t, s: s, mode: mode, name: name, rnd: rand.New(rand.NewPCG(3, uint64(len(all)))), said: make(map[int][]string)}
		all = append(all, b)
		return b
	}
	got := make([][]string, len(keys))
	for i, key := range keys {
		login := tenantLogin(mode, key)
		stays := s.as(t, login, nil)
		protocols[0].play(t, stays, "LISTEN news", "LISTEN; I")
		listeners.Go(func() {
			for {
				m, err := stays.Next()
				if err != nil {
					t.Errorf("tenant %d: %v", key, err)
					return
				}
				if n, ok := m.(*pgproto3.NotificationResponse); ok {
					if n.Payload == fmt.Sprint(key, " end") {
						return
					}
					got[i] = append(got[i], n.Payload)
				}
			}
		})
		for j := range 2 {
			b := babbles(fmt.Sprint("talker", key, j))
			talkers.Go(func() {
				c := s.as(t, login, nil)
				for range rounds {
					if b.talk(c, key) {
						c = s.as(t, login, nil)
					}
				}
			})
		}
		b := babbles(fmt.Sprint("passing", key))
		c, sender := s.as(t, login, nil), s.as(t, login, nil)
		talkers.Go(func() { // it comes and goes, and hears at least what is said to it
			for range rounds {
				protocols[0].run(c, "LISTEN news")
				what := b.payload(key)
				protocols[0].play(t, sender, "NOTIFY news, '"+what+"'", "NOTIFY; I")
				b.said[key] = append(b.said[key], what)
				for {
					m, err := c.Next()
					if err != nil {
						t.Errorf("%q was not heard: %v", what, err)
						return
					}
					if n, ok := m.(*pgproto3.NotificationResponse); ok {
						if !strings.HasPrefix(n.Payload, fmt.Sprint(key, " ")) {
							t.Errorf("tenant %d, who comes and goes, hears %q", key, n.Payload)
						}
						if n.Payload == what {
							break
						}
					}
				}
				protocols[0].run(c, "UNLISTEN *")
			}
		})
	}
	for i := range 2 {
		b := babbles(fmt.Sprint("chooser", i))
		talkers.Go(func() {
			c := s.as(t, "app", nil)
			for range rounds {
				b.choose(c, keys[b.rnd.IntN(len(keys))])
			}
		})
	}
	talkers.Wait()
	for _, key := range keys {
		protocols[0].play(t, s.as(t, tenantLogin(mode, key), nil), fmt.Sprintf("NOTIFY news, '%d end'", key), "NOTIFY; I")
	}
	listeners.Wait()
	for i, key := range keys {
		for n, what := range got[i] {
			if !strings.HasPrefix(what, fmt.Sprint(key, " ")) {
				t.Errorf("tenant %d hears %q", key, what)
			}
			if slices.Contains(got[i][:n], what) {
				t.Errorf("tenant %d hears %q twice", key, what)
			}
		}
		for _, b := range all {
			last := -1
			for _, what := range b.said[key] {
				at := slices.Index(got[i], what)
				if at <= last {
					t.Errorf("tenant %d hears %q at %d, behind what came at %d", key, what, at, last)
				}
				last = max(last, at)
			}
		}
	}
}
