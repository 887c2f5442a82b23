package loop

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/backend"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

// modelServer is one connection of a model of PostgreSQL: transactions, settings, prepared statements, portals and COPY, as far as the
// protocol shows them. It answers SELECT 'marker' with the marker and the shard it runs on.
type modelServer struct {
	shard int
	pid   uint32
	in    []byte
	out   []byte
	// noise, if set, has the server say things that nobody asked for.
	noise *rand.Rand
	// changes, if set, has tables change under prepared statements, in units where that can be healed. old has those that were bound since they
	// were prepared: true when it has happened to them.
	changes *rand.Rand
	old     map[string]bool
	struck  map[string]int // how often it has, since they were bound last
	bound   bool           // in the transaction
	changed *int           // counts

	tx       pgwire.TxStatus
	implicit bool // an implicit transaction is open
	failed   bool // skipping to Sync
	settings
	saved    settings // at the start of the transaction
	saves    []savepoint
	stmts    map[string]string
	portals  map[string]*portal
	reported map[string]string
	base     map[string]string // what RESET goes back to
	locks    []string          // of the session's, by their markers
	blind    int               // how often it can't say what the session has left
	prepares map[string]bool   // which of stmts are SQL's, and not the pooler's
	copying  bool
	copyExt  bool
	copied   int
	hit      bool // a cancel request came while something was to be done
	ran      int
	knows    *regexp.Regexp // what it runs, without comments; everything else is wrong to it. nil = whatever its clients say is right
}

// settings are the session's, and what those have outside of the transaction that are set for it only.
type settings struct {
	vars  map[string]string
	local map[string]*string // nil = none
	temp  map[string]bool    // tables
	hears bool
}

func (s settings) clone() settings {
	return settings{maps.Clone(s.vars), maps.Clone(s.local), maps.Clone(s.temp), s.hears}
}

// left is what the session has that only its end takes away.
func (s *modelServer) left() (t backend.Taint) {
	for taint, is := range map[backend.Taint]bool{
		backend.TaintListen: s.hears, backend.TaintTemp: len(s.temp) > 0, backend.TaintAdvisoryLock: len(s.locks) > 0, backend.TaintSQLPrepare: slices.Contains(slices.Collect(maps.Values(s.prepares)), true),
	} {
		if is {
			t |= taint
		}
	}
	for _, p := range s.portals {
		if p.hold {
			t |= backend.TaintHoldCursor
		}
	}
	return t
}

type savepoint struct {
	name string
	settings
}

type portal struct {
	sql  string
	rows int // given so far
	done bool
	hold bool // WITH HOLD
	kept bool // and its transaction was committed
}

func newModelServer(shard int, pid uint32) *modelServer {
	return &modelServer{
		shard: shard, pid: pid, tx: pgwire.TxIdle, settings: settings{map[string]string{}, map[string]*string{}, map[string]bool{}, false}, stmts: map[string]string{}, prepares: map[string]bool{}, portals: map[string]*portal{},
		reported: map[string]string{"application_name": "", "timezone": ""},
	}
}

func (s *modelServer) Login() *backend.Login {
	return &backend.Login{PID: s.pid, Secret: []byte{1, 2, 3, 4}, Params: modelParams}
}

var modelParams = []pgwire.Param{
	{Name: "server_version", Value: "15.18"},
	{Name: "client_encoding", Value: "UTF8"},
	{Name: "standard_conforming_strings", Value: "on"},
	{Name: "application_name", Value: ""},
	{Name: "TimeZone", Value: ""},
}

// Cancel reaches what is under way, nothing if nothing is.
func (s *modelServer) Cancel() { s.hit = len(s.in) > 0 || s.copying }

func (s *modelServer) Receive(b []byte) (out []byte, closed bool) {
	s.in = append(s.in, b...)
	s.out = nil
	for {
		typ, total, ok := pgwire.Header(s.in)
		if !ok || total > len(s.in) {
			return s.out, closed
		}
		if s.changes != nil && pushes(s.in) == 0 {
			return s.out, closed // it knows first what is behind
		}
		body := s.in[pgwire.HeaderBytes:total]
		s.in = s.in[total:]
		if typ == pgwire.MsgTerminate {
			return s.out, true
		}
		if s.noise != nil && s.noise.IntN(20) == 0 {
			s.out = pgwire.AppendNoticeResponse(s.out, pgwire.Errorf("01000", "noise"))
		}
		s.message(typ, body)
	}
}

