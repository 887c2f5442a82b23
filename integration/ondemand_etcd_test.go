package integration

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
)

// etcdServer is a real etcd that the test may do harm to.
type etcdServer struct {
	t       testing.TB
	dir     string
	address string
	args    []string
	process *pginstance.Process
}

func startEtcd(t testing.TB) *etcdServer {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal("etcd is not installed: `make deps` installs it (Debian: apt-get install --no-install-recommends etcd-server)")
	}
	e := &etcdServer{t: t, dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(pgtest.FreePort(t)))}
	peer := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(pgtest.FreePort(t)))
	e.args = []string{
		path, "--name=t", "--data-dir=" + filepath.Join(e.dir, "data"), "--listen-client-urls=http://" + e.address, "--advertise-client-urls=http://" + e.address,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=t=" + peer, "--heartbeat-interval=20", "--election-timeout=200",
	}
	e.start()
	t.Cleanup(e.kill)
	return e
}

// start starts it where it was before.
func (e *etcdServer) start() {
	e.t.Helper()
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(e.args[0], e.args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"PATH=/usr/bin:/bin"}, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if e.process, err = pginstance.Spawn(cmd); err != nil {
		e.t.Fatal(err)
	}
	eventually(e.t, "etcd is there", func() bool { return strings.Contains(page("http://"+e.address+"/health"), `"true"`) })
}

func (e *etcdServer) kill() {
	e.signal(syscall.SIGKILL)
	<-e.process.Done()
}

func (e *etcdServer) signal(sig syscall.Signal) {
	_ = e.process.Signal(sig) // it may have ended
}

