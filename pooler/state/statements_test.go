package state

import (
	"fmt"
	"slices"
	"testing"
)

func prepared(id uint64, size int) *Prepared {
	return &Prepared{ID: id, Name: fmt.Sprintf("s%d", id), SQL: string(make([]byte, size))}
}

func TestStatementsEvictLeastRecentlyUsed(t *testing.T) {
	t.Parallel()
	s := Statements{MaxCount: 3}
	a, b, c, d := prepared(1, 0), prepared(2, 0), prepared(3, 0), prepared(4, 0)
	for _, p := range []*Prepared{a, b, c} {
		if s.Has(p) {
			t.Errorf("has %s before it was added", p.Name)
		}
		if old := s.Evict(p.Bytes(), p); old != nil {
			t.Errorf("evicts %s with room left", old.Name)
		}
		s.Add(p)
	}
	if !s.Has(a) { // b is the oldest now
		t.Error("does not have what was added")
	}
	if old := s.Evict(d.Bytes(), d); old != b {
		t.Errorf("evicts %v, want s2", old)
	}
	if old := s.Evict(d.Bytes(), b); old != c {
		t.Errorf("evicts %v though s2 is to be kept, want s3", old)
	}
	s.Remove(b)
	s.Remove(b)
	s.Add(d)
	s.Add(d)
	if s.Len() != 3 || s.Bytes() != a.Bytes()+c.Bytes()+d.Bytes() {
		t.Errorf("got %d statements of %d bytes", s.Len(), s.Bytes())
	}
	s.Clear()
	if s.Len() != 0 || s.Bytes() != 0 || s.Has(a) || s.Evict(1<<30, nil) != nil {
		t.Error("something is left after Clear")
	}
	var none Statements
	none.Remove(a)
	none.Clear()
	if none.Has(a) || none.Evict(1<<30, nil) != nil {
		t.Error("the zero Statements is not empty")
	}
}

func TestStatementsLimits(t *testing.T) {
	t.Parallel()
	small, big := prepared(1, 100), prepared(2, 10000)
	for name, c := range map[string]struct {
		s     Statements
		evict bool
	}{
		"no limits":      {Statements{}, false},
		"count reached":  {Statements{MaxCount: 1}, true},
		"count not":      {Statements{MaxCount: 2}, false},
		"bytes exceeded": {Statements{MaxBytes: small.Bytes() + big.Bytes() - 1}, true},
		"bytes exact":    {Statements{MaxBytes: small.Bytes() + big.Bytes()}, false},
		"larger alone":   {Statements{MaxBytes: 50}, true}, // everything else goes, and it is taken all the same
	} {
		s := c.s
		s.Add(small)
		if got := s.Evict(big.Bytes(), big) != nil; got != c.evict {
			t.Errorf("%s: evicts is %v, want %v", name, got, c.evict)
		}
	}
}

// TestStatementsModel holds the list against a plain slice, most recently used first.
func TestStatementsModel(t *testing.T) {
	t.Parallel()
	r := seeded(t, 11)
	all := make([]*Prepared, 12)
	for i := range all {
		all[i] = prepared(uint64(i)+1, r.IntN(1000))
	}
	s := Statements{MaxCount: 6, MaxBytes: 4000}
	var model []*Prepared
	bytes := func() (n int) {
		for _, p := range model {
			n += p.Bytes()
		}
		return n
	}
	for range 50000 {
		p := pick(r, all...)
		i := slices.Index(model, p)
		switch r.IntN(8) {
		case 0, 1, 2:
			if got := s.Has(p); got != (i >= 0) {
				t.Fatalf("has %s: got %v", p.Name, got)
			}
			if i >= 0 {
				model = slices.Insert(slices.Delete(model, i, i+1), 0, p)
			}
		case 3, 4, 5:
			if i >= 0 {
				s.Add(p) // changes nothing
				break
			}
			for {
				old := s.Evict(p.Bytes(), p)
				full := len(model) >= s.MaxCount || bytes()+p.Bytes() > s.MaxBytes
				if !full || len(model) == 0 {
					if old != nil {
						t.Fatalf("evicts %s for nothing", old.Name)
					}
					break
				}
				if want := model[len(model)-1]; old != want {
					t.Fatalf("evicts %v, want %s", old, want.Name)
				}
				s.Remove(old)
				model = model[:len(model)-1]
			}
			s.Add(p)
			model = slices.Insert(model, 0, p)
		case 6:
			s.Remove(p)
			if i >= 0 {
				model = slices.Delete(model, i, i+1)
			}
		case 7:
			if r.IntN(50) == 0 {
				s.Clear()
				model = nil
			}
		}
		if s.Len() != len(model) || s.Bytes() != bytes() {
			t.Fatalf("got %d statements of %d bytes, want %d of %d", s.Len(), s.Bytes(), len(model), bytes())
		}
		if s.Len() > s.MaxCount {
			t.Fatalf("got %d statements, over the limit", s.Len())
		}
	}
}

