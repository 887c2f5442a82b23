package integration

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A stormModel is what PostgreSQL has for one session of the storm: it tells what each operation answers, whatever state the session is in. That it is
// right is shown by the storm that goes to PostgreSQL itself.
type stormModel struct {
	*stormClient

	status byte // I, T or E
	lost   bool // the server went in the midst of the transaction
	shadow bool // what happens here is not to be remembered
	world  world
	base   world // as at the start of the transaction
	points []savepoint

	// What no rollback takes back.
	locks    []int
	parsed   map[string]bool // named statements
	prepared map[string]bool // by SQL
	at       map[string]int  // positions of cursors and portals
}

// world is what a rollback takes back.
type world struct {
	set, local [len(stormSettings)]string
	isLocal    [len(stormSettings)]bool
	rows       []int // inserted in the transaction
	notes      []int // said on the client's own channel in it
	others     []note
	temp       int // rows of the temporary table; -1 = there is none
	xlocks     int
	hears      bool
	open       cursors
}

// note is something said on another's channel.
type note struct {
	channel string
	n       int
}

type savepoint struct {
	name  string
	world world
}

// cursors are what is open: cursors that end with the transaction or don't, and the portal.
type cursors struct{ cursor, hold, portal bool }

// stormSettings are what clients change. The last is nobody's but theirs.
var stormSettings = [...]string{"application_name", "work_mem", "lock_timeout", "storm.x"}

func newStormModel(c *stormClient) *stormModel {
	m := &stormModel{stormClient: c, status: 'I', parsed: map[string]bool{}, prepared: map[string]bool{}, at: map[string]int{}}
	m.world = m.fresh()
	m.base = m.world
	return m
}

// fresh is what a session starts with.
func (m *stormModel) fresh() world {
	return world{set: [...]string{m.name, "4MB", "0", ""}, temp: -1}
}

// clone is for what is yet to be sent: as things will be if nothing fails that the model does not know of.
func (m *stormModel) clone() *stormModel {
	n := *m
	n.shadow = true
	n.points, n.locks = slices.Clone(m.points), slices.Clone(m.locks)
	n.parsed, n.prepared, n.at = maps.Clone(m.parsed), maps.Clone(m.prepared), maps.Clone(m.at)
	return &n
}

func (m *stormModel) setting(i int) string {
	if m.world.isLocal[i] {
		return m.world.local[i]
	}
	return m.world.set[i]
}

// pinned reports whether the session keeps its server connection from others.
func (m *stormModel) pinned() bool {
	return len(m.locks) > 0 || m.world.temp >= 0 || m.world.open.hold || len(m.prepared) > 0
}

// settle is the end of a transaction that is committed.
func (m *stormModel) settle() {
	m.status, m.points = 'I', nil
	if !m.shadow {
		m.committed(m.world)
	}
	m.world.rows, m.world.notes, m.world.others = nil, nil, nil
	m.endOfTransaction()
	m.base = m.world
}

func (m *stormModel) endOfTransaction() {
	m.world.isLocal, m.world.xlocks = [len(stormSettings)]bool{}, 0
	m.world.open.cursor, m.world.open.portal = false, false
}

// abort is the end of a transaction that is not.
func (m *stormModel) abort() {
	m.status, m.points, m.world = 'I', nil, m.base
	if m.lost {
		m.lost = false
		m.gone()
	}
	m.endOfTransaction()
	m.base = m.world
}

// fail is what an error does.
func (m *stormModel) fail() {
	if m.status == 'I' {
		m.world = m.base
		m.endOfTransaction()
	} else {
		m.status = 'E'
	}
}

// gone is when the session's server connection is no more.
func (m *stormModel) gone() {
	m.locks = nil
	for _, w := range []*world{&m.world, &m.base} {
		w.temp, w.open, w.xlocks = -1, cursors{}, 0
	}
	m.lost = m.status != 'I'
}

// sync is the end of a unit.
func (m *stormModel) sync() {
	if m.status == 'I' {
		m.settle()
	}
}

// answer is what an operation answers: messages, or an error, in front of which some of an extended query's own may come; and what it does.
type answer struct {
	tokens []string
	code   string // of the error
	effect func()
}

const stormRows = 5 // of cursors and portals

