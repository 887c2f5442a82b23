package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/pooler/state"
)

func TestCloseReasonsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := CloseClient; r <= ClosePinned; r++ {
		name := r.String()
		if name == "" || name == "unknown" || seen[name] {
			t.Errorf("%d is called %q", r, name)
		}
		seen[name] = true
	}
	if got := (ClosePinned + 1).String(); got != "unknown" {
		t.Errorf("got %q", got)
	}
}

func TestSafeEncodings(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"UTF8": true, "utf-8": true, "unicode": true, "SQL_ASCII": true, "latin1": true, "ISO-8859-15": true, "WIN1252": true, "KOI8R": true,
		"SJIS": false, "BIG5": false, "GBK": false, "GB18030": false, "UHC": false, "JOHAB": false, "WIN932": false, "WIN936": false, "WIN949": false, "WIN950": false, "": false,
	} {
		if got := safeEncoding(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// TestDescriptionsAreBounded in bytes and in time, and a Parse alone does not replace what is known of a statement.
func TestDescriptionsAreBounded(t *testing.T) {
	t.Parallel()
	d := NewDescriptions()
	k := descriptionKey{sql: "SELECT 1"}
	if _, _, ok := d.get(k, 0); ok {
		t.Error("knows what it was not told")
	}
	d.put(k, []byte("x"), 0)
	d.put(k, nil, 1)
	if got, _, ok := d.get(k, 1); string(got) != "x" || !ok {
		t.Errorf("got %q, %v", got, ok)
	}
	if got, _, ok := d.get(k, descriptionTTL); got != nil || !ok {
		t.Errorf("got %q, %v after its time", got, ok)
	}
	for i := range 40 {
		d.put(descriptionKey{sql: fmt.Sprint(i)}, make([]byte, 1<<20), 0)
		if d.bytes > maxDescriptions {
			t.Fatalf("holds %d bytes", d.bytes)
		}
	}
	if _, _, ok := d.get(k, 0); ok {
		t.Error("nothing was forgotten")
	}
	d.Forget()
	if len(d.entries) != 0 || d.bytes != 0 {
		t.Error("something is left")
	}
}

// TestDescriptionsWeighWhatTheyHold when more becomes known of a statement, and what is known already is learnt again.
func TestDescriptionsWeighWhatTheyHold(t *testing.T) {
	t.Parallel()
	d := NewDescriptions()
	held := func() (n int) {
		for k, e := range d.entries {
			n += len(k.sql) + len(k.types) + len(k.path) + len(k.role) + len(k.encoding) + len(e.answer)
		}
		return n
	}
	answer := make([]byte, 100<<10)
	for i := range 400 {
		k := descriptionKey{sql: fmt.Sprint(i), role: strings.Repeat("r", 1000), encoding: strings.Repeat("e", 1000)}
		d.put(k, nil, 0)
		d.put(k, answer, 0)
		if n := held(); n > d.bytes || n > maxDescriptions {
			t.Fatalf("holds %d bytes and counts %d after %d", n, d.bytes, i)
		}
	}
	n := len(d.entries)
	for i := range 3000 {
		for k := range d.entries {
			d.put(k, answer[:i], 0)
			break
		}
	}
	if len(d.entries) != n {
		t.Errorf("of %d entries %d are left after they were learnt again", n, len(d.entries))
	}
	if n := held(); n > d.bytes {
		t.Errorf("holds %d bytes and counts %d", n, d.bytes)
	}
	d.Forget()
	d.put(descriptionKey{}, answer, 0)
	d.put(descriptionKey{}, answer[:1], 0)
	if d.bytes > 1000 {
		t.Errorf("counts %d bytes of an entry that has grown small", d.bytes)
	}
}

func TestProbesAreBounded(t *testing.T) {
	t.Parallel()
	p := NewProbes()
	a := &Account{User: "u", Database: "d"}
	base := func(v string) *state.Set {
		return state.NewSet([]state.Var{{Name: "app.v", Value: v, Raw: true}, {Name: "application_name", Value: v + "x", Raw: true}})
	}
	p.put(a, base("1"), nil)
	if p.get(a, base("1")) == nil || p.get(a, base("2")) != nil {
		t.Error("does not tell choices apart")
	}
	for i := range maxProbes {
		p.put(a, base(fmt.Sprint(i)), []pgwire.Param{{Name: "x"}})
	}
	if len(p.values) > maxProbes {
		t.Errorf("holds %d", len(p.values))
	}
	p.Forget()
	if len(p.values) != 0 {
		t.Error("something is left")
	}
}

func TestCaptureIsBounded(t *testing.T) {
	t.Parallel()
	c := capture{on: true}
	c.keep([]byte(strings.Repeat("x", maxCapture)))
	if !c.on {
		t.Error("gave up too early")
	}
	if c.keep([]byte("x")); c.on || c.buf != nil {
		t.Error("holds too much")
	}
}
