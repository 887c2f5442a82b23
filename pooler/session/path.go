package session

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/state"
	"github.com/pgkennel/pgkennel/sharding/router"
)

// searchPath is the effective search_path, taken apart once per change of what it was made of. It is immutable: sessions share it.
type searchPath struct {
	expected, local *state.Set
	router          *router.Router
	place           *Place
	unicode         bool // so is what the client writes

	list  []string
	key   string
	known bool
}

// searchPath returns the schemas that unqualified names are looked up in.
func (s *Session) searchPath() *searchPath {
	r := s.rtr
	p := s.path
	if s.unit.pathMoves || s.unjudged() && s.holds() {
		return &unknownPath
	}
	unicode := s.utf8()
	if p != nil && p.router == r && p.place == s.place() && p.expected == s.track.Expected && p.local == s.track.Local && p.unicode == unicode {
		return p
	}
	p = &searchPath{expected: s.track.Expected, local: s.track.Local, router: r, place: s.place(), unicode: unicode, known: true}
	v, ok := s.setting("search_path")
	switch {
	case !ok:
		p.list, p.known = parser.SplitIdents(s.loginPath())
	case v.Special: // FROM CURRENT, or by a parameter
		p.known = false
	case v.Raw:
		p.list, p.known = parser.SplitIdents(v.Value)
	default:
		p.list = splitLiterals(v.Value)
	}
	if i := slices.Index(p.list, "$user"); i >= 0 {
		if user, ok := s.currentUser(); ok {
			p.list[i] = user
		} else {
			p.known = false
		}
	}
	if !(unicode && s.told.value("server_encoding") == "UTF8") && slices.ContainsFunc(p.list, beyondASCII) {
		p.known = false // other bytes there, and another length and other lower-case letters, than here
	}
	if !p.known {
		p.list = nil
	}
	p.key = pathKey(p.list)
	if p.local == nil {
		p = paths.Unify(p, p.hash(), (*searchPath).equal)
	}
	s.path = p
	return p
}

// loginPath is the search_path that connections begin with.
func (s *Session) loginPath() string {
	a := s.at()
	if a.Place != nil && a.Place.SearchPath != "" {
		return a.Place.SearchPath
	}
	return s.rtr.SearchPath(a.ServerUser)
}

// paths are those of sessions.
var paths state.Interned[searchPath]

// hash is the same for equal paths.
func (p *searchPath) hash() uint64 {
	type content struct {
		expected *state.Set
		router   *router.Router
		place    *Place
		key      string
		unicode  bool
	}
	return maphash.Comparable(seed, content{p.expected, p.router, p.place, p.key, p.unicode})
}

// equal reports whether both were made of the same, and are the same.
func (p *searchPath) equal(o *searchPath) bool {
	return p.expected == o.expected && p.local == o.local && p.router == o.router && p.place == o.place && p.unicode == o.unicode && p.known == o.known && p.key == o.key
}

func beyondASCII(name string) bool {
	return strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf })
}

// unknownPath has no key of its own: whoever keeps something by the key asks whether the path is known.
var unknownPath searchPath

// pathKey is different for different lists: each name with its length in front.
func pathKey(list []string) string {
	var key []byte
	for _, name := range list {
		key = binary.AppendUvarint(key, uint64(len(name)))
		key = append(key, name...)
	}
	return string(key)
}

// setting is what the session set last, for its transaction or for all.
func (s *Session) setting(name string) (state.Var, bool) {
	if v, ok := s.track.Local.Get(name); ok {
		return v, true
	}
	return s.track.Expected.Get(name)
}

// moves notes that st, in front of what is planned next, may change search_path or client_encoding.
func (s *Session) moves(st *parser.Statement) {
	if st.Inert {
		s.unit.pathMoves = s.unit.pathMoves || s.taints(st) != 0
		return
	}
	s.unit.pathMoves = s.unit.pathMoves || s.movesPath(st)
	s.unit.encodingMoves = s.unit.encodingMoves || s.movesEncoding(st)
}

// movesPath reports whether st may change what unqualified names mean to the statements behind it, be it by code that nobody here can judge.
func (s *Session) movesPath(st *parser.Statement) bool {
	switch st.Kind {
	case parser.ResetAll, parser.Discard, parser.Do, parser.Call, parser.Execute:
		return true
	case parser.Fetch:
		return s.unjudged() // by what the cursor calls
	case parser.Commit, parser.Rollback, parser.RollbackTo, parser.PrepareTx:
		return s.unit.pathMoves || s.track.Local != nil || !samePath(s.track.Expected, s.track.Base())
	case parser.Set, parser.Reset:
		if st.Set == nil || decidesPath(st.Set.Name) {
			return true
		}
	default: // by what it calls
	}
	for i := range st.SetConfigs {
		if decidesPath(st.SetConfigs[i].Name) {
			return true
		}
	}
	return s.taints(st)&strange != 0
}

// pathSettings decide what unqualified names mean.
var pathSettings = [...]string{"search_path", "role", "session_authorization"}

func decidesPath(setting string) bool { return slices.Contains(pathSettings[:], setting) }

// samePath reports whether unqualified names mean the same under both sets.
func samePath(a, b *state.Set) bool {
	if a == b {
		return true
	}
	for _, name := range pathSettings {
		have, _ := a.Get(name)
		if other, _ := b.Get(name); have != other {
			return false
		}
	}
	return true
}

// runsUnjudged reports whether st may do anything to the session, but for what it calls: see unit.unjudged.
func runsUnjudged(st *parser.Statement) bool { return taintOfEffects(st)&strange != 0 }

// unjudged reports whether code that may do anything to the session ran on the backend at hand, or is prepared there.
func (s *Session) unjudged() bool {
	return s.conn != nil && s.conn.Tainted()&strange != 0
}

// losePath notes that code ran in the transaction that may have changed what unqualified names mean.
func (s *Session) losePath() {
	if s.track.InTransaction() {
		s.track.Local = s.track.Local.With(state.Var{Name: "search_path", Special: true})
	}
}

// currentUser is PostgreSQL's current_user, whose schema "$user" stands for.
func (s *Session) currentUser() (name string, ok bool) {
	for _, setting := range [...]string{"role", "session_authorization"} {
		v, ok := s.setting(setting)
		if !ok {
			continue
		}
		user := splitLiterals(v.Value)
		if v.Special || len(user) != 1 {
			return "", false
		}
		if user[0] != "none" && user[0] != "default" {
			return user[0], true
		}
	}
	return parser.CutName(s.at().ServerUser), true
}

// splitLiterals takes apart the argument of a SET as the parser writes it: literals between commas, each one name.
func splitLiterals(sql string) (list []string) {
	for i := 0; i < len(sql); {
		switch {
		case sql[i] == ' ' || sql[i] == ',':
			i++
		case sql[i] == '\'' || sql[i] == 'E' && i+1 < len(sql) && sql[i+1] == '\'':
			escapes := sql[i] == 'E'
			if escapes {
				i++
			}
			var word []byte
			for i++; i < len(sql); i++ {
				if sql[i] == '\'' || escapes && sql[i] == '\\' { // doubled, or the end
					if i+1 >= len(sql) || sql[i+1] != sql[i] {
						break
					}
					i++
				}
				word = append(word, sql[i])
			}
			i++
			list = append(list, parser.CutName(string(word)))
		default: // a number, or DEFAULT
			j := i
			for j < len(sql) && sql[j] != ',' {
				j++
			}
			list = append(list, parser.CutName(strings.ToLower(strings.TrimSpace(sql[i:j]))))
			i = j
		}
	}
	return list
}
