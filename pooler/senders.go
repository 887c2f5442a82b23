package pooler

import (
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
)

// senders are the server processes behind connections of tenants' own logins. Notifications go to all who listen in a database, whoever they are
// (PostgreSQL manual, NOTIFY), and say of their sender no more than its process.
type senders struct {
	mu sync.Mutex
	of map[sender]string
}

type sender struct {
	at  backend.Address
	pid uint32
}

// add notes whose a process is, until it is removed. A server uses its numbers again.
func (s *senders) add(x sender, tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[sender]string)
	}
	s.of[x] = tenant
}

func (s *senders) remove(x sender, tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[x] == tenant {
		delete(s.of, x)
	}
}

// is reports whether a process is the tenant's, now.
func (s *senders) is(x sender, tenant string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[x] == tenant
}