func (s *modelServer) message(typ byte, body []byte) {
	if s.copying {
		s.copyMessage(typ, body)
		return
	}
	if s.failed && typ != pgwire.MsgSync {
		return
	}
	if name, ok := s.uses(typ, body); ok && s.fails(name, typ == pgwire.MsgBind) {
		s.begin()
		if typ == pgwire.MsgDescribe {
			s.out = pgwire.AppendParameterDescription(s.out, nil)
		}
		s.out = pgwire.AppendErrorResponse(s.out, pgwire.Errorf("0A000", "cached plan must not change result type").WithRoutine("RevalidateCachedQuery"))
		s.end(false)
		s.failed = true
		return
	}
	s.bound = s.bound || typ == pgwire.MsgBind || typ == pgwire.MsgQuery
	switch typ {
	case pgwire.MsgQuery:
		sql, _ := pgwire.DecodeQuery(body)
		delete(s.stmts, "")
		if s.tx != pgwire.TxFailed {
			delete(s.portals, "")
		}
		s.query(string(sql))
	case pgwire.MsgSync:
		s.failed = false
		s.ready()
	case pgwire.MsgFlush, pgwire.MsgCopyData, pgwire.MsgCopyDone, pgwire.MsgCopyFail:
	case pgwire.MsgFunctionCall:
		if s.tx == pgwire.TxFailed {
			s.err("25P02", "aborted")
		} else {
			s.err("0A000", "no functions")
		}
		s.ready()
	case pgwire.MsgParse:
		s.parse(body)
	case pgwire.MsgBind:
		s.bindMessage(body)
	case pgwire.MsgDescribe:
		s.describe(body)
	case pgwire.MsgClose:
		t, _ := pgwire.DecodeClose(body)
		if t.Kind == pgwire.TargetStatement {
			delete(s.stmts, string(t.Name))
			delete(s.prepares, string(t.Name))
			delete(s.old, string(t.Name))
		} else {
			delete(s.portals, string(t.Name))
		}
		s.out = pgwire.AppendCloseComplete(s.out)
	case pgwire.MsgExecute:
		e, _ := pgwire.DecodeExecute(body)
		s.execute(string(e.Portal), int(e.MaxRows))
	default:
		panic(fmt.Sprintf("model server: message %q", typ))
	}
}

func (s *modelServer) copyMessage(typ byte, body []byte) {
	code, end := "", true
	switch typ {
	case pgwire.MsgCopyData:
		s.copied += strings.Count(string(body), "\n")
		if end = strings.Contains(string(body), "bad"); end {
			code = "22P02"
		}
	case pgwire.MsgCopyDone:
		s.out = pgwire.AppendCommandComplete(s.out, fmt.Sprintf("COPY %d", s.copied))
	case pgwire.MsgCopyFail:
		code = "57014"
	default:
		return
	}
	if s.hit {
		s.hit, code, end = false, "57014", true
	}
	if !end {
		return
	}
	s.copying, s.copied = false, 0
	if code != "" {
		s.err(code, "COPY failed")
		s.failed = s.copyExt
	}
	if !s.copyExt {
		s.ready()
	}
}

func (s *modelServer) parse(body []byte) {
	p, err := pgwire.DecodeParse(body)
	if err != nil {
		panic(err)
	}
	name := string(p.Name)
	sql := string(p.SQL)
	s.begin()
	switch {
	case name != "" && s.has(name): // PostgreSQL would look at the transaction, and at the text, first
		s.extErr("42P05", "prepared statement already exists: "+name)
	case s.tx == pgwire.TxFailed && !ends(sql):
		s.extErr("25P02", "aborted")
	case strings.Contains(sql, "parse_error"):
		s.extErr("42P01", "relation does not exist")
	case !s.understands(sql):
		s.extErr("42601", "not understood")
	default:
		s.stmts[name] = sql
		delete(s.old, name)
		s.out = pgwire.AppendParseComplete(s.out)
	}
}

func (s *modelServer) understands(sql string) bool {
	return s.knows == nil || sql == "" || s.knows.MatchString(sql)
}

func (s *modelServer) has(name string) bool {
	_, ok := s.stmts[name]
	return ok
}

