package session

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// settable are the reported parameters that a client can change.
var settable = [...]string{
	"application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "IntervalStyle", "search_path",
	"standard_conforming_strings", "TimeZone",
}

// tellChanges tells the client what its parameters are at the end of a unit in which, or before which, one was changed: a server reports
// changes only, and the next one may have had other values all along. What is to be set back to the client's choice at its start in front of
// its next statement is told at once, for by the encoding, say, the client writes that statement.
func (s *Session) tellChanges() {
	if s.untold == 0 {
		return
	}
	s.untold--
	for _, name := range settable {
		v, ok := s.conn.Params().Get(name)
		if s.track.Have != s.track.Expected && s.pending(name) {
			v, ok = s.startValue(name)
		}
		if ok {
			s.tell(name, v)
		}
	}
}

// pending reports whether name is to be set to the client's choice at its start on the connection at hand.
func (s *Session) pending(name string) bool {
	name = strings.ToLower(name)
	first, ok := s.base.Get(name)
	if !ok {
		return false
	}
	want, _ := s.track.Expected.Get(name)
	have, _ := s.track.Have.Get(name)
	return want == first && have != first
}

// tellStart tells the client the values of its start.
func (s *Session) tellStart() {
	for _, name := range settable {
		if v, ok := s.startValue(name); ok {
			s.tell(name, v)
		}
	}
}

// startValue is the value of a parameter at the start of the session, if it is still known.
func (s *Session) startValue(name string) (string, bool) {
	if name == "application_name" {
		if v, ok := s.base.Get(name); ok {
			return s.inASCII(v.Value), true
		}
	}
	if own := s.place().drop(s.base); own.Without("application_name") != nil {
		probed := s.sh.Probes.get(s.acct, own)
		if probed == nil {
			return "", false
		}
		for _, p := range probed {
			if p.Name == name {
				return p.Value, true
			}
		}
	}
	for _, p := range s.acct.Cluster.Parameters() {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// inASCII is an application_name as servers keep it: bytes that are not printable ASCII are question marks, and from PostgreSQL 16 on told by number.
func (s *Session) inASCII(name string) string {
	if !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return name
	}
	major, _, _ := strings.Cut(s.told.value("server_version"), ".")
	version, err := strconv.Atoi(major)
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= ' ' && c <= '~':
			b.WriteByte(c)
		case err == nil && version < 16:
			b.WriteByte('?')
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// cut returns the first 63 bytes of a name, in whole characters, which is all that PostgreSQL keeps of one, and tells the client so as PostgreSQL does.
func (s *Session) cut(name string) string {
	const kept = 63
	if len(name) <= kept {
		return name
	}
	n := kept
	if s.told.value("server_encoding") == "UTF8" {
		for n > 0 && !utf8.RuneStart(name[n]) {
			n--
		}
	}
	if !s.startsQuiet() {
		e := pgwire.Noticef("identifier \"%s\" will be truncated to \"%s\"", name, name[:n]) //nolint:gocritic // quoted as PostgreSQL does
		e.Code = pgwire.CodeNameTooLong
		s.toClient(pgwire.AppendNoticeResponse(nil, e))
	}
	return name[:n]
}

// startsQuiet reports whether the client's startup parameters, in their order, turn notices off in front of application_name.
func (s *Session) startsQuiet() (off bool) {
	for _, p := range s.hs.params {
		switch strings.ToLower(p.Name) {
		case "client_min_messages":
			switch strings.ToLower(p.Value) {
			case "warning", "error", "fatal", "panic":
				off = true
			default:
				off = false
			}
		case "application_name":
			return off
		}
	}
	return off
}

// tell sends a parameter whose value is news to the client.
func (s *Session) tell(name, value string) {
	if s.told.value(name) == value {
		return
	}
	s.know(name, value)
	s.told = s.told.shared()
	s.toClient(pgwire.AppendParameterStatus(nil, name, value))
}

// know notes what the client knows of a parameter.
func (s *Session) know(name, value string) {
	s.told = s.told.with(name, value)
	if name == clientEncoding {
		s.foreign = foreignEncoding(value)
	}
}

// foreignEncoding reports that a client_encoding is another than UTF-8.
func foreignEncoding(name string) bool { return name != "" && name != "UTF8" }
