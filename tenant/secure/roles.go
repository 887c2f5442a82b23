package secure

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/auth"
	"github.com/pgkennel/pgkennel/tenant"
)

// role is a role of the server's, as the catalogs have it.
type role struct {
	Name                                                      string
	Login, Inherit, Super, CreateRole, CreateDB, Repl, Bypass bool
	Member                                                    []string // of these roles
	tenant                                                    *tenant.Tenant
	missing                                                   bool
}

// readRoles reads the roles that matter: the tenants', the logins, and our own.
func (p *plan) readRoles(ctx context.Context) error {
	p.roles = make(map[string]*role, len(p.Tenants)+len(p.Logins))
	names := []string{p.owner}
	names = append(names, p.Logins...)
	for _, t := range p.Tenants {
		if t.Role != "" {
			names = append(names, t.Role)
			p.roles[t.Role] = &role{Name: t.Role, tenant: t, missing: true}
		}
	}
	found, err := list[struct {
		Name                                                      string
		Login, Inherit, Super, CreateRole, CreateDB, Repl, Bypass bool
		Member                                                    []string
	}](ctx, p.db, `SELECT r.rolname::text, r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls,
ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1)
FROM pg_roles r WHERE r.rolname = ANY($1::text[])`, names)
	if err != nil {
		return err
	}
	for _, f := range found {
		r := &role{
			Name: f.Name, Login: f.Login, Inherit: f.Inherit, Super: f.Super, CreateRole: f.CreateRole, CreateDB: f.CreateDB, Repl: f.Repl,
			Bypass: f.Bypass, Member: f.Member,
		}
		if old := p.roles[f.Name]; old != nil {
			r.tenant = old.tenant
		}
		p.roles[f.Name] = r
	}
	return nil
}

// there reports whether a role exists.
func (p *plan) there(name string) bool { return p.roles[name] != nil && !p.roles[name].missing }

// planned reports whether a role was planned for another database of the server, and notes that it is now.
func (p *plan) planned(name string) bool {
	at := p.server + " " + name
	was := p.planner.planned[at]
	p.planner.planned[at] = true
	return was
}

// attributes are the SQL words for those in which r differs from a role that may do nothing.
func (r *role) attributes(login, inherit bool) []string {
	var words []string
	for _, a := range []struct {
		has, want bool
		word      string
	}{
		{r.Login, login, "LOGIN"},
		{r.Inherit, inherit, "INHERIT"},
		{r.Super, false, "SUPERUSER"},
		{r.CreateRole, false, "CREATEROLE"},
		{r.CreateDB, false, "CREATEDB"},
		{r.Repl, false, "REPLICATION"},
		{r.Bypass, false, "BYPASSRLS"},
	} {
		if a.has == a.want {
			continue
		}
		if a.want {
			words = append(words, a.word)
		} else {
			words = append(words, "NO"+a.word)
		}
	}
	return words
}

// planRoles plans the role that is ours.
func (p *plan) planRoles(ctx context.Context) error {
	s := Step{Kind: "role", Object: p.owner, Reason: "owns what tenants use, and can't log in: migrations run as it"}
	r := p.roles[p.owner]
	if r == nil {
		if !p.planned(p.owner) {
			s.SQL = append(s.SQL, "CREATE ROLE "+ident(p.owner)+" NOLOGIN")
		}
	} else if words := r.attributes(false, r.Inherit); len(words) > 0 {
		s.SQL = append(s.SQL, "ALTER ROLE "+ident(p.owner)+" "+strings.Join(words, " "))
	}
	if r != nil {
		for _, g := range r.Member {
			if g != statsReader || p.Rows != tenant.Sealed {
				s.SQL = append(s.SQL, "REVOKE "+ident(g)+" FROM "+ident(p.owner))
			}
		}
	}
	if p.Rows == tenant.Sealed && (r == nil || !slices.Contains(r.Member, statsReader)) {
		s.SQL = append(s.SQL, "GRANT "+statsReader+" TO "+ident(p.owner))
	}
	// From PostgreSQL 16 on, who made a role is a member of it without its privileges.
	is, err := one[struct{ OK bool }](ctx, p.db, "SELECT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1 AND pg_has_role(r.oid, 'USAGE'))", p.owner)
	if err != nil {
		return err
	}
	if !is.OK && !p.info.Super {
		s.SQL = append(s.SQL, "GRANT "+ident(p.owner)+" TO "+ident(p.info.User))
	}
	p.add(s)
	return nil
}

// entry is what the database is told of a tenant.
type entry struct{ Role, Key, Schema, Secret string }