// expect is what an operation answers now.
func (m *stormModel) expect(o *stormOp) answer {
	if m.status == 'E' {
		if m.lost && (o.kind == opSavepoint || o.kind == opRollbackTo || o.kind == opRelease) {
			return fails("*") // there is nowhere to go back to
		}
		if a, ok := m.inFailed(o); ok {
			return a
		}
	}
	w := &m.world
	switch o.kind {
	case opMark:
		return m.row(o, o.text)
	case opBig:
		return m.row(o, strings.Repeat(o.text, o.n))
	case opLook:
		all := []string{o.text}
		for i := range stormSettings {
			all = append(all, m.setting(i))
		}
		return m.row(o, strings.Join(append(all, strconv.Itoa(len(m.locks)+w.xlocks), strconv.FormatBool(w.temp >= 0)[:1]), "|"))
	case opInsert:
		return m.does(o, "INSERT 0 1", func() { w.rows = more(w.rows, o.n) })
	case opSet:
		return m.does(o, "SET", func() { w.set[o.n], w.isLocal[o.n] = o.arg, false })
	case opSetLocal:
		return m.does(o, "SET", func() { w.local[o.n], w.isLocal[o.n] = o.arg, true })
	case opReset:
		return m.does(o, "RESET", func() { w.set[o.n], w.isLocal[o.n] = m.fresh().set[o.n], false })
	case opBegin:
		return m.does(o, "BEGIN", func() {
			if m.status == 'I' {
				m.status = 'T'
			}
		})
	case opCommit:
		return m.does(o, "COMMIT", m.settle)
	case opRollback:
		return m.does(o, "ROLLBACK", m.abort)
	case opSavepoint:
		if m.status == 'I' {
			return fails("25P01")
		}
		return m.does(o, "SAVEPOINT", func() { m.points = append(m.points, savepoint{o.arg, *w}) })
	case opRollbackTo, opRelease:
		at := m.point(o.arg)
		switch {
		case m.status == 'I':
			return fails("25P01")
		case at < 0:
			return fails("3B001")
		case o.kind == opRelease:
			return m.does(o, "RELEASE", func() { m.points = m.points[:at] })
		default:
			return m.does(o, "ROLLBACK", func() { m.back(at) })
		}
	case opWrong:
		return fails(o.arg)
	case opTempMake:
		if w.temp >= 0 {
			return fails("42P07")
		}
		return m.does(o, "CREATE TABLE", func() { w.temp = 0 })
	case opTempInsert:
		if w.temp < 0 {
			return fails("42P01")
		}
		return m.does(o, "INSERT 0 1", func() { w.temp++ })
	case opTempRead:
		if w.temp < 0 {
			return fails("42P01")
		}
		return m.row(o, fmt.Sprintf("%d|0", w.temp))
	case opTempDrop:
		if w.temp < 0 {
			return fails("42P01 3F000")
		}
		return m.does(o, "DROP TABLE", func() { w.temp = -1 })
	case opLock:
		a := m.row(o, "t")
		a.effect = func() { m.locks = append(m.locks, o.n) }
		return a
	case opUnlock:
		held := slices.Contains(m.locks, o.n)
		a := m.row(o, map[bool]string{true: "t", false: "f"}[held])
		a.effect = func() {
			m.locks = slices.DeleteFunc(m.locks, func(n int) bool { return n == o.n })
		}
		return a
	case opXLock:
		a := m.row(o, "")
		a.effect = func() { w.xlocks++ }
		return a
	case opListen:
		return m.does(o, "LISTEN", func() { w.hears, m.listened = true, true })
	case opUnlisten:
		return m.does(o, "UNLISTEN", func() { w.hears = false })
	case opNotify:
		return m.does(o, "NOTIFY", func() { w.notes = more(w.notes, o.n) })
	case opNotifyOther:
		return m.does(o, "NOTIFY", func() { w.others = append(slices.Clip(w.others), note{o.arg, o.n}) })
	case opCopyIn:
		a := m.does(o, "COPY 3", func() {
			for i := range 3 {
				w.rows = more(w.rows, o.n+i)
			}
		})
		a.tokens = slices.Insert(a.tokens, len(a.tokens)-1, "G")
		return a
	case opCopyFail:
		return fails("57014")
	case opCopyBad:
		return fails("22P02")
	case opCopyOut:
		a := m.does(o, "COPY 3", func() {})
		a.tokens = slices.Insert(a.tokens, len(a.tokens)-1, "H", "d"+o.text+" 1", "d"+o.text+" 2", "d"+o.text+" 3", "c")
		return a
	case opPrepare:
		if m.prepared[o.arg] {
			return fails("42P05")
		}
		return m.does(o, "PREPARE", func() { m.prepared[o.arg] = true })
	case opExecute:
		if !m.prepared[o.arg] {
			return fails("26000")
		}
		return m.row(o, o.arg+" "+o.text)
	case opDeallocate:
		if !m.prepared[o.arg] {
			return fails("26000")
		}
		return m.does(o, "DEALLOCATE", func() { delete(m.prepared, o.arg) })
	case opDeclare:
		if m.status == 'I' && !o.beside {
			return fails("25P01")
		}
		if w.open.cursor {
			return fails("42P03")
		}
		return m.does(o, "DECLARE CURSOR", func() { w.open.cursor, m.at["cur"] = true, 0 })
	case opHold:
		if w.open.hold {
			return fails("42P03")
		}
		return m.does(o, "DECLARE CURSOR", func() { w.open.hold, m.at["hold"] = true, 0 })
	case opFetch, opFetchHold:
		name, there := "cur", w.open.cursor
		if o.kind == opFetchHold {
			name, there = "hold", w.open.hold
		}
		if !there {
			return fails("34000")
		}
		n := min(o.n, stormRows-m.at[name])
		a := m.rows(o, m.at[name], n, "FETCH "+strconv.Itoa(n))
		a.effect = func() { m.at[name] += n }
		return a
	case opCloseHold:
		if !w.open.hold {
			return fails("34000")
		}
		return m.does(o, "CLOSE CURSOR", func() { // which no rollback takes back
			w.open.hold, m.base.open.hold = false, false
			for i := range m.points {
				m.points[i].world.open.hold = false
			}
		})
	case opParse:
		if m.parsed[o.arg] {
			return fails("42P05")
		}
		return answer{tokens: []string{"1"}, effect: func() { m.parsed[o.arg] = true }}
	case opBind:
		if !m.parsed[o.arg] {
			return fails("26000")
		}
		return answer{tokens: []string{"2", "D" + o.text + "|" + o.arg + "|" + m.setting(0), "CSELECT 1"}}
	case opCloseStatement:
		return answer{tokens: []string{"3"}, effect: func() { delete(m.parsed, o.arg) }}
	case opPortal:
		if w.open.portal {
			return fails("42P03")
		}
		a := m.rows(o, 0, o.n, "")
		a.tokens = append(append([]string{"1", "2"}, a.tokens[:o.n]...), "s")
		a.effect = func() { w.open.portal, m.at["portal"] = true, o.n }
		return a
	case opPortalMore:
		if !w.open.portal {
			return fails("34000")
		}
		at := m.at["portal"]
		n := min(o.n, stormRows-at)
		tokens := m.rows(o, at, n, "").tokens[:n]
		if at+o.n > stormRows {
			tokens = append(tokens, fmt.Sprintf("CSELECT %d", n))
		} else {
			tokens = append(tokens, "s")
		}
		return answer{tokens: tokens, effect: func() { m.at["portal"] += n }}
	case opEmpty, opFunction:
		a := m.does(o, "", nil)
		if a.tokens[len(a.tokens)-1] = "I"; o.kind == opFunction {
			a.tokens[len(a.tokens)-1] = "V"
		}
		return a
	case opTimeout:
		if m.status == 'I' {
			return fails("25P01")
		}
		return fails("57014")
	case opDiscard:
		if m.status != 'I' {
			return fails("25001")
		}
		return m.does(o, "DISCARD ALL", func() {
			m.world = m.fresh()
			m.locks, m.parsed, m.prepared = nil, map[string]bool{}, map[string]bool{}
		})
	default:
		panic("storm: no such operation")
	}
}

