package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkennel/pgkennel/internal/pgtest"
	"github.com/pgkennel/pgkennel/internal/testbed"
	"github.com/pgkennel/pgkennel/provision"
)

// kennel is the built program with a directory, and what its operator does with it.
type kennel struct {
	*stand
	port      string
	apiPort   int
	env       []string
	passwords map[string]string // by tenant
}

// newKennel writes a configuration with no more than a directory, and rest. At the end every tenant is removed, and nothing may be left.
func newKennel(t *testing.T, rest string) *kennel {
	t.Helper()
	dir := pgtest.Dir(t)
	port := strconv.Itoa(pgtest.FreePort(t))
	k := &kennel{
		stand: &stand{t: t, dir: dir, log: new(testbed.Log), addr: net.JoinHostPort("127.0.0.1", port)},
		port:  port, passwords: make(map[string]string),
	}
	if err := os.WriteFile(filepath.Join(dir, "pgdog.toml"), []byte("[directory]\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pgkennel's log:\n%s", tail(k.log.String(), 60))
		}
		for _, v := range k.tenant(0, "list", "--removed").Tenants {
			k.tenant(0, "remove", "--now", v.Name)
		}
		if pids := k.postmasters(); len(pids) > 0 {
			t.Errorf("processes are left: %v", pids)
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
			}
		}
		for _, name := range []string{"instances", "backups"} {
			left, err := os.ReadDir(filepath.Join(dir, name))
			if err != nil || len(left) > 0 {
				t.Errorf("left in %s: %v, %v", name, left, err)
			}
		}
	})
	return k
}

