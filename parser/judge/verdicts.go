package judge

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/parser"
)

// Verdict is what is known of the code that a statement runs.
type Verdict uint8

// The verdicts.
const (
	Unknown   Verdict = iota
	Harmless          // it leaves nothing in the session
	Cleanable         // it may leave something that DISCARD ALL takes away
	Harmful           // it may leave something
)

// Verdicts are those of a cluster's databases at one time, where a name is harmless if it is so on every shard. They are immutable, but for when they
// were found true last.
type Verdicts struct {
	functions map[string]bool // true = not harmless
	relations map[Name]relationVerdict
	findings  []Finding
	// anywhere is the verdict on what may run wherever SQL does, ddl that on event triggers; 0 = harmless.
	anywhere, ddl Verdict

	// at is when reading them began last, in the nanoseconds of those who ask; changes is what Changes was then.
	at      atomic.Int64
	changes atomic.Uint64

	owner *Book
	// entries are by *parser.Statement: those of statements that several clusters take turns on.
	entries atomic.Pointer[sync.Map]
	count   atomic.Int64
}

// relationVerdict is about reading a relation and writing to it; the zero value is harmless.
type relationVerdict struct{ read, write Verdict }

func (f finding) verdict() Verdict {
	if f.stays {
		return Harmful
	}
	return Cleanable
}

// maxEntries bounds the statements that are remembered beside what each remembers itself, and held by that.
const maxEntries = 512

func newVerdicts() *Verdicts {
	v := &Verdicts{functions: map[string]bool{}, relations: map[Name]relationVerdict{}}
	v.entries.Store(new(sync.Map))
	return v
}

// Join gives the verdicts on what a reading was for, by the graphs of all shards.
func Join(p *Pending, shards []*Graph) *Verdicts {
	v := newVerdicts()
	for _, f := range p.Functions {
		v.functions[f] = false
	}
	for _, r := range p.Relations {
		v.relations[r] = relationVerdict{}
	}
	found := make(map[node]finding)
	for _, g := range shards {
		for n, f := range g.verdicts() {
			old, ok := found[n]
			f.stays = f.stays || old.stays
			if ok && old.why < f.why {
				f.why = old.why
			}
			found[n] = f
		}
	}
	for n, is := range found {
		f := Finding{Name: n.name.String(), Stays: is.stays, Why: is.why}
		switch n.kind {
		case function:
			if _, asked := v.functions[n.name.Name]; asked {
				v.functions[n.name.Name] = true
			}
		case implicit:
			v.anywhere = max(v.anywhere, is.verdict())
		case event:
			v.ddl = max(v.ddl, is.verdict())
		case reading:
			f.Read = true
			if r, asked := v.relations[n.name]; asked && is.why != tooMany {
				r.read = is.verdict()
				v.relations[n.name] = r
			}
		case writing:
			f.Write = true
			if r, asked := v.relations[n.name]; asked && is.why != tooMany {
				r.write = is.verdict()
				v.relations[n.name] = r
			}
		}
		if is.why != noFunction && n.tells() {
			v.findings = append(v.findings, f)
		}
	}
	slices.SortFunc(v.findings, func(a, b Finding) int {
		return strings.Compare(a.Name+"\x00"+a.Why, b.Name+"\x00"+b.Why)
	})
	return v
}

// Findings are what is not harmless among what was looked at, and why.
func (v *Verdicts) Findings() []Finding { return v.findings }

// same reports whether both say the same.
func (v *Verdicts) same(o *Verdicts) bool {
	return v.anywhere == o.anywhere && v.ddl == o.ddl && maps.Equal(v.functions, o.functions) && maps.Equal(v.relations, o.relations) && slices.Equal(v.findings, o.findings)
}

