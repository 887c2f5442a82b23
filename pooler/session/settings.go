package session

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// applySetting follows a SET or RESET that ran (or is queued): what the session expects of a connection from now on, and what the one it holds has.
func (s *Session) applySetting(st *parser.Statement) {
	if st.Kind == parser.ResetAll {
		t := &s.track
		t.Have = t.Have.ResetAll()
		expected := s.base
		for _, v := range t.Expected.ResetAll().Vars() {
			expected = expected.With(v)
		}
		t.Expected = expected
		t.Local = t.Local.ResetAll()
	} else if st.Set != nil && st.Effects&parser.EffUnjudged == 0 { // else the backend is for nobody else, and what it has now can't be told
		s.applySet(st.Set)
	}
}

// applySet follows one setting that was set.
func (s *Session) applySet(set *parser.Setting) {
	if s.tenantSetting(set.Name) {
		return // what it may be set to it is, by the context
	}
	t := &s.track
	if set.Name == "transaction_isolation" && len(set.Values) == 1 && strict(set.Values[0]) {
		s.strictIsolation = true
	}
	if set.Local {
		s.applyLocal(set)
		return
	}
	t.Local = t.Local.Without(set.Name)
	switch {
	case set.Default:
		t.Have = t.Have.Without(set.Name)
		if v, ok := s.base.Get(set.Name); ok {
			t.Expected = t.Expected.With(v)
		} else {
			t.Expected = t.Expected.Without(set.Name)
		}
	default:
		s.setVar(state.Var{Name: set.Name, Value: set.SQL, Special: set.Special})
	}
}

// applyLocal follows a SET LOCAL of what decides which table a name means.
func (s *Session) applyLocal(set *parser.Setting) {
	v := state.Var{Name: set.Name, Value: set.SQL, Special: set.Unknown || set.Special}
	switch set.Name {
	case "search_path":
		if set.Default {
			v.Value, v.Raw = s.loginPath(), true
		}
	case "role", "session_authorization":
		if set.Default {
			v.Value = "none"
		}
	default:
		return
	}
	s.track.Local = s.track.Local.With(v)
}

// What is asked for behind a transaction is bounded: the number of settings, which are columns of one row, and the bytes of the answer.
const (
	maxUnseen = 1000
	maxValues = 1 << 20
)

// noteUnseen notes what a statement that ran may have set to what only the server knows: it is asked behind the transaction.
func (s *Session) noteUnseen(st *parser.Statement) {
	if s.acct.Session {
		return
	}
	for _, name := range st.Unseen {
		switch {
		case s.tenantSetting(name), slices.Contains(s.unseen, name):
		case name == "seed", name == "session_authorization":
		case name == "role" && (s.acct.Tenants != nil || s.acct.Place != nil): // a tenant's role is its context's
		case len(s.unseen) == maxUnseen:
			s.untoldValues = true
		default:
			s.unseen = append(s.unseen, name)
		}
	}
}

// keepValues keeps the server's answer to what the unseen settings are, up to the message with which it becomes too much.
func (s *Session) keepValues(b []byte) {
	if s.untoldValues = s.untoldValues || len(s.values)+len(b) > maxValues; !s.untoldValues {
		s.values = append(s.values, b...)
	}
}

// seen follows what the server says that the unseen settings are.
func (s *Session) seen() {
	for b := s.values; ; {
		typ, size, ok := pgwire.Header(b)
		if !ok || size > len(b) {
			break
		}
		msg := b[:size]
		b = b[size:]
		switch typ {
		case pgwire.MsgNotification:
			s.toClient(msg)
		case pgwire.MsgDataRow:
			values, err := pgwire.DecodeDataRow(nil, msg[pgwire.HeaderBytes:])
			if err != nil || len(values) != len(s.unseen) {
				continue
			}
			for i, name := range s.unseen {
				s.isSet(name, values[i])
			}
		}
	}
	if s.untoldValues {
		s.toClient(pgwire.AppendNoticeResponse(nil, pgwire.Warningf(pgwire.CodeWarning, "what the transaction set is not known").WithRoutine("set_config").
			WithDetail("Values that are not constants follow the session to another server connection if they are not more than %d, of %d bytes together.", maxUnseen, maxValues).
			WithHint("Set them by SET, or use a user with pooler_mode = \"session\".")))
	}
	s.unseen, s.untoldValues = s.unseen[:0], false
	if cap(s.values) > keptScratch {
		s.values = nil
	}
}

// isSet follows a setting that is known to have a value; nil = there is no such setting.
func (s *Session) isSet(name string, value []byte) {
	text := string(value)
	switch {
	case value == nil:
		s.track.Have, s.track.Expected = s.track.Have.Without(name), s.track.Expected.Without(name)
	case s.plain() || checkLexing(name, text) == nil:
		s.setVar(state.Var{Name: name, Value: text, Raw: true})
	}
}

func (s *Session) setVar(v state.Var) {
	s.track.Have = s.track.Have.With(v)
	s.track.Expected = s.track.Expected.With(v)
}

// applyCharacteristics follows SET SESSION CHARACTERISTICS AS TRANSACTION.
func (s *Session) applyCharacteristics(t *parser.Transaction) {
	onOff := map[bool]string{true: "on", false: "off"}
	if t.Isolation != "" {
		s.setVar(state.Var{Name: "default_transaction_isolation", Value: t.Isolation, Raw: true})
	}
	if t.ReadOnly != nil {
		s.setVar(state.Var{Name: "default_transaction_read_only", Value: onOff[*t.ReadOnly], Raw: true})
	}
	if t.Deferrable != nil {
		s.setVar(state.Var{Name: "default_transaction_deferrable", Value: onOff[*t.Deferrable], Raw: true})
	}
}