func (s *modelServer) bindMessage(body []byte) {
	b, err := pgwire.DecodeBind(body)
	if err != nil {
		panic(err)
	}
	sql, ok := s.stmts[string(b.Statement)]
	name := string(b.Portal)
	s.begin()
	switch {
	case !ok:
		s.extErr("26000", "no statement "+string(b.Statement))
	case b.NumParams() != wanted(sql): // which PostgreSQL looks at first
		s.extErr("08P01", "wrong parameters")
	case s.tx == pgwire.TxFailed && !ends(sql):
		s.extErr("25P02", "aborted")
	case name != "" && s.portals[name] != nil:
		s.extErr("42P03", "portal exists: "+name)
	default:
		for i := range b.NumParams() {
			v, _ := b.Param(i)
			sql = strings.ReplaceAll(sql, fmt.Sprintf("$%d", i+1), "'"+string(v)+"'")
		}
		if s.knows != nil && !s.understands(sql) {
			s.extErr("08P01", "wrong parameters")
			return
		}
		s.portals[name] = &portal{sql: sql}
		s.out = pgwire.AppendBindComplete(s.out)
	}
}

// wanted is how many parameters a statement has.
func wanted(sql string) int {
	n := 0
	for strings.Contains(sql, fmt.Sprintf("$%d", n+1)) {
		n++
	}
	return n
}

func (s *modelServer) describe(body []byte) {
	t, _ := pgwire.DecodeDescribe(body)
	s.begin()
	sql, ok := s.stmts[string(t.Name)]
	if t.Kind == pgwire.TargetPortal {
		p := s.portals[string(t.Name)]
		if ok = p != nil; ok {
			sql = p.sql
		}
	}
	switch {
	case !ok && t.Kind == pgwire.TargetPortal:
		s.extErr("34000", "no portal "+string(t.Name))
		return
	case !ok:
		s.extErr("26000", "no statement "+string(t.Name))
		return
	case s.tx == pgwire.TxFailed && !ends(sql):
		s.extErr("25P02", "aborted")
		return
	}
	if t.Kind == pgwire.TargetStatement {
		s.out = pgwire.AppendParameterDescription(s.out, nil)
	}
	if up := strings.ToUpper(sql); strings.HasPrefix(up, "SELECT") || strings.HasPrefix(up, "SHOW") || strings.HasPrefix(up, "FETCH") {
		s.columns()
		return
	}
	s.out = pgwire.AppendNoData(s.out)
}

func (s *modelServer) execute(name string, limit int) {
	p := s.portals[name]
	s.begin()
	if p == nil {
		s.extErr("34000", "no portal")
		return
	}
	rows := 1
	if _, n, ok := strings.Cut(p.sql, " LIMIT "); ok {
		rows, _ = strconv.Atoi(n)
	}
	if rows > 1 && s.tx != pgwire.TxFailed && !s.hit {
		v := strings.Split(p.sql, "'")[1]
		given := 0
		for ; p.rows < rows; p.rows++ {
			if limit > 0 && given == limit {
				s.out = pgwire.AppendPortalSuspended(s.out)
				return
			}
			given++
			s.row(fmt.Sprintf("%s@%d", v, s.shard), true)
		}
		s.out = pgwire.AppendCommandComplete(s.out, fmt.Sprintf("SELECT %d", given))
		return
	}
	if p.done && s.tx != pgwire.TxFailed {
		s.extErr("55000", "portal can't be run")
		return
	}
	p.done = true
	if !s.run(p.sql, true) && !s.copying {
		s.failed = true
	}
}

// begin opens the implicit transaction.
func (s *modelServer) begin() {
	if s.tx == pgwire.TxIdle && !s.implicit {
		s.implicit = true
		s.saved = s.settings.clone()
	}
}

func (s *modelServer) err(code, text string) {
	s.out = pgwire.AppendErrorResponse(s.out, pgwire.Errorf(code, "%s", text))
	if s.tx == pgwire.TxActive {
		s.tx = pgwire.TxFailed
	}
	if s.implicit {
		s.end(false)
	}
}

func (s *modelServer) extErr(code, text string) {
	s.err(code, text)
	s.failed = true
}

// end ends the transaction.
func (s *modelServer) end(commit bool) {
	if !commit {
		s.settings = s.saved.clone()
	}
	for name, v := range s.local {
		if v == nil {
			delete(s.vars, name)
		} else {
			s.vars[name] = *v
		}
	}
	clear(s.local)
	s.tx, s.implicit, s.saves = pgwire.TxIdle, false, nil
	maps.DeleteFunc(s.portals, func(_ string, p *portal) bool {
		p.kept = p.kept || p.hold && commit
		return !p.kept
	})
}

