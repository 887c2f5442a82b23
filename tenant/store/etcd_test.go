package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	etcd "go.etcd.io/etcd/client/v3"

	"github.com/pgkennel/pgkennel/internal/pki"
	"github.com/pgkennel/pgkennel/tenant"
)

// quick are options with which a dead etcd is noticed soon.
var quick = EtcdOptions{Timeout: time.Second, TTL: 2 * time.Second}

// TestEtcdRestarts kills etcd under a watch, and changes a record when it is back: the watch goes on, and has missed nothing.
func TestEtcdRestarts(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	d := s.open(t, quick)
	r := put(t, d, newRecord("acme"))
	w := watch(t, d)
	w.until(time.Second, "the first reset", func() bool { return w.resets == 1 })
	s.kill()
	w.until(5*time.Second, "the word that it can't be reached", func() bool { return errors.Is(w.err, ErrUnreachable) })
	if len(w.names) != 1 {
		t.Errorf("got names %v, want that what was known stays", w.names)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	r = put(t, s.open(t, quick), r, rename("other"))
	w.until(5*time.Second, "the new name", func() bool { return w.names[r.ID] == "other" && w.err == nil })
	if w.resets != 1 {
		t.Errorf("got %d resets, want one: nothing was missed", w.resets)
	}
	put(t, d, r, rename("third"))
	w.until(time.Second, "the third name", func() bool { return w.names[r.ID] == "third" })
}

// TestEtcdIsRestored replaces etcd by one that has less behind it, as a restored backup has: everything is read anew.
func TestEtcdIsRestored(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	d := s.open(t, quick)
	for _, name := range []string{"a", "b", "c"} {
		put(t, d, newRecord(name))
	}
	w := watch(t, d)
	w.until(time.Second, "three", func() bool { return len(w.names) == 3 })
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	x := put(t, s.open(t, quick), newRecord("x"))
	w.until(8*time.Second, "the other contents", func() bool { return len(w.names) == 1 && w.names[x.ID] == "x" && w.err == nil })
	if w.resets < 2 {
		t.Errorf("got %d resets, want another one", w.resets)
	}
}

// TestEtcdIsRestoredUnseen restores etcd from a copy while a watch is cut off, and goes on from there until it has more behind it than the watch has seen: what
// the watch knows from the history that is gone does not stay.
func TestEtcdIsRestoredUnseen(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	proxy := newProxy(t, strings.TrimPrefix(s.url, "http://"))
	direct := s.open(t, quick)
	first := put(t, direct, newRecord("first"))
	s.kill()
	data := filepath.Join(s.dir, "data")
	if err := os.CopyFS(filepath.Join(s.dir, "backup"), os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	o := quick
	o.Endpoints = []string{proxy.address}
	far, err := OpenEtcd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	w := watch(t, far)
	put(t, s.open(t, quick), newRecord("lost"))
	w.until(5*time.Second, "both", func() bool { return len(w.names) == 2 })
	proxy.cut(true)
	w.until(5*time.Second, "the word that it can't be reached", func() bool { return errors.Is(w.err, ErrUnreachable) })
	s.kill()
	if err := errors.Join(os.RemoveAll(data), os.Rename(filepath.Join(s.dir, "backup"), data), s.start()); err != nil {
		t.Fatal(err)
	}
	again := s.open(t, quick)
	for i := range 10 {
		first = put(t, again, first, rename(fmt.Sprint("name", i)))
	}
	proxy.cut(false)
	w.until(8*time.Second, "what there is", func() bool { return len(w.names) == 1 && w.names[first.ID] == "name9" && w.err == nil })
}

// TestEtcdCompaction cuts a watch off, and has etcd forget what changes meanwhile.
func TestEtcdCompaction(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	proxy := newProxy(t, strings.TrimPrefix(s.url, "http://"))
	o := quick
	direct := s.open(t, o)
	r := put(t, direct, newRecord("acme"))
	gone := put(t, direct, newRecord("gone"))
	o.Endpoints = []string{proxy.address}
	far, err := OpenEtcd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	w := watch(t, far)
	w.until(time.Second, "the first reset", func() bool { return len(w.names) == 2 })
	proxy.cut(true)
	w.until(5*time.Second, "the word that it can't be reached", func() bool { return errors.Is(w.err, ErrUnreachable) })
	r = put(t, direct, r, rename("other"))
	if err := direct.Delete(t.Context(), gone, byTest("delete")); err != nil {
		t.Fatal(err)
	}
	r = put(t, direct, r, rename("third"))
	c, err := direct.(*etcdStore).client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), r.Revision, etcd.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	proxy.cut(false)
	w.until(8*time.Second, "what was missed", func() bool { return len(w.names) == 1 && w.names[r.ID] == "third" && w.err == nil })
	if w.resets != 2 {
		t.Errorf("got %d resets, want two: changes were missed", w.resets)
	}
}

// TestDeadEtcd asks everything of an etcd that is not there, and of one that hangs: each call fails within its time.
func TestDeadEtcd(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*etcdServer){
		"killed":  func(s *etcdServer) { s.kill() },
		"stopped": func(s *etcdServer) { _ = s.process.Signal(syscall.SIGSTOP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ownEtcd(t)
			d := s.open(t, quick)
			r := put(t, d, newRecord("acme"))
			harm(s)
			wantDead(t, d, r)
			wantDead(t, s.open(t, quick), r) // one that was never reached
		})
	}
	t.Run("with a password", func(t *testing.T) {
		t.Parallel()
		o := quick
		o.User, o.Password = "u", "secret-word"
		s := &etcdServer{url: "http://127.0.0.1:1"}
		wantDead(t, s.open(t, o), newRecord("acme"))
	})
}

