package metrics

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// everything returns metrics in which each family has a value.
func everything(t *testing.T, namespace string) (*prometheus.Registry, *Metrics) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, namespace)
	m.SetBuild(Build{Version: "1.2.3", Commit: "abc", GoVersion: "go1.26"})
	m.SetConfig(7, time.Unix(1_700_000_000, 0))
	m.SetParseCache(func() ParseCache {
		return ParseCache{Hits: 1, Misses: 2, Evictions: 3, Entries: 4, Bytes: 5, MaxBytes: 6, ParseTime: 1500 * time.Millisecond}
	})
	m.ReloadsOK.Inc()
	m.SetPrepared(func() Prepared { return Prepared{Statements: 2, Bytes: 512, Evictions: 1} })
	m.LoginsFailed.Inc("wrong_password")
	m.Cancels.Inc("sent")

	c := m.Cluster("app")
	c.Clients.Add(3)
	c.SetState(func() ClusterState { return ClusterState{Active: 2, Waiting: 1} })
	c.Connects.Add(5)
	c.Closes.Inc("client")
	c.Queries.Add(10)
	c.Transactions.Add(4)
	c.ReceivedBytes.Add(100)
	c.SentBytes.Add(200)
	c.Parses.Inc()
	c.Binds.Inc()
	c.Refusals.Inc("cross_shard")
	c.ServerErrors.Inc("23505")
	c.OwnErrors.Inc("0A000")
	c.Routed(PlanShard, 1)

	m.SetDirectory(func() Directory {
		return Directory{Age: 1500 * time.Millisecond, Tenants: 7, Instances: 3, Waking: 1, Woken: 5, NotWoken: 2, Ended: 4, OOMKills: 6, Crashes: 5, Down: 1}
	})
	m.SetTenants(func() []TenantState {
		a := TenantState{Cluster: "app", Tenant: "acme", Clients: 2, Waiting: 1, Transactions: 7, Queries: 8, Errors: 1, Received: 70, Sent: 80}
		all := TenantState{Cluster: "app", Tenant: AllTenants, Transactions: 1}
		all.Add(&a)
		return []TenantState{all, a, {Cluster: "app", Tenant: "*", Clients: 5}, {Cluster: "app", Tenant: "\xff"}, {Cluster: "app", Tenant: "\xfe", Clients: 5}}
	})

	s := m.Shard("app", 1)
	s.Statements.Observe(3 * time.Millisecond)
	s.Transactions.Observe(70 * time.Second)

	e := m.Endpoint(EndpointLabels{"app", 1, topology.Primary, "db1:5432"})
	e.Checks.Observe(time.Millisecond)
	e.ChecksFailed.Inc()
	e.Up.Set(1)

	p := m.Pool(PoolLabels{EndpointLabels{"app", 1, topology.Primary, "db1:5432"}, "alice"})
	p.SetState(func() PoolState {
		return PoolState{Size: 5, Idle: 3, Used: 2, Waiting: 1, MaxWait: 1500 * time.Millisecond, Max: 10, Checkouts: 8, Timeouts: 1}
	})
	p.CheckoutWait.Observe(20 * time.Microsecond)
	p.Opened.Inc()
	p.OpenFailures.Inc("unreachable")
	p.OpenTime.Add(2 * time.Second)
	p.Closed.Inc("listen")
	p.ReceivedBytes.Add(9)
	p.SentBytes.Add(8)
	p.Parses.Inc()
	return reg, m
}

