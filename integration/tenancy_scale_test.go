package integration

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// transactions is how many a thousand tenants run on a shared login; on logins of their own it is a tenth of that. In full it is a million.
var transactions = flag.Int("transactions", 6_000, "how many transactions a thousand tenants run")

// crowd is a thousand tenants in one database, who have few clients each, and some of them many.
const (
	crowdTenants = 1000
	crowdClients = 200
	crowdRows    = 3 // of each tenant
)

// crowdSchema has the tenant in each row twice, so that a row shows whose it is, and who wrote it. whose is the key of whom the policy lets through.
func crowdSchema(whose string) string {
	return fmt.Sprintf(`
CREATE TABLE orders (tenant_id bigint NOT NULL DEFAULT %[1]s, id bigint NOT NULL, note text, n bigint NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, id));
INSERT INTO orders SELECT t, i, 'of ' || t FROM generate_series(1, %[2]d) t, generate_series(1, %[3]d) i;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON orders USING (tenant_id = (SELECT %[1]s));
GRANT ALL ON orders TO PUBLIC;
`, whose, crowdTenants, crowdRows)
}

// visitor is one client of the crowd.
type visitor struct {
	c     *pgconn.PgConn
	rnd   *rand.Rand
	zipf  *rand.Zipf
	bound int // the tenant whose login it has; 0 = it chooses one for each transaction
	wrote []int
}

// run is one transaction of a tenant, said in one of many ways. Whatever comes back has to be the tenant's.
func (v *visitor) run(ctx context.Context, n int) error {
	tenant := v.bound
	if tenant == 0 {
		tenant = int(v.zipf.Uint64()) + 1
	}
	id := v.rnd.IntN(crowdRows) + 1
	where := fmt.Sprintf("WHERE tenant_id = %d", tenant)
	var before, hint, after string
	if v.bound != 0 {
		where = "WHERE true"
	} else if !v.c.IsClosed() {
		switch n % 4 {
		case 0:
			before, where, after = fmt.Sprintf("SET app.current_tenant = '%d'", tenant), "WHERE true", "RESET app.current_tenant"
		case 1:
			hint, where = fmt.Sprintf("/* pgkennel_tenant: %d */ ", tenant), "WHERE true"
		case 2:
			before, where, after = fmt.Sprintf("BEGIN; SET LOCAL app.current_tenant = '%d'", tenant), "WHERE true", "COMMIT"
		}
	}
	ask := func(want int, sql string) error {
		var rows [][][]byte
		if v.rnd.IntN(2) == 0 {
			r := v.c.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
			if r.Err != nil {
				return fmt.Errorf("tenant %d, %s: %w", tenant, sql, r.Err)
			}
			rows = r.Rows
		} else {
			r, err := v.c.Exec(ctx, sql).ReadAll()
			if err != nil {
				return fmt.Errorf("tenant %d, %s: %w", tenant, sql, err)
			}
			rows = r[len(r)-1].Rows
		}
		if want > 0 && len(rows) != want {
			return fmt.Errorf("tenant %d, %s: %d rows, want %d", tenant, sql, len(rows), want)
		}
		for _, row := range rows {
			if got := string(row[0]) + " " + string(row[1]); got != fmt.Sprintf("%d of %[1]d", tenant) {
				return fmt.Errorf("tenant %d, %s: got a row of another: %s", tenant, sql, got)
			}
		}
		return nil
	}
	if before != "" {
		if _, err := v.c.Exec(ctx, before).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", before, err)
		}
	}
	var err error
	if v.rnd.IntN(4) == 0 {
		err = ask(1, fmt.Sprintf("%sUPDATE orders SET n = n + 1, note = 'of %d' %s AND id = %d RETURNING tenant_id, note", hint, tenant, where, id))
		v.wrote[tenant]++
	} else {
		err = ask(crowdRows, fmt.Sprintf("%sSELECT tenant_id, note FROM orders %s", hint, where))
	}
	if err == nil && after != "" {
		_, err = v.c.Exec(ctx, after).ReadAll()
	}
	return err
}

