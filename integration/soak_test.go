package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// harmless reports whether a client whose server was killed may see err: the shard is not there, its own transaction, if it is in one, has
// failed, or its own connection was closed. What a driver could not read is not among that.
func harmless(err error, inside bool) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "08006" && e.Routine == "shard_unavailable" || inside && e.Code == "25P02"
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || pgconn.SafeToRetry(err) { // that is: nothing was sent, the connection was closed before
		return true
	}
	return slices.ContainsFunc([]error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, context.Canceled, context.DeadlineExceeded,
	}, func(e error) bool { return errors.Is(err, e) })
}

// TestKilledServers has servers killed, stopped, frozen and restarted, and connections of clients and to servers terminated, for the time of -soak: clients
// see clean errors only, what they were told is stored is, in its own shard, and everything is as it was at the end.
func TestKilledServers(t *testing.T) {
	t.Parallel()
	instances := []*pgtest.Instance{
		pgtest.Start(t, pgtest.Config("synchronous_commit", "on")), pgtest.Start(t, pgtest.Config("synchronous_commit", "on")),
	}
	s := start(t, spec{
		instances: instances, schema: visitsSchema + "; ALTER TABLE visits ADD PRIMARY KEY (tenant_id, who)", rest: visits, program: true,
		general: faultyGeneral + "default_pool_size = 5\ncheckout_timeout = 10_000\nquery_timeout = 10_000",
	})
	eventually(t, "both shards have their connections", func() bool { return s.metric(t, "pool_backends") >= 2 })
	before := s.size(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var over atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := []map[string]bool{{}, {}} // per shard: tenant|who
	var failures, cut atomic.Int64
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 40 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			c, kill, err := s.cuttable(ctx)
			for n := 0; !over.Load(); n++ {
				for err != nil || c.IsClosed() {
					if err != nil && !harmless(err, false) {
						t.Errorf("connect: %v", err)
						return
					}
					if over.Load() {
						return
					}
					c, kill, err = s.cuttable(ctx)
				}
				if i < 8 && n%20 == 19 { // some clients die as well
					time.AfterFunc(time.Duration(rnd.IntN(5000))*time.Microsecond, kill)
					cut.Add(1)
				}
				tenant, who := (i*37+n)%200, fmt.Sprintf("%d-%d", i, n)
				steps := []string{"BEGIN", fmt.Sprintf("INSERT INTO visits VALUES (%d, '%s')", tenant, who), "COMMIT"}
				if n%2 == 0 {
					steps = steps[1:2]
				}
				var tag pgconn.CommandTag
				inside := false
				for at, sql := range steps {
					inside = at > 0
					if tag, err = c.Exec(ctx, sql); err != nil {
						break
					}
				}
				switch {
				case err == nil && tag.String() != "ROLLBACK":
					shard := 0
					if tenant >= 100 {
						shard = 1
					}
					mu.Lock()
					stored[shard][fmt.Sprintf("%d|%s", tenant, who)] = true
					mu.Unlock()
				case err != nil && !harmless(err, inside):
					t.Errorf("client %d: %v", i, err)
					return
				default:
					failures.Add(1)
					if !c.IsClosed() && len(steps) > 1 {
						_, err = c.Exec(ctx, "ROLLBACK")
						if err != nil && !harmless(err, false) {
							t.Errorf("client %d: ROLLBACK: %v", i, err)
							return
						}
					}
					err = nil
				}
			}
			if err == nil {
				c.Close(context.Background())
			}
		})
	}
	rounds, rnd := 0, rand.New(rand.NewPCG(seed, 1<<32))
	for end := time.Now().Add(*soak); time.Now().Before(end) && !t.Failed(); rounds++ {
		before := failures.Load()
		n := rnd.IntN(len(instances))
		switch rnd.IntN(5) {
		case 0:
			instances[n].Kill(t)
		case 1:
			instances[n].Stop(t, pgtest.Immediate)
		case 2:
			instances[n].Stop(t, pgtest.Fast)
		case 3:
			instances[n].Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+s.shards[n].db+"'")
		case 4:
			instances[n].Freeze(t)
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond) // how long it is frozen is what is tested
			instances[n].Thaw()
		}
		if !instances[n].Running() {
			eventually(t, "somebody notices", func() bool { return failures.Load() > before })
			instances[n].Restart(t)
		}
		c := s.connect(t)
		recovered(t, "visits", 100*n+1, c)
		c.Terminate()
	}
	over.Store(true)
	wg.Wait()
	t.Logf("%d rounds, %d statements failed, %d clients killed, %d and %d rows stored", rounds, failures.Load(), cut.Load(), len(stored[0]), len(stored[1]))
	if rounds == 0 || cut.Load() == 0 {
		t.Errorf("%d rounds, %d clients killed: nothing was tested", rounds, cut.Load())
	}
	for n, sh := range s.shards {
		if strangers := sh.rows(t, fmt.Sprintf("SELECT count(*) FROM visits WHERE (tenant_id < 100) <> (%d = 0)", n)); strangers[0] != "0" {
			t.Errorf("shard %d has %s rows of the other one", n, strangers[0])
		}
		there := make(map[string]bool)
		for _, row := range sh.rows(t, "SELECT tenant_id, who FROM visits") {
			there[row] = true
		}
		for row := range stored[n] {
			if !there[row] {
				t.Errorf("shard %d lost %s", n, row)
			}
		}
		if len(stored[n]) == 0 {
			t.Errorf("shard %d: nothing was tested", n)
		}
		s.settled(t, n, 5)
	}
	s.shrunk(t, before)
}
