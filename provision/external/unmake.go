package external

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
)

// Unmake implements provision.Virtual. The roles go last: as long as they are there, what bears their mark is known for the tenant's.
func (x *External) Unmake(ctx context.Context, r *tenant.Record) error {
	c, s, err := x.shard(r)
	if err != nil {
		return err
	}
	switch r.Isolation {
	case tenant.Database:
		return x.unmakeDatabase(ctx, r, s)
	case tenant.Schema:
		return x.change(ctx, s, func(db *pgx.Conn) error {
			ours, err := x.close(ctx, db, r, c, s)
			if err != nil || !ours {
				return err
			}
			if err := x.dropSchema(ctx, db, r); err != nil {
				return err
			}
			return x.dropRole(ctx, db, r, r.Role)
		})
	case tenant.Row:
		ours := false
		if err := x.change(ctx, s, func(db *pgx.Conn) (err error) { // what is deleted in batches keeps nobody waiting
			ours, err = x.close(ctx, db, r, c, s)
			return err
		}); err != nil || !ours {
			return err
		}
		for _, s := range c.Shards { // the mapping may have had the key elsewhere
			if err := x.emptyRows(ctx, r, c, s); err != nil {
				return err
			}
		}
		return x.change(ctx, s, func(db *pgx.Conn) error {
			if r.Role == "" {
				return x.reopen(ctx, db, r)
			}
			return x.dropRole(ctx, db, r, r.Role)
		})
	case tenant.Instance:
	}
	return provision.Errorf(provision.KindInvalid, "isolation %s is a driver's", r.Isolation)
}

// close keeps the tenant out, as Fence says. It is false where the role is not there, or somebody else's: then nothing is the tenant's.
func (x *External) close(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster, s Shard) (bool, error) {
	if r.Role == "" {
		if r.Mode == tenant.Sealed {
			return true, x.fenceKey(ctx, db, r, true)
		}
		return true, nil
	}
	ours, known, err := x.ours(ctx, db, r)
	if err != nil || !ours {
		return false, err
	}
	if !known { // Make went no further
		return true, x.end(ctx, db, r.Role)
	}
	return true, x.fence(ctx, db, r, c, s, true)
}

// ours reports whether the tenant's role is there and its own, and whether the database knows it. A role without the mark that the database takes for a tenant's may
// be one whose mark was lost.
func (x *External) ours(ctx context.Context, db *pgx.Conn, r *tenant.Record) (ours, known bool, err error) {
	is, err := look(ctx, db, r, r.Role)
	if err != nil {
		return false, false, failed(ctx, err)
	}
	home, err := one[struct{ OK bool }](ctx, db, "SELECT to_regclass('pgkennel.tenants') IS NOT NULL AND to_regclass('pgkennel.fenced') IS NOT NULL")
	if err == nil && home.OK {
		home, err = one[struct{ OK bool }](ctx, db, "SELECT EXISTS (SELECT FROM pgkennel.tenants WHERE role = $1)", r.Role)
	}
	if err != nil {
		return false, false, failed(ctx, err)
	}
	if is.There && !is.Ours && home.OK {
		return false, true, unmarked(r, r.Role)
	}
	return is.Ours, home.OK, nil
}

func unmarked(r *tenant.Record, role string) error {
	return provision.Errorf(provision.KindRefused, "role %q is not marked as this tenant's", role).WithHint("If it is: COMMENT ON ROLE %s IS '%s'.", quote(role), mark(r))
}

// reopen forgets that a key is fenced.
func (x *External) reopen(ctx context.Context, db *pgx.Conn, r *tenant.Record) error {
	if r.Mode != tenant.Sealed {
		return nil
	}
	return x.fenceKey(ctx, db, r, false)
}

