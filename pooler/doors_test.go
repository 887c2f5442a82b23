package pooler

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgkennel/pgkennel/config"
	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// echo says who calls.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s by %s", r.URL.Path, Caller(r.Context()))
})

func ask(t *testing.T, c *http.Client, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestOrdersBySocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kennel") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	k := newKennel(t, kennelOptions{api: echo, files: func(c *config.Config) { c.Admin.Socket = path }})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("the socket has mode %o", mode)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	status, text := ask(t, c, "http://pgkennel/v1/tenants", "")
	if want := fmt.Sprintf("/v1/tenants by socket uid %d", os.Getuid()); status != 200 || text != want {
		t.Errorf("got %d %q, want %q", status, text, want)
	}
	for _, uid := range []int{os.Getuid(), 65534} {
		w := httptest.NewRecorder()
		k.socketOrder(w, httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, uid), http.MethodGet, "/", nil))
		if want := map[bool]int{true: 200, false: 403}[uid == os.Getuid()]; w.Code != want {
			t.Errorf("user %d gets %d, want %d", uid, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	if k.socketOrder(w, httptest.NewRequest(http.MethodGet, "/", nil)); w.Code != 403 {
		t.Errorf("who can't be told apart gets %d", w.Code)
	}
	k.Hurry()
	k.ended()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is there behind the end: %v", err)
	}
}

func TestOrdersByPort(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{api: echo, files: func(c *config.Config) {
		c.Admin.APIHost, c.Admin.APIPort, c.Admin.APIToken = "127.0.0.1", pgtest.FreePort(t), "0123456789abcdef"
	}})
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	url := "http://" + k.APIAddr().String() + "/v1/tenants"
	if status, text := ask(t, c, url, "Bearer 0123456789abcdef"); status != 200 || text != "/v1/tenants by api" {
		t.Errorf("got %d %q", status, text)
	}
	// Who has no token and never sends what it has announced does not keep a connection.
	slow, err := net.Dial("tcp", k.APIAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "POST /v1/tenants HTTP/1.1\r\nHost: pgkennel\r\nContent-Length: 1000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := slow.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(slow); err != nil || !strings.Contains(string(b), "401") {
		t.Errorf("got %q, %v, want a refusal and the end", b, err)
	}
	for _, token := range []string{"", "Bearer ", "Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef", "0123456789abcdef"} {
		if status, text := ask(t, c, url, token); status != 401 || strings.Contains(text, "by api") {
			t.Errorf("%q: got %d %q", token, status, text)
		}
	}
}

func TestConsoleOrders(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []provision.Order
	k := newKennel(t, kennelOptions{orders: func(_ context.Context, o provision.Order) (*provision.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, o)
		switch o.Tenant {
		case "taken":
			return nil, provision.Errorf(provision.KindTaken, "name/taken is taken").WithDetail("d").WithHint("h")
		case "nobody":
			return nil, provision.Errorf(provision.KindNotFound, "there is no tenant nobody")
		}
		return &provision.Result{Changed: true, Secrets: []provision.Secret{{Login: o.Tenant, Password: "pw"}}, Notes: []string{"a note"}}, nil
	}})
	con := k.console()
	con.one("CREATE TENANT acme ISOLATION instance CPU '1.5' MEMORY '512MB' DISK 1GB IO '64MB' CONNECTIONS 20 CONFIG 'work_mem=8MB' SUSPEND_AFTER '15m' ENABLE",
		"login", "acme", "password", "pw")
	con.do("ALTER TENANT acme ENABLE CIDR '10.0.0.0/8, ::1/128'")
	con.do("ALTER TENANT acme READ ONLY")
	con.do("ALTER TENANT acme RENAME TO globex")
	con.do("DROP TENANT acme NOW")
	con.refused("42710", "CREATE TENANT taken")
	con.do("ALTER TENANT acme SET CONNECTIONS 30")
	con.refused("42704", "ALTER TENANT nobody START")
	for _, sql := range []string{
		"CREATE TENANT x CPU much", "CREATE TENANT x MEMORY 5XB", "CREATE TENANT x IO fast", "CREATE TENANT x SHARD a", "CREATE TENANT x CONFIG work_mem",
		"ALTER TENANT x ENABLE CIDR here", "CREATE TENANT x SUSPEND_AFTER soon",
	} {
		con.refused("22023", sql)
	}
	mu.Lock()
	defer mu.Unlock()
	o := got[0]
	if o.Verb != provision.VerbCreate || o.By != "console "+operator || o.Limits.CPU != 1500 || o.Limits.Memory != 512<<20 || o.Limits.Disk != 1<<30 ||
		o.Limits.IO != 64<<20 || o.Limits.Connections != 20 || o.Settings["work_mem"] != "8MB" || o.SuspendAfter.Minutes() != 15 || !o.Enable {
		t.Errorf("got %+v", o)
	}
	if last := got[6]; last.Limits == nil || last.Limits.Connections != 30 || !slices.Equal(last.LimitsOnly, []string{"connections"}) {
		t.Errorf("got %+v, want that it leaves the other limits as they are", last)
	}
	if len(got[1].Networks) != 2 || got[2].On == nil || !*got[2].On || got[3].Name != "globex" || !got[4].Now || got[4].Verb != provision.VerbRemove {
		t.Errorf("got %+v", got[1:])
	}
}

