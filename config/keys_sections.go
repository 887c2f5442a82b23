package config

// poolKeys are what both [[databases]] and [[users]] can say about their pools.
func poolKeys(keys ...*key) []*key {
	return append(keys,
		&key{name: "pool_size", kind: kInt, min: 1, max: 1e6, example: `10`, doc: "Most connections of a pool. Not set: default_pool_size."},
		&key{name: "pool_size_primary", kind: kInt, min: 1, max: 1e6, example: `10`, doc: "The same for primaries only."},
		&key{name: "pool_size_replica", kind: kInt, min: 1, max: 1e6, example: `20`, doc: "The same for replicas only."},
		&key{name: "min_pool_size", kind: kInt, max: 1e6, example: `1`, doc: "Connections kept open. Not set: min_pool_size of [general]."},
		&key{name: "min_pool_size_primary", kind: kInt, max: 1e6, example: `1`, doc: "The same for primaries only."},
		&key{name: "min_pool_size_replica", kind: kInt, max: 1e6, example: `2`, doc: "The same for replicas only."},
		&key{name: "pooler_mode", kind: kEnum, legal: []string{"transaction", "session"}, refused: []string{"statement"}, doc: "Overrides pooler_mode of [general]."},
		&key{name: "pin", kind: kEnum, legal: []string{"allow", "warn", "deny"}, ours: true, doc: "Overrides pin of [general]."},
		&key{name: "idle_timeout", kind: kMillis, min: 1, example: `60_000`, doc: "Overrides idle_timeout of [general]."},
		&key{name: "idle_timeout_primary", kind: kMillis, min: 1, example: `60_000`, doc: "The same for primaries only."},
		&key{name: "idle_timeout_replica", kind: kMillis, min: 1, example: `30_000`, doc: "The same for replicas only."},
		&key{name: "server_lifetime", kind: kMillis, min: 1, example: `86_400_000`, doc: "Overrides server_lifetime of [general]."},
		&key{name: "server_lifetime_jitter", kind: kMillis, example: `60_000`, doc: "Overrides server_lifetime_jitter of [general]."},
		&key{name: "statement_timeout", kind: kMillis, max: 1<<31 - 1, example: `30_000`, doc: "PostgreSQL's statement_timeout on these connections; 0 = none. Not set: the server's."},
		&key{name: "lock_timeout", kind: kMillis, max: 1<<31 - 1, example: `5_000`, doc: "PostgreSQL's lock_timeout on these connections; 0 = none. Not set: the server's."},
		&key{name: "read_only", kind: kBool, def: "false", notYet: true, doc: "Transactions read only."},
	)
}

var databasesSection = newSection(section{
	name: "databases", list: true,
	doc: "One endpoint: an instance and a database in it that serves a shard of a cluster. Entries of the same name make the cluster that clients see as one database.",
	keys: poolKeys(
		&key{name: "name", kind: kText, required: true, doc: "Name of the cluster: the database clients ask for."},
		&key{name: "host", kind: kText, required: true, doc: "Host of the instance; a path beginning with / is the directory of its Unix socket."},
		&key{name: "port", kind: kPort, def: "5432", doc: "Port of the instance."},
		&key{name: "shard", kind: kInt, def: "0", max: maxShard, doc: "Number of the shard, from 0, without gaps."},
		&key{name: "role", kind: kEnum, def: "primary", legal: []string{"primary", "replica", "auto"}, doc: "primary, or replica, which gets no reads yet. auto is taken for primary."},
		&key{name: "database_name", kind: kText, doc: "Name of the database in the instance. Not set: name."},
		&key{name: "user", kind: kText, doc: "Log in there as this user. Not set: the client's server_user, or its name."},
		&key{name: "password", kind: kSecret, doc: "Log in there with this password. Not set: the client's server_password, or its password."},
		&key{name: "admin_user", kind: kText, ours: true, restart: true, example: `"postgres"`, doc: "Administrator who makes tenants there on demand, and whom secure and doctor log in as; of the primary only. Not set: whom PGUSER names."},
		&key{name: "admin_password_file", kind: kPath, ours: true, restart: true, example: `"admin.password"`, doc: "File with the password of admin_user, below the directory of this file. Not set: PGPASSWORD."},
		&key{name: "lb_weight", kind: kInt, def: "255", notYet: true, doc: "Weight among replicas."},
		&key{name: "resharding_only", kind: kBool, def: "false", notYet: true, doc: "Use it for resharding only."},
	),
})

