package store

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// FuzzCache feeds the reader of saved directories, with the right sum and without: nothing comes of what is not whole, and no record that a directory would not
// have taken.
func FuzzCache(f *testing.F) {
	head := `{"pgkennel_cache":1,"source":"s","saved":"2026-11-22T20:00:00Z","records":%d}` + "\n"
	record := `{"revision":7,"record":{"id":"a","name":"a","isolation":"schema","phase":"ready"}}` + "\n"
	f.Add(fmt.Appendf(nil, head, 0))
	f.Add(fmt.Appendf(nil, head+record, 1))
	f.Add(fmt.Appendf(nil, head+record+record, 2))
	f.Add(fmt.Appendf(nil, head+record, -1))
	f.Add(fmt.Appendf(nil, head+record, 1<<60))
	f.Add(fmt.Appendf(nil, head+`{"revision":1,"record":null}`+"\n", 1))
	f.Add([]byte("{}\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, list, err := decodeCache(bytes.NewReader(text), "s"); err != nil && list != nil {
			t.Errorf("%d records of %q, in spite of %v", len(list), text, err)
		}
		whole := fmt.Appendf(bytes.Clone(text), "%x\n", sha256.Sum256(text))
		got, list, err := decodeCache(bytes.NewReader(whole), "s")
		if err != nil {
			if list != nil {
				t.Errorf("%d records of %q, in spite of %v", len(list), whole, err)
			}
			return
		}
		if got.Records != len(list) || got.Source != "s" {
			t.Errorf("%d records of %+v", len(list), got)
		}
		for _, r := range list {
			if err := envelope.Check(r.ID, r); err != nil {
				t.Errorf("%s was taken: %v", r.ID, err)
			}
		}
		m := NewMirror(nil, MirrorOptions{Source: "s"})
		m.apply(tenant.Change{Reset: true, Records: list})
		var b bytes.Buffer
		if err := m.write(&b); err != nil {
			t.Error(err)
		}
		if _, again, err := decodeCache(&b, "s"); err != nil || len(again) != m.Len() {
			t.Errorf("%d records of %d are read again: %v", len(again), m.Len(), err)
		}
	})
}
