package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/tenant"
)

// fromTenant is in front of a template that is the schema of another tenant.
const fromTenant = "tenant:"

// checkTemplate finds out whether a template is there.
func (m *Manager) checkTemplate(ctx context.Context, name string) error {
	switch from, of := strings.CutPrefix(name, fromTenant); {
	case name == "":
		return nil
	case of:
		r, err := m.find(ctx, from)
		if errors.Is(err, tenant.ErrNotFound) {
			return Errorf(KindInvalid, "there is no tenant %s to take the schema of", from)
		}
		if err != nil {
			return err
		}
		_, err = m.running(ctx, r)
		return err
	default:
		_, err := m.templateFile(name)
		return err
	}
}

// templateFile reads a file of the template directory.
func (m *Manager) templateFile(name string) (string, error) {
	if m.o.Templates == "" {
		return "", Errorf(KindRefused, "no template directory is configured").WithHint("[provision] templates = \"…\"")
	}
	// A link could lead out of it.
	root, err := os.OpenRoot(m.o.Templates)
	if err != nil {
		return "", Errorf(KindRefused, "the template directory can't be opened").WithDetail("%v", err)
	}
	defer root.Close()
	text, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(name, ".sql") {
		text, err = root.ReadFile(name + ".sql")
	}
	if err != nil {
		e := Errorf(KindInvalid, "there is no template %s", name)
		if have, _ := filepath.Glob(filepath.Join(m.o.Templates, "*.sql")); len(have) > 0 {
			for i := range have {
				have[i] = strings.TrimSuffix(filepath.Base(have[i]), ".sql")
			}
			slices.Sort(have)
			e = e.WithHint("there is: %s", join(have))
		}
		return "", e
	}
	return string(text), nil
}

// running is a tenant's instance that can be read from: of this host, and up.
func (m *Manager) running(ctx context.Context, r *tenant.Record) (Source, error) {
	if r.Isolation != tenant.Instance {
		if !m.shares() {
			return Source{}, Errorf(KindRefused, "tenant %s can't be reached from here", r.Name)
		}
		return m.virtual().Source(ctx, r.Clone())
	}
	if r.Host != m.o.Host {
		return Source{}, Errorf(KindRefused, "tenant %s is on host %s", r.Name, r.Host).WithHint("ask there")
	}
	in, d, err := m.instance(r)
	if err != nil {
		return Source{}, err
	}
	s, err := d.State(ctx, in)
	if err != nil {
		return Source{}, err
	}
	if !s.Ready {
		return Source{}, Errorf(KindState, "the instance of tenant %s is down", r.Name).WithHint("pgkennel tenant start %s", r.Name)
	}
	return source(r, in, d), nil
}

func source(r *tenant.Record, in *Instance, d Driver) Source {
	return Source{Record: r.Clone(), Instance: in, Driver: d, Connect: Connect{
		Host: in.Endpoint.Host, Port: in.Endpoint.Port, User: Superuser, Password: in.Password, Database: r.Database, CA: in.Endpoint.CA, Auth: ownAuth,
	}}
}

// fill makes the tenant's database and what is in it at the beginning. When it is repeated, it begins anew.
func fill(ctx context.Context, j *job) error {
	text, hash, err := j.m.template(ctx, j.r.Origin.Template)
	if err != nil {
		return err
	}
	err = j.instance(func(in *Instance, _ Driver) error {
		if err := j.m.database(ctx, in, j.r); err != nil {
			return err
		}
		if err := j.m.runAsOwner(ctx, in, j.r, "template "+j.r.Origin.Template, text); err != nil {
			return err
		}
		return j.m.runAsOwner(ctx, in, j.r, "init SQL", j.o.Init)
	})
	if err != nil {
		return err
	}
	j.change(func(r *tenant.Record) { r.Origin.Hash = hash })
	return nil
}

// template is the SQL that a tenant's schema is made of, and its hash.
func (m *Manager) template(ctx context.Context, name string) (text, hash string, err error) {
	switch from, of := strings.CutPrefix(name, fromTenant); {
	case name == "":
		return "", "", nil
	case of:
		text, err = m.schemaOf(ctx, from)
	default:
		text, err = m.templateFile(name)
	}
	sum := sha256.Sum256([]byte(text))
	return text, hex.EncodeToString(sum[:]), err
}

