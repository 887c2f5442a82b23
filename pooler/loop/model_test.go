package loop

import (
	"encoding/binary"
	"fmt"
	"maps"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// modelServer is one connection of a model of PostgreSQL: transactions, settings, prepared statements, portals and COPY, as far as the
// protocol shows them. It answers SELECT 'marker' with the marker and the shard it runs on.
type modelServer struct {
	shard int
	pid   uint32
	in    []byte
	out   []byte

	tx       pgwire.TxStatus
	implicit bool // an implicit transaction is open
	failed   bool // skipping to Sync
	vars     map[string]string
	saved    map[string]string // vars at the start of the transaction
	saves    []savepoint
	stmts    map[string]string
	portals  map[string]string
	copying  bool
	copyExt  bool
	ran      int
}

type savepoint struct {
	name string
	vars map[string]string
}

func newModelServer(shard int, pid uint32) *modelServer {
	return &modelServer{shard: shard, pid: pid, tx: pgwire.TxIdle, vars: map[string]string{}, stmts: map[string]string{}, portals: map[string]string{}}
}

func (s *modelServer) Login() *backend.Login {
	return &backend.Login{PID: s.pid, Secret: []byte{1, 2, 3, 4}, Params: modelParams}
}

var modelParams = []pgwire.Param{{Name: "server_version", Value: "15.18"}, {Name: "client_encoding", Value: "UTF8"}, {Name: "standard_conforming_strings", Value: "on"}}

func (s *modelServer) Cancel() {}

func (s *modelServer) Receive(b []byte) (out []byte, closed bool) {
	s.in = append(s.in, b...)
	s.out = nil
	for {
		typ, total, ok := pgwire.Header(s.in)
		if !ok || total > len(s.in) {
			return s.out, closed
		}
		body := s.in[pgwire.HeaderBytes:total]
		s.in = s.in[total:]
		if typ == pgwire.MsgTerminate {
			return s.out, true
		}
		s.message(typ, body)
	}
}

func (s *modelServer) message(typ byte, body []byte) {
	if s.copying {
		switch typ {
		case pgwire.MsgCopyDone:
			s.copying = false
			s.out = pgwire.AppendCommandComplete(s.out, "COPY 1")
			if !s.copyExt {
				s.ready()
			}
		case pgwire.MsgCopyFail:
			s.copying = false
			s.err("57014", "COPY from stdin failed")
			if !s.copyExt {
				s.ready()
			}
		}
		return
	}
	if s.failed && typ != pgwire.MsgSync {
		return
	}
	switch typ {
	case pgwire.MsgQuery:
		sql, _ := pgwire.DecodeQuery(body)
		delete(s.stmts, "")
		s.query(string(sql))
	case pgwire.MsgSync:
		s.failed = false
		s.ready()
	case pgwire.MsgFlush:
	case pgwire.MsgParse:
		p, err := pgwire.DecodeParse(body)
		if err != nil {
			panic(err)
		}
		name := string(p.Name)
		if _, dup := s.stmts[name]; dup && name != "" {
			s.extErr("42P05", "prepared statement already exists: "+name)
			return
		}
		if strings.Contains(string(p.SQL), "parse_error") {
			s.extErr("42P01", "relation does not exist")
			return
		}
		if s.tx == pgwire.TxFailed && !ends(string(p.SQL)) {
			s.extErr("25P02", "aborted")
			return
		}
		s.stmts[name] = string(p.SQL)
		s.out = pgwire.AppendParseComplete(s.out)
	case pgwire.MsgBind:
		b, err := pgwire.DecodeBind(body)
		if err != nil {
			panic(err)
		}
		sql, ok := s.stmts[string(b.Statement)]
		if !ok {
			s.extErr("26000", "no statement "+string(b.Statement))
			return
		}
		if s.tx == pgwire.TxFailed && !ends(sql) {
			s.extErr("25P02", "aborted")
			return
		}
		for i := range b.NumParams() {
			v, _ := b.Param(i)
			sql = strings.ReplaceAll(sql, fmt.Sprintf("$%d", i+1), "'"+string(v)+"'")
		}
		s.portals[string(b.Portal)] = sql
		s.out = pgwire.AppendBindComplete(s.out)
	case pgwire.MsgDescribe:
		t, _ := pgwire.DecodeDescribe(body)
		if t.Kind == pgwire.TargetStatement {
			if _, ok := s.stmts[string(t.Name)]; !ok {
				s.extErr("26000", "no statement "+string(t.Name))
				return
			}
			s.out = pgwire.AppendParameterDescription(s.out, nil)
		}
		s.out = pgwire.AppendNoData(s.out)
	case pgwire.MsgClose:
		t, _ := pgwire.DecodeClose(body)
		if t.Kind == pgwire.TargetStatement {
			delete(s.stmts, string(t.Name))
		} else {
			delete(s.portals, string(t.Name))
		}
		s.out = pgwire.AppendCloseComplete(s.out)
	case pgwire.MsgExecute:
		e, _ := pgwire.DecodeExecute(body)
		sql, ok := s.portals[string(e.Portal)]
		if !ok {
			s.extErr("34000", "no portal")
			return
		}
		s.begin()
		if !s.run(sql, true) && !s.copying {
			s.failed = true
		}
	default:
		panic(fmt.Sprintf("model server: message %q", typ))
	}
}

// begin opens the implicit transaction.
func (s *modelServer) begin() {
	if s.tx == pgwire.TxIdle && !s.implicit {
		s.implicit = true
		s.saved = clone(s.vars)
	}
}

func clone(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	maps.Copy(c, m)
	return c
}

func (s *modelServer) err(code, text string) {
	s.out = pgwire.AppendErrorResponse(s.out, pgwire.Errorf(code, "%s", text))
	if s.tx == pgwire.TxActive {
		s.tx = pgwire.TxFailed
	}
	if s.implicit {
		s.vars = s.saved
		s.implicit = false
	}
}

func (s *modelServer) extErr(code, text string) {
	s.begin()
	s.err(code, text)
	s.failed = true
}

func (s *modelServer) ready() {
	s.implicit = false
	if s.tx == pgwire.TxIdle {
		s.portals = map[string]string{}
	}
	s.out = pgwire.AppendReadyForQuery(s.out, s.tx)
}

func (s *modelServer) query(sql string) {
	s.begin()
	empty := true
	for st := range strings.SplitSeq(sql, ";") {
		st = strings.TrimSpace(st)
		if st == "" {
			continue
		}
		empty = false
		s.begin()
		if !s.run(st, false) {
			break
		}
	}
	if empty {
		s.out = pgwire.AppendEmptyQuery(s.out)
	}
	if !s.copying {
		s.ready()
	}
}

func ends(sql string) bool {
	u := strings.ToUpper(sql)
	return strings.HasPrefix(u, "ROLLBACK") || strings.HasPrefix(u, "COMMIT")
}

// run runs one statement; false = it failed, or copies in.
func (s *modelServer) run(sql string, extended bool) bool {
	s.ran++
	up := strings.ToUpper(sql)
	if s.tx == pgwire.TxFailed && !ends(sql) {
		s.err("25P02", "current transaction is aborted")
		return false
	}
	words := strings.Fields(up)
	tag := words[0]
	switch {
	case words[0] == "BEGIN":
		if s.tx == pgwire.TxIdle {
			s.tx = pgwire.TxActive
			if !s.implicit {
				s.saved = clone(s.vars)
			}
			s.implicit = false
			s.saves = nil
		}
	case words[0] == "COMMIT":
		if s.tx == pgwire.TxFailed {
			tag = "ROLLBACK"
			s.vars = s.saved
		}
		s.tx, s.implicit = pgwire.TxIdle, false
	case strings.HasPrefix(up, "ROLLBACK TO "):
		name := words[len(words)-1]
		for i := len(s.saves) - 1; ; i-- {
			if i < 0 {
				s.err("3B001", "no savepoint")
				return false
			}
			if s.saves[i].name == name {
				s.vars = clone(s.saves[i].vars)
				s.saves = s.saves[:i+1]
				s.tx = pgwire.TxActive
				break
			}
		}
		tag = "ROLLBACK"
	case words[0] == "ROLLBACK":
		if s.tx != pgwire.TxIdle {
			s.vars = s.saved
		}
		s.tx, s.implicit = pgwire.TxIdle, false
	case words[0] == "SAVEPOINT":
		s.saves = append(s.saves, savepoint{words[1], clone(s.vars)})
	case words[0] == "SET":
		rest := strings.TrimSpace(sql[4:])
		name, value, _ := strings.Cut(rest, " TO ")
		if strings.Contains(value, "bad") {
			s.err("22023", "invalid value")
			return false
		}
		s.vars[unquote(name)] = strings.Trim(value, "' ")
	case up == "RESET ALL":
		s.vars = map[string]string{}
		tag = "RESET"
	case words[0] == "RESET":
		delete(s.vars, unquote(strings.TrimSpace(sql[6:])))
	case words[0] == "SHOW":
		s.row(s.vars[unquote(strings.TrimSpace(sql[5:]))], extended)
	case up == "DISCARD ALL":
		s.vars, s.stmts = map[string]string{}, map[string]string{}
		tag = "DISCARD ALL"
	case strings.HasPrefix(up, "SELECT PG_CATALOG.SET_CONFIG("):
		p := strings.Split(sql, "'")
		s.vars[p[1]] = p[3]
		s.row(p[3], extended)
		tag = "SELECT 1"
	case strings.HasPrefix(up, "SELECT 1/0"):
		s.err("22012", "division by zero")
		return false
	case words[0] == "SELECT" || words[0] == "UPDATE":
		p := strings.Split(sql, "'")
		s.row(fmt.Sprintf("%s@%d", p[1], s.shard), extended)
		tag = "SELECT 1"
	case words[0] == "COPY":
		s.copying, s.copyExt = true, extended
		s.out = pgwire.AppendCopyInResponse(s.out, pgwire.FormatText, 1)
		return false
	case words[0] == "LISTEN":
	default:
		s.err("42601", "syntax error: "+sql)
		return false
	}
	s.out = pgwire.AppendCommandComplete(s.out, tag)
	return true
}

func unquote(name string) string { return strings.ReplaceAll(strings.TrimSpace(name), `"`, "") }

func (s *modelServer) row(v string, extended bool) {
	if !extended {
		s.out = pgwire.AppendRowDescription(s.out, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
	}
	s.out = pgwire.AppendTextRow(s.out, v)
}

// frames cuts b into messages, and returns what is left.
func frames(b []byte) (list []frame, rest []byte) {
	for {
		typ, total, ok := pgwire.Header(b)
		if !ok || total > len(b) {
			return list, b
		}
		list = append(list, frame{typ, b[pgwire.HeaderBytes:total]})
		b = b[total:]
	}
}

type frame struct {
	typ  byte
	body []byte
}

// value is the only column of a DataRow.
func (f frame) value() string {
	n := int(binary.BigEndian.Uint32(f.body[2:]))
	return string(f.body[6 : 6+n])
}
