package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkennel/pgkennel/internal/pginstance"
)

// The example's names. The password protects nothing: everything listens on the loopback interface only.
const (
	database = "saas"
	user     = "app"
	password = "demo"

	shardCount = 3
)

//go:embed schema.sql
var schema string

//go:embed tenant.sql
var tenantRows string

// tenant is one customer of the example application.
type tenant struct {
	id    int64
	name  string
	shard int
	how   string // which mapping places it
}

// tenants must agree with the mappings that configuration writes.
var tenants = []tenant{
	{1, "Acme", 0, "listed"},
	{2, "Globex", 1, "listed"},
	{3, "Initech", 2, "listed"},
	{4, "Umbrella", 0, "listed"},
	{120, "Hooli", 0, "range 100-199"},
	{205, "Stark", 1, "range 200-299"},
	{299, "Wayne", 1, "range 200-299"},
	{310, "Wonka", 2, "range 300-"},
}

// shard is one instance with its share of the tenants.
type shard struct {
	name   string
	server *pginstance.Server
}

type shards []shard

// startShards runs the instances, creates the schema in each, and loads each tenant's rows where it lives. What it
// started is in the result also when it fails.
func startShards(ctx context.Context, scratch *pginstance.Scratch) (shards, error) {
	all := make(shards, shardCount)
	g, ctx := errgroup.WithContext(ctx)
	for number := range all {
		g.Go(func() error {
			name := fmt.Sprintf("shard-%d", number)
			server, err := scratch.NewServer(ctx, pginstance.Options{Name: name, Auth: "scram-sha-256"})
			if err != nil {
				return fmt.Errorf("instance %s: %w", name, err)
			}
			all[number] = shard{name: name, server: server}
			if err := all[number].load(ctx, number); err != nil {
				return fmt.Errorf("instance %s: %w", name, err)
			}
			return nil
		})
	}
	return all, g.Wait()
}

// load creates the role, the database, the schema and the rows.
func (s shard) load(ctx context.Context, number int) error {
	err := s.exec(ctx, "postgres",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", user, password),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", database, user))
	if err != nil {
		return err
	}
	statements := []string{"SET ROLE " + user, schema}
	for _, t := range tenants {
		if t.shard == number {
			statements = append(statements, strings.NewReplacer(":id", fmt.Sprint(t.id), ":name", "'"+t.name+"'").Replace(tenantRows))
		}
	}
	return s.exec(ctx, database, append(statements, "ANALYZE")...)
}

// exec runs statements as the superuser, over the instance's unix socket.
func (s shard) exec(ctx context.Context, db string, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.socketDSN(db))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// count counts rows in the instance itself, past pgkennel.
func (s shard) count(ctx context.Context, sql string, args ...any) (int, error) {
	conn, err := pgx.Connect(ctx, s.socketDSN(database))
	if err != nil {
		return 0, fmt.Errorf("instance %s: %w", s.name, err)
	}
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("instance %s: %w", s.name, err)
	}
	return n, nil
}

func (s shard) socketDSN(db string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.server.SocketDir, s.server.Port, pginstance.Superuser, db)
}

// url is for the reader: the instance over TCP, as the application's user.
func (s shard) url() string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s", user, password, s.server.Port, database)
}

func (all shards) describe(out io.Writer) {
	for number, s := range all {
		var names []string
		for _, t := range tenants {
			if t.shard == number {
				names = append(names, fmt.Sprintf("%s (%d)", t.name, t.id))
			}
		}
		fmt.Fprintf(out, "  %s on port %d: %s\n", s.name, s.server.Port, strings.Join(names, ", "))
	}
}

// stop ends and removes the instances.
func (all shards) stop() error {
	var errs []error
	for _, s := range all {
		if s.server != nil {
			errs = append(errs, s.server.Stop(pginstance.Fast), s.server.Remove())
		}
	}
	return errors.Join(errs...)
}