// uses tells which statement a message has to look at.
func (s *modelServer) uses(typ byte, body []byte) (name string, ok bool) {
	switch typ {
	case pgwire.MsgBind:
		b, err := pgwire.DecodeBind(body)
		if err != nil {
			panic(err)
		}
		name = string(b.Statement)
	case pgwire.MsgDescribe:
		t, _ := pgwire.DecodeDescribe(body)
		if t.Kind == pgwire.TargetPortal {
			return "", false
		}
		name = string(t.Name)
	default:
		return "", false
	}
	return name, strings.Contains(s.stmts[name], "FROM orders")
}

// fails reports whether a statement's table has changed, or does so now.
func (s *modelServer) fails(name string, binds bool) bool {
	if s.changes == nil || s.tx != pgwire.TxIdle {
		return false
	}
	if s.old == nil {
		s.old, s.struck = make(map[string]bool), make(map[string]int)
	}
	old, used := s.old[name]
	n := s.struck[name]
	if !old && (used || binds && n > 0) && n < 3 && !s.bound && s.changes.IntN(2) == 0 && pushes(s.in) == pgwire.MsgSync {
		old = true
		s.struck[name]++
		*s.changed++
	}
	if old || binds {
		s.old[name] = old
	}
	if binds && !old {
		delete(s.struck, name)
	}
	return old
}

// pushes is the first message in b that asks for answers; 0 = there is none.
func pushes(b []byte) byte {
	list, _ := frames(b)
	for _, f := range list {
		switch f.typ {
		case pgwire.MsgSync, pgwire.MsgFlush, pgwire.MsgQuery, pgwire.MsgTerminate:
			return f.typ
		}
	}
	return 0
}

func (s *modelServer) ready() {
	s.bound = false
	if s.tx == pgwire.TxIdle && s.implicit {
		s.end(true)
	}
	if s.tx == pgwire.TxIdle {
		maps.DeleteFunc(s.portals, func(_ string, p *portal) bool { return !p.kept })
	}
	for _, name := range []string{"application_name", "timezone"} {
		if s.vars[name] != s.reported[name] {
			s.reported[name] = s.vars[name]
			s.out = pgwire.AppendParameterStatus(s.out, map[string]string{"timezone": "TimeZone"}[name]+strings.TrimPrefix(name, "timezone"), s.vars[name])
		}
	}
	if len(s.in) == 0 {
		s.hit = false
	}
	s.out = pgwire.AppendReadyForQuery(s.out, s.tx)
}

