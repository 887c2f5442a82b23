package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// tenancy is how the tenants of the scenario "virtual" are kept apart.
type tenancy string

const (
	noTenancy   tenancy = ""
	namedOnly   tenancy = "statements name the tenant, nothing else" // PgDog's check
	sharedRows  tenancy = "rows, shared"
	strictRoles tenancy = "schemas, strict"
)

// virtualTenants is how many there are; those with a login each are fewer, for there are as many connections.
const (
	virtualTenants = 1000
	strictTenants  = 20
)

func (t tenancy) tenants() int {
	if t == strictRoles {
		return strictTenants
	}
	return virtualTenants
}

// tenants' tables: one with policies, and one for each of those who have a schema.
func tenantTables() string {
	var sql strings.Builder
	fmt.Fprintf(&sql, `
CREATE ROLE %[1]s LOGIN;
CREATE TABLE rents (tenant_id bigint, id bigint, value bigint, PRIMARY KEY (tenant_id, id));
INSERT INTO rents SELECT t, i, i FROM generate_series(1, %[2]d) t, generate_series(1, 100) i;
ALTER TABLE rents ENABLE ROW LEVEL SECURITY;
ALTER TABLE rents FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON rents USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::bigint));
CREATE TABLE open_rents AS TABLE rents;
ALTER TABLE open_rents ADD PRIMARY KEY (tenant_id, id);
GRANT ALL ON rents, open_rents TO %[1]s;
`, renter, virtualTenants)
	for i := 1; i <= strictTenants; i++ {
		fmt.Fprintf(&sql, "CREATE ROLE rent_%[1]d LOGIN; CREATE SCHEMA rent_%[1]d; GRANT USAGE ON SCHEMA rent_%[1]d TO rent_%[1]d;\n"+
			"CREATE TABLE rent_%[1]d.rents AS SELECT * FROM open_rents WHERE tenant_id = %[1]d; ALTER TABLE rent_%[1]d.rents ADD PRIMARY KEY (id); GRANT ALL ON rent_%[1]d.rents TO rent_%[1]d;\n", i)
	}
	sql.WriteString("ANALYZE;")
	return sql.String()
}

// renter is whose statements they are: no superuser, whom policies would not stop.
const renter = "renter"

// script is the transaction that pgbench repeats: few tenants have most of them.
func (t tenancy) script() string {
	table := "rents"
	if t == namedOnly {
		table = "open_rents"
	}
	return fmt.Sprintf("\\set t random_zipfian(1, %d, 1.1)\n\\set i random(1, 100)\nSELECT value FROM %s WHERE tenant_id = :t AND id = :i;\n", t.tenants(), table)
}

// writeTenancy writes what pgdog.toml says of tenants.
func writeTenancy(w *bufio.Writer, t tenancy) {
	fmt.Fprint(w, "\n[multi_tenant]\ncolumn = \"tenant_id\"\n")
	switch t {
	case noTenancy, namedOnly:
	case sharedRows:
		fmt.Fprint(w, "mode = \"shared\"\n")
	case strictRoles:
		fmt.Fprint(w, "isolation = \"schema\"\nschema = \"rent_{key}\"\nrole = \"rent_{key}\"\n")
	}
}

// user logs in to the poolers.
func (s *setup) user() string {
	switch {
	case s.tenancy != noTenancy:
		return renter
	case s.scram:
		return account
	}
	return pginstance.Superuser
}