// inFailed is what an operation answers in a failed transaction.
func (m *stormModel) inFailed(o *stormOp) (a answer, ok bool) {
	switch o.kind {
	case opCommit:
		return m.does(o, "ROLLBACK", m.abort), true
	case opRollback, opRollbackTo, opCloseStatement:
		return answer{}, false
	case opEmpty:
		if !o.extended {
			return answer{}, false
		}
	case opFunction:
		return fails("25P02"), true
	case opWrong:
		if o.arg == "42601" {
			return fails("42601 25P02"), true // the latter is ours
		}
	case opParse:
		if m.parsed[o.arg] {
			return fails("25P02 42P05"), true // the latter is ours
		}
	case opBind:
		if !m.parsed[o.arg] {
			return answer{}, false
		}
	case opPortalMore:
		if !m.world.open.portal {
			return answer{}, false
		}
	}
	return fails("25P02"), true
}

func (m *stormModel) point(name string) int {
	for i, p := range slices.Backward(m.points) {
		if p.name == name {
			return i
		}
	}
	return -1
}

// more is list with n, in memory of its own.
func more(list []int, n int) []int { return append(slices.Clip(list), n) }

func (m *stormModel) back(at int) {
	m.world, m.points, m.status = m.points[at].world, m.points[:at+1], 'T'
}

func fails(code string) answer { return answer{code: code} }

// does is the answer of what returns nothing.
func (m *stormModel) does(o *stormOp, tag string, f func()) answer {
	a := answer{effect: f}
	if o.extended {
		a.tokens = append(a.tokens, "1", "2")
	}
	if o.extended && o.describe {
		a.tokens = append(a.tokens, "n")
	}
	a.tokens = append(a.tokens, "C"+tag)
	return a
}

// row is the answer of what returns one.
func (m *stormModel) row(o *stormOp, row string) answer {
	a := answer{}
	if o.extended {
		a.tokens = append(a.tokens, "1", "2")
	}
	if !o.extended || o.describe {
		a.tokens = append(a.tokens, "T")
	}
	a.tokens = append(a.tokens, "D"+row, "CSELECT 1")
	return a
}

// rows is what a cursor returns.
func (m *stormModel) rows(o *stormOp, from, n int, tag string) answer {
	a := answer{}
	if o.extended {
		a.tokens = append(a.tokens, "1", "2")
	}
	if !o.extended || o.describe {
		a.tokens = append(a.tokens, "T")
	}
	if tag == "" {
		a.tokens = nil
	}
	for i := range n {
		a.tokens = append(a.tokens, fmt.Sprintf("D%s %d", m.name, from+i+1))
	}
	if tag != "" {
		a.tokens = append(a.tokens, "C"+tag)
	}
	return a
}