func (s *modelServer) query(sql string) {
	s.begin()
	empty := true
	for st := range strings.SplitSeq(sql, ";") {
		st = strings.TrimSpace(st)
		if st == "" || st == "--" {
			continue
		}
		empty = false
		s.begin()
		if s.knows != nil && (!s.understands(st) || strings.Contains(sql, "--") || strings.Contains(sql, "$")) {
			s.err(map[bool]string{true: "25P02", false: "42601"}[s.tx == pgwire.TxFailed], "not understood")
			break
		}
		if !s.run(st, false) {
			break
		}
	}
	if empty {
		s.out = pgwire.AppendEmptyQuery(s.out)
	}
	if !s.copying {
		if s.tx == pgwire.TxIdle && s.implicit {
			s.end(true)
		}
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
	fail := func(code string) bool {
		s.err(code, "failed: "+sql)
		return false
	}
	words := strings.Fields(up)
	if s.tx == pgwire.TxFailed && !ends(sql) {
		return fail("25P02")
	}
	if len(words) == 0 || words[0] == "--" {
		s.out = pgwire.AppendEmptyQuery(s.out)
		return true
	}
	if s.hit && !ends(sql) {
		s.hit = false
		return fail("57014")
	}
	tag := words[0]
	switch {
	case strings.HasPrefix(up, "SET TRANSACTION"):
		tag = "SET"
	case words[0] == "BEGIN":
		if s.tx == pgwire.TxIdle {
			s.tx = pgwire.TxActive
			if !s.implicit {
				s.saved = s.settings.clone()
			}
			s.implicit = false
			s.saves = nil
		}
	case words[0] == "COMMIT":
		ok := s.tx != pgwire.TxFailed
		if !ok {
			tag = "ROLLBACK"
		}
		if s.tx != pgwire.TxIdle || s.implicit {
			s.end(ok)
		}
		s.chain(words)
	case strings.HasPrefix(up, "ROLLBACK TO "):
		for i := len(s.saves) - 1; ; i-- {
			if i < 0 {
				return fail("3B001")
			}
			if s.saves[i].name == words[2] {
				s.settings = s.saves[i].clone()
				s.saves = s.saves[:i+1]
				s.tx = pgwire.TxActive
				break
			}
		}
		tag = "ROLLBACK"
	case words[0] == "ROLLBACK":
		if s.tx != pgwire.TxIdle || s.implicit {
			s.end(false)
		}
		s.chain(words)
	case words[0] == "SAVEPOINT":
		s.saves = append(s.saves, savepoint{words[1], s.settings.clone()})
	case words[0] == "RELEASE":
		for i := len(s.saves) - 1; ; i-- {
			if i < 0 {
				return fail("3B001")
			}
			if s.saves[i].name == words[1] {
				s.saves = s.saves[:i]
				break
			}
		}
	case words[0] == "SET":
		if !s.set(sql[4:]) {
			return fail("22023")
		}
	case up == "RESET ALL":
		s.vars = clone(s.base)
		clear(s.local)
		tag = "RESET"
	case words[0] == "RESET":
		name := unquote(sql[6:])
		delete(s.vars, name)
		if v, ok := s.base[name]; ok {
			s.vars[name] = v
		}
		delete(s.local, name)
	case words[0] == "SHOW":
		s.row(s.vars[unquote(sql[5:])], extended)
	case up == "DISCARD ALL":
		if s.tx != pgwire.TxIdle {
			return fail("25001")
		}
		s.vars = clone(s.base)
		s.dropNamed()
		clear(s.local)
		clear(s.temp)
		clear(s.portals)
		s.locks, s.hears = nil, false
		tag = "DISCARD ALL"
	case words[0] == "DISCARD":
		tag = up
	case strings.HasPrefix(up, "SELECT FROM PG_CATALOG.GENERATE_SERIES("):
		if s.blind > 0 {
			s.blind--
			return fail("57014")
		}
		asked := s.left()
		for taint, word := range map[backend.Taint]string{
			backend.TaintListen: "pg_listening_channels", backend.TaintTemp: "pg_my_temp_schema", backend.TaintAdvisoryLock: "pg_locks",
			backend.TaintHoldCursor: "pg_cursors", backend.TaintSQLPrepare: "pg_prepared_statements",
		} {
			if !strings.Contains(sql, word) {
				asked &^= taint
			}
		}
		s.columns()
		for range asked {
			s.row("", true)
		}
		tag = fmt.Sprintf("SELECT %d", asked)
	case strings.HasPrefix(up, "SELECT PG_ADVISORY_LOCK("):
		s.locks = append(s.locks, strings.Split(sql, "'")[1])
		s.row("", extended)
		tag = "SELECT 1"
	case strings.HasPrefix(up, "SELECT PG_ADVISORY_UNLOCK("):
		was := ""
		if n := len(s.locks); n > 0 {
			was, s.locks = s.locks[n-1], s.locks[:n-1]
		}
		s.row(was, extended)
		tag = "SELECT 1"
	case strings.Contains(sql, "FROM tmp") && !s.temp["TMP"]:
		return fail("42P01")
	case strings.HasPrefix(up, "SELECT PG_CATALOG.SET_CONFIG("):
		p := strings.Split(sql, "'")
		name, value := unquote(p[1]), p[3]
		if strings.Contains(value, "bad") {
			return fail("22023")
		}
		s.vars[name] = value
		s.row(value, extended)
		tag = "SELECT 1"
	case strings.Contains(sql, "parse_error"):
		return fail("42P01")
	case strings.HasPrefix(up, "SELECT 1/0"):
		return fail("22012")
	case words[0] == "SELECT" || words[0] == "UPDATE":
		p := strings.Split(sql, "'")
		n := 1
		if _, limit, ok := strings.Cut(sql, " LIMIT "); ok {
			n, _ = strconv.Atoi(limit)
		}
		for i := range n {
			s.row(fmt.Sprintf("%s@%d", p[1], s.shard), extended || i > 0)
		}
		tag = fmt.Sprintf("SELECT %d", n)
	case words[0] == "COPY" && strings.HasSuffix(up, "STDOUT"):
		p := strings.Split(sql, "'")
		s.out = pgwire.AppendCopyOutResponse(s.out, pgwire.FormatText, 1)
		s.out = pgwire.AppendCopyData(s.out, fmt.Sprintf("%s@%d\n", p[1], s.shard))
		s.out = pgwire.AppendCopyDone(s.out)
		tag = "COPY 1"
	case words[0] == "COPY":
		s.copying, s.copyExt = true, extended
		s.out = pgwire.AppendCopyInResponse(s.out, pgwire.FormatText, 2)
		return false
	case words[0] == "DECLARE":
		if s.portals[words[1]] != nil {
			return fail("42P03")
		}
		s.portals[words[1]] = &portal{sql: sql[strings.Index(up, "SELECT"):], hold: strings.Contains(up, "WITH HOLD")}
		tag = "DECLARE CURSOR"
	case words[0] == "FETCH":
		p := s.portals[words[1]]
		if p == nil {
			return fail("34000")
		}
		_, v, ok := strings.Cut(p.sql, "'")
		if !ok {
			return fail("55000")
		}
		v, _, _ = strings.Cut(v, "'")
		s.row(fmt.Sprintf("%s@%d", v, s.shard), extended)
		tag = "FETCH 1"
	case words[0] == "CLOSE":
		if s.portals[words[1]] == nil {
			return fail("34000")
		}
		delete(s.portals, words[1])
		tag = "CLOSE CURSOR"
	case words[0] == "PREPARE":
		if s.has(strings.ToLower(words[1])) {
			return fail("42P05")
		}
		s.stmts[strings.ToLower(words[1])] = sql[strings.Index(up, "SELECT"):]
		s.prepares[strings.ToLower(words[1])] = !strings.HasPrefix(strings.ToLower(words[1]), state.NamePrefix)
	case words[0] == "EXECUTE":
		text, ok := s.stmts[strings.ToLower(words[1])]
		if !ok {
			return fail("26000")
		}
		return s.run(text, extended)
	case up == "DEALLOCATE ALL":
		s.dropNamed()
		tag = up
	case words[0] == "DEALLOCATE":
		if !s.has(strings.ToLower(words[1])) {
			return fail("26000")
		}
		delete(s.stmts, strings.ToLower(words[1]))
		delete(s.prepares, strings.ToLower(words[1]))
	case strings.HasPrefix(up, "CREATE TEMP"):
		if s.temp[words[3]] {
			return fail("42P07")
		}
		s.temp[words[3]] = true
		tag = "CREATE TABLE"
	case words[0] == "DROP":
		if !s.temp[words[2]] {
			return fail("42P01")
		}
		delete(s.temp, words[2])
		tag = "DROP TABLE"
	case words[0] == "CREATE":
		tag = "CREATE TABLE"
	case words[0] == "LISTEN":
		s.hears = true
	case words[0] == "UNLISTEN":
		s.hears = false
	default:
		return fail("42601")
	}
	s.out = pgwire.AppendCommandComplete(s.out, tag)
	return true
}

func (s *modelServer) chain(words []string) {
	if len(words) > 2 && words[1] == "AND" && words[2] == "CHAIN" {
		s.tx, s.saved = pgwire.TxActive, s.settings.clone()
	}
}

// set does SET, of which rest is what follows it.
func (s *modelServer) set(rest string) bool {
	local := false
	if r, ok := strings.CutPrefix(rest, "LOCAL "); ok {
		local, rest = true, r
	}
	name, value, _ := strings.Cut(strings.TrimSpace(rest), " TO ")
	name = unquote(name)
	if strings.Contains(value, "bad") {
		return false
	}
	if local && s.tx == pgwire.TxIdle && !s.implicit {
		return true
	}
	if !local {
		delete(s.local, name)
	} else if _, ok := s.local[name]; !ok {
		s.local[name] = nil
		if v, ok := s.vars[name]; ok {
			s.local[name] = &v
		}
	}
	s.vars[name] = strings.Trim(value, "' ")
	return true
}

// dropNamed spares the unnamed statement.
func (s *modelServer) dropNamed() {
	maps.DeleteFunc(s.stmts, func(name, _ string) bool { return name != "" })
	clear(s.prepares)
}

func clone(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	maps.Copy(c, m)
	return c
}

// unquote is a setting's name without quotes, in lower case.
func unquote(name string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), `"`, ""))
}

func (s *modelServer) columns() {
	s.out = pgwire.AppendRowDescription(s.out, []pgwire.Column{pgwire.TextColumn("v", pgwire.OIDText)})
}

func (s *modelServer) row(v string, extended bool) {
	if !extended {
		s.columns()
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
