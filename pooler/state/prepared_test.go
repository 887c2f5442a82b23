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

var noMessage = &parser.Message{}

func intern(r *Registry, sql, types string) *Prepared {
	return r.Intern([]byte(sql), []byte(types), noMessage, nil)
}

func TestRegistrySharesEqualStatements(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	make1 := func() *Prepared {
		return r.Intern([]byte("SELECT $1"), []byte("\x00\x00\x00\x17"), noMessage, nil)
	}
	a, b := make1(), make1()
	if a != b || a.Message != noMessage {
		t.Errorf("got %p and %p, want one statement", a, b)
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
	make1()
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

// TestRegistryTellsStatementsOfOneHash apart, in whatever order they come and go.
func TestRegistryTellsStatementsOfOneHash(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := NewRegistry()
		rnd := rand.New(rand.NewPCG(seed, 6))
		held := map[string][]*Prepared{}
		n := 0
		for range 200 {
			sql := string(rune('a' + rnd.IntN(5)))
			if list := held[sql]; len(list) > 0 && rnd.IntN(2) == 0 {
				r.Drop(list[0])
				held[sql] = list[1:]
				n--
			} else {
				p := r.intern(7, []byte(sql), nil, noMessage, nil)
				if p.SQL != sql || len(list) > 0 && list[0] != p {
					t.Fatalf("got %q, want %q, which is held: %v", p.SQL, sql, list)
				}
				held[sql] = append(list, p)
				n++
			}
			refs, texts := 0, 0
			r.All(func(p *Prepared, k int) {
				refs, texts = refs+k, texts+1
				if len(held[p.SQL]) != k {
					t.Fatalf("%q has %d references, want %d", p.SQL, k, len(held[p.SQL]))
				}
			})
			if count, _ := r.Stats(); refs != n || count != texts {
				t.Fatalf("got %d references to %d statements, and counts %d; want %d", refs, texts, count, n)
			}
		}
	}
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
					held = append(held, intern(r, held[rnd.IntN(len(held))].SQL, ""))
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
	p := r.Intern(sql, types, noMessage, nil)
	if n := testing.AllocsPerRun(100, func() { r.Drop(r.Intern(sql, types, noMessage, nil)) }); n != 0 {
		t.Errorf("got %v allocations to find and drop a statement, want 0", n)
	}
	r.Drop(p)
}

// TestPreparedHasItsLiterals, which are its own and weigh, where its Message is that of a shape; and it keeps what its text is by itself.
func TestPreparedHasItsLiterals(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	shaped, own := &parser.Message{Shaped: true}, &parser.Message{}
	list := []parser.Literal{{Kind: parser.TokenInteger, Start: 7, End: 8}}
	sql := []byte("SELECT 1")
	if r.Take(sql, nil) != nil {
		t.Error("found what is not there")
	}
	p := r.Intern(sql, nil, shaped, list)
	list[0].Start = 0
	if len(p.Literals) != 1 || p.Literals[0].Start != 7 || len(p.Under(3).Literals) != 1 {
		t.Errorf("got %v", p.Literals)
	}
	plain := r.Intern([]byte("SELECT 2"), nil, own, list)
	if plain.Literals != nil || plain.Bytes() >= p.Bytes() || plain.Own() != own {
		t.Errorf("got %v, %d and %d bytes", plain.Literals, plain.Bytes(), p.Bytes())
	}
	if p.Own() != nil {
		t.Error("the shape's is taken for the text's own")
	}
	p.SetOwn(own)
	if p.Own() != own || p.Message != shaped {
		t.Error("the text's own is not kept")
	}
	if r.Take(sql, nil) != p || r.Take(sql, []byte("\x00\x00\x00\x17")) != nil {
		t.Error("not found by text and types")
	}
	for range 2 {
		if n, _ := r.Stats(); n != 2 {
			t.Errorf("%d statements", n)
		}
		r.Drop(p)
	}
	if n, bytes := r.Stats(); n != 1 || bytes != plain.Bytes() {
		t.Errorf("%d statements, %d bytes", n, bytes)
	}
}