func wantDead(t *testing.T, d tenant.Directory, r *tenant.Record) {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, call := range map[string]func(context.Context) error{
		"Get":    func(ctx context.Context) error { _, err := d.Get(ctx, r.ID); return err },
		"Find":   func(ctx context.Context) error { _, err := d.Find(ctx, "name/acme"); return err },
		"List":   func(ctx context.Context) error { _, err := d.List(ctx); return err },
		"Put":    func(ctx context.Context) error { _, err := d.Put(ctx, r, byTest("put")); return err },
		"Delete": func(ctx context.Context) error { return d.Delete(ctx, r, byTest("delete")) },
		"Watch":  func(ctx context.Context) error { _, err := d.Watch(ctx); return err },
		"Audit":  func(ctx context.Context) error { _, err := d.Audit(ctx, "", 1); return err },
		"Lock":   func(ctx context.Context) error { _, _, err := d.Lock(ctx, "x"); return err },
		"Hosts":  func(ctx context.Context) error { _, err := d.Hosts(ctx); return err },
	} {
		wg.Go(func() {
			began := time.Now()
			if err := call(t.Context()); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "secret-word") {
				t.Errorf("%s: got error %v, want ErrUnreachable, and no password in it", name, err)
			}
			if took := time.Since(began); took > 2*quick.Timeout {
				t.Errorf("%s: it took %v", name, took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began = time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got error %v, want that the caller's time is over", name, err)
			}
			if took := time.Since(began); took > quick.Timeout*9/10 {
				t.Errorf("%s: it took %v, although the caller gave it 50 ms", name, took)
			}
		})
	}
}

