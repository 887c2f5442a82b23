package admin

import (
	"context"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Bound is the console for one user, for a caller that speaks the protocols itself. It knows neither transaction blocks nor
// result formats: where whole messages can be handed over, Conn is the better one.
type Bound struct {
	ctx     context.Context //nolint:containedctx // root context of the commands, which have none of their own
	console *Console
	user    User
}

// Bind returns the console for a user. Commands that wait give up when ctx ends.
func (c *Console) Bind(ctx context.Context, u User) *Bound {
	return &Bound{ctx: ctx, console: c, user: u}
}

// Columns describes the result of sql, nil if it has none.
func (b *Bound) Columns(sql string) ([]pgwire.Column, *pgwire.Error) { return b.console.Columns(sql) }

// Run runs sql and appends its answer, all in text: row descriptions (unless extended), notices, rows and command tags, or
// EmptyQueryResponse; not ReadyForQuery. An error is returned, not appended. It may block.
func (b *Bound) Run(dst []byte, sql string, extended bool) ([]byte, *pgwire.Error) {
	r, err := b.console.Run(b.ctx, sql, b.user)
	if !extended || len(r.Statements) == 0 {
		if err != nil && len(r.Statements) == 0 {
			return dst, err
		}
		return AppendResult(dst, &r, nil), err
	}
	dst, _ = AppendRows(dst, &r.Statements[0], nil, 0, 0)
	return dst, err
}