// noteIsolation remembers that a transaction asked for more than read committed: it can't begin anew unseen then.
func (s *Session) noteIsolation(t *parser.Transaction) {
	if t != nil && strict(t.Isolation) {
		s.strictIsolation = true
	}
	if v, ok := s.track.Expected.Get("default_transaction_isolation"); ok && strict(strings.Trim(v.Value, "'\"")) {
		s.strictIsolation = s.strictIsolation || t == nil || t.Isolation == ""
	}
}

func strict(isolation string) bool {
	switch strings.ToLower(isolation) {
	case "repeatable read", "serializable":
		return true
	}
	return false
}

// checkSet refuses settings under which PostgreSQL would read a statement's text differently from the parser.
func (s *Session) checkSet(set *parser.Setting) *pgwire.Error {
	if set.Default || s.plain() {
		return nil
	}
	return checkLexing(set.Name, strings.Join(set.Values, ","))
}

// lexing refuses a message that changes how PostgreSQL reads statements, and any in a transaction that changed it unseen; ends says that the
// message does no more than to end one.
func (s *Session) lexing(m *parser.Message, ends bool) *pgwire.Error {
	if s.plain() {
		return nil
	}
	for _, st := range m.Statements {
		if st.Inert {
			continue
		}
		if st.Kind == parser.Set && st.Set != nil {
			if e := s.checkSet(st.Set); e != nil {
				return e
			}
		}
		for _, c := range st.SetConfigs {
			if e := checkLexing(c.Name, strings.Join(c.Values, ",")); e != nil {
				return e
			}
		}
	}
	if s.conn == nil || !s.begun || ends {
		return nil
	}
	for _, name := range lexingSettings {
		if value, ok := s.told.get(name); ok {
			if e := checkLexing(name, value); e != nil {
				return e
			}
		}
	}
	return nil
}

// lexingSettings are those that checkLexing knows.
var lexingSettings = [...]string{"standard_conforming_strings", "client_encoding"}

// plain: one shard and no tenants to tell apart; nothing is refused.
func (s *Session) plain() bool { return s.rtr.Plain() }

// checkLexing refuses a value of a setting that changes how statements are read.
func checkLexing(name, value string) *pgwire.Error {
	switch name {
	case "standard_conforming_strings":
		switch strings.ToLower(value) {
		case "on", "true", "yes", "1", "t", "tr", "tru", "y", "ye":
			return nil
		}
		return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "standard_conforming_strings must be on").
			WithDetail("Statements are routed by their text, which has to mean the same to pgkennel and to PostgreSQL.").
			WithHint("Use E'...' for strings with escapes.").WithRoutine("lexing")
	case "client_encoding":
		if safeEncoding(value) {
			return nil
		}
		return pgwire.Errorf(pgwire.CodeFeatureNotSupported, "client_encoding %q is not supported with sharding", value).
			WithDetail("In some multibyte encodings a byte of a character may look like a quote or a backslash.").
			WithHint("Use UTF8 or a single-byte encoding such as LATIN1.").WithRoutine("lexing")
	}
	return nil
}

// safeEncoding reports whether every byte below 0x80 of a text in the encoding is that ASCII character: UTF8 and the single-byte
// encodings (PostgreSQL manual, 24.3.1). EUC_* would qualify too, but pg_query reads UTF-8.
func safeEncoding(name string) bool {
	n := strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToUpper(name))
	switch {
	case n == "UTF8", n == "UNICODE", n == "SQLASCII", n == "KOI8", n == "KOI8R", n == "KOI8U", n == "ALT", n == "TCVN", n == "TCVN5712", n == "ABC", n == "VSCII":
		return true
	case strings.HasPrefix(n, "LATIN"), strings.HasPrefix(n, "ISO8859"), strings.HasPrefix(n, "ISO88"), strings.HasPrefix(n, "WIN"):
		return n != "WIN932" && n != "WIN936" && n != "WIN949" && n != "WIN950" && n != "WINDOWS932" && n != "WINDOWS936" && n != "WINDOWS949" && n != "WINDOWS950"
	}
	return false
}

// movesEncoding reports whether st may change the encoding in which the server reads the messages behind it.
func (s *Session) movesEncoding(st *parser.Statement) bool {
	switch st.Kind {
	case parser.Set, parser.Reset:
		return st.Set != nil && st.Set.Name == clientEncoding
	case parser.ResetAll, parser.Discard:
		return otherEncoding(s.base)
	case parser.Commit, parser.Rollback, parser.RollbackTo:
		return otherEncoding(s.track.Base())
	default: // by what it calls
	}
	for i := range st.SetConfigs {
		if st.SetConfigs[i].Name == clientEncoding {
			return true
		}
	}
	return false
}

const clientEncoding = "client_encoding"

// otherEncoding reports that the settings name another encoding than UTF-8.
func otherEncoding(set *state.Set) bool {
	v, ok := set.Get(clientEncoding)
	if !ok {
		return false
	}
	switch strings.NewReplacer("-", "", "_", "", "'", "").Replace(strings.ToUpper(v.Value)) {
	case "UTF8", "UNICODE":
		return false
	}
	return true
}

// utf8 reports whether the client speaks UTF-8.
func (s *Session) utf8() bool {
	if s.encodingQueued || s.unit.encodingMoves {
		return false // the server has not said yet what it will be
	}
	return !s.foreign
}