// TestStatementsUnderSettings: one statement under different settings is several on a connection.
func TestStatementsUnderSettings(t *testing.T) {
	t.Parallel()
	p := &Prepared{ID: 7, Name: "pgkennel_7", SQL: "x", Types: "\x00\x00\x00\x17"}
	utc := set(Var{Name: "timezone", Value: "'UTC'"}).ParseKey()
	q := p.Under(utc)
	if p.Under(0) != p || q.Under(utc) != q || q.Same(p) || !q.Same(p.Under(utc)) || q.Name == p.Name || q.SQL != p.SQL || q.Types != p.Types || q.ID != p.ID {
		t.Errorf("got %+v of %+v", q, p)
	}
	if again := q.Under(MomentKey(1)).Under(utc); again.Name != q.Name {
		t.Errorf("got the name %s, want %s", again.Name, q.Name)
	}
	var s Statements
	s.Add(p)
	s.Add(q)
	if s.Len() != 2 || s.Find(p, 0) != p || s.Find(p, utc) != q || s.Find(q, 0) != p || s.Find(p, MomentKey(1)) != nil {
		t.Errorf("got %v, %v", s.Find(p, 0), s.Find(p, utc))
	}
	s.Remove(p.Under(utc))
	if s.Len() != 1 || s.Has(q) || !s.Has(p) || s.Bytes() != p.Bytes() {
		t.Error("removed the wrong one")
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	keys := map[uint64]string{}
	for name, key := range map[string]uint64{
		"none":         (*Set)(nil).ParseKey(),
		"zone":         set(Var{Name: "timezone", Value: "'UTC'"}).ParseKey(),
		"another zone": set(Var{Name: "timezone", Value: "'CET'"}).ParseKey(),
		"both":         set(Var{Name: "timezone", Value: "'UTC'"}, Var{Name: "datestyle", Value: "iso"}).ParseKey(),
		"role":         set(Var{Name: "role", Value: "'a'"}).ParseKey(),
		"local":        LocalKey(0, "timezone", "'UTC'"),
		"more local":   LocalKey(LocalKey(0, "timezone", "'UTC'"), "timezone", "'UTC'"),
		"other local":  LocalKey(0, "timezone'", "UTC'"),
		"moment":       MomentKey(1),
		"next moment":  MomentKey(2),
	} {
		if other, dup := keys[key]; dup {
			t.Errorf("%s and %s have one key", name, other)
		}
		keys[key] = name
	}
	zone := set(Var{Name: "timezone", Value: "'UTC'"})
	if zone.ParseKey() != zone.With(Var{Name: "app.v", Value: "1"}).ParseKey() || set(Var{Name: "app.v", Value: "1"}).ParseKey() != 0 {
		t.Error("a setting that has no say changes the key")
	}
	if a, b := LocalKey(0, "a", "b"), LocalKey(0, "a", "b"); a != b {
		t.Error("equal settings have different keys")
	}
}

// TestStatementsChange: tables have changed, and everything is to be prepared anew, but for what was since.
func TestStatementsChange(t *testing.T) {
	t.Parallel()
	var s Statements
	a, b := prepared(1, 0), prepared(2, 0)
	stale := func(p *Prepared) bool {
		has, shape, stale := s.Instance(p, 0)
		if has != p || shape == nil {
			t.Fatalf("does not have %s", p.Name)
		}
		return stale
	}
	if has, shape, old := s.Instance(a, 0); has != nil || shape != nil || old || len(s.ByName()) > 0 {
		t.Error("has what was not added")
	}
	s.Add(a).Rows = 77
	s.Add(b)
	if stale(a) || stale(b) || len(s.ByName()) != 2 || s.ByName()["s1"] != a {
		t.Error("what was added is not what it has")
	}
	if _, shape, _ := s.Instance(a, 0); shape.Rows != 77 || s.Add(a) != shape {
		t.Error("what is known of it is lost")
	}
	s.Expire(a)
	s.Expire(prepared(3, 0))
	if !stale(a) || stale(b) {
		t.Error("one was to be prepared anew")
	}
	s.Change()
	s.Remove(b)
	if shape := s.Add(b); !stale(a) || stale(b) || *shape != (Shape{}) {
		t.Error("what was prepared anew is as good as new")
	}
}
