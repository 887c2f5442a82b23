package config

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/metrics"
)

// buildGeneral fills in what [general], [admin] and [tcp] say.
func (b *builder) buildGeneral() {
	c, g := b.cfg, b.cfg.general
	c.Listen = Listen{
		Host: g.text("host"), Port: g.int("port"), UnixSocketDir: g.text("unix_socket_dir"), UnixSocketMode: b.socketMode(),
	}
	c.Clients = Clients{
		Max: g.int("max_client_connections"), LoginTimeout: g.millis("client_login_timeout"), IdleTimeout: g.millis("client_idle_timeout"),
		IdleInTransactionTimeout: g.millis("client_idle_in_transaction_timeout"), QueryTimeout: g.millis("query_timeout"),
		PinTimeout: g.millis("pin_timeout"),
	}
	c.Auth = AuthType(g.text("auth_type"))
	c.TLS = TLS{
		Certificate: g.text("tls_certificate"), PrivateKey: g.text("tls_private_key"), ClientRequired: g.bool("tls_client_required"),
		ClientCA: g.text("tls_client_ca_certificate"), Verify: TLSVerify(g.text("tls_verify")), ServerCA: g.text("tls_server_ca_certificate"),
		ServerCertificate: g.text("tls_server_certificate"), ServerPrivateKey: g.text("tls_server_private_key"),
	}
	c.Connect = Connect{Timeout: g.millis("connect_timeout"), Attempts: g.int("connect_attempts"), AttemptDelay: g.millis("connect_attempt_delay"), LocalSockets: g.bool("local_sockets")}
	c.Timeouts = Timeouts{Checkout: g.millis("checkout_timeout"), Rollback: g.millis("rollback_timeout")}
	c.Health = Health{IdleInterval: g.millis("idle_healthcheck_interval"), Timeout: g.millis("healthcheck_timeout")}
	c.Prepared = Prepared{Enabled: g.text("prepared_statements") != "disabled", Limit: unlimited(g.int("prepared_statements_limit"))}
	c.Parser = Parser{MaxQueryBytes: unlimited(g.int("query_size_limit")), RefuseLongerQueries: g.text("query_size_limit_action") == "block"}
	c.Metrics = Metrics{
		Host: g.text("openmetrics_host"), Port: g.int("openmetrics_port"), Namespace: g.text("openmetrics_namespace"), Pprof: g.bool("openmetrics_pprof"), Tenants: g.int("openmetrics_tenants"), HealthPort: g.int("healthcheck_port"),
	}
	c.Log = Log{
		Level: b.logLevel(), JSON: g.text("log_format") != "text", Connections: g.bool("log_connections"), Disconnections: g.bool("log_disconnections"),
	}
	c.Shutdown = Shutdown{Timeout: g.millis("shutdown_timeout"), TerminationTimeout: g.millis("shutdown_termination_timeout")}
	c.MaxMessageBytes = g.int("max_message_size")
	c.Workers = g.int("workers")
	c.LoadSchema = LoadSchema(g.text("load_schema"))
	c.StatsPeriod = g.millis("stats_period")

	t := c.tcp
	c.TCP = TCP{
		KeepAlive: t.bool("keepalive"), Time: t.millis("time"), Interval: t.millis("interval"), Retries: t.int("retries"),
		UserTimeout: t.millis("user_timeout"), CongestionControl: t.text("congestion_control"),
	}
	c.Admin.Name, c.Admin.User, c.Admin.Password = c.admin.text("name"), c.admin.text("user"), c.admin.secret("password")

	b.checkGeneral()
	b.checkTLS()
}

// unlimited takes PgDog's largest numbers for no limit.
func unlimited(n int) int {
	if n >= 1<<40 {
		return 0
	}
	return n
}

