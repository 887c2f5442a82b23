package integration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
	"github.com/pgkennel/pgkennel/tenant"
)

// remoteAddress is where the instances of the host "here" listen for others.
const remoteAddress = "127.0.0.2"

// newHosts is two poolers of two hosts, "here" and "there", over one etcd. Orders come from a process of the first; the second reaches its instances by TLS only.
func newHosts(t *testing.T) *pair {
	t.Helper()
	p := &pair{etcd: startEtcd(t)}
	key := make([]byte, 32)
	rand.Read(key)
	env := []string{"PGKENNEL_DIRECTORY_KEY=" + base64.StdEncoding.EncodeToString(key)}
	p.kennel = newKennel(t, "")
	p.env = env
	here := fmt.Sprintf("host = \"here\"\nlisten = %q\ndata_dir = \"%s/instances\"\nbackups = \"%[2]s/backups\"\n", remoteAddress, p.dir)
	for i, text := range []string{here, "host = \"there\"\n", here} {
		k := p.kennel
		if i < 2 {
			port := strconv.Itoa(pgtest.FreePort(t))
			k = &kennel{
				stand: &stand{t: t, dir: filepath.Join(p.dir, fmt.Sprint("pooler", i)), log: new(testbed.Log), addr: net.JoinHostPort("127.0.0.1", port)}, port: port, env: env,
			}
			if err := os.Mkdir(k.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p.poolers[i] = k
		}
		text = fmt.Sprintf("[directory]\nstore = \"etcd\"\nendpoints = [\"http://%s\"]\n[provision]\n", p.etcd.address) + text
		if err := os.WriteFile(filepath.Join(k.dir, "pgdog.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// whereabouts says how a session has come to its server.
const whereabouts = "SELECT coalesce(host(inet_server_addr()), 'socket')"

// A pooler on another host than a tenant's instance serves it all the same, by TLS with certificates on both sides: also when it has to be woken, or is started
// anew. What listens in its place is not believed.
func TestReach(t *testing.T) {
	t.Parallel()
	p := newHosts(t)
	p.poolers[0].serve()
	p.poolers[1].serve()
	t.Cleanup(func() {
		for _, k := range p.poolers {
			if t.Failed() {
				t.Logf("%s:\n%s", k.dir, tail(k.log.String(), 40))
			}
			if !k.process.ended() {
				k.stop()
			}
		}
	})
	secrets := p.tenant(0, "create", "acme", "--enable").Secrets
	if len(secrets) != 1 {
		t.Fatalf("got secrets %v", secrets)
	}
	password := secrets[0].Password
	for i, want := range []string{"socket", remoteAddress} {
		var got string
		eventually(t, "acme is served", func() bool {
			var err error
			got, err = p.poolers[i].ask("acme", "acme", password, whereabouts)
			return err == nil
		})
		if got != want {
			t.Errorf("pooler %d came by %q, want %q", i, got, want)
		}
	}
	far := p.poolers[1]
	v := p.tenant(0, "show", "acme").Tenants[0]
	if v.Endpoint.Remote != remoteAddress {
		t.Errorf("show says it listens at %q", v.Endpoint.Remote)
	}

	// A session goes on when its server was started anew. What it runs can be cancelled.
	c, err := far.dial("acme", "acme", password)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	p.tenant(0, "restart", "acme")
	if _, err := c.Exec(t.Context(), "CREATE TABLE x AS SELECT 7 AS i"); err != nil {
		t.Errorf("behind a restart: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = c.PgConn().CancelRequest(t.Context()) // the statement says whether it did anything
	}()
	_, err = c.Exec(t.Context(), "SELECT pg_sleep(60)")
	<-stopped
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "57014" {
		t.Errorf("a cancel request: %v", err)
	}
	c.Close(context.Background())

	p.asleep("acme")
	if got, err := far.ask("acme", "acme", password, "SELECT i::text FROM x"); err != nil || got != "7" {
		t.Errorf("who wakes it from another host: got %q, %v", got, err)
	}

	// Somebody else has the port when it is woken. The host's own pooler has its socket.
	p.asleep("acme")
	bad := impersonate(t, net.JoinHostPort(remoteAddress, strconv.Itoa(v.Endpoint.Port)), v.ID)
	_, err = far.ask("acme", "acme", password, "SELECT 1::text")
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Hint == "" || strings.Contains(e.Error(), remoteAddress) {
		t.Errorf("beside an impostor: %v", err)
	}
	if got, err := p.poolers[0].ask("acme", "acme", password, whereabouts); err != nil || got != "socket" {
		t.Errorf("its host's pooler, beside an impostor: %q, %v", got, err)
	}
	if heard := bad.close(); heard == "" || strings.Contains(heard, "acme") || strings.Contains(heard, v.Database) || strings.Contains(heard, "SCRAM") {
		t.Errorf("the impostor was told %q", heard)
	}
	if !strings.Contains(far.log.String(), "connect to "+remoteAddress) {
		t.Error("the log does not say where the server was not what it should be")
	}
	p.tenant(0, "restart", "acme")
	eventually(t, "acme is served again", func() bool { _, err := far.ask("acme", "acme", password, "SELECT 1::text"); return err == nil })
	p.poolers[0].stop()
	if got, err := far.ask("acme", "acme", password, "SELECT i::text FROM x"); err != nil || got != "7" {
		t.Errorf("without a pgkennel on its host: got %q, %v", got, err)
	}
}

// asleep has a tenant fall asleep, and stay awake once it was woken.
func (p *pair) asleep(name string) {
	p.t.Helper()
	p.tenant(0, "set", name, "--suspend-after", "1s")
	eventually(p.t, name+" is asleep", func() bool {
		v := p.tenant(0, "show", name).Tenants[0]
		return v.Phase == tenant.Asleep.String() && v.Operation == nil
	})
	p.tenant(0, "set", name, "--suspend-after", "0")
}

// impostor listens in a server's place.
type impostor struct {
	net.Listener
	all   sync.WaitGroup
	mu    sync.Mutex
	heard []byte
}

// impersonate answers who asks for TLS with a certificate for the right name, which it made itself.
func impersonate(t *testing.T, address, id string) *impostor {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tenant.NewSecret([]byte("the key of somebody else"))
	if err != nil {
		t.Fatal(err)
	}
	vault := tenant.NewVault(key)
	a, err := tenant.NewAuthority(vault, id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := a.Open(vault, id)
	if err != nil {
		t.Fatal(err)
	}
	made, err := signer.Server(id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(made, made)
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{Listener: l}
	i.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			i.all.Go(func() { i.serve(c, cert) })
		}
	})
	return i
}

func (i *impostor) serve(c net.Conn, cert tls.Certificate) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	ask := make([]byte, 8)
	if _, err := io.ReadFull(c, ask); err != nil {
		return
	}
	i.hear(ask)
	_, _ = c.Write([]byte("S")) // the other side may be gone
	c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert})
	rest, _ := io.ReadAll(c)
	i.hear(rest)
}

func (i *impostor) hear(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.heard = append(i.heard, b...)
}

// close returns what was said to it.
func (i *impostor) close() string {
	i.Close()
	i.all.Wait()
	return string(i.heard)
}