var usersSection = newSection(section{
	name: "users", list: true, users: true,
	doc: "A user that may log in, and the databases it may use.",
	keys: poolKeys(
		&key{name: "name", kind: kText, required: true, doc: "Name to log in with."},
		&key{name: "database", kind: kText, doc: "The database it may use, by its name in [[databases]]."},
		&key{name: "databases", kind: kTexts, doc: "Several of them."},
		&key{name: "all_databases", kind: kBool, def: "false", doc: "All of them."},
		&key{name: "password", kind: kSecret, doc: "Password to log in with."},
		&key{name: "passwords", kind: kSecrets, doc: "More passwords, each as good; for changing them."},
		&key{name: "password_hash", kind: kSecret, doc: "Instead of a password, what PostgreSQL keeps of it in pg_authid: SCRAM-SHA-256$... or md5..."},
		&key{name: "server_user", kind: kText, doc: "User to log in to PostgreSQL with. Not set: name."},
		&key{name: "server_password", kind: kSecret, doc: "Password to log in to PostgreSQL with. Not set: password."},
		&key{name: "server_auth", kind: kEnum, def: "password", legal: []string{"password", "rds_iam", "azure_workload_identity", "vault_dynamic", "vault_static"}, notYet: true, doc: "How to log in to PostgreSQL."},
		&key{name: "server_iam_region", kind: kText, notYet: true, doc: "Region of rds_iam."},
		&key{name: "server_vault_path", kind: kText, notYet: true, doc: "Where Vault keeps the password."},
		&key{name: "vault_path", kind: kText, notYet: true, doc: "An older name of it."},
		&key{name: "vault_refresh_percent", kind: kInt, def: "80", notYet: true, doc: "When it is asked for again."},
		&key{name: "schema_admin", kind: kBool, def: "false", notYet: true, doc: "The user that changes the schema."},
		&key{name: "tenant", kind: kText, ours: true, doc: "Tenant that the user is bound to, by its name."},
		&key{name: "tenant_switch", kind: kBool, ours: true, def: "false", doc: "The user is the application's own: unless its login names a tenant, it may choose one, and change it between transactions."},
		&key{name: "may_set_role", kind: kBool, ours: true, def: "false", doc: "With virtual tenancy, the user may SET ROLE and SET SESSION AUTHORIZATION."},
		&key{name: "cross_shard_disabled", kind: kBool, notYet: true, doc: "Overrides cross_shard_disabled of [general]."},
		&key{name: "two_phase_commit", kind: kBool, notYet: true, doc: "Overrides two_phase_commit of [general]."},
		&key{name: "two_phase_commit_auto", kind: kBool, notYet: true, doc: "Overrides two_phase_commit_auto of [general]."},
		&key{name: "replication_mode", kind: kBool, def: "false", doc: "The user may have replication connections, as pg_basebackup, pg_receivewal and subscribers have them: each is passed through to a server connection of its own, and sees everything on that server. As many as pool_size, besides the pool's. Not for tenants."},
		&key{name: "replication_sharding", kind: kText, notYet: true, doc: "Where what it replicates goes."},
		&key{name: "identity", kind: kText, notYet: true, doc: "Name in a client's certificate that makes it this user."},
		&key{name: "tls_client_certificate_required", kind: kBool, notYet: true, doc: "The user must show a certificate."},
	),
})

var adminSection = newSection(section{
	name: "admin", both: true,
	doc: "The admin database: SHOW, RELOAD, PAUSE and the like. It may stand in users.toml instead, which wins.",
	keys: []*key{
		{name: "name", kind: kText, def: "admin", doc: "Name of the database."},
		{name: "user", kind: kText, def: "admin", doc: "The only user that may log in to it."},
		{name: "password", kind: kSecret, doc: "Its password. Not set: nobody can log in."},
		{name: "socket", kind: kPath, ours: true, restart: true, example: `"pgkennel-directory.sock"`, doc: "Unix socket of the running pooler by which pgkennel tenant reaches it; root and the user that pgkennel runs as may. Not set: with [directory], its path with .sock behind it."},
		{name: "api_host", kind: kText, def: "127.0.0.1", ours: true, restart: true, doc: "Address of the HTTP API for tenants."},
		{name: "api_port", kind: kPort, ours: true, restart: true, example: `6433`, doc: "Its port; with tls_certificate of [general] it speaks HTTPS. Not set: there is no such API."},
		{name: "api_token_file", kind: kPath, ours: true, example: `"api.token"`, doc: "File with the token of at least 16 characters that each request to it has to bear. Needed with api_port."},
	},
})