// postmasters are the servers of the kennel's instances.
func (k *kennel) postmasters() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte(k.dir+"/instances/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// serve runs the program until stop.
func (k *kennel) serve() {
	k.t.Helper()
	k.log = new(testbed.Log)
	k.process = k.run(append(k.env, "PGKENNEL_HOST=127.0.0.1", "PGKENNEL_PORT="+k.port), "serve")
	eventually(k.t, "the program is ready", func() bool {
		if k.process.ended() {
			k.t.Fatalf("the program ended: %v\n%s", k.process.err, k.log.String())
		}
		return strings.Contains(k.log.String(), "msg=ready")
	})
}

func (k *kennel) stop() {
	k.t.Helper()
	k.process.signal(k.t, syscall.SIGTERM)
	if code := k.process.wait(k.t); code != 0 {
		k.t.Errorf("the program's exit code is %d", code)
	}
}

// result is what `pgkennel tenant --json` prints.
type result struct {
	provision.Result
	Errors []provision.Error `json:"errors"`
}

// tenant runs a command of `pgkennel tenant`, which has to end with a code.
func (k *kennel) tenant(code int, args ...string) (r result) {
	k.t.Helper()
	var out, log bytes.Buffer
	cmd := exec.Command(build(k.t), append([]string{"tenant", "--json", "-q"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = k.dir, append(os.Environ(), k.env...), &out, &log
	if err := cmd.Run(); cmd.ProcessState == nil {
		k.t.Error(err)
		return r
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		k.t.Errorf("tenant %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), log.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		k.t.Errorf("tenant %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), log.String())
	}
	return r
}

// dial logs in.
func (k *kennel) dial(user, database, password string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return pgx.Connect(ctx, pgtest.DSN(k.addr, database, user, password, "default_query_exec_mode=simple_protocol"))
}

// ask logs in and returns the first column of a statement's first row.
func (k *kennel) ask(user, database, password, sql string) (answer string, err error) {
	c, err := k.dial(user, database, password)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer c.Close(ctx)
	err = c.QueryRow(ctx, sql).Scan(&answer)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return answer, err
}

// own asks as the tenant's own login.
func (k *kennel) own(tenant, sql string) string {
	k.t.Helper()
	answer, err := k.ask(tenant, tenant, k.passwords[tenant], sql)
	if err != nil {
		k.t.Fatalf("tenant %s: %s: %v", tenant, sql, err)
	}
	return answer
}

// refused has a login fail with a code, in the end: poolers hear of changes.
func (k *kennel) refused(user, database, password, code string) {
	k.t.Helper()
	eventually(k.t, fmt.Sprintf("login of %s to %s fails with %s", user, database, code), func() bool {
		_, err := k.ask(user, database, password, "SELECT 1")
		e, ok := errors.AsType[*pgconn.PgError](err)
		return ok && e.Code == code
	})
}

// What the README says of tenants on demand, to the letter: three tenants, reached by both forms of a login; one is limited, one stopped, one removed and
// brought back.
func (k *kennel) readme() {
	k.t.Helper()
	page, err := os.ReadFile("../README.md")
	if err != nil {
		k.t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "### Tenants on demand\n")
	_, block, _ := strings.Cut(section, "```sh\n")
	block, _, found := strings.Cut(block, "```\n")
	before, after, runs := strings.Cut(block, "bin/pgkennel &\n")
	if !found || !runs {
		k.t.Fatal("the README has no commands for tenants on demand")
	}
	k.shell(before)
	k.serve()
	begun := time.Now()
	out := k.shell(after)
	k.t.Logf("the README's commands took %v", time.Since(begun).Round(100*time.Millisecond))
	for _, want := range []string{
		"acme: created\n", "globex: created\n", "initech: created\n", "CREATE TABLE\nINSERT 0 1\n", "acme: set\n", "globex: stopped\n", `FATAL:  database "globex" is stopped`,
		"globex: started\n", "acme: removed", "acme: restored\n", "NAME ", "process@",
	} {
		if !strings.Contains(out, want) {
			k.t.Errorf("the README's commands print no %q:\n%s", want, out)
		}
	}
	if n := strings.Count(out, " first\n(1 row)"); n != 2 {
		k.t.Errorf("acme's note was shown %d times:\n%s", n, out)
	}
	for _, name := range []string{"acme", "globex", "initech"} {
		text, err := os.ReadFile(filepath.Join(k.dir, name+".password"))
		if err != nil {
			k.t.Fatal(err)
		}
		k.passwords[name] = strings.TrimSpace(string(text))
	}
}

// shell runs commands of the documentation, and returns all that they print.
func (k *kennel) shell(commands string) string {
	k.t.Helper()
	commands = strings.ReplaceAll(strings.ReplaceAll(commands, "bin/pgkennel", build(k.t)), "6432", k.port)
	cmd := exec.Command("bash", "-c", commands)
	cmd.Dir = k.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		k.t.Errorf("%v\n%s\n%s", err, commands, out)
	}
	return string(out)
}

// A new user's first ten minutes. Then the pooler is killed, and nobody's database notices.
func TestOnDemand(t *testing.T) {
	t.Parallel()
	k := newKennel(t, "")
	k.readme()
	names := []string{"acme", "globex", "initech"}
	k.own("globex", "CREATE TABLE notes (note text)")
	k.own("initech", "CREATE TABLE notes (note text)")
	k.own("acme", "DELETE FROM notes")
	for _, name := range names {
		k.own(name, "INSERT INTO notes VALUES ('"+name+"''s own')")
	}
	for _, name := range names {
		for _, login := range [][2]string{{name, name}, {name + "@" + name, name}, {name + "@" + name, name + "@" + name}} {
			got, err := k.ask(login[0], login[1], k.passwords[name], "SELECT note FROM notes")
			if want := name + "'s own"; err != nil || got != want {
				t.Errorf("user %s, database %s: got %q, %v, want %q", login[0], login[1], got, err, want)
			}
		}
	}
	// The pooler is the only way in: an instance listens nowhere that others' programs reach.
	port := strconv.Itoa(k.tenant(0, "show", "acme").Tenants[0].Endpoint.Port)
	if c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second); err == nil {
		c.Close()
		k.t.Errorf("acme's instance listens on TCP port %s", port)
	}
	// One tenant's password opens no other.
	for _, login := range [][2]string{{"acme", "globex"}, {"acme@globex", "globex"}, {"globex", "globex"}, {"globex@acme", "globex"}, {"nobody", "nobody"}, {"acme", "postgres"}} {
		k.refused(login[0], login[1], k.passwords["acme"], "28P01")
	}

	for _, part := range []func(){k.limits, k.lives, k.killed, k.alone} {
		begun := time.Now()
		part()
		t.Logf("%v", time.Since(begun))
	}
}

// limits bounds a tenant's connections and memory.
func (k *kennel) limits() {
	k.t.Helper()
	k.tenant(0, "set", "acme", "--connections", "1", "--config", "work_mem=3MB", "--now")
	if v := k.tenant(0, "show", "acme").Tenants[0]; v.Limits.Memory != 256<<20 || v.Limits.Connections != 1 {
		k.t.Errorf("acme's limits are %+v, its settings %v", v.Limits, v.Settings)
	}
	if got := k.own("acme", "SHOW work_mem"); got != "3MB" {
		k.t.Errorf("acme's work_mem is %s", got)
	}
	if got := k.own("globex", "SHOW work_mem"); got != "4MB" {
		k.t.Errorf("globex's work_mem is %s", got)
	}
	k.tenant(3, "set", "nobody", "--memory", "256MB")
	k.tenant(2, "set", "acme", "--config", "port=1")
	k.tenant(5, "create", "huge", "--memory", "100TB")
	k.tenant(4, "rename", "acme", "globex")
}

// lives stops, starts, suspends, removes and brings back.
func (k *kennel) lives() {
	k.t.Helper()
	globex := k.passwords["globex"]
	k.tenant(0, "stop", "globex")
	k.refused("globex", "globex", globex, "57P03")
	k.refused("globex", "globex", "wrong", "28P01")
	if r := k.tenant(0, "stop", "globex"); r.Changed {
		k.t.Error("globex was stopped twice")
	}
	k.tenant(0, "start", "globex")
	eventually(k.t, "globex is back", func() bool { _, err := k.ask("globex", "globex", globex, "SELECT 1"); return err == nil })
	if got := k.own("globex", "SELECT note FROM notes"); got != "globex's own" {
		k.t.Errorf("globex has %q", got)
	}

	c, err := k.dial("initech", "initech", k.passwords["initech"])
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close(context.Background())
	k.tenant(0, "disable-access", "initech", "--now")
	k.refused("initech", "initech", k.passwords["initech"], "28P01")
	eventually(k.t, "initech's session was closed", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return c.Ping(ctx) != nil
	})
	k.tenant(0, "enable-access", "initech")
	eventually(k.t, "initech may log in", func() bool {
		_, err := k.ask("initech", "initech", k.passwords["initech"], "SELECT 1")
		return err == nil
	})

	k.tenant(0, "remove", "initech")
	k.refused("initech", "initech", k.passwords["initech"], "28P01")
	k.tenant(4, "create", "initech")
	k.tenant(0, "restore", "initech")
	eventually(k.t, "initech is back", func() bool {
		_, err := k.ask("initech", "initech", k.passwords["initech"], "SELECT 1")
		return err == nil
	})
	if got := k.own("initech", "SELECT note FROM notes"); got != "initech's own" {
		k.t.Errorf("initech has %q", got)
	}
}

