package metrics

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// descs are the families, by field.
type descs struct {
	all []*prometheus.Desc

	buildInfo, configEpoch, configLoaded, configReloads                                                                                                        *prometheus.Desc
	parseHits, parseMisses, parseEvictions, parseEntries, parseBytes, parseMaxBytes, parseSeconds                                                              *prometheus.Desc
	clients, clientsActive, clientsWaiting, connects, closes, loginsFailed, cancels, pinned, pins                                                              *prometheus.Desc
	queries, transactions, received, sent, errors, statementSeconds, transactionSeconds                                                                        *prometheus.Desc
	listenSessions, listenChannels, listenConnections                                                                                                          *prometheus.Desc
	parses, binds, healed, contexts, prepared, preparedBytes, preparedEvictions, plans, refusals                                                               *prometheus.Desc
	poolSize, poolIdle, poolUsed, poolWaiting, poolMax, poolMaxWait, checkouts, checkoutSeconds, checkoutTimeouts                                              *prometheus.Desc
	opened, openFailures, openSeconds, closed, backendReceived, backendSent, backendParses                                                                     *prometheus.Desc
	tenantClients, tenantWaiting, tenantTransactions, tenantQueries, tenantErrors, tenantReceived, tenantSent                                                  *prometheus.Desc
	directoryCurrent, directoryAge, directoryTenants, directoryInstances, tenantsWaking, wakes, instanceEnds, instanceOOMKills, instanceCrashes, instancesDown *prometheus.Desc
	backendParseEvictions, checkSeconds, checksFailed, up, bans, budgetMax, budgetUsed, budgetWaiting                                                          *prometheus.Desc
}