var peersSection = newSection(section{
	name: "peers", list: true,
	doc: "The poolers behind one address of a load balancer: a cancel request comes by a connection of its own, which may reach another one than the client's, and is passed on. The list may name all of them, in the files of all.",
	keys: []*key{
		{name: "id", kind: kInt, required: true, ours: true, min: 1, max: 255, example: `2`, doc: "peer_id of the pooler."},
		{name: "host", kind: kText, required: true, ours: true, example: `"10.0.0.2"`, doc: "Host by which this one reaches it, past the load balancer. Over TLS if it offers that and this one has tls_certificate."},
		{name: "port", kind: kPort, def: "6432", ours: true, doc: "Port of it."},
	},
})

var tcpSection = newSection(section{
	name: "tcp",
	doc:  "Options of TCP connections, to clients and to PostgreSQL.",
	keys: []*key{
		{name: "keepalive", kind: kBool, def: "true", doc: "Send keep-alive probes."},
		{name: "time", kind: kMillis, min: 1, example: `60_000`, doc: "Idle time before the first probe. Not set: the system's, as for the rest."},
		{name: "interval", kind: kMillis, min: 1, example: `10_000`, doc: "Time between probes."},
		{name: "retries", kind: kInt, min: 1, max: 127, example: `5`, doc: "Probes without an answer after which the connection is dead."},
		{name: "user_timeout", kind: kMillis, min: 1, max: 1<<31 - 1, example: `30_000`, doc: "Time after which data without acknowledgement kills the connection; likewise that of a client that has shut down its sending half and reads nothing (not set: a minute)."},
		{name: "congestion_control", kind: kText, example: `"bbr"`, doc: "Name of the congestion control algorithm, such as bbr."},
	},
})

var multiTenantSection = newSection(section{
	name: "multi_tenant",
	doc:  "Tenants. With column alone every statement must name its tenant, as in PgDog; any other key, [[tenants]], or [directory] turns on virtual tenancy.",
	keys: []*key{
		{name: "column", kind: kText, wanted: true, doc: "Column that holds the tenant's key, in every table that has tenants' rows. Required, but where all tenants have a schema or database of their own."},
		{name: "data_type", kind: kEnum, ours: true, legal: []string{"bigint", "integer", "smallint", "uuid", "varchar", "text"}, example: `"bigint"`, doc: "Its type. Not set: that of [[sharded_tables]] with the column, else bigint."},
		{name: "setting", kind: kText, ours: true, def: "app.current_tenant", doc: "Run-time parameter that carries the tenant's key on server connections, for policies and defaults."},
		{name: "isolation", kind: kEnum, ours: true, def: "row", legal: []string{"row", "schema", "database"}, doc: "How tenants are kept apart: by rows of shared tables, by a schema, or by a database of their own."},
		{name: "mode", kind: kEnum, ours: true, def: "strict", legal: []string{"strict", "sealed", "shared"}, doc: "What holds them there. strict: server connections log in as the tenant's own role. sealed, for rows only: all use the pool's login, and policies check a signature that pgkennel gives with the tenant's key to each connection. shared: all use the pool's login, which takes on the tenant's setting, schema and role; it holds against mistakes, not against hostile SQL."},
		{name: "schema", kind: kText, ours: true, def: "t_{tenant}", doc: "Name of a tenant's schema. {tenant} is the tenant's name, {key} its key."},
		{name: "role", kind: kText, ours: true, def: "t_{tenant}", doc: "Name of a tenant's role."},
		{name: "database_name", kind: kText, ours: true, def: "t_{tenant}", doc: "Name of a tenant's database on the server."},
		{name: "role_secret_file", kind: kPath, ours: true, example: `"role.secret"`, doc: "File with the secret from which the passwords of tenants' roles are made, in strict mode, and the key of seals, in sealed mode. Not set: roles log in without a password."},
		{name: "connections", kind: kInt, ours: true, def: "100", min: 1, max: 1e6, doc: "Most connections to one endpoint over the pools of all tenants' own roles, in strict mode. Who waits for one is served in turn, tenant by tenant."},
		{name: "schemas_per_connection", kind: kInt, ours: true, def: "100", max: 1e6, doc: "In shared mode, tenants with a schema of their own for which a connection is used before it is replaced; 0 = any number. PostgreSQL keeps what it has learnt of their tables, some 250 kB for a tenant with 20 tables."},
		{name: "dotted_logins", kind: kBool, ours: true, def: "false", doc: "A login may be user.tenant besides user@tenant."},
		{name: "route_by", kind: kTexts, ours: true, example: `["user", "database"]`, doc: "A user, or a database, of a tenant's name stands for the tenant."},
		{name: "sni_suffix", kind: kText, ours: true, example: `".db.example.com"`, doc: "Clients that connect by TLS to tenant + suffix are that tenant's."},
	},
})

