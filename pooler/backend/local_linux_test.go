package backend

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// way logs in and tells how, and what the server thinks of it.
func (x *Locals) way(t *testing.T, o DialOptions) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.DefaultTimeout)
	defer cancel()
	l, err := x.Dial(ctx, o)
	if err != nil {
		return FailureOf(err).String()
	}
	defer l.Conn.Close()
	network := l.Conn.RemoteAddr().Network()
	if addr := ask(t, l, "SELECT coalesce(client_addr::text, '') FROM pg_stat_activity WHERE pid = pg_backend_pid()"); (addr == "") != (network == "unix") {
		t.Errorf("by %s, and the server says that we are at %q", network, addr)
	}
	return network
}

// A server of this host is reached by its socket, behind the first connection of a login, where it asks for the same proof there.
func TestLocals(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	i := pgtest.Start(t, pgtest.Auth("scram-sha-256"), pgtest.TLS(ca), pgtest.HBA(
		"local all trusting trust", "local all barred reject", "local all peer peer", "local all hashed md5", "host all trusted 127.0.0.1/32 trust", "local all trusted trust", "host all clear 127.0.0.1/32 password", "local all clear password",
		"host replication copying 127.0.0.1/32 reject", "local replication copying scram-sha-256",
	))
	db := i.CreateDatabase(t)
	for _, name := range []string{"plain", "trusting", "barred", "peer", "hashed", "trusted", "busy", "copying", "clear"} {
		i.Exec(t, db, "CREATE ROLE "+name+" LOGIN PASSWORD 'secret'")
	}
	i.Exec(t, db, "ALTER ROLE busy CONNECTION LIMIT 1")
	here := Address{Host: "127.0.0.1", Port: i.Port}
	options := func(user string) DialOptions {
		return DialOptions{Address: here, User: user, Database: db, Credential: auth.NewClientCredential("secret")}
	}
	prefer, err := ClientTLS(TLSPrefer, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	require, err := ClientTLS(TLSVerifyCA, ca.File, "", "")
	if err != nil {
		t.Fatal(err)
	}
	with := func(tls TLSOptions) DialOptions {
		o := options("plain")
		o.TLS = tls
		return o
	}
	elsewhere := options("plain")
	elsewhere.Address.Host = "0.0.0.0" // it leads here as well, but nobody says so
	named := options("plain")
	named.Address.Host = "localhost"
	for _, row := range []struct {
		name string
		o    DialOptions
		want []string
	}{
		{"scram by both", options("plain"), []string{"tcp", "unix", "unix"}},
		{"by name", named, []string{"tcp", "unix"}},
		{"trust by both", options("trusted"), []string{"tcp", "unix"}},
		{"no proof by the socket", options("trusting"), []string{"tcp", "tcp", "tcp"}},
		{"nobody by the socket", options("barred"), []string{"tcp", "tcp", "tcp"}},
		{"others by the socket", options("peer"), []string{"tcp", "tcp", "tcp"}},
		{"scram, where md5 would do", options("hashed"), []string{"tcp", "unix"}}, // the server has a SCRAM secret, and asks for that
		{"a password by both", options("clear"), []string{"tcp", "tcp", "tcp"}},   // it may be LDAP's by TCP
		{"tls if there is", with(prefer), []string{"tcp", "unix"}},
		{"tls", with(require), []string{"tcp", "tcp"}},
		{"another address", elsewhere, []string{"tcp", "tcp"}},
	} {
		var x Locals
		for n, want := range row.want {
			if got := x.way(t, row.o); got != want {
				t.Errorf("%s: connection %d is by %q, want %q", row.name, n+1, got, want)
			}
		}
	}

	// What the server would say by TCP as well is said, and changes nothing.
	var x Locals
	x.way(t, options("plain"))
	wrong := options("plain")
	wrong.Credential = auth.NewClientCredential("secrets")
	for range 2 { // before the socket was used, and behind that
		if got := x.way(t, wrong); got != FailureAuth.String() {
			t.Errorf("a wrong password: %s", got)
		}
		if got := x.way(t, options("plain")); got != "unix" {
			t.Errorf("behind a wrong password: %s", got)
		}
	}
	// A process of that number of another user is another one.
	k := wayKey{here, "plain", db}
	w := x.ways[k]
	w.server.uid++
	x.learn(k, w)
	if first, second := x.way(t, options("plain")), x.way(t, options("plain")); first != "tcp" || second != "unix" {
		t.Errorf("of another user: %s, %s", first, second)
	}
	x.way(t, options("busy"))
	l, err := x.Dial(t.Context(), options("busy"))
	if err != nil {
		t.Fatal(err)
	}
	if got := x.way(t, options("busy")); got != FailureServer.String() {
		t.Errorf("one too many: %s", got)
	}
	l.Conn.Close()

	// Replication has rules of its own.
	i.Exec(t, db, "ALTER ROLE copying REPLICATION")
	copying := options("copying")
	first, second := x.way(t, copying), x.way(t, copying)
	copying.Params = []pgwire.Param{{Name: "replication", Value: "true"}}
	if got := x.way(t, copying); first != "tcp" || second != "unix" || got != FailureAuth.String() {
		t.Errorf("replication: %s, %s, %s", first, second, got)
	}

	// What is believed for long is asked again, by TCP: what pg_hba.conf says of that counts.
	w = x.ways[k]
	w.since = w.since.Add(-2 * wayFor)
	x.learn(k, w)
	if got := x.way(t, options("plain")); got != "unix" || time.Since(x.ways[k].since) > wayFor {
		t.Errorf("later: by %s, found %v ago", got, time.Since(x.ways[k].since))
	}
	w.server.pid++
	x.learn(k, w)
	if got := x.way(t, options("plain")); got != "unix" || x.ways[k].server == w.server {
		t.Errorf("later, of another server: by %s", got)
	}

	// A server that does not answer is waited for once.
	frozen := options("plain")
	frozen.ConnectTimeout = time.Second
	i.Freeze(t)
	begun := time.Now()
	got := x.way(t, frozen)
	i.Thaw()
	if took := time.Since(begun); got != FailureUnreachable.String() || took > 1900*time.Millisecond {
		t.Errorf("a server that is frozen: %s after %v", got, took)
	}
	if w := x.ways[k]; time.Until(w.closed) > failedFor {
		t.Errorf("it is closed for %v", time.Until(w.closed))
	}

	// Another server has the address, whether it has the socket's path as well or not.
	i.Restart(t)
	if first, second := x.way(t, options("plain")), x.way(t, options("plain")); first != "tcp" || second != "unix" {
		t.Errorf("behind a restart: %s, %s", first, second)
	}
}

// Of connections that begin together one is by TCP.
func TestLocalsTogether(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	o := DialOptions{Address: Address{Host: "127.0.0.1", Port: i.Port}, User: i.CreateUser(t, "secret", "scram-sha-256"), Database: "postgres", Credential: auth.NewClientCredential("secret")}
	var x Locals
	var all sync.WaitGroup
	ways := make([]string, 8)
	for n := range ways {
		all.Go(func() { ways[n] = x.way(t, o) })
	}
	all.Wait()
	seen := map[string]int{}
	for _, way := range ways {
		seen[way]++
	}
	if seen["tcp"] == 0 || seen["tcp"]+seen["unix"] != len(ways) { // the others may wait in vain on a busy machine
		t.Errorf("got %v", seen)
	}
	if got := x.way(t, o); got != "unix" {
		t.Errorf("the next one is by %s", got)
	}
	// Who waits for one that comes to nothing tries itself, and has its own answer.
	o.Address.Port = pgtest.FreePort(t)
	for n := range ways {
		all.Go(func() {
			if got := x.way(t, o); got != FailureUnreachable.String() {
				t.Errorf("nobody there: connection %d: %s", n, got)
			}
		})
	}
	all.Wait()
}

// A proxy at another address of this host, before a server of the same port, is not gone around: it may lead to another one any time. Nor is a socket of that name
// told anything that belongs to another process.
func TestLocalsOfOthers(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	proxied := func(address string) net.Listener {
		front, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { front.Close() })
		go func() {
			for {
				c, err := front.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					s, err := net.Dial("tcp", i.Addr())
					if err != nil {
						return
					}
					defer s.Close()
					go io.Copy(s, c) //nolint:errcheck // it ends
					_, _ = io.Copy(c, s)
				}()
			}
		}()
		return front
	}
	front := proxied("127.0.0.1:0")
	port := front.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is
	trap, err := net.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL."+strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan int, 1)
	go func() {
		c, err := trap.Accept()
		if err != nil {
			heard <- -1 // nobody came
			return
		}
		n, _ := c.Read(make([]byte, 100))
		heard <- n
	}()
	o := DialOptions{Address: Address{Host: "127.0.0.1", Port: port}, User: i.CreateUser(t, "secret", "scram-sha-256"), Database: "postgres", Credential: auth.NewClientCredential("secret")}
	var x Locals
	for range 3 {
		if got := x.way(t, o); got != "tcp" {
			t.Errorf("it is by %s", got)
		}
	}
	k := wayKey{o.Address, o.User, o.Database}
	x.learn(k, way{server: serverOf(t, i, o.User), method: pgwire.AuthSASL, since: time.Now()})
	if got := x.way(t, o); got != "tcp" {
		t.Errorf("with a trap it is by %s", got)
	}
	proxied("127.0.0.2:" + strconv.Itoa(i.Port))
	o.Address = Address{Host: "127.0.0.2", Port: i.Port}
	for range 3 {
		if got := x.way(t, o); got != "tcp" {
			t.Errorf("by a proxy of the server's port it is by %s", got)
		}
	}
	trap.Close()
	if n := <-heard; n != 0 {
		t.Errorf("it came to nobody, or was told %d bytes", n)
	}
}

// serverOf is the first process of a server.
func serverOf(t *testing.T, i *pgtest.Instance, user string) process {
	t.Helper()
	l, err := Dial(t.Context(), DialOptions{Address: Address{Host: "127.0.0.1", Port: i.Port}, User: user, Database: "postgres", Credential: auth.NewClientCredential("secret")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Conn.Close()
	return parentOf(int(l.PID))
}
