package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/internal/pginstance"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// tenancy is how the tenants of the scenario "virtual" are kept apart.
type tenancy string

const (
	noTenancy     tenancy = ""
	withoutAny    tenancy = "the same statements without tenants"
	namedOnly     tenancy = "statements name the tenant, nothing else" // PgDog's check
	sharedRows    tenancy = "rows, shared"
	sharedSchemas tenancy = "schemas, shared"
	sealedRows    tenancy = "rows, sealed"
	strictRows    tenancy = "rows, strict"
)

// virtualTenants is how many there are, virtualClients how many clients they have together.
const (
	virtualTenants = 1000
	virtualClients = 200
)

// tenantTables are tables with policies, by the setting and by the login, one without, and a schema for each tenant.
func tenantTables() string {
	return fmt.Sprintf(`
CREATE ROLE %[1]s LOGIN;
CREATE TABLE open_rents AS SELECT t::bigint AS tenant_id, i::bigint AS id, i::bigint AS value FROM generate_series(1, %[2]d) t, generate_series(1, 100) i;
CREATE TABLE rents AS TABLE open_rents;
CREATE TABLE strict_rents AS TABLE open_rents;
ALTER TABLE open_rents ADD PRIMARY KEY (tenant_id, id);
ALTER TABLE rents ADD PRIMARY KEY (tenant_id, id), ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE strict_rents ADD PRIMARY KEY (tenant_id, id), ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON rents USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::bigint));
CREATE POLICY tenant ON strict_rents USING (tenant_id = (SELECT substring(session_user::text from '^rent_([0-9]+)$')::bigint));
GRANT SELECT ON rents, strict_rents, open_rents TO PUBLIC;
DO $$ BEGIN FOR i IN 1..%[2]d LOOP
  EXECUTE format('CREATE ROLE rent_%%1$s LOGIN; GRANT rent_%%1$s TO %[1]s; CREATE SCHEMA rent_%%1$s; GRANT USAGE ON SCHEMA rent_%%1$s TO rent_%%1$s;'
    'CREATE TABLE rent_%%1$s.rents AS SELECT * FROM open_rents WHERE tenant_id = %%1$s; ALTER TABLE rent_%%1$s.rents ADD PRIMARY KEY (id);'
    'GRANT SELECT ON rent_%%1$s.rents TO rent_%%1$s', i);
END LOOP; END $$;
ANALYZE open_rents, rents, strict_rents;
`, renter, virtualTenants)
}

// secretFile has the secret of seals.
const secretFile = "role.secret"

// sealedDatabase has the same rows, and policies that pgkennel secure makes for sealed mode.
const sealedDatabase = "sealed"

// seal makes the database of sealed tenants.
func (env *environment) seal(ctx context.Context) error {
	const text = "0123456789abcdef0123456789abcdef"
	secret, err := tenant.NewSecret([]byte(text))
	if err != nil {
		return err
	}
	table := fmt.Sprintf("CREATE ROLE "+sealedRenter+" LOGIN; CREATE TABLE sealed_rents AS SELECT t::bigint AS tenant_id, i::bigint AS id, i::bigint AS value FROM generate_series(1, %d) t, generate_series(1, 100) i;"+
		"ALTER TABLE sealed_rents ADD PRIMARY KEY (tenant_id, id), ALTER tenant_id SET NOT NULL; ANALYZE sealed_rents", virtualTenants)
	if err := errors.Join(env.write(secretFile, text), env.tool(ctx, "createdb", sealedDatabase), env.query(ctx, sealedDatabase, table)); err != nil {
		return err
	}
	db, err := pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", env.server.Port, pginstance.Superuser, sealedDatabase))
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	steps, err := secure.NewPlanner().Plan(ctx, db, secure.Options{
		Cluster: database, Column: "tenant_id", Setting: "app.current_tenant", Rows: tenant.Sealed, Secret: secret, Logins: []string{sealedRenter},
	})
	if err != nil {
		return err
	}
	return secure.Apply(ctx, db, steps, time.Minute, func(int, secure.Step) {})
}

// renter is whose statements they are: no superuser, whom policies would not stop. sealedRenter is a member of no tenant's role.
const (
	renter       = "renter"
	sealedRenter = "sealed_renter"
)

// script is the transaction that pgbench repeats: few tenants have most of them.
func (t tenancy) script() string {
	table := "open_rents"
	switch t {
	case sharedRows, sharedSchemas:
		table = "rents"
	case sealedRows:
		table = "sealed_rents"
	case strictRows:
		table = "strict_rents"
	case noTenancy, withoutAny, namedOnly:
	}
	return fmt.Sprintf("\\set t random_zipfian(1, %d, 1.1)\n\\set i random(1, 100)\nSELECT value FROM %s WHERE tenant_id = :t AND id = :i;\n", virtualTenants, table)
}

// chooses reports whether users of the configuration are to choose tenants.
func (t tenancy) chooses() bool { return t != noTenancy && t != withoutAny && t != namedOnly }

// writeTenancy writes what pgdog.toml says of tenants; dir has the secret.
func writeTenancy(w *bufio.Writer, t tenancy, dir string) {
	if t == noTenancy || t == withoutAny {
		return
	}
	fmt.Fprint(w, "\n[multi_tenant]\ncolumn = \"tenant_id\"\n")
	switch t {
	case noTenancy, withoutAny, namedOnly:
	case sharedRows:
		fmt.Fprint(w, "mode = \"shared\"\n")
	case sharedSchemas:
		fmt.Fprint(w, "isolation = \"schema\"\nmode = \"shared\"\nschema = \"rent_{key}\"\nrole = \"rent_{key}\"\n")
	case sealedRows:
		fmt.Fprintf(w, "mode = \"sealed\"\nrole_secret_file = %q\n", filepath.Join(dir, secretFile))
	case strictRows:
		fmt.Fprint(w, "role = \"rent_{key}\"\nconnections = 100\n")
	}
}

// contexts asks a pgkennel how many contexts of tenants it has sent; none where it does not tell.
func (t *target) contexts(ctx context.Context) float64 {
	if t.metrics == 0 {
		return 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", t.metrics), nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "pgkennel_session_contexts_total") && strings.Contains(name, `"sent"`) {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	return 0
}

// user logs in to the poolers.
func (s *setup) user() string {
	switch {
	case s.tenancy == sealedRows:
		return sealedRenter
	case s.tenancy != noTenancy:
		return renter
	case s.scram:
		return account
	}
	return pginstance.Superuser
}