var tenantsSection = newSection(section{
	name: "tenants", list: true,
	doc: "A tenant that needs more than its key: a name for logins, or a place of its own. pgkennel's own.",
	keys: []*key{
		{name: "name", kind: kText, ours: true, required: true, doc: "What a login names: lower-case letters, digits, _ and -."},
		{name: "key", kind: kKey, ours: true, example: `42`, doc: "Its value of the tenant column. Required for row isolation."},
		{name: "database", kind: kText, ours: true, doc: "Cluster, by its name in [[databases]]. Not set: the only one."},
		{name: "shard", kind: kInt, ours: true, max: maxShard, example: `0`, doc: "Its shard. Not set: where the mapping has its key."},
		{name: "isolation", kind: kEnum, ours: true, legal: []string{"row", "schema", "database"}, example: `"schema"`, doc: "Its isolation, instead of that of [multi_tenant]."},
		{name: "mode", kind: kEnum, ours: true, legal: []string{"strict", "sealed", "shared"}, example: `"strict"`, doc: "Its mode, instead of that of [multi_tenant]."},
		{name: "schema", kind: kText, ours: true, doc: "Its schema, instead of the template's."},
		{name: "role", kind: kText, ours: true, doc: "Its role, instead of the template's."},
		{name: "database_name", kind: kText, ours: true, doc: "Its database on the server, instead of the template's."},
		{name: "state", kind: kEnum, ours: true, def: "active", legal: []string{"active", "disabled", "suspended"}, doc: "Whether it may be used. Logins to others are refused as if the password were wrong."},
	},
})

var shardedTablesSection = newSection(section{
	name: "sharded_tables", list: true,
	doc: "A column whose value decides the shard. With a mapping by list and range, without one by PostgreSQL's hash.",
	keys: []*key{
		{name: "database", kind: kText, required: true, doc: "Cluster, by its name in [[databases]]."},
		{name: "column", kind: kText, required: true, doc: "The column."},
		{name: "name", kind: kText, doc: "Table. Not set: every table that has the column."},
		{name: "schema", kind: kText, doc: "Schema of the table. Not set: any."},
		{name: "primary", kind: kBool, def: "false", notYet: true, doc: "The table that the others refer to."},
		{name: "data_type", kind: kEnum, def: "bigint", legal: []string{"bigint", "integer", "smallint", "uuid", "varchar", "text", "vector"}, doc: "Type of the column: bigint (also integer, smallint), uuid, varchar (also text). vector is ignored."},
		{name: "hasher", kind: kEnum, def: "postgres", legal: []string{"postgres", "sha1"}, doc: "Hash function of a table without mapping. sha1 is refused there."},
		{name: "mapping", kind: kRules, doc: "Which value lives on which shard: [[sharded_tables.mapping]] entries of { values, shard }, { start, end, shard } with the end excluded, or { shard } for the rest. With virtual tenancy each may have schema and role besides, those of its tenants: with {key} in them, but where the entry is one key."},
		{name: "centroids", kind: kAny, notYet: true, example: `[[1.0, 0.0], [0.0, 1.0]]`, doc: "Centroids of vector."},
		{name: "centroids_path", kind: kPath, notYet: true, example: `"centroids.json"`, doc: "File of them."},
		{name: "centroid_probes", kind: kInt, def: "0", notYet: true, doc: "How many are probed."},
		{name: "lookup_query", kind: kText, notYet: true, example: `"SELECT org_id FROM documents WHERE id = $1"`, doc: "Query that finds a key's shard. Refused where there is no mapping."},
		{name: "lookup_result", kind: kEnum, def: "value", legal: []string{"value", "shard"}, notYet: true, doc: "What it returns."},
	},
})

