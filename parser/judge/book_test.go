package judge_test

import (
	"testing"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/parser/judge"
)

// one parses a statement.
func one(t *testing.T, sql string) *parser.Statement {
	t.Helper()
	m := parser.Parse(sql)
	if len(m.Statements) != 1 {
		t.Fatalf("%s: %v", sql, m.Unparsable)
	}
	return m.Statements[0]
}

// read answers what a book asks for: the function bad is not harmless, nor are writes to the table bad.
func read(b *judge.Book, now int64) (fresh, worse bool) {
	p := b.Begin(now)
	g := judge.NewGraph(p)
	for {
		functions, relations := g.Missing()
		if len(functions)+len(relations) == 0 {
			break
		}
		for _, f := range functions {
			body := "BEGIN RETURN 1; END"
			if f == "bad" {
				body = "BEGIN PERFORM set_config('a.b', 'c', false); END"
			}
			g.AddFunction(&judge.Function{Name: f, Language: "plpgsql", Source: body})
		}
		for _, r := range relations {
			rel := &judge.Relation{Name: judge.Name{Schema: "public", Name: r.Name}}
			if r.Name == "bad" {
				rel.TriggerFunctions = []string{"bad"}
			}
			g.AddRelation(rel)
		}
	}
	fresh, worse = b.Store(p, judge.Join(p, []*judge.Graph{g}))
	b.End()
	return fresh, worse
}

func asked(b *judge.Book) bool {
	select {
	case <-b.Asked():
		return true
	default:
		return false
	}
}

// TestBook: nothing is believed that was not read, or for too long, or since something changed.
func TestBook(t *testing.T) {
	t.Parallel()
	var changes judge.Changes
	b := judge.NewBook(&changes)
	good, bad, insert, plain := one(t, "SELECT good()"), one(t, "SELECT bad()"), one(t, "INSERT INTO bad VALUES (1)"), one(t, "SELECT 1")
	expect := func(what string, now int64, want ...judge.Verdict) {
		t.Helper()
		for i, st := range []*parser.Statement{good, bad, insert} {
			if got := b.Verdict(st, now); got != want[i] {
				t.Errorf("%s: %s: got %d, want %d", what, st.Tag, got, want[i])
			}
		}
	}
	if b.Verdict(plain, 0) != judge.Harmless || asked(b) || b.Used() {
		t.Error("a statement that runs no code asks for something")
	}
	expect("at first", 1, judge.Unknown, judge.Unknown, judge.Unknown)
	if !asked(b) || asked(b) {
		t.Error("it is not asked for, once")
	}
	if fresh, worse := read(b, 100); !fresh || !worse {
		t.Error("what is known now is nothing new")
	}
	expect("known", 100+judge.Fresh, judge.Harmless, judge.Harmful, judge.Cleanable)
	if asked(b) || !b.Used() {
		t.Error("it is asked for again, or not used")
	}
	expect("old", 101+judge.Fresh, judge.Unknown, judge.Harmful, judge.Cleanable)
	if !asked(b) {
		t.Error("it is not asked for when it is old")
	}
	if fresh, worse := read(b, 2*judge.Fresh); fresh || worse {
		t.Error("the same is something new")
	}
	expect("read again", 2*judge.Fresh, judge.Harmless, judge.Harmful, judge.Cleanable)

	changes.Begin()
	expect("being changed", 2*judge.Fresh, judge.Unknown, judge.Harmful, judge.Cleanable)
	if asked(b) {
		t.Error("it is read while it changes")
	}
	read(b, 2*judge.Fresh) // by the clock, before the change is there
	expect("read while being changed", 2*judge.Fresh, judge.Unknown, judge.Harmful, judge.Cleanable)
	changes.End()
	expect("changed", 2*judge.Fresh, judge.Unknown, judge.Harmful, judge.Cleanable)
	if !asked(b) {
		t.Error("it is not asked for when it has changed")
	}
	p := b.Begin(2 * judge.Fresh)
	changes.Begin()
	changes.End()
	b.Store(p, judge.Join(p, nil)) // read before the change
	b.End()
	expect("changed while it was read", 2*judge.Fresh, judge.Unknown, judge.Unknown, judge.Unknown)
	read(b, 2*judge.Fresh)
	expect("at last", 2*judge.Fresh, judge.Harmless, judge.Harmful, judge.Cleanable)

	b.Begin(2 * judge.Fresh)
	b.Verdict(one(t, "SELECT another()"), 2*judge.Fresh)
	b.End()
	if !asked(b) {
		t.Error("what is asked for during a reading is forgotten")
	}
}

// TestBookForgetsWhatIsTooMuch: names that come and go don't fill it.
func TestBookForgetsWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	b := judge.NewBook(new(judge.Changes))
	st := one(t, "SELECT f()")
	for i := range 5000 {
		b.Verdict(&parser.Statement{Kind: parser.Select, Calls: []parser.Function{{Name: string(rune(0x4e00 + i))}}}, 1)
	}
	if p := b.Begin(1); len(p.Functions) > 4096 {
		t.Errorf("%d names are held", len(p.Functions))
	}
	b.End()
	b.Verdict(st, 1)
	read(b, 1)
	if got := b.Verdict(st, 1); got != judge.Harmless {
		t.Errorf("got %d for what is asked for next", got)
	}
}

// TestVerdictsAllocateNothing where a statement was met before, whichever clusters take turns on it.
func TestVerdictsAllocateNothing(t *testing.T) {
	var changes judge.Changes
	first, second := judge.NewBook(&changes), judge.NewBook(&changes)
	statements := []*parser.Statement{one(t, "SELECT good() FROM a, b"), one(t, "INSERT INTO bad VALUES (1)"), one(t, "SELECT 1"), one(t, "SELECT odd() FROM c")}
	ask := func() {
		for _, st := range statements {
			first.Verdict(st, 1)
			second.Verdict(st, 1)
		}
	}
	ask()
	read(first, 1)
	read(second, 1)
	first.Verdict(one(t, "SELECT unknown()"), 1)
	ask()
	ask()
	if n := testing.AllocsPerRun(100, ask); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestBookOfReaders: who has only read from a table whose triggers leave something has left nothing, and who writes to it next is known.
func TestBookOfReaders(t *testing.T) {
	t.Parallel()
	var changes judge.Changes
	b := judge.NewBook(&changes)
	from, into := one(t, "SELECT * FROM bad"), one(t, "INSERT INTO bad VALUES (1)")
	b.Verdict(from, 1)
	if fresh, worse := read(b, 2); !fresh || worse {
		t.Errorf("fresh %v, worse %v", fresh, worse)
	}
	if got := b.Verdict(from, 3); got != judge.Harmless {
		t.Errorf("reading: got %d", got)
	}
	if got := b.Verdict(into, 3); got != judge.Cleanable {
		t.Errorf("writing: got %d", got)
	}
}