// killed has the pooler die, and another find the instances as they are.
func (k *kennel) killed() {
	k.t.Helper()
	started := map[string]string{}
	for name := range k.passwords {
		started[name] = k.own(name, "SELECT pg_postmaster_start_time()::text")
	}
	before := k.postmasters()
	k.process.signal(k.t, syscall.SIGKILL)
	<-k.process.done
	k.serve()
	for name := range k.passwords {
		if got := k.own(name, "SELECT pg_postmaster_start_time()::text"); got != started[name] {
			k.t.Errorf("the end of the pooler has started %s's instance anew: %s, %s", name, started[name], got)
		}
	}
	if after := k.postmasters(); len(after) < len(before) {
		k.t.Errorf("servers before %v, and after %v", before, after)
	}
	k.stop()
	if after := k.postmasters(); len(after) < len(k.passwords) {
		k.t.Errorf("an orderly end of the pooler has ended databases: %v are left", after)
	}
}

// alone does without a pooler, and then has one find what was done.
func (k *kennel) alone() {
	k.t.Helper()
	k.tenant(0, "stop", "acme")
	secrets := k.tenant(0, "password", "globex").Secrets
	if len(secrets) != 1 {
		k.t.Fatalf("secrets %+v", secrets)
	}
	k.tenant(0, "remove", "initech", "--now")
	k.withAPI()
	k.serve()
	k.refused("acme", "acme", k.passwords["acme"], "57P03")
	k.refused("initech", "initech", k.passwords["initech"], "28P01")
	k.refused("globex", "globex", k.passwords["globex"], "28P01")
	k.passwords["globex"] = secrets[0].Password
	if got := k.own("globex", "SELECT note FROM notes"); got != "globex's own" {
		k.t.Errorf("globex has %q", got)
	}
	who := map[string]bool{}
	for _, e := range k.tenant(0, "audit").Audit {
		who[e.Who] = true
	}
	if len(who) < 2 {
		k.t.Errorf("the audit has orders of %v only", who)
	}
	k.overAPI()
}

