package pooler

import (
	"cmp"
	"sync"

	"github.com/pgkennel/pgkennel/pooler/backend"
)

// senders are the server processes behind connections. Notifications go to all who listen in a database, whoever they are (PostgreSQL manual, NOTIFY), and
// say of their sender no more than its process.
type senders struct {
	mu sync.Mutex
	of map[sender]said
}

// sender is a process of a server. The address alone does not tell which one: it may lead to another by now, which counts its processes as the first one does.
type sender struct {
	at     backend.Address
	server string // as in backend.Login
	pid    uint32
}

// said is who speaks by a process: the word of its login, empty if that has none, and the voice of the connection.
type said struct {
	word  string
	voice *backend.Voice
}

// add notes whose a process is, until it is removed. A server uses its numbers again.
func (s *senders) add(x sender, by said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[sender]said)
	}
	s.of[x] = by
}

func (s *senders) remove(x sender, by said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[x] == by {
		delete(s.of, x)
	}
}

// teller is the client who has the connection of a process now, or had it last, else the process itself; heard: whoever hears those with the word, and all
// if there is none, hears it.
func (s *senders) teller(x sender, word string) (pid uint32, heard bool) {
	by := s.find(x)
	pid = x.pid
	if by.voice != nil {
		pid = cmp.Or(by.voice.Client(), pid)
	}
	return pid, word == "" || by.word == word
}

// find returns whose a process is, now.
func (s *senders) find(x sender) said {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[x]
}