// TestLockIsLost has etcd hang: who has a lock knows that it may be lost, before anybody else can get it; and who waits for one is told.
func TestLockIsLost(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	a, b := s.open(t, quick), s.open(t, quick)
	unlock, lost, err := a.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, _, err := b.Lock(t.Context(), "x")
		waiting <- err
	}()
	eventually(t, 5*time.Second, "the one who waits", func() bool {
		n := 0
		_, err := a.(*etcdStore).scan(t.Context(), "locks/", 0, func(string, *etcdKV) { n++ })
		return err == nil && n == 2
	})
	_ = s.process.Signal(syscall.SIGSTOP)
	stopped := time.Now()
	for range 2 {
		select {
		case <-lost:
			lost = nil
			if took := time.Since(stopped); took > 2100*time.Millisecond {
				t.Errorf("the lock was lost %v after etcd hung: later than it may give it to somebody else", took)
			}
		case err := <-waiting:
			if !errors.Is(err, ErrUnreachable) {
				t.Errorf("who waits got error %v, want ErrUnreachable", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("nobody was told")
		}
	}
	unlock()
	_ = s.process.Signal(syscall.SIGCONT)
	unlock, _, err = b.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestLeaseIsRevoked ends a lease behind the back of who has it: its lock is lost, and its host comes back.
func TestLeaseIsRevoked(t *testing.T) {
	t.Parallel()
	s := sharedEtcd(t)
	o := quick
	o.Prefix = tenant.NewID()
	d := s.open(t, o)
	unlock, lost, err := d.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	go d.Alive(t.Context(), tenant.Host{Name: "h", Runner: "1"}) //nolint:errcheck // it ends with the test
	there := func() bool {
		hosts, err := d.Hosts(t.Context())
		return err == nil && len(hosts) == 1
	}
	eventually(t, 2*time.Second, "the host", there)
	c, err := d.(*etcdStore).client()
	if err != nil {
		t.Fatal(err)
	}
	for _, below := range []string{"locks/", "hosts/"} {
		var leases []etcd.LeaseID
		if _, err := d.(*etcdStore).scan(t.Context(), below, 0, func(_ string, kv *etcdKV) { leases = append(leases, etcd.LeaseID(kv.Lease)) }); err != nil || len(leases) != 1 {
			t.Fatalf("%s: got leases %v, %v, want one", below, leases, err)
		}
		if _, err := c.Revoke(t.Context(), leases[0]); err != nil {
			t.Fatal(err)
		}
	}
	if there() {
		t.Error("the host is there without its lease")
	}
	select {
	case <-lost:
	case <-time.After(3 * time.Second):
		t.Error("the lock was not lost")
	}
	eventually(t, 3*time.Second, "the host again", there)
}

// TestHostsExpire has a host whose connection is cut: it is gone when its time is over.
func TestHostsExpire(t *testing.T) {
	t.Parallel()
	s := sharedEtcd(t)
	proxy := newProxy(t, strings.TrimPrefix(s.url, "http://"))
	o := quick
	o.Prefix = tenant.NewID()
	near := s.open(t, o)
	o.Endpoints = []string{proxy.address}
	far, err := OpenEtcd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	go far.Alive(t.Context(), tenant.Host{Name: "h"}) //nolint:errcheck // it ends with the test
	count := func(want int) func() bool {
		return func() bool {
			hosts, err := near.Hosts(t.Context())
			return err == nil && len(hosts) == want
		}
	}
	eventually(t, 2*time.Second, "the host", count(1))
	proxy.cut(true)
	eventually(t, 5*time.Second, "its end", count(0))
	proxy.cut(false)
	eventually(t, 5*time.Second, "the host again", count(1))
}

// TestEtcdDamage puts into etcd what nobody of us writes.
func TestEtcdDamage(t *testing.T) {
	t.Parallel()
	s := sharedEtcd(t)
	o := quick
	o.Prefix = "/" + tenant.NewID() + "/"
	d := s.open(t, o)
	good, bad := put(t, d, newRecord("good")), put(t, d, newRecord("bad"))
	w := watch(t, d)
	w.until(time.Second, "both", func() bool { return len(w.names) == 2 })
	c, err := d.(*etcdStore).client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), o.Prefix+"records/"+bad.ID, `{"format":2,"record":{}}`); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "the end of the one that can't be read", func() bool { return len(w.names) == 1 && w.names[good.ID] != "" })
	var damaged *DamagedError
	if list, err := d.List(t.Context()); !errors.As(err, &damaged) || damaged.ID != bad.ID || !errors.Is(err, ErrNewer) || len(list) != 1 {
		t.Errorf("got %v, %v, want the good one, and that the other is of a newer version", list, err)
	}
	if _, err := d.Get(t.Context(), bad.ID); !errors.Is(err, ErrNewer) {
		t.Errorf("got error %v, want ErrNewer", err)
	}
	if _, err := d.Put(t.Context(), bad, byTest("put")); !errors.Is(err, ErrNewer) {
		t.Errorf("got error %v, want ErrNewer: what a newer version wrote is not overwritten", err)
	}
	if w := watch(t, d); true {
		w.until(time.Second, "the good one", func() bool { return len(w.names) == 1 && w.names[good.ID] != "" })
	}
	for key, value := range map[string]string{"records/broken": "{", "claims/name/broken": "broken"} {
		if _, err := c.Put(t.Context(), o.Prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	checkDrop(t, d, bad.ID, "broken", "name/broken")
	if _, err := c.Put(t.Context(), o.Prefix+"format", "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(t, o).List(t.Context()); !errors.Is(err, ErrNewer) {
		t.Errorf("got error %v, want that the directory is of a newer version", err)
	}
}

// TestEtcdLags has etcd know of a change that the watch does not tell of: everything is read anew, and then it is well.
func TestEtcdLags(t *testing.T) {
	t.Parallel()
	s := sharedEtcd(t)
	o := quick
	o.Prefix, o.Timeout = tenant.NewID(), 500*time.Millisecond
	d := s.open(t, o)
	r := put(t, d, newRecord("acme"))
	w := watch(t, d)
	w.until(time.Second, "the first reset", func() bool { return w.resets == 1 })
	c, err := d.(*etcdStore).client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), d.(*etcdStore).key(headKey), "nobody"); err != nil {
		t.Fatal(err)
	}
	w.until(5*time.Second, "everything", func() bool { return w.resets == 2 && w.names[r.ID] == "acme" })
	put(t, d, r, rename("other"))
	w.until(time.Second, "the new name", func() bool { return w.names[r.ID] == "other" && w.err == nil })
	if w.resets != 2 {
		t.Errorf("got %d resets, want no more than the two", w.resets)
	}
}