func newDescs(namespace string) descs {
	var d descs
	prefix := "pgkennel_"
	if ns := strings.TrimRight(namespace, "_"); ns != "" {
		prefix = ns + "_" + prefix
	}
	def := func(name, help string, labels ...string) *prometheus.Desc {
		desc := prometheus.NewDesc(prefix+name, help, labels, nil)
		d.all = append(d.all, desc)
		return desc
	}
	cluster := []string{"cluster"}
	shard := []string{"cluster", "shard"}
	endpoint := []string{"cluster", "shard", "role", "endpoint"}
	pool := append(endpoint, "user")
	with := func(labels []string, more ...string) []string {
		return append(slices.Clip(labels), more...)
	}

	d.buildInfo = def("build_info", "1; what program this is.", "version", "commit", "go_version")
	d.configEpoch = def("config_epoch", "Number of the configuration in force; grows with each reload.")
	d.configLoaded = def("config_loaded_timestamp_seconds", "When the configuration in force was loaded, in seconds since 1970.")
	d.configReloads = def("config_reloads_total", "Reloads of the configuration.", "result")

	d.parseHits = def("parser_cache_hits_total", "SQL texts found in the parse cache.")
	d.parseMisses = def("parser_cache_misses_total", "SQL texts that had to be parsed.")
	d.parseEvictions = def("parser_cache_evictions_total", "Entries dropped from the parse cache to make room.")
	d.parseEntries = def("parser_cache_entries", "Entries in the parse cache.")
	d.parseBytes = def("parser_cache_bytes", "Memory that the parse cache holds.")
	d.parseMaxBytes = def("parser_cache_max_bytes", "Memory that the parse cache may hold.")
	d.parseSeconds = def("parser_parse_seconds_total", "Time spent parsing SQL.")

	d.directoryCurrent = def("directory_current", "1 while the tenants that are known are those of the directory.")
	d.directoryAge = def("directory_age_seconds", "For how long it has not been certain that they are.")
	d.directoryTenants = def("directory_tenants", "Tenants in the directory, as far as is known.")
	d.directoryInstances = def("directory_instances", "Tenants with an instance of their own that had clients here lately.")
	d.tenantsWaking = def("directory_tenants_waking", "Tenants that are being woken for their clients.")
	d.instanceEnds = def("directory_instance_ends_total", "Instances that ended by themselves, as this host's runner saw it.")
	d.instanceOOMKills = def("directory_instance_oom_kills_total", "Processes of instances that the kernel ended because their memory was used up.")
	d.instanceCrashes = def("directory_instance_crashes_total", "Processes of instances that ended by a signal other than the kernel's while their server went on.")
	d.instancesDown = def("directory_instances_down", "Instances of this host that are to be up and are not.")
	d.wakes = def("directory_wakes_total", "Tenants that were woken for their clients, or could not be.", "result")

	d.clients = def("session_clients", "Clients connected.", cluster...)
	d.clientsActive = def("session_clients_active", "Clients that have a backend.", cluster...)
	d.clientsWaiting = def("session_clients_waiting", "Clients that wait for a backend.", cluster...)
	d.pinned = def("session_clients_pinned", "Clients that keep their backend for what they have left on it.", cluster...)
	d.pins = def("session_pins_total", "How often a client was pinned to its backend, by what it left there.", with(cluster, "reason")...)
	d.connects = def("session_connects_total", "Clients that logged in.", cluster...)
	d.closes = def("session_closes_total", "Clients that left, by close reason.", with(cluster, "reason")...)
	d.loginsFailed = def("session_logins_failed_total", "Clients refused before they had a session.", "kind")
	d.cancels = def("session_cancels_total", "Cancel requests, by what became of them.", "result")
	d.queries = def("session_queries_total", "Statements of clients.", cluster...)
	d.transactions = def("session_transactions_total", "Transactions of clients that ended.", cluster...)
	d.received = def("session_received_bytes_total", "Bytes received from clients.", cluster...)
	d.sent = def("session_sent_bytes_total", "Bytes sent to clients.", cluster...)
	d.parses = def("session_parses_total", "Prepared statements made by clients.", cluster...)
	d.binds = def("session_binds_total", "Prepared statements bound by clients.", cluster...)
	d.healed = def("session_prepared_healed_total", "Units of clients that were run anew, unseen, because tables had changed under their prepared statements.", cluster...)
	d.contexts = def("session_contexts_total", "Contexts of tenants that shared backends needed: those sent, and those that were there.", with(cluster, "result")...)
	d.prepared = def("session_prepared_statements", "Prepared statements held for clients.")
	d.preparedBytes = def("session_prepared_statements_bytes", "Memory that the prepared statements of clients hold.")
	d.listenSessions = def("listen_sessions", "Sessions in transaction pooling that listen for notifications.")
	d.listenChannels = def("listen_channels", "Channels that they listen to, of each connection.")
	d.listenConnections = def("listen_connections", "Server connections over which they do, beside the pools.")
	d.preparedEvictions = def("session_prepared_evictions_total", "Prepared statements of clients dropped to make room.")
	d.errors = def("session_errors_total", "Errors that clients got, by SQLSTATE class and who made them.", with(cluster, "origin", "class")...)
	d.statementSeconds = def("session_statement_seconds", "Time from a client's message until its answer ended, waiting for a backend included.", shard...)
	d.transactionSeconds = def("session_transaction_seconds", "Time from a transaction's first message until its end, waiting for a backend included.", shard...)

	d.plans = def("router_plans_total", "Statements routed, by plan kind.", with(cluster, "kind")...)
	d.refusals = def("router_refusals_total", "Statements refused, by refusal.", with(cluster, "routine")...)

	tenant := with(cluster, "tenant")
	d.tenantClients = def("session_tenant_clients", "Clients of a tenant that are connected, or in its transactions.", tenant...)
	d.tenantWaiting = def("session_tenant_clients_waiting", "Clients of a tenant that wait for a backend.", tenant...)
	d.tenantTransactions = def("session_tenant_transactions_total", "Transactions of a tenant that ended.", tenant...)
	d.tenantQueries = def("session_tenant_queries_total", "Statements of a tenant.", tenant...)
	d.tenantErrors = def("session_tenant_errors_total", "Errors that a tenant's clients got.", tenant...)
	d.tenantReceived = def("session_tenant_received_bytes_total", "Bytes received from a tenant's clients.", tenant...)
	d.tenantSent = def("session_tenant_sent_bytes_total", "Bytes sent to a tenant's clients.", tenant...)

	d.poolSize = def("pool_backends", "Backends open or being opened.", pool...)
	d.poolIdle = def("pool_backends_idle", "Backends that nobody uses.", pool...)
	d.poolUsed = def("pool_backends_used", "Backends checked out.", pool...)
	d.poolMax = def("pool_backends_max", "Backends that the pool may have.", pool...)
	d.poolWaiting = def("pool_clients_waiting", "Clients in the pool's queue.", pool...)
	d.poolMaxWait = def("pool_max_wait_seconds", "How long the client that waits longest has waited.", pool...)
	d.checkouts = def("pool_checkouts_total", "Backends lent.", pool...)
	d.checkoutSeconds = def("pool_checkout_wait_seconds", "Time that checkouts waited that had to wait.", pool...)
	d.checkoutTimeouts = def("pool_checkout_timeouts_total", "Checkouts that gave up waiting.", pool...)

	d.opened = def("backend_opened_total", "Backends that logged in.", pool...)
	d.openFailures = def("backend_open_failures_total", "Backends that could not be opened, by reason.", with(pool, "reason")...)
	d.openSeconds = def("backend_open_seconds_total", "Time that dials and logins took.", pool...)
	d.closed = def("backend_closed_total", "Backends closed, by close reason.", with(pool, "reason")...)
	d.backendReceived = def("backend_received_bytes_total", "Bytes received from servers.", pool...)
	d.backendSent = def("backend_sent_bytes_total", "Bytes sent to servers.", pool...)
	d.backendParses = def("backend_parses_total", "Statements prepared on backends.", pool...)
	d.backendParseEvictions = def("backend_parse_evictions_total", "Statements closed on backends to make room.", pool...)

	d.checkSeconds = def("cluster_health_check_seconds", "Time of health checks that were answered.", endpoint...)
	d.checksFailed = def("cluster_health_checks_failed_total", "Health checks that were not answered.", endpoint...)
	d.up = def("cluster_endpoint_up", "1 while the endpoint answers.", endpoint...)
	d.bans = def("cluster_endpoint_bans_total", "How often the endpoint was found not to answer any more.", endpoint...)
	d.budgetMax = def("cluster_endpoint_budget_max_connections", "Most connections that tenants' own logins may have there together.", endpoint...)
	d.budgetUsed = def("cluster_endpoint_budget_connections", "Connections that they have.", endpoint...)
	d.budgetWaiting = def("cluster_endpoint_budget_waiting_pools", "Tenants' pools that want more than is free.", endpoint...)
	return d
}

func (d *descs) describe(ch chan<- *prometheus.Desc) {
	for _, desc := range d.all {
		ch <- desc
	}
}
