package judge

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgkennel/pgkennel/parser"
)

// Changes counts the changes of code that went by, in whichever cluster. The zero value is ready. Safe for concurrent use.
type Changes struct {
	n    atomic.Uint64
	open atomic.Int64
}

// Begin notes that code is about to change, in a transaction that ends with End. In between no verdict is believed that code is harmless: when the change
// is there, only the server knows.
func (c *Changes) Begin() {
	c.open.Add(1)
	c.n.Add(1)
}

// End notes that a transaction that changed code has ended.
func (c *Changes) End() {
	c.n.Add(1)
	c.open.Add(-1)
}

// Fresh is for how long a verdict is believed after it was read, in nanoseconds: code may change where nobody here sees it. Again is when it is read
// again, if somebody asked for it.
const (
	Fresh = 30e9
	Again = 20e9
)

// maxWanted bounds the names that a Book asks for.
const maxWanted = 4096

// Book keeps the verdicts of one cluster, and what is asked for. Safe for concurrent use; asking costs an execution no allocation and no lock once the
// statement is known.
type Book struct {
	changes *Changes
	now     atomic.Pointer[Verdicts]
	used    atomic.Bool   // somebody asked since the last reading began
	busy    atomic.Bool   // kick holds something, or a reading is under way
	kick    chan struct{} // capacity 1: there is something to read

	texts *Texts // of whoever reads

	mu        sync.Mutex // guards below
	grown     bool       // since the last reading began
	functions map[string]bool
	relations map[Name]bool // true = for writing, too
}

// NewBook returns a Book that knows nothing.
func NewBook(changes *Changes) *Book {
	b := &Book{changes: changes, kick: make(chan struct{}, 1), functions: make(map[string]bool), relations: make(map[Name]bool)}
	v := newVerdicts()
	v.owner = b
	b.now.Store(v)
	return b
}

// Verdict tells what is known of the code that a statement runs; now is in the nanoseconds of Store. What is not known yet, or not for certain any more, is
// asked for, and nobody waits for it. What is not harmless stays so until it is found to be otherwise.
func (b *Book) Verdict(st *parser.Statement, now int64) Verdict {
	v := b.now.Load()
	e := v.entry(st)
	if e.nothing {
		return Harmless
	}
	if !b.used.Load() {
		b.used.Store(true)
	}
	if e.asks != nil {
		if !e.asked.Load() && !e.asked.Swap(true) {
			b.ask(e.asks)
		}
		return e.verdict
	}
	changing := b.changes.open.Load() > 0 // to read now would be for nothing
	if changing || v.changes.Load() != b.changes.n.Load() || now-v.at.Load() > Fresh {
		if !changing {
			b.wake()
		}
		if e.verdict == Harmless {
			return Unknown
		}
	}
	return e.verdict
}

// wake has the cluster read the catalogs, if it does not yet.
func (b *Book) wake() {
	if b.busy.Load() || b.busy.Swap(true) {
		return
	}
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// ask adds names to those that are read. When there are too many, all are forgotten: those in use are asked for again.
func (b *Book) ask(c *Code) {
	b.mu.Lock()
	before := len(b.functions) + len(b.relations)
	for _, f := range c.Calls {
		b.functions[f] = true
	}
	for _, r := range c.Reads {
		if _, known := b.relations[r]; !known {
			b.relations[r] = false
		}
	}
	for _, r := range c.Writes {
		b.relations[r] = true
	}
	grown := len(b.functions) + len(b.relations)
	if grown > maxWanted {
		clear(b.functions)
		clear(b.relations)
	}
	b.grown = b.grown || grown > before
	b.mu.Unlock()
	if grown > before {
		b.wake()
	}
}

// Asked is received from when there is something to read.
func (b *Book) Asked() <-chan struct{} { return b.kick }

// Used reports whether anybody asked for a verdict since the last Begin.
func (b *Book) Used() bool { return b.used.Load() }

// Pending is a reading that began.
type Pending struct {
	Functions []string
	Relations []Name

	written map[Name]bool // that were asked for as written to
	at      int64
	changes uint64
	texts   *Texts
}

// Begin begins a reading, of all names that were asked for, at a time. It has to be called before the first question to a server, and End behind the last.
func (b *Book) Begin(now int64) *Pending {
	b.busy.Store(true)
	select {
	case <-b.kick: // that is now
	default:
	}
	b.used.Store(false)
	p := &Pending{at: now, changes: b.changes.n.Load(), texts: b.texts.next()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grown = false
	p.written = maps.Clone(b.relations)
	p.Functions = slices.Sorted(maps.Keys(b.functions))
	p.Relations = slices.SortedFunc(maps.Keys(b.relations), func(a, b Name) int { return strings.Compare(a.Schema+"\x00"+a.Name, b.Schema+"\x00"+b.Name) })
	return p
}

// End ends a reading, whatever came of it.
func (b *Book) End() {
	b.mu.Lock()
	grown := b.grown
	b.mu.Unlock()
	b.busy.Store(false)
	if grown {
		b.wake()
	}
}

// Store takes what was read. It reports whether that is something new, and whether something is not harmless that was taken for it: what used it until
// now may have left something where nobody looked.
func (b *Book) Store(p *Pending, v *Verdicts) (fresh, worse bool) {
	old := b.now.Load()
	b.texts = p.texts
	if v.same(old) {
		old.changes.Store(p.changes)
		old.at.Store(p.at)
		return false, false
	}
	v.owner = b
	v.changes.Store(p.changes)
	v.at.Store(p.at)
	b.now.Store(v)
	return true, v.worse(old, p.written)
}

// Findings are what is not harmless of what was looked at last.
func (b *Book) Findings() []Finding { return b.now.Load().findings }
