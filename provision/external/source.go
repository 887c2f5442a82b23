package external

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkennel/pgkennel/provision"
	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/secure"
)

// Source implements provision.Virtual. Who connects with its options works as the role that owns what tenants use: what it makes in the tenant's schema, or
// database, the tenant may use at once. Rows are read and written by an administrator whom policies do not hold for.
func (x *External) Source(ctx context.Context, r *tenant.Record) (provision.Source, error) {
	c, s, err := x.shard(r)
	if err != nil {
		return provision.Source{}, err
	}
	if r.Database != "" {
		s.At.Database = r.Database
	}
	conf, err := secure.Config(s.Admin, s.At)
	if err != nil {
		return provision.Source{}, provision.Errorf(provision.KindInvalid, "the administrator's connection can't be read")
	}
	src := provision.Source{
		Record:   r,
		Instance: &provision.Instance{Version: r.Version, Endpoint: tenant.Endpoint{Host: s.At.Host, Port: s.At.Port}, Password: conf.Password},
		Connect:  provision.Connect{Host: s.At.Host, Port: s.At.Port, User: conf.User, Password: conf.Password, Database: s.At.Database},
	}
	if src.Instance.Version == "" {
		if src.Instance.Version, err = x.version(ctx, s); err != nil {
			return provision.Source{}, err
		}
	}
	as := tenant.Setting{Name: tenant.RoleSetting, Value: secure.Owner(s.At.Database)}
	switch r.Isolation {
	case tenant.Schema:
		src.Connect.Options = options(as, tenant.Setting{Name: tenant.SearchPathSetting, Value: Tenant(r).SearchPath()})
	case tenant.Database:
		src.Connect.Options = options(as)
	case tenant.Row:
		src.Connect.Options, src.Column = options(tenant.Setting{Name: "row_security", Value: "off"}), c.Column
		src.Tables, err = x.inOrder(ctx, s, c)
	case tenant.Instance:
	}
	return src, err
}

// options writes startup options (PostgreSQL manual, 34.1.2, options).
func options(settings ...tenant.Setting) string {
	var out []string
	escape := strings.NewReplacer(`\`, `\\`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\v", "\\\v", "\f", "\\\f", "\r", "\\\r")
	for _, s := range settings {
		out = append(out, "-c "+escape.Replace(s.Name+"="+s.Value))
	}
	return strings.Join(out, " ")
}

func (x *External) version(ctx context.Context, s Shard) (string, error) {
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return "", err
	}
	defer db.Close(context.WithoutCancel(ctx))
	v, err := one[struct{ Major string }](ctx, db, "SELECT (current_setting('server_version_num')::int / 10000)::text")
	return v.Major, failed(ctx, err)
}

// inOrder are the tables that tenants share, those that others refer to first. What a partition has, its table has.
func (x *External) inOrder(ctx context.Context, s Shard, c Cluster) ([]string, error) {
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return nil, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	tables, references, err := x.tables(ctx, db, c)
	if err != nil {
		return nil, failed(ctx, err)
	}
	var names []string
	for _, g := range groups(tables, references) {
		for _, t := range g {
			if !t.Partition {
				names = append([]string{t.Name}, names...)
			}
		}
	}
	return names, nil
}

// Size implements provision.Virtual. Of rows it is an estimate: the share that PostgreSQL's statistics give them of their tables.
func (x *External) Size(ctx context.Context, r *tenant.Record) (int64, error) {
	c, s, err := x.shard(r)
	if err != nil {
		return 0, err
	}
	db, err := x.connect(ctx, s, "")
	if err != nil {
		return 0, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	sql, name := "SELECT coalesce((SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1), 0)", r.Database
	switch r.Isolation {
	case tenant.Row:
		n, err := x.rowsSize(ctx, db, r, c)
		return n, failed(ctx, err)
	case tenant.Schema:
		sql, name = `SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'm', 'S')`, r.Schema
	case tenant.Database, tenant.Instance:
	}
	n, err := one[struct{ Bytes int64 }](ctx, db, sql, name)
	return n.Bytes, failed(ctx, err)
}

func (x *External) rowsSize(ctx context.Context, db *pgx.Conn, r *tenant.Record, c Cluster) (int64, error) {
	tables, _, err := x.tables(ctx, db, c)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, t := range tables {
		where := t.of(c, r.Key, "")
		if t.Kind != "r" || where == "" {
			continue
		}
		of, err := one[struct {
			Bytes int64
			Rows  float64
		}](ctx, db, "SELECT pg_total_relation_size(oid), reltuples FROM pg_class WHERE oid = $1", t.OID)
		if err != nil {
			return 0, err
		}
		its, err := estimate(ctx, db, "SELECT FROM ONLY "+t.Name+" WHERE "+where)
		if err != nil {
			return 0, err
		}
		if of.Rows > 0 {
			sum += float64(of.Bytes) * min(its/of.Rows, 1)
		}
	}
	return int64(sum), nil
}

// estimate is how many rows PostgreSQL expects of a query.
func estimate(ctx context.Context, db *pgx.Conn, sql string) (float64, error) {
	plan, err := texts(ctx, db, "EXPLAIN (FORMAT JSON) "+sql)
	if err != nil {
		return 0, err
	}
	var nodes []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal([]byte(plan[0]), &nodes); err != nil || len(nodes) == 0 {
		return 0, err
	}
	return nodes[0].Plan.Rows, nil
}