func TestDirectoryIsShown(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{general: "openmetrics_tenants = 5"})
	r := k.tenant("acme")
	k.tenant("globex")
	k.dir.change(r.ID, func(r *tenant.Record) { r.Access.Full = true })
	c := k.owner("acme")
	run(t, c, "select 1")
	con := k.console()
	con.one("SHOW DIRECTORY", "store", "file", "current", "yes", "tenants", "2", "working", "1")
	con.one("SHOW TENANTS", "tenant", "acme", "database", "acme", "isolation", "instance", "phase", "ready", "host", "here", "clients", "1",
		"access", "on, read only: its disk is full", "transactions", "1")
	con.one("SHOW TENANTS", "tenant", "globex", "clients", "0", "transactions", "0")
	con.one("SHOW CLIENTS", "tenant", "acme", "user", "acme")
	con.one("SHOW SERVERS", "tenant", "acme")
	if n := len(con.show("SHOW TENANTS LIMIT 1")); n != 1 {
		t.Errorf("LIMIT 1 gives %d rows", n)
	}
	if got := k.metric("pgkennel_directory_tenants"); got != "2" {
		t.Errorf("got %s tenants", got)
	}
	if got := k.metric(`pgkennel_session_clients{cluster="(tenants)"}`); got != "1" {
		t.Errorf("got %s clients", got)
	}
	if _, text := k.get("/metrics"); strings.Contains(text, "globex") || strings.Count(text, `tenant="acme"`) != 7 {
		t.Errorf("series of tenants: %d of acme", strings.Count(text, `tenant="acme"`))
	}
	k.dir.mu.Lock()
	k.dir.stale = time.Now().Add(-time.Minute)
	k.dir.mu.Unlock()
	status, text := k.get("/readyz")
	if status != 200 || !strings.Contains(text, `"directory":{"current":false,`) {
		t.Errorf("got %d %s", status, text)
	}
	if got := k.metric("pgkennel_directory_current"); got != "0" {
		t.Errorf("got %s", got)
	}
	con.one("SHOW DIRECTORY", "current", "no", "error", "unreachable")
	run(t, c, "select 1")
}

// A certificate is renewed by a reload, for the API as for clients.
func TestOrdersByTLS(t *testing.T) {
	t.Parallel()
	ca := pgtest.NewCA(t)
	k := newKennel(t, kennelOptions{api: echo, files: func(c *config.Config) {
		c.Admin.APIHost, c.Admin.APIPort, c.Admin.APIToken = "127.0.0.1", pgtest.FreePort(t), "0123456789abcdef"
		c.TLS.Certificate, c.TLS.PrivateKey = ca.Issue("first", "localhost")
	}})
	for _, name := range []string{"first", "second"} {
		conf := *k.state.Load().cfg
		if name == "second" {
			conf.TLS.Certificate, conf.TLS.PrivateKey = ca.Issue(name, "localhost")
			k.orders.Lock()
			err := k.apply(&conf)
			k.orders.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		c, err := tls.Dial("tcp", k.APIAddr().String(), &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != name {
			t.Errorf("the API shows the certificate %s, want %s", got, name)
		}
		c.Close()
	}
}