// page is what an HTTP server says; empty = nothing.
func page(url string) string {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// pair is two poolers of one host over one etcd, and their tenants with clients at both. Orders come from processes without a pooler.
type pair struct {
	*kennel
	etcd    *etcdServer
	line    *proxy // from the second pooler to etcd
	poolers [2]*kennel

	ctx     context.Context //nolint:containedctx // of the clients
	clients sync.WaitGroup
	tenants []*lodger
	heard   []time.Duration // how long it took until a pooler knew of a change
}

// lodger is a tenant.
type lodger struct {
	mark string // what its table says
	mu   sync.Mutex
	name string
	pass string
	// shut is odd while no statement may succeed that begins.
	shut     atomic.Int64
	answered [2]atomic.Int64 // by pooler
}

func (l *lodger) login() (name, password string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name, l.pass
}

func (l *lodger) is(name, password string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name, l.pass = name, password
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{etcd: startEtcd(t)}
	p.line = newProxy(t, p.etcd.address)
	key := make([]byte, 32)
	rand.Read(key)
	env := []string{"PGKENNEL_DIRECTORY_KEY=" + base64.StdEncoding.EncodeToString(key)}
	text := func(etcd, dir string) string {
		return fmt.Sprintf("store = \"etcd\"\nendpoints = [\"http://%s\"]\n[provision]\nhost = \"here\"\ndata_dir = \"%s/instances\"\nbackups = \"%[2]s/backups\"\n", etcd, dir)
	}
	p.kennel = newKennel(t, "")
	p.env = env
	for i, etcd := range []string{p.etcd.address, fmt.Sprintf("127.0.0.1:%d", p.line.port), p.etcd.address} {
		k := p.kennel
		if i < 2 {
			port, metrics := strconv.Itoa(pgtest.FreePort(t)), pgtest.FreePort(t)
			k = &kennel{
				stand: &stand{t: t, dir: filepath.Join(p.dir, fmt.Sprint("pooler", i)), log: new(testbed.Log), addr: net.JoinHostPort("127.0.0.1", port)}, port: port, env: env,
			}
			k.metrics = fmt.Sprintf("http://127.0.0.1:%d", metrics)
			k.env = append(k.env, fmt.Sprint("PGKENNEL_OPENMETRICS_PORT=", metrics), "PGKENNEL_OPENMETRICS_HOST=127.0.0.1")
			if err := os.Mkdir(k.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p.poolers[i] = k
		}
		if err := os.WriteFile(filepath.Join(k.dir, "pgdog.toml"), []byte("[directory]\n"+text(etcd, p.dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// lodge makes a tenant, and has clients ask it at both poolers.
func (p *pair) lodge(name string) {
	p.t.Helper()
	l := &lodger{mark: fmt.Sprintf("%s, the %dth", name, len(p.tenants))}
	secrets := p.tenant(0, "create", name, "--enable").Secrets
	if len(secrets) != 1 {
		p.t.Fatalf("%s: secrets %+v", name, secrets)
	}
	l.is(name, secrets[0].Password)
	p.soon(name+" is served at both", served(l))
	if _, err := p.poolers[0].ask(name, name, l.pass, "CREATE TABLE mark AS SELECT '"+l.mark+"'::text AS who"); err != nil {
		p.t.Fatal(err)
	}
	for i := range p.poolers {
		p.clients.Go(func() { p.client(i, l) })
	}
	p.tenants = append(p.tenants, l)
}

// client asks whose database it is in, again and again.
func (p *pair) client(i int, l *lodger) {
	beat := time.NewTicker(10 * time.Millisecond)
	defer beat.Stop()
	for p.ctx.Err() == nil {
		name, password := l.login()
		before := l.shut.Load()
		c, err := p.poolers[i].dial(name, name, password)
		for n := 0; err == nil && n < 100 && p.ctx.Err() == nil; n++ {
			var got string
			if err = c.QueryRow(context.Background(), "SELECT who FROM mark").Scan(&got); err != nil {
				break
			}
			if got != l.mark {
				p.t.Errorf("pooler %d: the password of %q opened %q", i, l.mark, got)
			}
			if after := l.shut.Load(); before == after && after%2 == 1 {
				p.t.Errorf("pooler %d: a statement of %s succeeded that may not", i, name)
			}
			l.answered[i].Add(1)
			<-beat.C
			before = l.shut.Load()
		}
		if c != nil {
			c.Close(context.Background())
		}
		if err != nil {
			<-beat.C
		}
	}
}

// mirrorTime is how soon poolers know of a change, as a rule: that the machine is busy with other tests is not their fault.
const mirrorTime = time.Second

// soon has something be so at both poolers when they have heard of it.
func (p *pair) soon(what string, try func(k *kennel) error) {
	p.t.Helper()
	for i, k := range p.poolers {
		if k.process.ended() {
			continue
		}
		begun := time.Now()
		var err error
		eventually(p.t, what, func() bool { err = try(k); return err == nil })
		d := time.Since(begun)
		if p.heard = append(p.heard, d); d > 4*mirrorTime { // a pause of a pool's is longer
			p.t.Errorf("%s: pooler %d took %v", what, i, d)
		}
	}
}

// rejects has a login fail.
func rejects(user, password string, codes ...string) func(k *kennel) error {
	return func(k *kennel) error {
		_, err := k.ask(user, user, password, "SELECT 1::text")
		e, ok := errors.AsType[*pgconn.PgError](err)
		for _, code := range codes {
			if ok && e.Code == code {
				return nil
			}
		}
		return fmt.Errorf("login of %s: got %w, want SQLSTATE %v", user, err, codes)
	}
}

// served has a tenant's login do.
func served(l *lodger) func(k *kennel) error {
	return func(k *kennel) error {
		name, password := l.login()
		_, err := k.ask(name, name, password, "SELECT 1::text")
		return err
	}
}

// serves waits until clients that are there are served at the poolers that run.
func (p *pair) serves(what string, list ...*lodger) {
	p.t.Helper()
	for _, l := range list {
		for i, k := range p.poolers {
			if k.process.ended() {
				continue
			}
			before := l.answered[i].Load()
			eventually(p.t, fmt.Sprintf("%s: pooler %d serves %s", what, i, l.mark), func() bool { return l.answered[i].Load() > before+3 })
		}
	}
}

// current says what a pooler says of its directory.
func (k *kennel) current() string {
	return regexp.MustCompile(`"directory":\{"current":(true|false)`).FindString(page(k.metrics+"/readyz")) +
		regexp.MustCompile(`(?m)^pgkennel_directory_current [01]$`).FindString(page(k.metrics+"/metrics"))
}

const (
	isCurrent = `"directory":{"current":truepgkennel_directory_current 1`
	isStale   = `"directory":{"current":falsepgkennel_directory_current 0`
)

// knows waits until a pooler says that it is, or is not, up to date.
func (p *pair) knows(i int, want string) {
	p.t.Helper()
	begun := time.Now()
	eventually(p.t, fmt.Sprintf("pooler %d says %s", i, want), func() bool { return p.poolers[i].current() == want })
	p.t.Logf("pooler %d says so after %v: %s", i, time.Since(begun).Round(time.Millisecond), want)
}

// TestTwoPoolers has two poolers over one etcd, and clients of four tenants at both. Tenants are made, changed, shut and removed, while a pooler is cut off,
// or killed, and etcd hangs, or is killed. Nobody ever sees another's row, and no statement succeeds of who was shut out.
func TestTwoPoolers(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.ctx = ctx
	t.Cleanup(func() {
		cancel()
		p.clients.Wait()
	})
	p.poolers[0].serve()
	p.poolers[1].serve()
	for _, name := range []string{"acme", "globex", "initech", "umbrella"} {
		p.lodge(name)
	}
	p.serves("at the beginning", p.tenants...)
	type part struct {
		name string
		do   func()
	}
	parts := []part{{"changes", p.changes}, {"names", p.names}, {"cut off", p.cutOff}, {"runner dies", p.runnerDies}, {"etcd dies", p.dies}}
	if *soak > briefly {
		parts = append(parts, part{"etcd hangs", p.hangs}, part{"anything", p.anything})
	}
	for _, part := range parts {
		begun := time.Now()
		part.do()
		t.Logf("%s: %v", part.name, time.Since(begun).Round(time.Millisecond))
		if t.Failed() {
			for i, k := range p.poolers {
				t.Logf("pooler %d's log:\n%s", i, tail(k.log.String(), 25))
			}
			break
		}
	}
	slices.Sort(p.heard)
	middle, last := p.heard[len(p.heard)/2], p.heard[len(p.heard)-1]
	t.Logf("changes were known after %v, the slowest of %d after %v", middle.Round(time.Millisecond), len(p.heard), last.Round(time.Millisecond))
	if middle > mirrorTime {
		t.Errorf("most changes were known after more than %v", mirrorTime)
	}
	cancel()
	p.clients.Wait()
	for _, k := range p.poolers {
		k.stop()
	}
}

// shutOut disables a tenant's access, for sure; enable lets it in again.
func (p *pair) shutOut(l *lodger) {
	p.t.Helper()
	name, _ := l.login()
	p.tenant(0, "disable-access", name, "--now")
	l.shut.Add(1)
}

func (p *pair) letIn(l *lodger) {
	p.t.Helper()
	l.shut.Add(1)
	name, _ := l.login()
	p.tenant(0, "enable-access", name)
	p.soon(name+" is let in", served(l))
}

// changes are those that operators make every day.
func (p *pair) changes() {
	acme, globex, initech := p.tenants[0], p.tenants[1], p.tenants[2]
	p.shutOut(acme)
	p.soon("acme is shut out", rejects("acme", acme.pass, "28P01"))
	p.letIn(acme)

	old := globex.pass
	globex.is("globex", p.tenant(0, "password", "globex").Secrets[0].Password)
	p.soon("globex's old password is of no use", rejects("globex", old, "28P01"))

	p.tenant(0, "rename", "initech", "initrode")
	initech.is("initrode", initech.pass)
	p.soon("the old name is nobody's", rejects("initech", initech.pass, "28P01"))
	p.tenant(0, "stop", "globex")
	globex.shut.Add(1)
	p.soon("globex is stopped", rejects("globex", globex.pass, "57P03"))
	globex.shut.Add(1)
	p.tenant(0, "start", "globex")
	p.serves("after all changes", p.tenants...)
}

// names go from one tenant to another.
func (p *pair) names() {
	umbrella, initech := p.tenants[3], p.tenants[2]
	p.tenant(0, "rename", "initrode", "initech")
	initech.is("initech", initech.pass)
	p.tenant(0, "rename", "umbrella", "initrode")
	umbrella.is("initrode", umbrella.pass)
	p.soon("who has the name now does not take the other's password", rejects("initrode", initech.pass, "28P01"))
	p.soon("and the one who had it its own", rejects("umbrella", umbrella.pass, "28P01"))
	p.serves("with other names", initech, umbrella)

	p.tenant(0, "remove", "initrode", "--now")
	umbrella.shut.Add(1)
	p.lodge("initrode")
	p.soon("the old password does not open the new tenant of that name", rejects("initrode", umbrella.pass, "28P01"))
	p.tenants[3] = p.tenants[len(p.tenants)-1]
	p.tenants = p.tenants[:4]
	p.serves("after a tenant was made anew", p.tenants...)
}

// cutOff has the second pooler hear of nothing. What it does not know its tenants' servers do.
func (p *pair) cutOff() {
	acme := p.tenants[0]
	p.line.freeze()
	p.shutOut(acme)
	p.knows(1, isStale)
	if err := rejects("acme", acme.pass, "28P01")(p.poolers[0]); err != nil {
		p.t.Error(err)
	}
	if got, err := p.poolers[1].ask("acme", "acme", acme.pass, "SELECT who FROM mark"); err == nil {
		p.t.Errorf("a pooler that is cut off serves who was shut out: %s", got)
	}
	p.serves("cut off", p.tenants[1:]...)
	p.line.thaw()
	p.knows(1, isCurrent)
	p.soon("acme is shut out", rejects("acme", acme.pass, "28P01"))
	p.letIn(acme)
	p.serves("not cut off any more", acme)
}

// without has both poolers go on without etcd.
func (p *pair) without() {
	var order sync.WaitGroup
	order.Go(func() {
		begun := time.Now()
		r := p.tenant(1, "create", "nobody")
		if len(r.Errors) != 1 || !strings.Contains(r.Errors[0].Message, "can't be reached") {
			p.t.Errorf("an order without etcd: %+v", r.Errors)
		}
		if d := time.Since(begun); d > 8*time.Second {
			p.t.Errorf("an order without etcd took %v", d)
		}
	})
	for i := range p.poolers {
		p.knows(i, isStale)
	}
	p.serves("without etcd", p.tenants...)
	for i, k := range p.poolers {
		for _, l := range p.tenants {
			if err := served(l)(k); err != nil {
				p.t.Errorf("pooler %d without etcd: %s: %v", i, l.mark, err)
			}
		}
	}
	order.Wait()
}

// with waits until both poolers follow etcd again.
func (p *pair) with() {
	for i := range p.poolers {
		p.knows(i, isCurrent)
	}
	p.shutOut(p.tenants[1])
	name, password := p.tenants[1].login()
	p.soon(name+" is shut out", rejects(name, password, "28P01"))
	p.letIn(p.tenants[1])
	p.serves("with etcd", p.tenants...)
}

func (p *pair) hangs() {
	p.etcd.signal(syscall.SIGSTOP)
	p.without()
	p.etcd.signal(syscall.SIGCONT)
	p.with()
}

func (p *pair) dies() {
	p.etcd.kill()
	p.without()
	p.etcd.start()
	p.with()
}

// takeover is how long it may take until another goes on with what a dead runner had begun: its lease has to run out.
const takeover = 15 * time.Second

// runnerDies kills the first pooler when it is making a tenant. The other goes on with that.
func (p *pair) runnerDies() {
	k := p.poolers[0]
	var made result
	done := make(chan struct{})
	go func() {
		defer close(done)
		made = p.tenant(0, "create", "hooli", "--enable")
	}()
	eventually(p.t, "hooli is being made", func() bool {
		for _, v := range p.tenant(0, "list").Tenants {
			if v.Name == "hooli" {
				return true
			}
		}
		return false
	})
	k.process.signal(p.t, syscall.SIGKILL)
	<-k.process.done
	begun := time.Now()
	p.shutOut(p.tenants[2]) // nobody is there who looks after its host
	p.serves("without the first pooler", p.tenants[0], p.tenants[1], p.tenants[3])
	p.letIn(p.tenants[2])
	<-done
	var taken time.Duration
	for _, e := range p.poolers[1].tenant(0, "audit", "hooli").Audit {
		if strings.HasPrefix(e.Detail, "attempt ") && e.Time.After(begun) { // the first, where the dead one had written no more than the order
			taken = e.Time.Sub(begun)
		}
	}
	p.t.Logf("another took over after %v, and was done after %v", taken.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	if taken <= 0 || taken > takeover {
		p.t.Errorf("another took over after %v", taken)
	}
	if len(made.Secrets) != 1 {
		p.t.Fatalf("secrets %+v", made.Secrets)
	}
	k.serve()
	p.soon("hooli is served", func(k *kennel) error {
		_, err := k.ask("hooli", "hooli", made.Secrets[0].Password, "SELECT 1::text")
		return err
	})
	p.serves("both again", p.tenants...)
}

// anything does any of this, for the time of -soak.
func (p *pair) anything() {
	seed := mrand.Uint64()
	p.t.Logf("seed %d", seed)
	rnd := mrand.New(mrand.NewPCG(seed, 0))
	for end := time.Now().Add(*soak); time.Now().Before(end) && !p.t.Failed(); {
		l := p.tenants[rnd.IntN(len(p.tenants))]
		name, password := l.login()
		switch rnd.IntN(8) {
		case 0:
			p.shutOut(l)
			p.soon(name+" is shut out", rejects(name, password, "28P01"))
			p.letIn(l)
		case 1:
			l.is(name, p.tenant(0, "password", name).Secrets[0].Password)
			p.soon("the old password of "+name+" is of no use", rejects(name, password, "28P01"))
		case 2:
			to := fmt.Sprintf("n%d", rnd.IntN(1e6))
			p.tenant(0, "rename", name, to)
			l.is(to, password)
			p.soon(name+" is nobody's name", rejects(name, password, "28P01"))
		case 3:
			p.tenant(0, "stop", name)
			l.shut.Add(1)
			p.soon(name+" is stopped", rejects(name, password, "57P03"))
			l.shut.Add(1)
			p.tenant(0, "start", name)
		case 4:
			p.etcd.kill()
			p.etcd.start()
		case 5:
			p.etcd.signal(syscall.SIGSTOP)
			p.serves("etcd hangs", l)
			p.etcd.signal(syscall.SIGCONT)
		case 6:
			p.line.cut(rnd.IntN(2) == 0)
		case 7:
			i := rnd.IntN(len(p.poolers))
			p.poolers[i].process.signal(p.t, syscall.SIGKILL)
			<-p.poolers[i].process.done
			p.shutOut(l)
			p.letIn(l)
			p.poolers[i].serve()
		}
		for i := range p.poolers {
			p.knows(i, isCurrent)
		}
		p.serves("in the end", p.tenants...)
	}
}