// ours renders the families that are pgkennel's.
func ours(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if strings.Contains(f.GetName(), "pgkennel_") {
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.String()
}

func TestExpositionIsGolden(t *testing.T) {
	t.Parallel()
	reg, _ := everything(t, "")
	got := ours(t, reg)
	file := filepath.Join("testdata", "metrics.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("exposition (-want +got; UPDATE_GOLDEN=1 rewrites it):\n%s", diff)
	}
}

func TestPrometheusLintIsClean(t *testing.T) {
	t.Parallel()
	reg, _ := everything(t, "")
	problems, err := promlint.New(strings.NewReader(ours(t, reg))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestNamesFollowTheHouseForm(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^pgkennel_(build|config|directory|parser|session|router|pool|backend|cluster)_[a-z_]+$`)
	reg, _ := everything(t, "")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		n++
		if !form.MatchString(name) {
			t.Errorf("name %q is not of the form pgkennel_<package>_<thing>_<unit>", name)
		}
		if counter := f.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("name %q: counters, and only they, end in _total", name)
		}
	}
	if n < 40 {
		t.Errorf("got %d families, want every one of ours", n)
	}
}

func TestNamespaceIsAPrefix(t *testing.T) {
	t.Parallel()
	for namespace, want := range map[string]string{"": "pgkennel_", "acme": "acme_pgkennel_", "acme_": "acme_pgkennel_"} {
		reg, _ := everything(t, namespace)
		for line := range strings.Lines(ours(t, reg)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, want) {
				t.Errorf("namespace %q: line %q does not start with %q", namespace, line, want)
			}
		}
	}
	for s, want := range map[string]bool{"": true, "a": true, "a_b9_": true, "9a": false, "_a": false, "a-b": false, "a b": false, "ä": false} {
		if got := ValidNamespace(s); got != want {
			t.Errorf("ValidNamespace(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestRegistryWithGoCollectorsIsAccepted(t *testing.T) {
	t.Parallel()
	reg, ok := prometheus.DefaultRegisterer.(*prometheus.Registry) // it has Go's and the process's already
	if !ok {
		t.Fatal("somebody has replaced the default registry")
	}
	m := New(reg, "twice")
	if !reg.Unregister(m) {
		t.Error("metrics were not registered")
	}
}

func TestHistogramPutsDurationsIntoTheirBucket(t *testing.T) {
	t.Parallel()
	want := func(d time.Duration) int {
		for i, b := range bounds {
			if d <= b {
				return i
			}
		}
		return len(bounds)
	}
	durations := []time.Duration{0, 1, time.Hour, 1<<63 - 1}
	for _, b := range bounds {
		durations = append(durations, b-1, b, b+1)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		durations = append(durations, time.Duration(r.Uint64()>>1>>r.UintN(63)))
	}
	for _, d := range durations {
		var h Histogram
		h.Observe(d)
		if i := want(d); h.buckets[i].Load() != 1 {
			t.Fatalf("%v is not in bucket %d", d, i)
		}
	}
	var h Histogram
	h.Observe(-time.Second)
	if h.buckets[0].Load() != 1 || h.Sum() != 0 {
		t.Errorf("a negative duration: bucket %d, sum %v, want 1, 0", h.buckets[0].Load(), h.Sum())
	}
}

func TestBoundsAtLeastDouble(t *testing.T) {
	t.Parallel()
	for i := 1; i < len(bounds); i++ {
		if bounds[i] < 2*bounds[i-1] {
			t.Errorf("bound %v is less than twice %v", bounds[i], bounds[i-1])
		}
	}
}

func TestWordsAreBounded(t *testing.T) {
	t.Parallel()
	var w Words
	for _, s := range []string{"", "has space", "UPPER", "quote\"", strings.Repeat("x", 49), "ümlaut", "a\x00b"} {
		w.Inc(s)
	}
	if got := w.Load("other"); got != 7 {
		t.Errorf("other = %d, want 7", got)
	}
	for i := range 1000 {
		w.Inc(fmt.Sprintf("word_%d", i))
	}
	seen, sum := 0, uint64(0)
	w.each(func(_ string, n uint64) { seen++; sum += n })
	if seen > maxWords {
		t.Errorf("%d words, want at most %d", seen, maxWords)
	}
	if sum != 1007 {
		t.Errorf("sum %d, want 1007: a count was lost", sum)
	}
}

func TestWordsCountConcurrently(t *testing.T) {
	t.Parallel()
	var w Words
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for j := range 200 {
				w.Inc(fmt.Sprintf("w%d", (i+j)%90))
			}
		})
	}
	g.Wait()
	sum := uint64(0)
	w.each(func(_ string, n uint64) { sum += n })
	if sum != 1600 {
		t.Errorf("sum %d, want 1600", sum)
	}
}

func TestErrorsCountByClass(t *testing.T) {
	t.Parallel()
	var e Errors
	for _, s := range []string{"23505", "23503", "XX000", "", "235", "zz999", "\xff\xffabc", "0A0000"} {
		e.Inc(s)
	}
	got := map[string]uint64{}
	e.each(func(class string, n uint64) { got[class] = n })
	if diff := cmp.Diff(map[string]uint64{"23": 2, "XX": 1, "other": 5}, got); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
	if e.Total() != 8 {
		t.Errorf("total %d, want 8", e.Total())
	}
}

func TestPlansOutOfRangeAreOther(t *testing.T) {
	t.Parallel()
	m := New(prometheus.NewPedanticRegistry(), "")
	c := m.Cluster("app")
	c.Routed(0, 1)
	c.Routed(200, 1)
	c.Routed(PlanLocal, 1)
	if got := c.plans[0].Load(); got != 2 {
		t.Errorf("other = %d, want 2", got)
	}
	if Plan(99).String() != "other" || PlanCopy.String() != "copy" {
		t.Errorf("names %q, %q", Plan(99), PlanCopy)
	}
}

func TestHandlesAreSharedUntilTheLastClose(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, "")
	l := PoolLabels{EndpointLabels{"app", 0, topology.Replica, "h:1"}, "u"}
	a, b := m.Pool(l), m.Pool(l)
	if a != b {
		t.Fatal("equal labels gave two handles")
	}
	a.Opened.Inc()
	a.Close()
	if text := ours(t, reg); !strings.Contains(text, `pgkennel_backend_opened_total{cluster="app",endpoint="h:1",role="replica",shard="0",user="u"} 1`) {
		t.Errorf("the series went with the first of two closes:\n%s", text)
	}
	b.Close()
	if text := ours(t, reg); strings.Contains(text, "pgkennel_backend_opened_total") {
		t.Errorf("the series stayed after the last close:\n%s", text)
	}
	if c := m.Pool(l); c == a || c.Opened.Load() != 0 {
		t.Error("a new handle after the last close is not new")
	}
}

func TestTotalsOutliveHandles(t *testing.T) {
	t.Parallel()
	_, m := everything(t, "")
	m.Cluster("other").Queries.Add(1000)
	want := Totals{
		Assignments: 8, Transactions: 4, Queries: 10, Received: 100, Sent: 200,
		TransactionTime: 70 * time.Second, QueryTime: 3 * time.Millisecond, WaitTime: 20 * time.Microsecond,
		ClientParses: 1, Binds: 1, ServerParses: 1, Errors: 2, Refusals: 1, ClientConnects: 5, CheckoutTimeouts: 1,
	}
	if diff := cmp.Diff(want, m.Totals("app")); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	// The first hold is everything's.
	p := m.Pool(PoolLabels{EndpointLabels{"app", 1, topology.Primary, "db1:5432"}, "alice"})
	p.Close()
	p.Close()
	s := m.Shard("app", 1)
	s.Close()
	s.Close()
	c := m.Cluster("app")
	c.Close()
	c.Close()
	c.Close() // one too many is none
	if diff := cmp.Diff(want, m.Totals("app")); diff != "" {
		t.Errorf("totals after the last close (-want +got):\n%s", diff)
	}
}

// TestPoolCountersOutliveTheirPool: a reload that replaces a pool does not make its counters smaller.
func TestPoolCountersOutliveTheirPool(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, "")
	l := PoolLabels{EndpointLabels{"app", 0, topology.Primary, "h:1"}, "u"}
	set := func(checkouts, timeouts uint64, size int) *Pool {
		p := m.Pool(l)
		p.SetState(func() PoolState { return PoolState{Checkouts: checkouts, Timeouts: timeouts, Size: size} })
		return p
	}
	a := set(100, 2, 5)
	b := set(10, 1, 3)
	a.Close()
	text := ours(t, reg)
	for _, want := range []string{
		`pgkennel_pool_checkouts_total{cluster="app",endpoint="h:1",role="primary",shard="0",user="u"} 110`,
		`pgkennel_pool_checkout_timeouts_total{cluster="app",endpoint="h:1",role="primary",shard="0",user="u"} 3`,
		`pgkennel_pool_backends{cluster="app",endpoint="h:1",role="primary",shard="0",user="u"} 3`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if got := m.Totals("app").Assignments; got != 110 {
		t.Errorf("assignments %d, want 110", got)
	}
	b.Close()
	if got := m.Totals("app").Assignments; got != 110 {
		t.Errorf("assignments %d after the last close, want 110", got)
	}
}

func TestLabelsNeedNotBeUTF8(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, "")
	m.Cluster("a\xffb").Queries.Inc()
	m.Pool(PoolLabels{EndpointLabels{"a\xffb", 0, 0, "\xfe"}, "\xfd"})
	if text := ours(t, reg); !strings.Contains(text, `pgkennel_session_queries_total{cluster="a�b"} 1`) {
		t.Errorf("got\n%s", text)
	}
}

func TestScrapesRunBesideTheHotPath(t *testing.T) {
	t.Parallel()
	reg, m := everything(t, "")
	stop := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			c := m.Cluster("churn")
			c.Queries.Inc()
			c.Closes.Inc("shutdown")
			s := m.Shard("churn", 0)
			s.Statements.Observe(time.Millisecond)
			s.Close()
			c.Close()
			runtime.Gosched()
		}
	})
	for range 50 {
		if _, err := reg.Gather(); err != nil {
			t.Error(err)
		}
		m.Totals("churn")
	}
	close(stop)
	g.Wait()
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := New(prometheus.NewRegistry(), "")
	c, s := m.Cluster("app"), m.Shard("app", 0)
	if n := testing.AllocsPerRun(100, func() {
		c.Queries.Inc()
		c.ReceivedBytes.Add(100)
		c.Routed(PlanShard, 1)
		s.Statements.Observe(3 * time.Millisecond)
		c.ServerErrors.Inc("23505")
		c.Refusals.Inc("cross_shard")
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkCounterInc(b *testing.B) {
	var c Counter
	for b.Loop() {
		c.Inc()
	}
}

func BenchmarkHistogramObserve(b *testing.B) {
	var h Histogram
	d := 37 * time.Microsecond
	for b.Loop() {
		h.Observe(d)
		d = d*5/4 + 1
		if d > time.Minute {
			d = 37 * time.Microsecond
		}
	}
}

func BenchmarkPrometheusHistogramObserve(b *testing.B) {
	buckets := make([]float64, len(bounds))
	for i, d := range bounds {
		buckets[i] = d.Seconds()
	}
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: buckets})
	d := 37 * time.Microsecond
	for b.Loop() {
		h.Observe(d.Seconds())
		d = d*5/4 + 1
		if d > time.Minute {
			d = 37 * time.Microsecond
		}
	}
}

func BenchmarkWordsInc(b *testing.B) {
	var w Words
	w.seed("tenant_missing", "cross_shard")
	for b.Loop() {
		w.Inc("cross_shard")
	}
}
