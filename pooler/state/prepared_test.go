package state

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgkennel/pgkennel/parser"
)

func noMessage() *parser.Message { return &parser.Message{} }

func intern(r *Registry, sql, types string) *Prepared {
	return r.Intern([]byte(sql), []byte(types), noMessage)
}

func TestRegistrySharesEqualStatements(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	calls := 0
	message := &parser.Message{}
	make1 := func() *Prepared {
		return r.Intern([]byte("SELECT $1"), []byte("\x00\x00\x00\x17"), func() *parser.Message { calls++; return message })
	}
	a, b := make1(), make1()
	if a != b || calls != 1 || a.Message != message {
		t.Errorf("got %p and %p with %d parsed messages, want one statement", a, b, calls)
	}
	if a.ParamType(0) != 23 || a.ParamType(1) != 0 || a.ParamType(-1) != 0 {
		t.Errorf("got types %d, %d", a.ParamType(0), a.ParamType(1))
	}
	if n, bytes := r.Stats(); n != 1 || bytes != a.Bytes() {
		t.Errorf("got %d statements of %d bytes, want one of %d", n, bytes, a.Bytes())
	}
	r.Drop(a)
	if n, _ := r.Stats(); n != 1 {
		t.Error("a statement that somebody has was forgotten")
	}
	r.Retain(b)
	r.Drop(b)
	r.Drop(b)
	if n, bytes := r.Stats(); n != 0 || bytes != 0 {
		t.Errorf("got %d statements of %d bytes after the last reference, want none", n, bytes)
	}
	c := make1()
	if c.ID == a.ID || c.Name == a.Name {
		t.Errorf("a forgotten statement's name %s was used again", c.Name)
	}
	r.Drop(nil)
}

// TestRegistryTellsTextFromTypes: bytes of the types must not pass for text, nor the other way round.
func TestRegistryTellsTextFromTypes(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	seen := map[*Prepared]string{}
	for _, c := range [][2]string{
		{"", ""},
		{"abcd", ""},
		{"", "abcd"},
		{"abcdefgh", ""},
		{"efgh", "abcd"},
		{"", "abcdefgh"},
		{"\x01\x00", ""},
		{"\x00\x00", ""},
		{"\x00\x00abcd", ""},
		{"\x01\x00abcd", ""},
		{strings.Repeat("x", 4*256), ""},
		{"", strings.Repeat("x", 4*256)},
		{"", strings.Repeat("x", 4*65535)},
	} {
		p := intern(r, c[0], c[1])
		if other, dup := seen[p]; dup {
			t.Errorf("%q is taken for %q", c, other)
		}
		seen[p] = c[0]
		if p.SQL != c[0] || p.Types != c[1] {
			t.Errorf("got %q, %q, want %q", p.SQL, p.Types, c)
		}
	}
}

func FuzzRegistryKey(f *testing.F) {
	f.Add("SELECT $1", uint16(1), "SELECT $1", uint16(0))
	f.Fuzz(func(t *testing.T, a string, na uint16, b string, nb uint16) {
		cut := func(s string, n uint16) (sql, types string) {
			k := min(4*int(n), len(s)&^3)
			return s[k:], s[:k]
		}
		asql, atypes := cut(a, na)
		bsql, btypes := cut(b, nb)
		same := string(appendKey(nil, []byte(asql), []byte(atypes))) == string(appendKey(nil, []byte(bsql), []byte(btypes)))
		if same != (asql == bsql && atypes == btypes) {
			t.Errorf("keys of %q, %q and %q, %q: equal is %v", asql, atypes, bsql, btypes, same)
		}
	})
}

// TestRegistryConcurrent: whoever holds a reference shares the one statement with all others who hold one; the last takes it away.
func TestRegistryConcurrent(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	texts := []string{"a", "b", "c", strings.Repeat("long ", 200)}
	var wg sync.WaitGroup
	var ids sync.Map // of statements ever seen, by ID
	var bad atomic.Int32
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			var held []*Prepared
			for range 3000 {
				switch k := rnd.IntN(5); {
				case k < 2 || len(held) == 0:
					sql := texts[rnd.IntN(len(texts))]
					p := intern(r, sql, "")
					if p.SQL != sql {
						bad.Add(1)
					}
					if other, loaded := ids.LoadOrStore(p.ID, p); loaded && other != p {
						bad.Add(1)
					}
					for _, h := range held {
						if h.SQL == sql && h != p { // while it is held there is one
							bad.Add(1)
						}
					}
					held = append(held, p)
				case k == 2:
					p := held[rnd.IntN(len(held))]
					r.Retain(p)
					held = append(held, p)
				default:
					i := rnd.IntN(len(held))
					r.Drop(held[i])
					held = slices.Delete(held, i, i+1)
				}
				if rnd.IntN(50) == 0 {
					r.All(func(_ *Prepared, refs int) {
						if refs <= 0 {
							bad.Add(1)
						}
					})
				}
			}
			for _, p := range held {
				r.Drop(p)
			}
		})
	}
	wg.Wait()
	if n := bad.Load(); n != 0 {
		t.Errorf("%d times a statement was not the one that others hold", n)
	}
	if n, bytes := r.Stats(); n != 0 || bytes != 0 {
		t.Errorf("got %d statements of %d bytes when nobody holds any", n, bytes)
	}
}

func TestRegistryFindAllocatesNothing(t *testing.T) {
	r := NewRegistry()
	sql, types := []byte("SELECT * FROM orders WHERE tenant_id = $1"), []byte{0, 0, 0, 23}
	p := r.Intern(sql, types, noMessage)
	if n := testing.AllocsPerRun(100, func() { r.Drop(r.Intern(sql, types, noMessage)) }); n != 0 {
		t.Errorf("got %v allocations to find and drop a statement, want 0", n)
	}
	r.Drop(p)
}
