package main

// suites are all that there are, in the order of the report.
var suites = []suite{
	{"pgx", "pgx", "own suite", "gotest", both, 12},
	{"pq", "lib/pq", "own suite", "gotest", both, 5},
	{"gorm", "GORM", "our script", "gotest", both, 5},
	{"river", "River", "own suite: clients, notifications, election of a leader, migrations", "gotest", both, 6},
	{"psql", "psql", "our scripts; the output is the same", "tap", both, 5},
	{"tools", "pg_dump, pg_restore, vacuumdb, …", "our script; the output is the same", "tap", both, 8},
	{"pgbench", "pgbench", "every protocol, own and our scripts", "tap", both, 5},
	{"regress", "PostgreSQL", "own suite: pg_regress, every test of its schedule", "tap", both, 12},
	{"isolation", "PostgreSQL, isolation and pipelines", "own suites: isolation, with sessions told by their names, and libpq_pipeline", "tap", both, 6},
	{"psycopg", "psycopg 3", "our script", "junit", both, 5},
	{"psycopg2", "psycopg2", "own suite", "junit", both, 8},
	{"asyncpg", "asyncpg", "own suite", "junit", both, 8},
	{"node-postgres", "node-postgres", "our script", "junit", both, 5},
	{"postgres-js", "postgres.js", "our script", "junit", both, 5},
	{"jdbc", "pgjdbc", "our program, with prepareThreshold 0, 1 and 5", "tap", both, 5},
	{"activerecord", "ActiveRecord", "own suite: the adapter, migrations, transactions, connections", "tap", both, 12},
	{"sequelize", "Sequelize, TypeORM", "our script", "junit", both, 5},
	{"django", "Django", "own suite, what uses the database most", "unittest", both, 15},
	{"sqlalchemy", "SQLAlchemy on psycopg", "own suite that every dialect has to pass", "junit", both, 15},
	{"sqlalchemy-asyncpg", "SQLAlchemy on asyncpg", "own suite that every dialect has to pass", "junit", both, 15},
}