// TestAThousandTenants: 200 clients of a thousand tenants, drawn by Zipf's law, on 20 connections that all share, sealed or not, and on 100 that log in as one tenant each:
// every row that anybody gets is its tenant's, and so is every row that was written.
func TestAThousandTenants(t *testing.T) {
	t.Parallel()
	instance := pgtest.Start(t, pgtest.MaxConnections(250))
	for _, mode := range []string{"shared", "sealed", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			total, schema := *transactions, crowdSchema("nullif(current_setting('app.current_tenant', true), '')::bigint")
			if mode == "strict" {
				total, schema = total/10, crowdSchema("nullif(substring(session_user::text from '_t([0-9]+)$'), '')::bigint")
			}
			s := prepare(t, spec{instances: []*pgtest.Instance{instance}, schema: schema, users: switching, general: "default_pool_size = 20\ncheckout_timeout = 60_000\nconnect_timeout = 60_000\n"})
			db := s.shards[0].db
			section := fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nmode = %q\n", mode)
			if mode == "strict" {
				section += fmt.Sprintf("role = \"%s_t{key}\"\nconnections = 100\n", db)
				s.shards[0].Exec(t, db, fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE 'CREATE ROLE %s_t' || i || ' LOGIN'; END LOOP; END $$", crowdTenants, db))
			}
			if mode == "sealed" {
				s.write("role.secret", secureSecret)
				section += fmt.Sprintf("role_secret_file = %q\n", s.path("role.secret"))
			}
			s.edit("pgdog.toml", "[admin]", section+"[admin]")
			if mode == "sealed" {
				s.must(t, "secure", "apply")
			}
			s.startInside()
			t.Cleanup(func() {
				if t.Failed() {
					told := slices.DeleteFunc(strings.Split(s.log.String(), "\n"), func(line string) bool { return strings.Contains(line, "level=INFO") })
					t.Logf("pgkennel's log:\n%s", tail(strings.Join(told, "\n"), 30))
				}
			})

			ctx, cancel := context.WithTimeout(t.Context(), max(time.Minute, time.Duration(total)*20*time.Millisecond))
			defer cancel()
			visitors := make([]*visitor, crowdClients)
			for i := range visitors {
				rnd := rand.New(rand.NewPCG(uint64(i), 7))
				v := &visitor{rnd: rnd, zipf: rand.NewZipf(rnd, 1.1, 1, crowdTenants-1), wrote: make([]int, crowdTenants+1)}
				login := "app"
				if i%2 == 1 {
					v.bound = int(v.zipf.Uint64()) + 1
					login += "@" + strconv.Itoa(v.bound)
				}
				var err error
				if v.c, err = pgconn.Connect(ctx, pgtest.DSN(s.addr, cluster, login, password)); err != nil {
					t.Fatal(err)
				}
				defer v.c.Close(context.WithoutCancel(ctx))
				visitors[i] = v
			}
			begun := time.Now()
			var wg sync.WaitGroup
			var done atomic.Int64
			for _, v := range visitors {
				wg.Go(func() {
					for n := done.Add(1); n <= int64(total) && !t.Failed(); n = done.Add(1) {
						if err := v.run(ctx, int(n)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			took := time.Since(begun)
			t.Logf("%d transactions took %v, %.0f a second; %.0f contexts sent, %.0f there; %.0f connections opened", total, took, float64(total)/took.Seconds(),
				s.metric(t, "session_contexts_total", `"sent"`), s.metric(t, "session_contexts_total", `"reused"`), s.metric(t, "backend_opened_total"))

			if wrong := s.shards[0].rows(t, "SELECT count(*) FROM orders WHERE note <> 'of ' || tenant_id"); wrong[0] != "0" {
				t.Errorf("%s rows were written by another tenant", wrong[0])
			}
			var want []string
			for tenant := 1; tenant <= crowdTenants; tenant++ {
				sum := 0
				for _, v := range visitors {
					sum += v.wrote[tenant]
				}
				want = append(want, fmt.Sprintf("%d|%d", tenant, sum))
			}
			if got := s.shards[0].rows(t, "SELECT tenant_id, sum(n) FROM orders GROUP BY 1 ORDER BY 1"); !slices.Equal(got, want) {
				t.Errorf("tenants' writes: got %s\nwant %s", strings.Join(got, " "), strings.Join(want, " "))
			}
			if mode == "strict" {
				if got := s.metric(t, "cluster_endpoint_budget_connections"); got > 100 || got == 0 {
					t.Errorf("got %v connections of the budget of 100", got)
				}
				return
			}
			if got := s.metric(t, "pool_backends_max"); got != 60 { // of three users
				t.Errorf("got %v connections at most, want 20 for each user", got)
			}
		})
	}
}
