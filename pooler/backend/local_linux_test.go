package backend

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/pooler/auth"
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
		"local all trusting trust", "local all barred reject", "local all peer peer", "local all hashed md5", "host all trusted 127.0.0.1/32 trust", "local all trusted trust",
	))
	db := i.CreateDatabase(t)
	for _, name := range []string{"plain", "trusting", "barred", "peer", "hashed", "trusted", "busy"} {
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
	if got := x.way(t, wrong); got != FailureAuth.String() {
		t.Errorf("a wrong password: %s", got)
	}
	if got := x.way(t, options("plain")); got != "unix" {
		t.Errorf("behind a wrong password: %s", got)
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

// A socket of that name that belongs to another process is told nothing.
func TestLocalsOfOthers(t *testing.T) {
	t.Parallel()
	i := pgtest.Shared(t)
	front, err := net.Listen("tcp", "127.0.0.1:0") // passes on
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
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
	trap.Close()
	if n := <-heard; n != 0 {
		t.Errorf("it came to nobody, or was told %d bytes", n)
	}
}
