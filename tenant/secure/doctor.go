package secure

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// Finding is something that Doctor does not like.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"`
	Object   string   `json:"object"`
	Reason   string   `json:"reason"`
	SQL      []string `json:"sql,omitempty"` // that mends it
}

// Approval is what the comment on an object has in it that an operator has looked at, and that is as it should be.
const Approval = "pgkennel: approved"

// Report is what Doctor found.
type Report struct {
	Findings []Finding
	// What was looked at.
	Tables, Roles, Logins int
}

// Doctor looks at the database that db is connected to.
func (pl *Planner) Doctor(ctx context.Context, db *pgx.Conn, o Options) (*Report, error) {
	p, err := pl.make(ctx, db, o)
	if err != nil {
		return nil, err
	}
	d := &doctor{plan: p}
	for _, s := range p.steps {
		d.find(s.Severity, s.Kind, s.Object, s.Reason, withoutPasswords(s.SQL)...)
	}
	d.findings = append(d.findings, p.oldSeals...)
	d.server()
	d.secret()
	for _, check := range []func(context.Context) error{
		d.logins, d.settings, d.columns, d.expressions, d.keys, d.foreignKeys, d.views, d.definers, d.others, d.owned, d.strangers, d.elsewhere,
		d.becoming, d.untrusted, d.unheard, d.bound, d.crossing, d.triggers, d.planting, d.common, d.trust,
	} {
		if err := check(ctx); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(d.findings, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	return &Report{Findings: d.findings, Tables: len(p.tables), Roles: len(p.tenantRoles()), Logins: len(p.Logins)}, nil
}

// withoutPasswords keeps verifiers and keys out of what is logged and sent about.
func withoutPasswords(sql []string) []string {
	out := slices.Clone(sql)
	for i, s := range out {
		if strings.HasPrefix(s, "ALTER ROLE ") && strings.Contains(s, " PASSWORD ") {
			out[i] = "-- pgkennel secure apply sets its password"
		}
		if strings.HasPrefix(s, "INSERT INTO pgkennel.seals ") {
			out[i] = "-- pgkennel secure apply tells it the key"
		}
	}
	return out
}

var rank = map[Severity]int{Error: 0, Warning: 1, Info: 2}

type doctor struct {
	*plan
	findings []Finding
}

func (d *doctor) find(s Severity, check, object, reason string, sql ...string) {
	d.findings = append(d.findings, Finding{Severity: s, Check: check, Object: object, Reason: reason, SQL: sql})
}

// severity lowers a severity for what was approved.
func severity(s Severity, comment string) Severity {
	if strings.Contains(comment, Approval) {
		return Info
	}
	return s
}

// fixed is the first minor version of each major one that has the fixes of row security and of roles that isolation relies on: the releases of
// November 2026.
var fixed = map[int]int{14: 25, 15: 20, 16: 16, 17: 12, 18: 6}

func (d *doctor) server() {
	major, minor := d.info.Version/10000, d.info.Version%10000
	is := fmt.Sprintf("%d.%d", major, minor)
	if floor := Floor(is); major < 14 {
		d.find(Warning, "server", is, "PostgreSQL "+is+" gets no fixes any more: use 15 or later")
	} else if floor != "" {
		d.find(Warning, "server", is, "policies and roles of PostgreSQL "+is+" can be got around in ways that "+floor+" has closed: update it")
	}
}

func (d *doctor) secret() {
	strict := slices.ContainsFunc(d.Tenants, func(t *tenant.Tenant) bool { return t.Mode == tenant.Strict })
	if strict && d.Secret == nil {
		d.find(Warning, "password", "role_secret_file", "tenants' roles have no passwords, for role_secret_file is not set: only pg_hba.conf keeps others from logging in as them")
	}
}

// logins checks the roles with which pgkennel logs in: what they are, and what they can become.
func (d *doctor) logins(ctx context.Context) error {
	for _, l := range d.Logins {
		r := d.roles[l]
		if r == nil {
			d.find(Error, "login", l, "pgkennel logs in with it, and there is no such role: make it, with the password of its user in users.toml, and apply again",
				"CREATE ROLE "+ident(l)+" LOGIN NOINHERIT")
			continue
		}
		var bad []string
		for _, word := range r.attributes(r.Login, r.Inherit) {
			bad = append(bad, word[2:])
		}
		if len(bad) > 0 {
			d.find(Error, "login", l, "it is "+strings.Join(bad, ", ")+": it can get around what keeps tenants apart", "ALTER ROLE "+ident(l)+" NO"+strings.Join(bad, " NO"))
		}
		if r.Inherit && d.Rows != tenant.Shared && d.takesRoles() {
			d.find(Warning, "login", l, "it has the privileges of all tenants' roles also while it is none of them", "ALTER ROLE "+ident(l)+" NOINHERIT")
		}
	}
	bad := append([]string{d.owner}, mighty...)
	for _, t := range d.tables {
		bad = append(bad, t.Owner)
	}
	members, err := list[struct{ Login, Role string }](ctx, d.db, fmt.Sprintf(mineCTE, "= ANY($1::text[])")+membersSQL("= ANY($2::text[])", false)+" ORDER BY 1, 2",
		append(d.tenantRoles(), d.Logins...), bad)
	for _, m := range members {
		d.find(Error, "member", m.Login, "it can become "+m.Role+", which is not bound to one tenant", "REVOKE "+ident(m.Role)+" FROM "+ident(m.Login))
	}
	return err
}

// settings checks what ALTER ROLE and ALTER DATABASE have set for our roles.
func (d *doctor) settings(ctx context.Context) error {
	set, err := list[struct {
		Role, Database, Setting string
	}](ctx, d.db, `SELECT coalesce(r.rolname::text, ''), coalesce(b.datname::text, ''), split_part(c, '=', 1) FROM pg_db_role_setting s
LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database b ON b.oid = s.setdatabase, unnest(s.setconfig) c
WHERE (s.setdatabase = 0 OR b.datname = current_database()) AND (s.setrole = 0 OR r.rolname = ANY($1::text[])) ORDER BY 1, 2, 3`, append(d.tenantRoles(), d.Logins...))
	for _, s := range set {
		object, sql := s.Role, "ALTER ROLE "+ident(s.Role)
		switch {
		case s.Role == "" && s.Database == "":
			object, sql = "all roles", "ALTER ROLE ALL"
		case s.Role == "":
			object, sql = s.Database, "ALTER DATABASE "+ident(s.Database)
		case s.Database != "":
			sql += " IN DATABASE " + ident(s.Database)
		}
		level := Info
		switch s.Setting {
		case d.Setting, "role", "search_path", "row_security", "session_replication_role", "session_authorization", "local_preload_libraries", "session_preload_libraries":
			level = Error
			if s.Setting == "search_path" && s.Role == "" {
				level = Info // it is below what connections are given
			}
		}
		name := s.Setting
		if strings.Contains(name, ".") {
			name = ident(strings.Split(name, ".")...)
		}
		d.find(level, "setting", object, s.Setting+" is set for it, which is what pgkennel gives to connections, or is hidden from it", sql+" RESET "+name)
	}
	return err
}

// columns checks the tenant columns themselves.
func (d *doctor) columns(context.Context) error {
	for _, t := range d.tables {
		name := ident(t.Schema, t.Name)
		switch {
		case t.Kind == "f":
			open := slices.ContainsFunc(splitGrants(t.Grants), func(g grant) bool { return g.Grantee == "" || d.ours(g.Grantee) })
			if open {
				d.find(Error, "foreign table", t.String(), "foreign tables have no policies, and tenants may use it", "REVOKE ALL ON TABLE "+name+" FROM PUBLIC"+d.alsoFrom())
			}
			continue
		case types[t.Type] == "":
			d.find(Error, "column", t.String(), fmt.Sprintf("%s is of type %s; policies are made for smallint, integer, bigint, uuid, text and varchar", d.Column, t.TypeName))
			continue
		case d.Type != "" && keyTypes[t.Type] != d.Type:
			d.find(Error, "column", t.String(), fmt.Sprintf("%s is of type %s, and tenants' keys are of type %s: data_type in [multi_tenant] should be %q", d.Column, t.TypeName, d.Type, keyTypes[t.Type]))
		case !t.Deterministic:
			d.find(Error, "column", t.String(), "the collation of "+d.Column+" takes different keys for equal",
				"ALTER TABLE "+name+" ALTER COLUMN "+ident(d.Column)+" TYPE "+t.TypeName+` COLLATE "C"`)
		}
		if !t.NotNull {
			d.find(Warning, "column", t.String(), d.Column+" may be NULL: such rows are nobody's", "ALTER TABLE "+name+" ALTER COLUMN "+ident(d.Column)+" SET NOT NULL")
		}
	}
	return nil
}

// expressions checks the functions in all policies of the tables: IMMUTABLE ones are evaluated when a plan is made, which another tenant may use
// later; others are to stand in a sub-select, which is evaluated once.
func (d *doctor) expressions(ctx context.Context) error {
	policies, err := d.policies(ctx)
	if err != nil {
		return err
	}
	functions, err := list[struct {
		OID              uint32
		Name, Volatility string
	}](ctx, d.db, "SELECT oid, oid::regprocedure::text, provolatile::text FROM pg_proc WHERE provolatile <> 'i' OR oid >= 16384")
	if err != nil {
		return err
	}
	for _, t := range d.tables {
		for _, x := range policies[t.OID] {
			object := t.String() + ", policy " + x.Name
			seen := make(map[string]bool)
			for _, c := range callsIn(x.Trees) {
				i := slices.IndexFunc(functions, func(f struct {
					OID              uint32
					Name, Volatility string
				},
				) bool {
					return f.OID == c.oid
				})
				if i < 0 || seen[functions[i].Name] {
					continue
				}
				switch f := functions[i]; {
				case f.Volatility == "i":
					seen[f.Name] = true
					d.find(Error, "policy", object, f.Name+" is IMMUTABLE: what it gave for one tenant stays in plans that another one runs", "ALTER FUNCTION "+f.Name+" STABLE")
				case !c.wrapped && !c.varies:
					seen[f.Name] = true
					d.find(Warning, "policy", object, f.Name+" is called for each row: as (SELECT ...) it is called once", "-- ALTER POLICY "+ident(x.Name)+" ON "+ident(t.Schema, t.Name)+" with the call in a (SELECT ...)")
				}
			}
		}
	}
	return nil
}