// planTenants plans the tenants' roles, and their entries in pgkennel.tenants.
func (p *plan) planTenants(ctx context.Context) error {
	entries := make(map[string]entry)
	if p.info.hasHome {
		known, err := list[entry](ctx, p.db, `SELECT role::text, coalesce(key, ''), coalesce(schema::text, ''), coalesce(secret, '') FROM pgkennel.tenants
WHERE NOT $1 OR role = ANY($2::name[]) ORDER BY 1`, p.few, p.tenantRoles())
		if err != nil {
			return err
		}
		for _, e := range known {
			entries[e.Role] = e
			p.known = append(p.known, e.Role)
		}
	}
	p.fenced = make(map[string]bool)
	if p.info.hasFence {
		out, err := list[struct{ What string }](ctx, p.db, "SELECT what FROM pgkennel.fenced WHERE what = ANY($1::text[])", fences(p.tenantRoles()))
		if err != nil {
			return err
		}
		for _, f := range out {
			p.fenced[f.What] = true
		}
	}
	verifiers := make(map[string]string)
	if p.info.ReadsPasswords && p.Secret != nil {
		stored, err := list[struct{ Role, Password string }](ctx, p.db,
			"SELECT rolname::text, coalesce(rolpassword, '') FROM pg_authid WHERE rolname = ANY($1::text[])", p.tenantRoles())
		if err != nil {
			return err
		}
		for _, s := range stored {
			verifiers[s.Role] = s.Password
		}
	}
	members, err := list[struct{ Role, Member string }](ctx, p.db, `SELECT r.rolname::text, m.rolname::text FROM pg_auth_members a
JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member WHERE r.rolname = ANY($1::text[]) ORDER BY 1, 2`, p.tenantRoles())
	if err != nil {
		return err
	}
	in := make(map[string][]string)
	for _, m := range members {
		in[m.Role] = append(in[m.Role], m.Member)
	}
	owned, err := list[struct{ Role string }](ctx, p.db, `SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND r.rolname = ANY($1::text[])`, p.tenantRoles())
	if err != nil {
		return err
	}
	for _, t := range p.Tenants {
		if t.Role == "" {
			continue
		}
		p.add(p.tenantRole(t, verifiers[t.Role], entries[t.Role], in[t.Role], p.fenced[RoleFence+t.Role]))
		if slices.ContainsFunc(owned, func(o struct{ Role string }) bool { return o.Role == t.Role }) {
			p.add(Step{
				Kind: "owner", Object: t.Role, Reason: "tenant " + t.Name + " owns objects, and so can change who may see them",
				SQL: []string{"REASSIGN OWNED BY " + ident(t.Role) + " TO " + ident(p.owner)},
			})
		}
	}
	return nil
}

func (p *plan) tenantRoles() []string {
	var names []string
	for _, t := range p.Tenants {
		if t.Role != "" {
			names = append(names, t.Role)
		}
	}
	return names
}

// tenantRole plans one tenant's role: it may log in if the mode is strict, is a member of nothing, and may do
// nothing that it is not granted by name or as PUBLIC. A role for all tenants to be members of would do as well, but each of them could DROP OWNED
// BY it, and so take from the others what it may.
func (p *plan) tenantRole(t *tenant.Tenant, stored string, known entry, members []string, fenced bool) Step {
	strict := t.Mode == tenant.Strict
	// Access to tenants of the directory is the poolers' matter, and where it is not theirs alone, there is a fence.
	login := strict && (t.State == tenant.Active || t.ID != "") && !fenced
	want := entry{Role: t.Role, Key: t.Key, Schema: t.Schema}
	if p.Secret != nil && strict {
		want.Secret = p.Secret.ID()
	}
	s := Step{Kind: "role", Object: t.Role, Reason: "of tenant " + t.Name}
	r := p.roles[t.Role]
	if r.missing {
		if !p.planned(t.Role) {
			word := "NOLOGIN"
			if login {
				word = "LOGIN"
			}
			s.SQL = append(s.SQL, "CREATE ROLE "+ident(t.Role)+" "+word+" NOINHERIT")
		}
	} else if words := r.attributes(login, false); len(words) > 0 {
		s.SQL = append(s.SQL, "ALTER ROLE "+ident(t.Role)+" "+strings.Join(words, " "))
		s.Reason += ": it has other attributes than it should"
	}
	if want.Secret != "" {
		password := p.Secret.RolePassword(p.Cluster, t.Role)
		good := known.Secret == want.Secret
		if p.info.ReadsPasswords {
			v, err := auth.ParseVerifier(stored)
			good = err == nil && v.IsSCRAM() && v.Matches(t.Role, password)
		}
		if !good {
			encoded, _ := auth.MakeVerifier(password, nil, 0).Encode()
			s.SQL = append(s.SQL, "ALTER ROLE "+ident(t.Role)+" PASSWORD "+literal(encoded))
		}
	}
	for _, g := range r.Member {
		s.SQL = append(s.SQL, "REVOKE "+ident(g)+" FROM "+ident(t.Role))
	}
	for _, l := range p.Logins {
		switch is := slices.Contains(members, l); {
		case is && (strict || fenced):
			s.SQL = append(s.SQL, "REVOKE "+ident(t.Role)+" FROM "+ident(l))
		case !strict && !is && !fenced && p.there(l):
			s.SQL = append(s.SQL, "GRANT "+ident(t.Role)+" TO "+ident(l))
		}
	}
	for _, m := range members {
		if o := p.roles[m]; o != nil && o.tenant != nil {
			s.SQL = append(s.SQL, "REVOKE "+ident(t.Role)+" FROM "+ident(m))
		}
	}
	if known != want {
		s.SQL = append(s.SQL, fmt.Sprintf(
			"INSERT INTO pgkennel.tenants (role, key, schema, secret) VALUES (%s, %s, %s, %s) ON CONFLICT (role) DO UPDATE SET key = excluded.key, schema = excluded.schema, secret = excluded.secret",
			literal(want.Role), orNull(want.Key), orNull(want.Schema), orNull(want.Secret)))
	}
	return s
}