var shardedMappingsSection = newSection(section{
	name: "sharded_mappings", list: true,
	doc: "The older form of a mapping, for the sharded tables of the same database and column.",
	keys: []*key{
		{name: "database", kind: kText, required: true, doc: "As in [[sharded_tables]]."},
		{name: "column", kind: kText, required: true, doc: "As in [[sharded_tables]]."},
		{name: "table", kind: kText, doc: "name in [[sharded_tables]]. Not set: all of that column."},
		{name: "schema", kind: kText, doc: "Schema of the table, as in [[sharded_tables]]. Not set: any. Tenants' own is tenant_schema."},
		{name: "kind", kind: kEnum, required: true, legal: []string{"list", "range", "default"}, doc: "list, range or default."},
		{name: "values", kind: kAny, example: `[1, 2, 3]`, doc: "list: the values."},
		{name: "start", kind: kAny, example: `1`, doc: "range: the first value. Not set: no lower bound."},
		{name: "end", kind: kAny, example: `100`, doc: "range: the value behind the last one. Not set: no upper bound."},
		{name: "shard", kind: kInt, required: true, max: maxShard, doc: "The shard they live on."},
		{name: "tenant_schema", kind: kText, ours: true, example: `"t_{key}"`, doc: "With virtual tenancy, the schema of the tenants of these values, instead of that of [multi_tenant]. {key} is the tenant's key."},
		{name: "role", kind: kText, ours: true, example: `"t_{key}"`, doc: "With virtual tenancy, their role. {key} is the tenant's key."},
	},
})

var omnishardedSection = newSection(section{
	name: "omnisharded_tables", list: true,
	doc: "Tables that are the same on every shard. Reads go to any of them.",
	keys: []*key{
		{name: "database", kind: kText, required: true, doc: "Cluster, by its name in [[databases]]."},
		{name: "tables", kind: kTexts, required: true, doc: "The tables, by name or schema.name."},
		{name: "sticky", kind: kBool, def: "false", notYet: true, doc: "Read from one shard per client."},
	},
})

var shardedSchemasSection = newSection(section{
	name: "sharded_schemas", list: true,
	doc: "A schema that lives on one shard, with all that is in it. Statements go there whose tables are in it, by name or by search_path.",
	keys: []*key{
		{name: "database", kind: kText, required: true, doc: "Cluster, by its name in [[databases]]."},
		{name: "name", kind: kText, doc: "Schema. Not set: all schemas without an entry, as far as neither [[sharded_tables]] nor [[omnisharded_tables]] has their tables."},
		{name: "shard", kind: kInt, def: "0", max: maxShard, doc: "Its shard."},
		{name: "all", kind: kBool, def: "false", doc: "It is the same on every shard, as tables in [[omnisharded_tables]] are; shard does not count."},
	},
})