// worse reports whether v has something for not harmless that old had not: a relation, where that costs nothing until it is known, or a function that was
// known to be harmless. What was not known and only read from, nobody has written to.
func (v *Verdicts) worse(old *Verdicts, written map[Name]bool) bool {
	if v.anywhere > old.anywhere || v.ddl > old.ddl {
		return true
	}
	for name, bad := range v.functions {
		if was, known := old.functions[name]; bad && known && !was {
			return true
		}
	}
	for name, r := range v.relations {
		was, known := old.relations[name]
		if r.read != 0 && was.read == 0 || r.write != 0 && was.write == 0 && (known || written[name]) {
			return true
		}
	}
	return false
}

// entry is a verdict on one statement.
type entry struct {
	self    any // the entry itself, as the statement remembers it
	of      *Verdicts
	verdict Verdict
	nothing bool  // it runs no code but PostgreSQL's own, whatever there is in the databases
	asks    *Code // names that are not known; nil = all are
	asked   atomic.Bool
}

// entry returns what v says of a statement. Nothing is allocated where it was asked before.
func (v *Verdicts) entry(st *parser.Statement) *entry {
	if st.Verdict == nil {
		e := v.judge(st)
		e.self = e
		return e
	}
	shared := false
	if memo := st.Verdict.Load(); memo != nil {
		if e, _ := (*memo).(*entry); e != nil {
			if e.of == v {
				return e
			}
			shared = e.of.owner != v.owner
		}
	}
	entries := v.entries.Load()
	if shared {
		if known, ok := entries.Load(st); ok {
			e := known.(*entry) //nolint:forcetypeassert // it holds nothing else
			st.Verdict.Store(&e.self)
			return e
		}
	}
	e := v.judge(st)
	e.self = e
	if shared {
		if v.count.Add(1) > maxEntries {
			v.count.Store(0)
			v.entries.Store(new(sync.Map))
		} else {
			entries.Store(st, e)
		}
	}
	st.Verdict.Store(&e.self)
	return e
}

// judge judges a statement by the names in it.
func (v *Verdicts) judge(st *parser.Statement) *entry {
	e := &entry{of: v}
	uses := Uses(st)
	asks := &Code{}
	worst := Unknown // of what is known
	if uses.Why != "" {
		worst = Harmful
	}
	for _, f := range uses.Calls {
		b, known := v.functions[f]
		if !known {
			asks.Calls = append(asks.Calls, f)
		}
		if b {
			worst = Harmful
		}
	}
	for _, r := range uses.Reads {
		is, known := v.relations[r]
		if !known {
			asks.Reads = append(asks.Reads, r)
		}
		worst = max(worst, is.read)
	}
	for _, r := range uses.Writes {
		is, known := v.relations[r]
		if !known {
			asks.Writes = append(asks.Writes, r)
		}
		worst = max(worst, is.write)
	}
	evaluates, defines := implied(st)
	if evaluates {
		worst = max(worst, v.anywhere)
	}
	if defines {
		worst = max(worst, v.ddl)
	}
	e.nothing = !evaluates && !defines && uses.Why == "" && len(uses.Calls)+len(uses.Reads)+len(uses.Writes) == 0
	if len(asks.Calls)+len(asks.Reads)+len(asks.Writes) > 0 {
		e.asks = asks
	}
	switch {
	case worst != Unknown:
		e.verdict = worst
	case e.asks != nil:
		e.verdict = Unknown
	default:
		e.verdict = Harmless
	}
	return e
}

// implied reports whether st may run operators, casts or domains, and whether event triggers.
func implied(st *parser.Statement) (evaluates, defines bool) {
	switch st.Kind {
	case parser.DDL, parser.CreateTableAs, parser.Maintenance, parser.Utility:
		return true, true
	case parser.Insert, parser.Update, parser.Delete, parser.Merge, parser.CopyFrom, parser.CopyTo:
		return true, false
	case parser.Explain:
		if st.Inner != nil && st.ExplainAnalyze {
			return implied(st.Inner)
		}
	default: // what is evaluated is in it
	}
	return st.Evaluates, false
}
