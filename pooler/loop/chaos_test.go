package loop

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/session"
	"github.com/pgkennel/pgkennel/tenant"
)

// canceller is a connection that cancels what another runs.
type canceller struct {
	key    []byte
	sent   bool
	closed bool
}

func (c *canceller) Receive([]byte) (out []byte, done bool) {
	if !c.sent {
		c.sent = true
		return c.key, false
	}
	return nil, c.closed
}

func (c *canceller) Closed(bool) { c.closed = true }

// chaos is what happens beside the clients' work: chances in ten thousand of a step.
type chaos struct {
	faults, cancel, kill, wait int
	change                     func(*session.Account, *session.Shared)
	tables                     bool // change under prepared statements
	pins                       bool
}

func (c chaos) run(t *testing.T, seed uint64, clients, size int) {
	t.Helper()
	m := newModel(t, seed, 3, size)
	if c.change != nil {
		c.change(account(m.sh), m.sh)
	}
	if c.tables {
		changing(m, seed)
	}
	m.Faults = c.faults
	m.Lent = func(_ *MemoryClient, b *MemoryBackend) { wantFresh(t, b) }
	rnd := rand.New(rand.NewPCG(seed, 3))
	actors := map[*MemoryClient]*actor{}
	for i := range clients {
		a := newActor(t, seed*100+uint64(i), fmt.Sprintf("c%d", i), 3, 1200/clients, false)
		a.unhurt = c.wait == 0 && i%2 == 0
		a.pins = c.pins
		actors[m.Connect(a)] = a
	}
	quiet := 0
	for i := 0; m.Clients() > 0; i++ {
		chance := func(n int) bool { return rnd.IntN(10000) < n }
		var c0 *MemoryClient
		if n := len(m.clients); n > 0 {
			c0 = m.clients[rnd.IntN(n)]
		}
		switch a := actors[c0]; {
		case a == nil:
		case chance(c.cancel):
			secret := append([]byte(nil), c0.secret...)
			if a.unhurt && len(secret) > 0 {
				secret[0]++ // the key is wrong
			}
			if c0.pid != 0 {
				m.Connect(&canceller{key: pgwire.AppendCancelRequest(nil, c0.pid, secret)})
			}
		case chance(c.kill) && !c0.ended:
			c0.sess.Kill(session.ErrShutdown, session.CloseKilled)
		case chance(c.wait):
			m.Advance(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		}
		if m.Step() {
			quiet = 0
			continue
		}
		m.Advance(time.Second)
		if quiet++; quiet > 1000 {
			for _, c := range m.clients {
				t.Errorf("%+v waits for ever in state %s", actors[c], c.sess.State())
			}
			t.FailNow()
		}
	}
	for m.Step() {
	}
	wantNothingLeft(t, m)
}

// TestChaos: whatever happens to whom, everybody else gets their own answers, and nothing is left behind.
func TestChaos(t *testing.T) {
	t.Parallel()
	sessions := func(a *session.Account, _ *session.Shared) { a.Session, a.Statements = true, false }
	limits := func(a *session.Account, sh *session.Shared) {
		a.QueryTimeout, a.CancelTimeout, a.IdleTimeout, a.IdleTransactionTimeout, sh.LoginTimeout = 3e5, 1e4, 2e6, 1e6, 1e7
	}
	for name, c := range map[string]struct {
		chaos
		clients, size int
	}{
		"cancel":            {chaos{cancel: 200}, 8, 2},
		"kill":              {chaos{kill: 30, cancel: 30}, 8, 2},
		"faults":            {chaos{faults: 5, cancel: 50, kill: 10}, 8, 2},
		"time":              {chaos{change: limits, wait: 20}, 8, 1},
		"faults and time":   {chaos{change: limits, wait: 20, faults: 3, cancel: 20}, 8, 1},
		"session":           {chaos{change: sessions, cancel: 100, kill: 10}, 6, 6},
		"session, faults":   {chaos{change: sessions, faults: 5, kill: 10}, 6, 3},
		"crowd":             {chaos{}, 100, 1},
		"crowd in trouble":  {chaos{faults: 2, cancel: 50, kill: 20}, 100, 1},
		"disabled":          {chaos{change: func(a *session.Account, _ *session.Shared) { a.Statements = false }, cancel: 50, faults: 3}, 8, 2},
		"pins":              {chaos{pins: true, cancel: 100, kill: 10}, 6, 3},
		"pins and faults":   {chaos{pins: true, change: limits, faults: 5, cancel: 20, kill: 10, wait: 5}, 6, 2},
		"tables":            {chaos{tables: true, cancel: 100, faults: 3, kill: 10}, 8, 2},
		"tables and time":   {chaos{tables: true, change: limits, wait: 20, cancel: 20}, 8, 2},
		"nothing described": {chaos{change: func(_ *session.Account, sh *session.Shared) { sh.Descriptions = nil }, cancel: 50, faults: 3}, 8, 2},
	} {
		for seed := range uint64(6) {
			t.Run(fmt.Sprintf("%s %d", name, seed), func(t *testing.T) {
				t.Parallel()
				c.run(t, seed, c.clients, c.size)
			})
		}
	}
}

// account is the model's own.
func account(sh *session.Shared) *session.Account {
	a, _ := sh.Accounts(tenant.Asked{User: "app", Database: "prod"})
	return a
}
