package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// The names of targets.
const (
	direct    = "direct"
	pgbouncer = "pgbouncer"
	pgkennel  = "pgkennel"
	base      = "base" // an older pgkennel
)

// routing is how statements find their shard.
type routing int

const (
	// unrouted: there is one shard.
	unrouted routing = iota
	// byList: each tenant is named.
	byList
	// byRange: tenants are in ranges, each on the other shard than its neighbours.
	byRange
)

// setup is how poolers are configured. Those that cannot route go to the first database with everything.
type setup struct {
	routing routing
	entries int  // of the list, or ranges
	scram   bool // clients and poolers log in with SCRAM
	tenancy tenancy
	metrics int // port of the metrics of the one that is being started
	procs   int // GOMAXPROCS, and threads that wait for sockets; 0: as the program thinks best
}

// peer is a pooler that this machine may have.
type peer struct {
	name         string
	program      string
	path         string // found
	version      string // said
	ask          string // the argument that has it say its version
	scram        bool   // it is configured for SCRAM here
	traced       bool   // it says what the collector used
	needed       bool   // the bench cannot do without it; others may want another configuration than the one that is known here
	session      bool   // each of its clients has a server connection
	unprivileged bool   // it does not run as root
	configure    func(env *environment, s *setup, name string, port int) (args []string, err error)
}

// lacks tells that a scenario is not for the peer. Those that have no routing are in all the same: what routing costs is the question.
func (p *peer) lacks(s *scenario) bool {
	return s.ours && p.name != pgkennel || s.indirect && p.session || s.setup.scram && !p.scram
}

// installed are the peers that there are, PgBouncer first and pgkennel last.
func installed(ctx context.Context, o *options) (found []*peer) {
	for _, p := range []*peer{
		{name: pgbouncer, program: "pgbouncer", ask: "--version", needed: true, scram: true, unprivileged: true, configure: configurePgBouncer},
		{name: "pgdog", program: "pgdog", ask: "--version", scram: true, configure: configurePgDog},
		{name: "pgcat", program: "pgcat", ask: "--version", configure: configurePgCat},
		{name: "odyssey", program: "odyssey", ask: "--version", configure: configureOdyssey},
		{name: "spqr", program: "spqr-router", ask: "--version", configure: configureSPQR},
		{name: "haproxy", program: "haproxy", ask: "-v", session: true, configure: configureHAProxy},
		{name: base, program: o.base, ask: "version", needed: true, scram: true, traced: true, configure: configurePgkennel},
		{name: pgkennel, program: o.program, ask: "version", needed: true, scram: true, traced: true, configure: configurePgkennel},
	} {
		path, err := exec.LookPath(p.program)
		if err != nil && p.program != "" { // Debian's are where the PATH of mere users does not lead
			path, err = exec.LookPath("/usr/sbin/" + p.program)
		}
		if err != nil {
			if p.name == pgbouncer {
				fmt.Fprintln(o.log, "PgBouncer is not installed: there is nothing to compare with")
			}
			continue
		}
		p.path = path
		out, _ := exec.CommandContext(ctx, path, p.ask).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		p.version = cmp.Or(version(line), "of unknown version")
		found = append(found, p)
	}
	return found
}

// version is the first word of a line that has a digit and a dot.
func version(line string) string {
	for word := range strings.FieldsSeq(line) {
		if strings.ContainsAny(word, "0123456789") && strings.Contains(word, ".") {
			return strings.Trim(word, ",()")
		}
	}
	return line
}

func configurePgBouncer(env *environment, s *setup, name string, port int) ([]string, error) {
	auth := "trust"
	if s.scram {
		auth = "scram-sha-256"
	}
	users := fmt.Sprintf("\"%s\" \"\"\n\"%s\" \"%s\"\n", pginstance.Superuser, account, env.secret) // with the password itself each login costs it more
	ini := fmt.Sprintf("[databases]\n%s = host=127.0.0.1 port=%d dbname=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
		"auth_type = %s\nauth_file = %s\npool_mode = transaction\ndefault_pool_size = %d\nmax_client_conn = 18000\nunix_socket_dir =\n"+
		"log_connections = 0\nlog_disconnections = 0\n", database, env.server.Port, database, port, auth, filepath.Join(env.dir, "users.txt"), poolSize)
	return []string{"-q", filepath.Join(env.dir, name+".ini")}, errors.Join(env.write("users.txt", users), env.write(name+".ini", ini))
}

