package pooler

import (
	"github.com/pgkennel/pgkennel/pooler/admin"
	"github.com/pgkennel/pgkennel/pooler/session"
)

// consoleDoor is where sessions of the admin database reach the console.
type consoleDoor struct{ p *Pooler }

var _ session.Console = consoleDoor{}

// Open implements session.Console.
func (d consoleDoor) Open(user string, id uint64) session.Conversation {
	a := d.p.state.Load().cfg.Admin
	u := admin.User{Name: user, Database: a.Name, Client: id}
	if user == a.User {
		u.Access = admin.AccessAdmin
	}
	return conversation{d.p, d.p.console.NewConn(u)}
}

// conversation is one client's with the console. Its commands end with the pooler.
type conversation struct {
	p *Pooler
	*admin.Conn
}

// Handle implements session.Conversation.
func (c conversation) Handle(dst []byte, typ byte, body []byte) (out []byte, done bool) {
	return c.Conn.Handle(c.p.ctx, dst, typ, body)
}