// database makes the tenant's database anew, empty but for its extensions, with nobody's but the tenant's roles in it.
func (m *Manager) database(ctx context.Context, in *Instance, r *tenant.Record) error {
	db, owner := ident(r.Database), ident(tenant.OwnerRole(r.ID))
	err := as(ctx, in, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		todo := []string{
			"DROP DATABASE IF EXISTS " + db + " WITH (FORCE)",
			"CREATE DATABASE " + db + " OWNER " + owner,
			"REVOKE ALL ON DATABASE " + db + " FROM PUBLIC",
		}
		return run(ctx, c, append(todo, access(r)...)...)
	})
	if err != nil {
		return err
	}
	return as(ctx, in, r.Database, func(ctx context.Context, c *pgx.Conn) error {
		if r.Version < "14" { // as it is since
			if err := run(ctx, c, "ALTER SCHEMA public OWNER TO "+owner); err != nil {
				return err
			}
		}
		if err := run(ctx, c, "REVOKE ALL ON SCHEMA public FROM PUBLIC"); err != nil {
			return err
		}
		return extend(ctx, c, r.Extensions)
	})
}

// extend makes extensions in a tenant's database, as the superuser: most need one.
func extend(ctx context.Context, c *pgx.Conn, names []string) error {
	for _, name := range names {
		moved, err := extendAside(ctx, c, name)
		if err == nil && !moved {
			_, err = c.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS "+ident(name)+" WITH SCHEMA public CASCADE")
		}
		if err != nil {
			return explainSQL("extension "+name, "", err)
		}
	}
	return nil
}

// extendAside makes an extension where nobody else can make anything, and moves it to public then: its script looks names up where it is made, and would do
// with the superuser's rights what a tenant has put there for it. It returns false if it can't be moved; nothing is changed then.
func extendAside(ctx context.Context, c *pgx.Conn, name string) (moved bool, err error) {
	tx, err := c.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // it may be over
	const aside = "pgkennel_extension"
	if err := run(ctx, c, "CREATE SCHEMA "+aside, "CREATE EXTENSION IF NOT EXISTS "+ident(name)+" WITH SCHEMA "+aside+" CASCADE"); err != nil {
		return false, err
	}
	made, err := column(ctx, c, "SELECT extname::text FROM pg_catalog.pg_extension WHERE extnamespace = $1::regnamespace", aside)
	if err != nil {
		return false, err
	}
	for _, x := range made {
		if err := run(ctx, c, "ALTER EXTENSION "+ident(x)+" SET SCHEMA public"); err != nil {
			return false, ctx.Err()
		}
	}
	if err := run(ctx, c, "DROP SCHEMA "+aside); err != nil {
		return false, ctx.Err()
	}
	return true, tx.Commit(ctx)
}

// runAsOwner runs SQL in a tenant's database in one transaction, logged in as the tenant and acting as the owner: what it makes belongs to that, and what
// is wrong with it has no more rights than the tenant.
func (m *Manager) runAsOwner(ctx context.Context, in *Instance, r *tenant.Record, what, text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	l := &r.Logins[0]
	secret, err := m.o.Vault.Open(r.ID, l.Field(), l.Secret)
	if err != nil {
		return err
	}
	c, err := dial(ctx, in.Endpoint, who{user: l.Role, password: secret, database: r.Database, role: tenant.OwnerRole(r.ID)})
	if err != nil {
		return err
	}
	defer end(ctx, c)
	return runText(ctx, c, what, text)
}

// runText runs an operator's SQL in one transaction.
func runText(ctx context.Context, c *pgx.Conn, what, text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	// A Query of several statements is one transaction, and says where an error is.
	if _, err := c.PgConn().Exec(ctx, text).ReadAll(); err != nil {
		return explainSQL(what, text, err)
	}
	if s := c.PgConn().TxStatus(); s != 'I' {
		return Errorf(KindInvalid, "%s leaves a transaction open", what).WithHint("it is one transaction by itself: BEGIN and COMMIT are not needed")
	}
	return nil
}

// schemaOf is another tenant's schema, as SQL.
func (m *Manager) schemaOf(ctx context.Context, name string) (string, error) {
	r, err := m.find(ctx, name)
	if err != nil {
		return "", err
	}
	from, err := m.running(ctx, r)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := m.tool(ctx, from, nil, &limited{w: &out, left: mostHeard}, "pg_dump", "--schema-only", "--no-owner", "--no-privileges", "--quote-all-identifiers"); err != nil {
		return "", err
	}
	if out.Len() == mostHeard {
		return "", Errorf(KindRefused, "the schema of tenant %s is longer than %d bytes", name, mostHeard)
	}
	return plainSQL(out.String()), nil
}

// plainSQL takes out of a dump what is psql's, and what its extensions' owner alone may say.
func plainSQL(dump string) string {
	var out strings.Builder
	skip := false
	for line := range strings.Lines(dump) {
		switch {
		case strings.HasPrefix(line, `\restrict `), strings.HasPrefix(line, `\unrestrict `):
			continue
		case strings.HasPrefix(line, "-- Name: "):
			skip = strings.Contains(line, "; Type: EXTENSION;") || strings.HasPrefix(line, "-- Name: EXTENSION ") && strings.Contains(line, "; Type: COMMENT;")
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return out.String()
}