// checkGeneral reports values that exist but can't be had, and those that don't go together.
func (b *builder) checkGeneral() {
	g, r := b.cfg.general, b.r
	for name, taken := range map[string]map[string]string{
		"prepared_statements": {"full": "extended", "extended_anonymous": "extended"},
		"log_format":          {"json_flattened": "json"},
	} {
		v := g.value(name)
		if as := taken[v.s]; as != "" {
			r.warn(v.at, "it is taken for "+strconv.Quote(as), "%s = %q is PgDog's and not yet supported by pgkennel", name, v.s)
		}
	}
	if v := g.value("cross_shard_disabled"); v.set && !v.bad && !v.b {
		r.warn(v.at, "it is taken for true", "statements that touch several shards are always refused by pgkennel, cross_shard_disabled = false is ignored")
	}
	b.inOrder(g.value("min_pool_size"), g.value("default_pool_size"), "")
	b.inOrder(g.value("server_lifetime_jitter"), g.value("server_lifetime"), "")
	if g.int("query_size_limit") > g.int("max_message_size") && unlimited(g.int("query_size_limit")) != 0 {
		r.fail(g.placeOf("query_size_limit"), "", "query_size_limit is larger than max_message_size, %d bytes", g.int("max_message_size"))
	}
	b.checkHost(g, "host")
	b.checkHost(g, "openmetrics_host")
	b.checkHost(b.cfg.admin, "api_host")
	if v := g.value("openmetrics_namespace"); !metrics.ValidNamespace(v.s) {
		r.fail(v.at, "use letters, digits and _, a letter first", "openmetrics_namespace %q can't begin the names of metrics", v.s)
	}
	b.checkPorts()
	b.checkSocket()
	if c := b.cfg.tcp; c.usable("congestion_control") && c.text("congestion_control") == "" {
		r.fail(c.placeOf("congestion_control"), "leave the key out", "congestion_control is empty")
	}
}

// checkPorts reports two listeners on one port.
func (b *builder) checkPorts() {
	g := b.cfg.general
	names := []string{"port", "openmetrics_port", "healthcheck_port"}
	hosts := map[string]string{"port": g.text("host"), "openmetrics_port": g.text("openmetrics_host"), "healthcheck_port": g.text("host")}
	if a := b.cfg.admin; a.int("api_port") != 0 && !a.badKey("api_port") {
		for _, n := range names {
			if g.int(n) == a.int("api_port") && !g.badKey(n) && (hosts[n] == a.text("api_host") || wildcard(hosts[n]) || wildcard(a.text("api_host"))) {
				b.r.fail(a.placeOf("api_port"), "choose another port", "api_port and %s are both %d", n, g.int(n))
			}
		}
	}
	apart := func(a, b string) bool { return a != b && !wildcard(a) && !wildcard(b) }
	for i, n := range names[1:] {
		for _, m := range names[:i+1] {
			if p := g.int(n); p != 0 && p == g.int(m) && !apart(hosts[n], hosts[m]) && !g.badKey(n) && !g.badKey(m) {
				at, other := g.placeOf(n), g.placeOf(m)
				if !g.has(m) {
					other = place{}
				}
				b.r.fail(at, "choose another port", "%s and %s are both %d; the other is %s", n, m, p, other)
			}
		}
	}
}

// wildcard says whether an address stands for all of them.
func wildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}

// socketMode reads the octal unix_socket_mode.
func (b *builder) socketMode() os.FileMode {
	v := b.cfg.general.value("unix_socket_mode")
	n, err := strconv.ParseUint(strings.TrimPrefix(v.s, "0o"), 8, 32)
	if err != nil || n > 0o777 {
		b.r.fail(v.at, `write permissions in octal, such as "0770"`, "unix_socket_mode %q is not a file mode", v.s)
		return 0o777
	}
	return os.FileMode(n)
}

// maxSocketPath is the longest name of a Unix socket that every system takes.
const maxSocketPath = 103

func (b *builder) checkSocket() {
	v := b.cfg.general.value("unix_socket_dir")
	if v.s == "" {
		return
	}
	if !filepath.IsAbs(v.s) {
		b.r.fail(v.at, "write the whole path, beginning with /", "unix_socket_dir %q is not an absolute path", v.s)
	} else if n := len(filepath.Join(v.s, ".s.PGSQL."+strconv.Itoa(b.cfg.Listen.Port))); n > maxSocketPath {
		b.r.fail(v.at, "use a shorter directory", "the name of the socket in unix_socket_dir has %d bytes, more than the %d that a socket can have", n, maxSocketPath)
	}
}

// logLevel reads log_level. PgDog takes filters in the manner of RUST_LOG there, of which the general level is used.
func (b *builder) logLevel() slog.Level {
	v := b.cfg.general.value("log_level")
	levels := map[string]slog.Level{"error": slog.LevelError, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": slog.LevelDebug}
	text := strings.ToLower(strings.TrimSpace(v.s))
	if l, ok := levels[text]; ok {
		return l
	}
	if strings.ContainsAny(text, ",=") {
		level := slog.LevelInfo
		for part := range strings.SplitSeq(text, ",") {
			if l, ok := levels[strings.TrimSpace(part)]; ok {
				level = l
			}
		}
		b.r.warn(v.at, "it is taken for "+strconv.Quote(strings.ToLower(level.String())), "log_level %q is a filter of PgDog's, which pgkennel does not have", v.s)
		return level
	}
	b.r.fail(v.at, "it is one of error, warn, info, debug", "%q is no value of log_level", v.s)
	return slog.LevelInfo
}
