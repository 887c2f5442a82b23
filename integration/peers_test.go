package integration

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/internal/pgtest"
)

// balance is a load balancer: each connection goes to the next of the addresses.
func balance(t *testing.T, to []string) (addr string) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			s, err := d.DialContext(t.Context(), "tcp", to[n%len(to)])
			if err != nil {
				c.Close()
				continue
			}
			all.Go(func() {
				io.Copy(s, c) //nolint:errcheck // either end is the end
				s.Close()
			})
			all.Go(func() {
				io.Copy(c, s) //nolint:errcheck // likewise
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// Three poolers are behind one load balancer, two of them over TLS: a cancel request cancels its client's statement whichever of them it reaches, and nobody
// else's. One with the key of a pooler that nobody knows is dropped, and none goes around in circles.
func TestPeers(t *testing.T) {
	t.Parallel()
	const n = 3
	ca := pgtest.NewCA(t)
	cert, key := ca.Issue("localhost", "localhost", "127.0.0.1")
	var list []*stand
	var addrs []string
	for i := range n {
		general := fmt.Sprintf("peer_id = %d\nworkers = 1", i+1)
		if i > 0 {
			general += fmt.Sprintf("\ntls_certificate = %q\ntls_private_key = %q", cert, key)
		}
		s := prepare(t, spec{general: general})
		list, addrs = append(list, s), append(addrs, s.addr)
	}
	for i, s := range list {
		text, err := os.ReadFile(s.path("pgdog.toml"))
		if err != nil {
			t.Fatal(err)
		}
		for j, addr := range addrs {
			_, port, _ := strings.Cut(addr, ":")
			text = fmt.Appendf(text, "\n[[peers]]\nid = %d\nhost = \"127.0.0.1\"\nport = %s\n", j+1, port)
		}
		_, port, _ := strings.Cut(addrs[(i+1)%n], ":") // each takes another for the ninth
		s.write("pgdog.toml", string(text)+fmt.Sprintf("\n[[peers]]\nid = 9\nhost = \"127.0.0.1\"\nport = %s\n", port))
		s.startProgram(nil)
	}
	at := balance(t, addrs)
	var ids [4]int
	var all sync.WaitGroup
	type pair struct{ c, bystander *pgtest.Client }
	var pairs []pair
	for i := range 12 {
		l := list[0].login()
		if i%2 == 1 {
			l.Version = 3<<16 | 2
		}
		pairs = append(pairs, pair{pgtest.Connect(t, at, l), pgtest.Connect(t, at, l)})
	}
	for i, p := range pairs {
		c, bystander := p.c, p.bystander
		ids[c.PID>>23]++
		all.Go(func() {
			for range 3 {
				bystander.Send(simple("SELECT 'mine' FROM pg_sleep(0.05)"))
				c.Send(simple("SELECT pg_sleep(60)"))
				answer := make(chan string, 1)
				go func() { answer <- outcome(c.UntilReady()) }()
				got := ""
				for got == "" { // the statement may not have begun when the first request comes
					c.Cancel()
					select {
					case got = <-answer:
					case <-time.After(5 * time.Millisecond):
					}
				}
				if got != "57014; I" {
					t.Errorf("client %d: %s", i, got)
				}
				if got := outcome(bystander.UntilReady()); got != "mine; SELECT 1; I" {
					t.Errorf("who cancels nothing: %s", got)
				}
			}
		})
	}
	all.Wait()
	for i := range n {
		if ids[i+1] == 0 {
			t.Errorf("nobody has a key of pooler %d", i+1)
		}
	}
	results := func(result string) (sum float64) {
		for _, s := range list {
			sum += s.metric(t, "session_cancels_total", `result="`+result+`"`)
		}
		return sum
	}
	// libpq 17 asks for TLS as for the connection that it cancels.
	c := pgtest.Connect(t, addrs[1], pgtest.Login{User: user, Database: cluster, Password: password, TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}})
	c.Send(simple("SELECT pg_sleep(60)"))
	list[1].shards[0].asleep(t, 1)
	over := pgtest.Dial(t, addrs[2])
	if err := over.StartTLS(&tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}); err != nil {
		t.Fatal(err)
	}
	over.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 16, 4, 210, 22, 46}, c.PID))
	over.Write(c.Secret)
	over.ExpectClosed()
	if got := outcome(c.UntilReady()); got != "57014; I" {
		t.Errorf("over TLS: %s", got)
	}
	passed, unknown := results("passed_on"), results("unknown_key")
	if passed == 0 || unknown != 0 {
		t.Errorf("%v were passed on, %v had an unknown key", passed, unknown)
	}
	pgtest.SendCancel(t, at, 9<<23|1, make([]byte, 4))
	if p, u := results("passed_on")-passed, results("unknown_key")-unknown; p != 1 || u != 1 {
		t.Errorf("a key that none of them has was passed on %v times and dropped %v times", p, u)
	}
	for _, secret := range [][]byte{nil, make([]byte, 4), make([]byte, 5), make([]byte, 32), make([]byte, 33), []byte("1234P")} {
		pgtest.SendCancel(t, at, 77<<23|1, secret)
	}
	if p, u := results("passed_on")-passed, results("unknown_key")-unknown; p != 1 || u != 6 {
		t.Errorf("keys of nobody were passed on %v times and dropped %v times", p-1, u-1)
	}
}
