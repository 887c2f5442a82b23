package envelope

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/tenanttest"
)

// TestUnknownFieldsStay has a newer version add fields, and this one change the record.
func TestUnknownFieldsStay(t *testing.T) {
	t.Parallel()
	r := tenanttest.Full("acme")
	b, _, err := Write(r, 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	newer := edit(t, b, func(m map[string]any) {
		m["outer"] = "o"
		rec := m["record"].(map[string]any)
		rec["color"] = map[string]any{"deep": json.Number("12345678901234567890")}
		rec["limits"].(map[string]any)["iops"] = json.Number("5")
		rec["logins"].([]any)[1].(map[string]any)["quota"] = "q"
		rec["operation"].(map[string]any)["hint"] = "h"
		rec["REASON"] = "" // the same as reason, for Go
		delete(rec, "reason")
	})
	old, _, err := Read(r.ID, newer)
	if err != nil {
		t.Fatal(err)
	}
	if old.Reason != "" {
		t.Errorf("got reason %q, want none", old.Reason)
	}
	next := old.Clone()
	next.Name = "other"
	next.Settings = nil
	next.Logins = append([]tenant.Login{{Name: "new", Role: "t_x_9", Verifier: "v", Secret: "s"}}, next.Logins[1:]...)
	next.Operation.ID = "o2" // another operation, which has no hint
	b, read, err := Write(next, 8, newer)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(next, read, prefixes); diff != "" {
		t.Errorf("what this version knows is not what it wrote (-want +got):\n%s", diff)
	}
	edit(t, b, func(m map[string]any) {
		rec := m["record"].(map[string]any)
		logins := rec["logins"].([]any)
		for what, got := range map[string]any{
			"outer": m["outer"], "12345678901234567890": rec["color"].(map[string]any)["deep"], "5": rec["limits"].(map[string]any)["iops"],
			"q": logins[1].(map[string]any)["quota"],
		} {
			if s, _ := json.Marshal(got); !strings.Contains(string(s), what) && what != "outer" {
				t.Errorf("got %s, want %s kept", s, what)
			}
		}
		if m["outer"] != "o" {
			t.Errorf("got %v, want what is beside the record kept", m["outer"])
		}
		for what, got := range map[string]any{
			"settings": rec["settings"], "REASON": rec["REASON"], "quota": logins[0].(map[string]any)["quota"], "hint": rec["operation"].(map[string]any)["hint"],
		} {
			if got != nil && got != "" {
				t.Errorf("%s is back: %v", what, got)
			}
		}
	})
	// What this version sets is not hidden by another spelling of it.
	next.Reason = "now"
	if _, read, err = Write(next, 8, newer); err != nil || read.Reason != "now" {
		t.Errorf("got %v, %v, want the reason", read, err)
	}
}

// edit changes JSON.
func edit(t *testing.T, b []byte, f func(map[string]any)) []byte {
	t.Helper()
	v, err := tree(b)
	if err != nil {
		t.Fatal(err)
	}
	f(v.(map[string]any))
	b, err = json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	good, _, err := Write(newRecord("acme"), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	record := func(change func(map[string]any)) string {
		return string(edit(t, good, func(m map[string]any) { change(m["record"].(map[string]any)) }))
	}
	r := newRecord("acme")
	for name, test := range map[string]struct{ value, want string }{
		"nothing":             {"", "unexpected end"},
		"null":                {"null", "no record"},
		"no format":           {`{"record":{}}`, "no record"},
		"no record":           {`{"format":1}`, "no record"},
		"cut off":             {string(good[:len(good)/2]), "unexpected end"},
		"more behind it":      {string(good) + "{}", "after top-level"},
		"newer":               {`{"format":2,"record":[1]}`, "newer version"},
		"too long":            {strings.Repeat(" ", MaxBytes+1), "bytes"},
		"deep":                {strings.Repeat("[", 100000), "depth"},
		"another's":           {string(good), "another tenant"},
		"an unknown phase":    {record(func(m map[string]any) { m["phase"] = "flying" }), "no phase"},
		"no phase":            {record(func(m map[string]any) { m["id"] = r.ID; delete(m, "phase") }), "no phase"},
		"an empty isolation":  {record(func(m map[string]any) { m["isolation"] = "" }), "no isolation"},
		"a name of a path":    {record(func(m map[string]any) { m["id"], m["name"] = r.ID, "../x" }), "not valid"},
		"a bad network":       {record(func(m map[string]any) { m["access"] = map[string]any{"networks": []string{"all"}} }), "netip"},
		"a number for a name": {record(func(m map[string]any) { m["name"] = 5 }), "cannot unmarshal"},
	} {
		_, _, err := Read(r.ID, []byte(test.value))
		var damaged *DamagedError
		if !errors.As(err, &damaged) || damaged.ID != r.ID || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want %q", name, err, test.want)
		}
	}
	if _, _, err := Read("../x", good); err == nil {
		t.Error("an ID that is a path was taken")
	}
}

// FuzzRead reads records of which nothing is known: what is read can be written and read again, and has the claims that it had.
func FuzzRead(f *testing.F) {
	r := tenanttest.Full("acme")
	r.ID = "aaaaaaaaaaaaaaaa"
	good, _, err := Write(r, 5, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"record":{"id":"aaaaaaaaaaaaaaaa","name":"a","isolation":"row","phase":"ready","Name":"b","x":[{"id":"1"}],"access":null}}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"record":{"id":"aaaaaaaaaaaaaaaa","name":"a","isolation":"row","phase":"ready","logins":[null,{"role":"r","new":1}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		read, at, err := Read(r.ID, b)
		if err != nil {
			return
		}
		_, again, err := Write(read, at, b)
		if err != nil {
			if len(b) < MaxBytes/8 && len(Claims(read)) <= MaxClaims {
				t.Fatalf("it can be read, but not written: %v", err)
			}
			return
		}
		if diff := cmp.Diff(Claims(read), Claims(again)); diff != "" {
			t.Fatalf("written again it has other claims:\n%s", diff)
		}
		if again.Phase != read.Phase || again.Access.Enabled != read.Access.Enabled || again.Access.ReadOnly != read.Access.ReadOnly {
			t.Fatalf("written again it is %+v, and was %+v", again, read)
		}
	})
}

// newRecord is one with as little as possible.
func newRecord(name string) *tenant.Record {
	return &tenant.Record{ID: tenant.NewID(), Name: name, Isolation: tenant.Instance, Phase: tenant.Ready}
}

// prefixes compares addresses, and takes none for an empty list.
var prefixes = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()}