// Sections of PgDog that are not obeyed yet.
var (
	mirroringSection = newSection(section{
		name: "mirroring", list: true, notYet: true, doc: "Copy of traffic to another cluster.",
		keys: []*key{
			{name: "source_db", kind: kText, required: true, doc: "Cluster whose traffic is copied."},
			{name: "destination_db", kind: kText, required: true, doc: "Cluster that gets the copy."},
			{name: "queue_length", kind: kInt, example: `256`, doc: "Transactions that may wait."},
			{name: "exposure", kind: kFloat, example: `0.5`, doc: "Share of the traffic."},
			{name: "level", kind: kEnum, def: "all", legal: []string{"all", "dml", "ddl"}, doc: "Which statements."},
		},
	})
	rewriteSection = newSection(section{
		name: "rewrite", doc: "Rewriting of statements that several shards would have to run.",
		keys: []*key{
			{name: "enabled", kind: kBool, def: "false", notYet: true, doc: "Whether they are rewritten."},
			{name: "shard_key", kind: kEnum, def: "error", legal: []string{"ignore", "error", "rewrite", "rewrite_omni"}, notYet: true, doc: "UPDATE of a sharding key; pgkennel refuses it."},
			{name: "split_inserts", kind: kEnum, def: "error", legal: []string{"ignore", "error", "rewrite", "rewrite_omni"}, notYet: true, doc: "INSERT of rows for several shards; pgkennel refuses it."},
			{name: "primary_key", kind: kEnum, def: "ignore", legal: []string{"ignore", "error", "rewrite", "rewrite_omni"}, notYet: true, doc: "INSERT without a primary key."},
			{name: "simple_to_prepared", kind: kBool, def: "false", notYet: true, doc: "Simple queries as prepared statements."},
		},
	})
	memorySection = newSection(section{
		name: "memory", doc: "Sizes of buffers.",
		keys: []*key{
			{name: "net_buffer", kind: kInt, def: "4096", notYet: true, doc: "Of a socket."},
			{name: "message_buffer", kind: kInt, def: "4096", notYet: true, doc: "Of a message."},
			{name: "stack_size", kind: kInt, def: "2097152", notYet: true, doc: "Of a thread."},
		},
	})
	replicaLagSection = newSection(section{
		name: "replica_lag", doc: "Checks of replicas; PgDog no longer uses it.",
		keys: []*key{
			{name: "check_interval", kind: kMillis, def: "1000", notYet: true, doc: "Their period."},
			{name: "max_age", kind: kMillis, def: "25", notYet: true, doc: "Lag that is too much."},
		},
	})
	replicationSection = newSection(section{
		name: "replication", doc: "Tools for resharding.",
		keys: []*key{{name: "pg_dump_path", kind: kPath, def: "pg_dump", notYet: true, doc: "Where pg_dump is."}},
	})
	pluginsSection = newSection(section{
		name: "plugins", list: true, notYet: true, doc: "Shared libraries that route statements.",
		keys: []*key{
			{name: "name", kind: kText, required: true, doc: "Its name."},
			{name: "config", kind: kPath, doc: "Its own configuration."},
		},
	})
	queryParsersSection = newSection(section{
		name: "query_parsers", list: true, notYet: true, doc: "The parser by database.",
		keys: []*key{
			{name: "database", kind: kText, required: true, doc: "Cluster."},
			{name: "level", kind: kEnum, legal: []string{"on", "auto", "off", "session_control", "session_control_and_locks"}, doc: "As query_parser."},
			{name: "engine", kind: kEnum, legal: []string{"pg_query_protobuf", "pg_query_raw"}, doc: "As query_parser_engine."},
		},
	})
	manualQueriesSection = newSection(section{
		name: "manual_queries", list: true, notYet: true, doc: "Statements that are routed by hand.",
		keys: []*key{{name: "fingerprint", kind: kText, required: true, doc: "The statement's fingerprint."}},
	})
	otelSection = newSection(section{
		name: "otel", notYet: true, doc: "Metrics sent to an OpenTelemetry collector.",
		keys: []*key{
			{name: "endpoint", kind: kText, doc: "Its address."},
			{name: "namespace", kind: kText, doc: "Prefix of the metrics' names."},
			{name: "headers", kind: kAny, example: `{ authorization = "..." }`, doc: "Headers of each request."},
			{name: "datadog_api_key", kind: kSecret, doc: "Key of Datadog."},
			{name: "push_interval", kind: kMillis, def: "10000", doc: "Period."},
		},
	})
	vaultSection = newSection(section{
		name: "vault", notYet: true, doc: "Passwords from HashiCorp Vault.",
		keys: []*key{
			{name: "url", kind: kText, required: true, doc: "Address of the server."},
			{name: "auth_method", kind: kEnum, required: true, legal: []string{"kubernetes", "approle"}, doc: "How to log in to it."},
			{name: "namespace", kind: kText, doc: "Its namespace."},
			{name: "auth_mount", kind: kText, doc: "Path of the login."},
			{name: "kubernetes_role", kind: kText, doc: "Role to log in as."},
			{name: "kubernetes_jwt_path", kind: kPath, doc: "File of the token."},
			{name: "approle_role_id", kind: kText, doc: "ID of the role."},
			{name: "approle_secret_id_file", kind: kPath, doc: "File of its secret."},
			{name: "client_token_ttl", kind: kInt, def: "60", doc: "How long a login is good."},
		},
	})
	controlSection = newSection(section{
		name: "control", notYet: true, any: true, doc: "The control plane of PgDog's Enterprise edition.",
	})
)