func configurePgkennel(env *environment, s *setup, name string, port int) ([]string, error) {
	general := "log_connections = false\nlog_disconnections = false\n"
	if s.procs > 0 {
		general += fmt.Sprintf("workers = %d\n", s.procs)
	}
	if s.metrics > 0 {
		general += fmt.Sprintf("openmetrics_host = \"127.0.0.1\"\nopenmetrics_port = %d\n", s.metrics)
	}
	return env.writePgDog(s, name, port, general)
}

func configurePgDog(env *environment, s *setup, name string, port int) ([]string, error) {
	general := "workers = 1\n" // a thread more on this machine takes a processor from PostgreSQL
	if s.procs > 0 {
		general = fmt.Sprintf("workers = %d\n", s.procs)
	}
	return env.writePgDog(s, name, port, general)
}

// writePgDog writes the two files that PgDog and pgkennel share, and returns the arguments that name them.
func (env *environment) writePgDog(s *setup, name string, port int, general string) ([]string, error) {
	config, users := filepath.Join(env.dir, name+".toml"), filepath.Join(env.dir, name+"-users.toml")
	file, err := os.Create(config)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	writeConfig(w, s, env.dir, port, env.server.Port, general)
	user := fmt.Sprintf("[[users]]\nname = %q\ndatabase = %q\npassword = %q\n", s.user(), database, password)
	if s.tenancy.chooses() {
		user += "tenant_switch = true\n"
	}
	return []string{"--config", config, "--users", users}, errors.Join(w.Flush(), env.write(filepath.Base(users), user))
}

// writeConfig writes pgdog.toml, which has a line of its own for each of what may be a million ranges.
func writeConfig(w *bufio.Writer, s *setup, dir string, port, server int, general string) {
	auth, shards := "trust", []string{database}
	if s.scram {
		auth = "scram"
	}
	if s.routing != unrouted {
		shards = []string{database, second}
	}
	fmt.Fprintf(w, "[general]\nhost = \"127.0.0.1\"\nport = %d\ndefault_pool_size = %d\nauth_type = %q\ntls_verify = \"disabled\"\n%s", port, poolSize/len(shards), auth, general)
	if s.tenancy == sealedRows {
		shards = []string{sealedDatabase}
	}
	for i, db := range shards {
		fmt.Fprintf(w, "\n[[databases]]\nname = %q\nhost = \"127.0.0.1\"\nport = %d\ndatabase_name = %q\nshard = %d\n", database, server, db, i)
	}
	if s.tenancy != noTenancy {
		writeTenancy(w, s.tenancy, dir)
	}
	if s.routing == unrouted {
		return
	}
	for _, t := range [][2]string{{"pgbench_accounts", "aid"}, {"bulk", "tenant"}, {"sink", "tenant"}} {
		fmt.Fprintf(w, "\n[[sharded_tables]]\ndatabase = %q\nname = %q\ncolumn = %q\ndata_type = \"bigint\"\n", database, t[0], t[1])
	}
	mapping := func(column, kind string) {
		fmt.Fprintf(w, "\n[[sharded_mappings]]\ndatabase = %q\ncolumn = %q\nkind = %q\n", database, column, kind)
	}
	mapping("tenant", "list")
	fmt.Fprint(w, "values = [1]\nshard = 0\n")
	switch s.routing {
	case unrouted:
	case byList:
		for shard := range shards {
			mapping("aid", "list")
			fmt.Fprint(w, "values = [")
			for key := 1 + shard; key <= s.entries; key += len(shards) {
				fmt.Fprintf(w, "%d, ", key)
			}
			fmt.Fprintf(w, "]\nshard = %d\n", shard)
		}
	case byRange:
		width := s.keys() / s.entries
		for i := range s.entries {
			mapping("aid", "range")
			fmt.Fprintf(w, "start = %d\nend = %d\nshard = %d\n", 1+i*width, 1+(i+1)*width, i%len(shards))
		}
	}
}