// dropRole drops a tenant's role, and all that the database knows of it.
func (x *External) dropRole(ctx context.Context, db *pgx.Conn, r *tenant.Record, role string) error {
	is, err := look(ctx, db, r, role)
	if err != nil || !is.Ours {
		return failed(ctx, err)
	}
	home, err := one[struct{ Tenants, Fenced bool }](ctx, db, "SELECT to_regclass('pgkennel.tenants') IS NOT NULL, to_regclass('pgkennel.fenced') IS NOT NULL")
	if err != nil {
		return failed(ctx, err)
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if home.Tenants {
			if _, err := tx.Exec(ctx, "DELETE FROM pgkennel.tenants WHERE role = $1", role); err != nil {
				return err
			}
		}
		if home.Fenced {
			if _, err := tx.Exec(ctx, "DELETE FROM pgkennel.fenced WHERE what = 'role/' || $1::text", role); err != nil {
				return err
			}
		}
		sql := []string{"DROP OWNED BY " + quote(role), "DROP ROLE " + quote(role)}
		if !is.Super {
			sql = append([]string{"GRANT " + quote(role) + " TO CURRENT_USER"}, sql...)
		}
		for _, s := range sql {
			if _, err := tx.Exec(ctx, s); err != nil {
				return fmt.Errorf("role %s: %w", role, err)
			}
		}
		return nil
	})
	return failed(ctx, err)
}

// foreign finds what is not in a schema and goes with it: what else depends on what is in it. Of what has no schema its own counts, such as that of a trigger's table.
const foreign = `WITH RECURSIVE all_of (classid, objid, part) AS (
  SELECT 'pg_namespace'::regclass::oid, $1::oid, 0
  UNION SELECT d.classid, d.objid, d.objsubid FROM all_of a JOIN pg_depend d ON d.refclassid = a.classid AND d.refobjid = a.objid AND a.part IN (0, d.refobjsubid) AND d.deptype IN ('n', 'a', 'i', 'P', 'S', 'e')
), placed AS (
  SELECT a.classid, a.objid, a.part, CASE a.classid
    WHEN 'pg_namespace'::regclass THEN a.objid
    WHEN 'pg_class'::regclass THEN (SELECT relnamespace FROM pg_class WHERE oid = a.objid)
    WHEN 'pg_type'::regclass THEN (SELECT typnamespace FROM pg_type WHERE oid = a.objid)
    WHEN 'pg_proc'::regclass THEN (SELECT pronamespace FROM pg_proc WHERE oid = a.objid)
    WHEN 'pg_operator'::regclass THEN (SELECT oprnamespace FROM pg_operator WHERE oid = a.objid)
    WHEN 'pg_opclass'::regclass THEN (SELECT opcnamespace FROM pg_opclass WHERE oid = a.objid)
    WHEN 'pg_opfamily'::regclass THEN (SELECT opfnamespace FROM pg_opfamily WHERE oid = a.objid)
    WHEN 'pg_collation'::regclass THEN (SELECT collnamespace FROM pg_collation WHERE oid = a.objid)
    WHEN 'pg_conversion'::regclass THEN (SELECT connamespace FROM pg_conversion WHERE oid = a.objid)
    WHEN 'pg_statistic_ext'::regclass THEN (SELECT stxnamespace FROM pg_statistic_ext WHERE oid = a.objid)
    WHEN 'pg_ts_config'::regclass THEN (SELECT cfgnamespace FROM pg_ts_config WHERE oid = a.objid)
    WHEN 'pg_ts_dict'::regclass THEN (SELECT dictnamespace FROM pg_ts_dict WHERE oid = a.objid)
    WHEN 'pg_ts_parser'::regclass THEN (SELECT prsnamespace FROM pg_ts_parser WHERE oid = a.objid)
    WHEN 'pg_ts_template'::regclass THEN (SELECT tmplnamespace FROM pg_ts_template WHERE oid = a.objid)
    WHEN 'pg_constraint'::regclass THEN (SELECT coalesce(r.relnamespace, t.typnamespace) FROM pg_constraint c LEFT JOIN pg_class r ON r.oid = c.conrelid LEFT JOIN pg_type t ON t.oid = c.contypid WHERE c.oid = a.objid)
    WHEN 'pg_attrdef'::regclass THEN (SELECT r.relnamespace FROM pg_attrdef x JOIN pg_class r ON r.oid = x.adrelid WHERE x.oid = a.objid)
    WHEN 'pg_trigger'::regclass THEN (SELECT r.relnamespace FROM pg_trigger x JOIN pg_class r ON r.oid = x.tgrelid WHERE x.oid = a.objid)
    WHEN 'pg_rewrite'::regclass THEN (SELECT r.relnamespace FROM pg_rewrite x JOIN pg_class r ON r.oid = x.ev_class WHERE x.oid = a.objid)
    WHEN 'pg_policy'::regclass THEN (SELECT r.relnamespace FROM pg_policy x JOIN pg_class r ON r.oid = x.polrelid WHERE x.oid = a.objid)
    WHEN 'pg_publication_rel'::regclass THEN $1
    WHEN 'pg_publication_namespace'::regclass THEN $1
    WHEN 'pg_default_acl'::regclass THEN $1
    WHEN 'pg_amop'::regclass THEN $1
    WHEN 'pg_amproc'::regclass THEN $1
  END AS place FROM all_of a
)
SELECT DISTINCT pg_describe_object(p.classid, p.objid, p.part) FROM placed p
WHERE p.place IS DISTINCT FROM $1 AND p.place IS DISTINCT FROM 'pg_toast'::regnamespace ORDER BY 1 LIMIT 21`