// withAPI has the next pooler serve orders at a port, too.
func (k *kennel) withAPI() {
	k.t.Helper()
	k.apiPort = pgtest.FreePort(k.t)
	for name, text := range map[string]string{
		"pgdog.toml": fmt.Sprintf("[directory]\n[admin]\napi_port = %d\napi_token_file = \"token\"\n", k.apiPort), "token": "0123456789abcdef0123", "wrong": "0123456789abcdef0124",
	} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
}

// overAPI makes a tenant over HTTP, and says how long it takes until it answers.
func (k *kennel) overAPI() {
	k.t.Helper()
	at := fmt.Sprintf("http://127.0.0.1:%d", k.apiPort)
	if r := k.tenant(1, "list", "--api", at, "--token-file", "wrong"); len(r.Tenants) > 0 {
		k.t.Error("a wrong token has listed tenants")
	}
	begun := time.Now()
	r := k.tenant(0, "create", "umbrella", "--enable", "--api", at, "--token-file", "token")
	if len(r.Secrets) != 1 || r.Secrets[0].Login != "umbrella" {
		k.t.Fatalf("secrets %+v", r.Secrets)
	}
	made := time.Since(begun)
	k.passwords["umbrella"] = r.Secrets[0].Password
	k.own("umbrella", "SELECT 1::text")
	k.t.Logf("a tenant was made in %v, and answered after %v", made.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	if log := k.log.String(); strings.Contains(log, k.passwords["umbrella"]) || strings.Contains(log, "0123456789abcdef0123") {
		k.t.Error("the log has a password, or the token")
	}
}

// The same commands make tenants in databases that they share: of each isolation, in one database of the configuration.
func TestOnDemandShared(t *testing.T) {
	t.Parallel()
	server := pgtest.SharedSet(t, 1)[0]
	db := server.CreateDatabase(t)
	app := "app_" + db // databases of tests share roles
	k := newKennel(t, fmt.Sprintf(`
[multi_tenant]
column = "tenant_id"
isolation = "row"
mode = "strict"
role_secret_file = "role.secret"
[[databases]]
name = "saas"
host = "127.0.0.1"
port = %d
database_name = %q
admin_user = %q
admin_password_file = "admin.password"
`, server.Port, db, pgtest.Superuser))
	for name, text := range map[string]string{"role.secret": secureSecret, "admin.password": "it's \\ a secret\n", "users.toml": "[[users]]\nname = \"app\"\ndatabase = \"saas\"\npassword = \"x\"\nserver_user = \"" + app + "\"\n"} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.env = []string{"PGUSER=nobody", "PGPASSWORD=x", "PGSSLMODE=disable"}
	server.Exec(t, "postgres", "CREATE ROLE "+app+" LOGIN; ALTER DATABASE "+db+" OWNER TO "+app)
	server.Exec(t, db, "SET ROLE "+app+"; CREATE TABLE orders (tenant_id bigint NOT NULL, note text); CREATE INDEX ON orders (tenant_id)")
	k.serve()
	// Tables that tenants share have to be made safe first.
	k.tenant(5, "create", "rows", "--isolation", "row", "--database", "saas", "--key", "7", "--enable")
	if code, _, stderr := outcomeOf(t, k.dir, k.env, "secure", "apply"); code != 0 {
		t.Fatal(stderr)
	}
	k.tenant(0, "create", "rows", "--isolation", "row", "--database", "saas", "--key", "7", "--enable")
	k.tenant(4, "create", "others", "--isolation", "row", "--database", "saas", "--key", "7")
	// What a schema is made of is made by the role that owns it.
	if err := os.Mkdir(filepath.Join(k.dir, "templates"), 0o755); err != nil {
		t.Fatal(err)
	}
	const template = "CREATE TABLE orders (tenant_id bigint DEFAULT 0, note text);"
	for name, text := range map[string]string{"app.sql": template, "bad.sql": template + "CREATE TABLE orders ();"} {
		if err := os.WriteFile(filepath.Join(k.dir, "templates", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.tenant(2, "create", "no-rows", "--isolation", "row", "--database", "saas", "--key", "8", "--template", "app")
	k.tenant(2, "create", "a-schema", "--isolation", "schema", "--database", "saas", "--template", "tenant:rows")
	own := map[string]string{}
	for _, name := range []string{"schema", "database"} {
		k.tenant(1, "create", "a-"+name, "--isolation", name, "--database", "saas", "--template", "bad")
		r := k.tenant(0, "create", "a-"+name, "--isolation", name, "--database", "saas", "--template", "app", "--enable")
		own["a-"+name] = r.Secrets[0].Password
		if got, want := r.Tenants[0].Origin, fmt.Sprintf("%x", sha256.Sum256([]byte(template))); got.Template != "app" || got.Hash != want {
			t.Errorf("%s was made of %+v, want the hash %s", name, got, want)
		}
	}
	k.tenant(4, "create", "an-instance", "--database", "saas", "--key", "7")
	k.tenant(2, "create", "an-instance", "--database", "saas", "--key", "eight")
	k.tenant(0, "create", "an-instance", "--database", "saas", "--key", "8", "--enable")
	for _, name := range []string{"a-schema", "a-database"} {
		const sql = "SELECT tableowner LIKE 'pgkennel_owner_%' FROM pg_tables WHERE tablename = 'orders' AND schemaname = current_schema()"
		if code, stdout, stderr := outcomeOf(t, k.dir, k.env, "tenant", "psql", name, "--", "-Atc", sql); code != 0 || stdout != "t\n" {
			t.Errorf("psql in %s: %s%s", name, stdout, stderr)
		}
	}
	ask := func(name, sql string) (string, error) { return k.ask("app@"+name, "saas", "x", sql) }
	if _, err := ask("an-instance", "CREATE TABLE orders (tenant_id bigint DEFAULT current_setting('app.current_tenant')::bigint, note text)"); err != nil {
		t.Error(err)
	}
	names := []string{"rows", "a-schema", "a-database", "an-instance"}
	for _, name := range names {
		key := ""
		if name == "rows" {
			key = "7"
		}
		if _, err := ask(name, "INSERT INTO orders (note) VALUES ('of "+name+key+"')"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range names {
		if got, err := ask(name, "SELECT string_agg(note, ',') FROM orders"); err != nil || !strings.HasPrefix(got, "of "+name) || strings.Contains(got, ",") {
			t.Errorf("%s reads %q, %v", name, got, err)
		}
	}
	for name, password := range own { // a tenant is a login
		for _, database := range []string{name, "saas"} {
			if got, err := k.ask(name, database, password, "SELECT string_agg(note, ',') FROM orders"); err != nil || got != "of "+name {
				t.Errorf("%s in %s reads %q, %v", name, database, got, err)
			}
		}
		k.refused(name, "saas", "x", "28P01")
	}
	// The shared server trusts everybody, which doctor says; of the tenants it says nothing.
	if _, stdout, stderr := outcomeOf(t, k.dir, k.env, "doctor"); !strings.Contains(stdout, "2 roles of tenants") || strings.Contains(stdout, "pgkennel.tenants has it") {
		t.Errorf("doctor: %s%s", stdout, stderr)
	}
	if got, err := ask("an-instance", "SELECT current_setting('app.current_tenant') || current_database()"); err != nil || !strings.HasPrefix(got, "8t_") {
		t.Errorf("an instance is %q, %v", got, err)
	}
	k.tenant(0, "stop", "an-instance")
	k.refused("app@an-instance", "saas", "x", "57P03")
	k.tenant(0, "start", "an-instance")
	k.tenant(0, "disable-access", "an-instance", "--now")
	k.refused("app@an-instance", "saas", "x", "28P01")
	k.tenant(0, "enable-access", "an-instance")
	eventually(t, "an instance is back", func() bool { _, err := ask("an-instance", "SELECT note FROM orders"); return err == nil })
	k.tenant(0, "disable-access", "a-schema", "--now")
	k.refused("app@a-schema", "saas", "x", "28P01")
	k.refused("a-schema", "saas", own["a-schema"], "28P01")
	k.tenant(0, "remove", "a-database")
	k.refused("app@a-database", "saas", "x", "28P01")
	k.tenant(0, "restore", "a-database")
	eventually(t, "a-database is back", func() bool { _, err := ask("a-database", "SELECT 'x'"); return err == nil })
	if got, err := ask("rows", "SELECT note FROM orders"); err != nil || got != "of rows7" {
		t.Errorf("rows reads %q, %v", got, err)
	}
	// A database that came with a reload has tenants as well; without any, their orders are refused.
	config, users := k.read("pgdog.toml"), k.read("users.toml")
	late := server.CreateDatabase(t)
	k.tenant(2, "create", "late", "--isolation", "schema", "--database", "more")
	k.reload(config+fmt.Sprintf("[[databases]]\nname = \"more\"\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = %q\nadmin_user = %q\n", server.Port, late, pgtest.Superuser),
		users+strings.Replace(users, "saas", "more", 1))
	r := k.tenant(0, "create", "late", "--isolation", "schema", "--database", "more", "--enable")
	if got, err := k.ask("late", "more", r.Secrets[0].Password, "SELECT current_database()::text"); err != nil || got != late {
		t.Errorf("a tenant of a database that is new is in %q, %v", got, err)
	}
	k.tenant(0, "remove", "--now", "late")
	k.reload("[directory]\n", "")
	k.tenant(1, "disable-access", "a-schema", "--now")
	k.reload(config, users)
	k.tenant(0, "enable-access", "a-schema")
}

func (k *kennel) read(name string) string {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		k.t.Fatal(err)
	}
	return string(text)
}

// reload puts another configuration in force.
func (k *kennel) reload(config, users string) {
	k.t.Helper()
	for name, text := range map[string]string{"pgdog.toml": config, "users.toml": users} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
	before := strings.Count(k.log.String(), "configuration reloaded")
	k.process.signal(k.t, syscall.SIGHUP)
	eventually(k.t, "a reload", func() bool { return strings.Count(k.log.String(), "configuration reloaded") > before })
}

// A sealed tenant of the directory logs in by itself: on the application's connections, with its seal.
func TestOnDemandSealed(t *testing.T) {
	t.Parallel()
	server := pgtest.SharedSet(t, 1)[0]
	db := server.CreateDatabase(t)
	app := "app_" + db
	k := newKennel(t, fmt.Sprintf("[multi_tenant]\ncolumn = \"tenant_id\"\nisolation = \"row\"\nmode = \"sealed\"\nrole_secret_file = \"role.secret\"\n"+
		"[[databases]]\nname = \"saas\"\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = %q\nadmin_user = %q\n", server.Port, db, pgtest.Superuser))
	for name, text := range map[string]string{"role.secret": secureSecret, "users.toml": "[[users]]\nname = \"app\"\ndatabase = \"saas\"\npassword = \"x\"\nserver_user = \"" + app + "\"\n"} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.env = []string{"PGSSLMODE=disable"}
	server.Exec(t, db, "CREATE ROLE "+app+" LOGIN; CREATE TABLE orders (tenant_id bigint NOT NULL, note text); CREATE INDEX ON orders (tenant_id); GRANT ALL ON orders TO "+app)
	if code, _, stderr := outcomeOf(t, k.dir, k.env, "secure", "apply"); code != 0 {
		t.Fatal(stderr)
	}
	k.serve()
	own := map[string]string{}
	for name, key := range map[string]string{"acme": "7", "globex": "8"} {
		own[name] = k.tenant(0, "create", name, "--isolation", "row", "--database", "saas", "--key", key, "--enable").Secrets[0].Password
		if _, err := k.ask(name, "saas", own[name], "INSERT INTO orders (note) VALUES ('of "+name+"')"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, password := range own {
		if got, err := k.ask(name, name, password, "SELECT string_agg(note || session_user, ',') FROM orders"); err != nil || got != "of "+name+app {
			t.Errorf("%s reads %q, %v", name, got, err)
		}
		for _, sql := range []string{"SET app.current_tenant = '9'", "SELECT note FROM orders WHERE tenant_id = 15 - " + map[string]string{"acme": "7", "globex": "8"}[name], "SET pgkennel.seal = 'x'"} {
			if got, err := k.ask(name, "saas", password, sql); err == nil && got != "" || strings.HasPrefix(sql, "SET") && !strings.Contains(fmt.Sprint(err), "42501") {
				t.Errorf("%s may %s: %q, %v", name, sql, got, err)
			}
		}
	}
	// The server itself keeps rows from who has no seal.
	c, err := pgx.Connect(t.Context(), server.DSN(db, pgtest.Superuser, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for sql, want := range map[string]string{"SET ROLE " + app + "; SET app.current_tenant = '7'; SELECT count(*) FROM orders": "42501", "SET ROLE NONE; SELECT count(*) FROM orders": ""} {
		if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); (err == nil) != (want == "") || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