// leastKeys is how many keys statements ask for where the mapping does not say more.
const leastKeys = 100_000

// keys is how many keys the mapping knows, from 1; statements ask for any of them.
func (s *setup) keys() int {
	switch s.routing {
	case unrouted:
	case byList:
		return s.entries
	case byRange:
		return max(s.entries, leastKeys)
	}
	return leastKeys
}

func configurePgCat(env *environment, s *setup, name string, port int) ([]string, error) {
	pool := "[pools." + database
	text := fmt.Sprintf("[general]\nhost = \"127.0.0.1\"\nport = %d\nadmin_username = \"admin\"\nadmin_password = \"admin\"\nworker_threads = %d\n"+
		"log_client_connections = false\nlog_client_disconnections = false\n\n%s]\npool_mode = \"transaction\"\nquery_parser_enabled = false\n\n"+
		"%s.users.0]\nusername = %q\npassword = %q\nauth_type = \"trust\"\npool_size = %d\n\n"+
		"%s.shards.0]\nservers = [[\"127.0.0.1\", %d, \"primary\"]]\ndatabase = %q\n",
		port, max(1, s.procs), pool, pool, pginstance.Superuser, password, poolSize, pool, env.server.Port, database)
	return []string{filepath.Join(env.dir, name+".toml")}, env.write(name+".toml", text)
}

func configureOdyssey(env *environment, s *setup, name string, port int) ([]string, error) {
	text := fmt.Sprintf("daemonize no\nworkers %d\nlog_to_stdout yes\nlog_format \"%%l %%m\\n\"\nlog_debug no\nlog_config no\nlog_session no\nlog_query no\nlog_stats no\n"+
		"locks_dir %q\nlisten {\n host \"127.0.0.1\"\n port %d\n backlog 1024\n}\nstorage \"server\" {\n type \"remote\"\n host \"127.0.0.1\"\n port %d\n}\n"+
		"database default {\n user default {\n  authentication \"none\"\n  storage \"server\"\n  pool \"transaction\"\n  pool_size %d\n  client_fwd_error yes\n }\n}\n",
		max(1, s.procs), env.dir, port, env.server.Port, poolSize)
	return []string{filepath.Join(env.dir, name+".conf")}, env.write(name+".conf", text)
}

func configureSPQR(env *environment, s *setup, name string, port int) ([]string, error) {
	var ports [2]int // of its console and its own protocol
	for i := range ports {
		free, release, err := env.scratch.FreePort()
		if err != nil {
			return nil, err
		}
		defer release()
		ports[i] = free
	}
	rule := fmt.Sprintf("  - usr: %s\n    db: %s\n", pginstance.Superuser, database)
	text := fmt.Sprintf("log_level: error\nhost: '127.0.0.1'\nrouter_port: '%d'\nadmin_console_port: '%d'\ngrpc_api_port: '%d'\nrouter_mode: LOCAL\n"+
		"world_shard_fallback: true\nfrontend_rules:\n%s    pool_mode: TRANSACTION\n    pool_prepared_statement: true\n    auth_rule:\n      auth_method: ok\n"+
		"backend_rules:\n%s    pool_discard: false\n    pool_rollback: true\n    connection_limit: %d\n"+
		"shards:\n  sh1:\n    db: %s\n    usr: %s\n    type: DATA\n    hosts:\n      - '127.0.0.1:%d'\n",
		port, ports[0], ports[1], rule, rule, poolSize, database, pginstance.Superuser, env.server.Port)
	return []string{"run", "--config", filepath.Join(env.dir, name+".yaml")}, env.write(name+".yaml", text)
}

// configureHAProxy has it pass connections on: each client has a server connection of its own.
func configureHAProxy(env *environment, s *setup, name string, port int) ([]string, error) {
	text := fmt.Sprintf("global\n nbthread %d\n maxconn 5000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 10m\n timeout server 10m\n"+
		"listen postgresql\n bind 127.0.0.1:%d\n server one 127.0.0.1:%d\n", max(1, s.procs), port, env.server.Port)
	return []string{"-db", "-f", filepath.Join(env.dir, name+".cfg")}, env.write(name+".cfg", text)
}