// dropSchema drops a tenant's schema with all that is in it, tables some at a time: what is dropped in one transaction has to fit into PostgreSQL's table of
// locks. Who has the tables locked sees who depends on them, and nobody begins to.
func (x *External) dropSchema(ctx context.Context, db *pgx.Conn, r *tenant.Record) error {
	few := cmp.Or(x.o.Batch, 100)
	for done := false; !done; {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			oids, err := list[struct{ OID uint32 }](ctx, db, "SELECT oid FROM pg_namespace WHERE nspname = $1", r.Schema)
			if err != nil || len(oids) == 0 {
				done = true
				return err
			}
			tables, err := texts(ctx, db, `SELECT format('%I.%I', $1::text, relname) FROM pg_class WHERE relnamespace = $2 AND relkind IN ('r', 'p') AND NOT relispartition
ORDER BY oid DESC LIMIT $3`, r.Schema, oids[0].OID, few)
			if err != nil {
				return err
			}
			if len(tables) > 0 {
				if _, err := tx.Exec(ctx, "LOCK TABLE "+strings.Join(tables, ", ")+" IN ACCESS EXCLUSIVE MODE"); err != nil {
					return err
				}
			}
			foreigners, err := texts(ctx, db, foreign, oids[0].OID)
			if err != nil {
				return err
			}
			if len(foreigners) > 0 {
				return provision.Errorf(provision.KindRefused, "what is not tenant %q's depends on its schema, and would be dropped with it", r.Name).
					WithDetail("%s", strings.Join(foreigners, "\n")).WithHint("Drop that first, or have it use something else.")
			}
			sql := "DROP TABLE " + strings.Join(tables, ", ") + " CASCADE"
			if done = len(tables) < few; done {
				sql = "DROP SCHEMA " + quote(r.Schema) + " CASCADE"
			}
			_, err = tx.Exec(ctx, sql)
			return err
		})
		if err != nil {
			return failed(ctx, err)
		}
	}
	return nil
}

// unmakeDatabase drops a tenant's database, and then its roles.
func (x *External) unmakeDatabase(ctx context.Context, r *tenant.Record, s Shard) error {
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	is, err := look(ctx, db, r, ownerOf(r))
	if err != nil {
		return failed(ctx, err)
	}
	if is.Database && is.There && !is.Ours {
		return unmarked(r, ownerOf(r))
	}
	if is.Ours && is.Database {
		if err := x.owned(ctx, db, r); err != nil {
			return failed(ctx, err)
		}
		if role, err := look(ctx, db, r, r.Role); err != nil {
			return failed(ctx, err)
		} else if role.Ours { // FORCE ends sessions, but not the log-ins of who tries again
			if _, err := db.Exec(ctx, "ALTER ROLE "+quote(r.Role)+" NOLOGIN"); err != nil {
				return failed(ctx, err)
			}
			if err := x.end(ctx, db, r.Role); err != nil {
				return err
			}
		}
		if _, err := db.Exec(ctx, "DROP DATABASE "+quote(r.Database)+" WITH (FORCE)"); err != nil {
			return failed(ctx, err)
		}
	}
	for _, role := range []string{ownerOf(r), r.Role} {
		if err := x.dropRole(ctx, db, r, role); err != nil {
			return err
		}
	}
	return nil
}