// TestEtcdPassword has an etcd that wants one.
func TestEtcdPassword(t *testing.T) {
	t.Parallel()
	s := ownEtcd(t)
	d := s.open(t, quick)
	r := put(t, d, newRecord("acme"))
	c, err := d.(*etcdStore).client()
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := c.UserAdd(t.Context(), "root", "good-word")
	_, err2 := c.UserGrantRole(t.Context(), "root", "root")
	_, err3 := c.AuthEnable(t.Context())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	o := quick
	o.User, o.Password = "root", "good-word"
	good := s.open(t, o)
	w := watch(t, good)
	r = put(t, good, r, rename("other"))
	w.until(time.Second, "the new name", func() bool { return w.names[r.ID] == "other" })
	unlock, _, err := good.Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	o.Password = "bad-word"
	if _, err := s.open(t, o).List(t.Context()); err == nil || errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "bad-word") {
		t.Errorf("with another password: got error %v, want that it is wrong", err)
	}
	if _, err := d.List(t.Context()); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("without a user: got error %v, want that it may not", err)
	}
}

func TestEtcdOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := makeCertificates(t, dir)
	for name, test := range map[string]struct {
		o    EtcdOptions
		want string // empty = it is good
	}{
		"none":             {EtcdOptions{}, "no endpoints"},
		"plain":            {EtcdOptions{Endpoints: []string{"h:2379", "http://i:2379"}}, ""},
		"tls":              {EtcdOptions{Endpoints: []string{"h:2379", "https://i:2379"}, CA: ca, Cert: cert, Key: key}, ""},
		"mixed":            {EtcdOptions{Endpoints: []string{"https://h:2379", "http://i:2379"}}, "either all of them"},
		"plain with CA":    {EtcdOptions{Endpoints: []string{"http://i:2379"}, CA: ca}, "either all of them"},
		"other scheme":     {EtcdOptions{Endpoints: []string{"ftp://i:2379"}}, "neither http"},
		"no address":       {EtcdOptions{Endpoints: []string{"http://"}}, "no address"},
		"no key":           {EtcdOptions{Endpoints: []string{"h:1"}, Cert: cert}, "needs its key"},
		"no such CA":       {EtcdOptions{Endpoints: []string{"h:1"}, CA: ca + "x"}, "no such file"},
		"CA without any":   {EtcdOptions{Endpoints: []string{"h:1"}, CA: key}, "has no certificate"},
		"key for cert":     {EtcdOptions{Endpoints: []string{"h:1"}, Cert: key, Key: key}, "certificate"},
		"endpoint is none": {EtcdOptions{Endpoints: []string{""}}, "no address"},
	} {
		d, err := OpenEtcd(t.Context(), test.o)
		if err == nil {
			d.Close()
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want %q", name, err, test.want)
		}
	}
}

// TestEtcdTLS has an etcd that takes only those whose certificate it knows.
func TestEtcdTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := makeCertificates(t, dir)
	s := &etcdServer{dir: dir, secure: []string{"--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=" + ca, "--client-cert-auth"}}
	s.begin(t)
	t.Cleanup(s.kill)
	o := quick
	o.CA, o.Cert, o.Key = ca, cert, key
	put(t, s.open(t, o), newRecord("acme"))
	o.Cert, o.Key = "", ""
	if _, err := s.open(t, o).List(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without a certificate: got error %v, want ErrUnreachable", err)
	}
	other, _, _ := makeCertificates(t, t.TempDir())
	o.CA = other
	if _, err := s.open(t, o).List(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another CA: got error %v, want one that says so", err)
	}
}

// makeCertificates writes a CA, and a certificate of it with its key, for client and server.
func makeCertificates(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	now := time.Now()
	rootCert, rootKey, err1 := pki.NewAuthority("CA", now, time.Hour)
	root, err2 := pki.Open(rootCert, rootKey)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	leaf := pki.Template("pooler", now, time.Hour)
	leaf.IPAddresses, leaf.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	leafCert, leafKey, err := root.Sign(leaf)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("ca.pem", rootCert), write("cert.pem", leafCert), write("key.pem", leafKey)
}
