package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/tenant"
)

// TestMain runs the child of TestFileSurvivesKill, or the tests; at the end nothing of what they opened may run.
func TestMain(m *testing.M) {
	if dir := os.Getenv(putterVariable); dir != "" {
		putter(dir)
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		shared.Lock()
		defer shared.Unlock()
		if shared.server != nil {
			shared.server.kill()
			os.RemoveAll(shared.server.dir)
		}
		os.Exit(code) //nolint:forbidigo // goleak leaves it to us
	}), goleak.IgnoreAnyFunction("github.com/pgkennel/pgkennel/internal/pginstance.Spawn.func1"))
}

// kinds are the stores that pass one conformance test. TTL is that of locks and hosts.
var kinds = []struct {
	name string
	ttl  time.Duration // 0 = they end with the process only
	open func(t *testing.T) (first, second tenant.Directory)
}{
	{"file", 0, func(t *testing.T) (tenant.Directory, tenant.Directory) {
		d := openFile(t, filepath.Join(t.TempDir(), "directory"))
		return d, d
	}},
	{"etcd", 2 * time.Second, func(t *testing.T) (tenant.Directory, tenant.Directory) {
		s := sharedEtcd(t)
		o := EtcdOptions{Prefix: "/" + tenant.NewID(), TTL: 2 * time.Second}
		return s.open(t, o), s.open(t, o)
	}},
}

// each runs a test against every store, through two clients of it.
func each(t *testing.T, f func(t *testing.T, a, b tenant.Directory)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			a, b := k.open(t)
			f(t, a, b)
		})
	}
}

func openFile(t *testing.T, path string) tenant.Directory {
	t.Helper()
	d, err := OpenFile(t.Context(), FileOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// etcdServer is a real etcd, the child of the test.
type etcdServer struct {
	dir, url string
	secure   []string // arguments for TLS
	args     []string
	process  *pginstance.Process
}

var shared struct {
	sync.Mutex
	server *etcdServer
}

// sharedEtcd is the etcd of all tests that leave it alone.
func sharedEtcd(t *testing.T) *etcdServer {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		dir, err := os.MkdirTemp("", "pgkennel-etcd-")
		if err != nil {
			t.Fatal(err)
		}
		s := &etcdServer{dir: dir}
		s.begin(t)
		shared.server = s
	}
	return shared.server
}

// ownEtcd is an etcd that the test may do harm to.
func ownEtcd(t *testing.T) *etcdServer {
	t.Helper()
	s := &etcdServer{dir: t.TempDir()}
	s.begin(t)
	t.Cleanup(s.kill)
	return s
}

// begin starts it on ports that the kernel gives, again if somebody else took one of them meanwhile.
func (s *etcdServer) begin(t *testing.T) {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal("etcd is not installed: `make deps` installs it (Debian: apt-get install --no-install-recommends etcd-server)")
	}
	for range 5 {
		var ports [2]int
		var listeners []net.Listener
		for i := range ports {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ports[i] = l.Addr().(*net.TCPAddr).Port
			listeners = append(listeners, l)
		}
		for _, l := range listeners {
			l.Close()
		}
		s.url = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
		if s.secure != nil {
			s.url = strings.Replace(s.url, "http", "https", 1)
		}
		peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
		s.args = []string{
			path, "--name=t", "--data-dir=" + filepath.Join(s.dir, "data"), "--listen-client-urls=" + s.url, "--advertise-client-urls=" + s.url,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=t=" + peer, "--initial-cluster-token=" + tenant.NewID(),
			"--heartbeat-interval=20", "--election-timeout=200",
		}
		s.args = append(s.args, s.secure...)
		if err = s.start(); err == nil {
			return
		}
		os.RemoveAll(filepath.Join(s.dir, "data"))
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	t.Fatalf("etcd: %v\n%s", err, log)
}

// start starts it where it was before, and returns when it answers.
func (s *etcdServer) start() error {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.process, err = pginstance.Spawn(cmd); err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3000 {
		select {
		case <-s.process.Done():
			return fmt.Errorf("it ended: %w", s.process.Err())
		case <-time.After(10 * time.Millisecond):
		}
		if s.secure != nil {
			if log, _ := os.ReadFile(log.Name()); strings.Contains(string(log), "serving client requests") {
				return nil
			}
			continue
		}
		resp, err := client.Get(s.url + "/health")
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(body), `"true"`) {
			return nil
		}
	}
	s.kill()
	return errors.New("it does not become healthy")
}

func (s *etcdServer) kill() {
	_ = s.process.Signal(syscall.SIGKILL)
	<-s.process.Done()
}

// open opens a directory in it.
func (s *etcdServer) open(t *testing.T, o EtcdOptions) tenant.Directory {
	t.Helper()
	o.Endpoints = []string{s.url}
	d, err := OpenEtcd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// byTest is what tests write into the audit.
func byTest(what string) tenant.Entry { return tenant.Entry{Who: "test", What: what} }

// newRecord is a tenant that was not put yet.
func newRecord(name string) *tenant.Record {
	return &tenant.Record{ID: tenant.NewID(), Name: name, Isolation: tenant.Instance, Phase: tenant.Ready, Created: time.Now().UTC()}
}

// put puts a record that has to go in.
func put(t *testing.T, d tenant.Directory, r *tenant.Record, change ...func(*tenant.Record)) *tenant.Record {
	t.Helper()
	r = r.Clone()
	for _, f := range change {
		f(r)
	}
	r, err := d.Put(t.Context(), r, byTest("put"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rename(name string) func(*tenant.Record) {
	return func(r *tenant.Record) { r.Name = name }
}

// watcher is what one watch told of.
type watcher struct {
	t       *testing.T
	changes <-chan tenant.Change
	names   map[string]string // by ID
	resets  int
	err     error
}

func watch(t *testing.T, d tenant.Directory) *watcher {
	t.Helper()
	ch, err := d.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{t: t, changes: ch, names: make(map[string]string)}
}

// until reads changes until what they led to is as wanted; it fails when that takes longer.
func (w *watcher) until(limit time.Duration, what string, done func() bool) {
	w.t.Helper()
	timeout := time.After(limit)
	for !done() {
		select {
		case c, ok := <-w.changes:
			if !ok {
				w.t.Fatalf("the watch ended before %s", what)
			}
			w.err = c.Err
			if c.Reset {
				w.resets++
				clear(w.names)
			}
			for _, r := range c.Records {
				w.names[r.ID] = r.Name
			}
			for _, id := range c.Deleted {
				delete(w.names, id)
			}
		case <-timeout:
			w.t.Fatalf("%s did not come within %v: names %v, error %v", what, limit, w.names, w.err)
		}
	}
}

// eventually waits for something.
func eventually(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come within %v", what, limit)
		}
		pause(context.Background(), time.Millisecond)
	}
}
