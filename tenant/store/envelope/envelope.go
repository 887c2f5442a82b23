// Package envelope writes and reads tenants' records as the stores keep them: JSON, with a format.
//
// Fields that this version does not know stay as they are when it writes a record, so that an older version may work beside a newer one; what an older one
// must not overlook gets a higher format, and then that refuses to read it.
package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/tenant"
)

// The limits of a record. etcd takes requests of 1.5 MiB, and transactions of 128 operations.
const (
	MaxBytes  = 512 << 10
	MaxClaims = 50
)

// Format is the format that this version writes, and the highest that it reads.
const Format = 1

// ErrNewer is what a newer version wrote in a way that this one does not understand.
var ErrNewer = errors.New("it was written by a newer version of pgkennel")

// DamagedError is a record that can't be read.
type DamagedError struct {
	ID  string
	Err error
}

// Error implements error.
func (e *DamagedError) Error() string { return fmt.Sprintf("record of tenant %s: %v", e.ID, e.Err) }

// Unwrap returns why.
func (e *DamagedError) Unwrap() error { return e.Err }

// Claims returns a record's claims, each once, for two of a tenant's instances may well run as one user; none of no record.
func Claims(r *tenant.Record) []string {
	if r == nil {
		return nil
	}
	list := r.Claims()
	slices.Sort(list)
	return slices.Compact(list)
}

// envelope is a record as it is kept.
type envelope struct {
	Format int `json:"format"`
	// At is when the last entry of the audit about it was made, in nanoseconds since 1970: the next one's is later, whatever the clocks say.
	At     int64          `json:"at,omitempty"`
	Record *tenant.Record `json:"record"`
}

// Write writes a record, with what before had of fields that this version does not know; before is empty if there is none. It returns the record as it
// will be read, too.
func Write(r *tenant.Record, at int64, before []byte) ([]byte, *tenant.Record, error) {
	b, err := json.Marshal(envelope{Format, at, r})
	if err != nil {
		return nil, nil, fmt.Errorf("record of tenant %s: %w", r.ID, err)
	}
	if len(before) > 0 {
		if b, err = carry(before, b); err != nil {
			return nil, nil, &DamagedError{r.ID, err}
		}
	}
	read, _, err := Read(r.ID, b)
	if err != nil {
		return nil, nil, err
	}
	if n := len(Claims(read)); n > MaxClaims {
		return nil, nil, fmt.Errorf("record of tenant %s: it has %d claims on names, ports and users; %d are possible", r.ID, n, MaxClaims)
	}
	return b, read, nil
}

// Read reads a record of which nothing is known but the ID that it should have.
func Read(id string, b []byte) (*tenant.Record, int64, error) {
	r, at, err := parse(b)
	if err == nil {
		err = Check(id, r)
	}
	if err != nil {
		return nil, 0, &DamagedError{id, err}
	}
	return r, at, nil
}

func parse(b []byte) (*tenant.Record, int64, error) {
	if len(b) > MaxBytes {
		return nil, 0, fmt.Errorf("it has %d bytes; %d are possible", len(b), MaxBytes)
	}
	var e envelope
	err := json.Unmarshal(b, &e)
	if err != nil {
		// A newer format may not even fit our types.
		var only struct{ Format int }
		if json.Unmarshal(b, &only) == nil {
			e.Format = only.Format
		}
	}
	switch {
	case e.Format > Format:
		return nil, 0, ErrNewer
	case err != nil:
		return nil, 0, err
	case e.Format < 1 || e.Record == nil:
		return nil, 0, errors.New("it is no record")
	}
	return e.Record, e.At, nil
}

// Check looks at what everybody else relies on: files, units and roles are named by the ID, and logins by the name.
func Check(id string, r *tenant.Record) error {
	switch {
	case !tenant.ValidName(id):
		return errors.New("its ID is not valid")
	case r.ID != id:
		return errors.New("it is that of another tenant")
	case !tenant.ValidName(r.Name):
		return fmt.Errorf("the name %q is not valid: it may have up to 63 lower-case letters, digits, _ and -, and begins with a letter or digit", r.Name)
	case r.Isolation == 0:
		return errors.New("it has no isolation")
	case r.Phase == 0:
		return errors.New("it has no phase")
	}
	return nil
}

// carry returns next with the fields of before that this version does not know.
func carry(before, next []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(before))
	dec.DisallowUnknownFields()
	var e envelope
	if dec.Decode(&e) == nil {
		return next, nil // it knows all of them
	}
	old, at, err := parse(before)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(envelope{Format, at, old})
	if err != nil {
		return nil, err
	}
	raw, err1 := tree(before)
	known, err2 := tree(b)
	fresh, err3 := tree(next)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return json.Marshal(merge(raw, known, fresh))
}

// tree parses JSON; numbers stay as they are written.
func tree(b []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return v, dec.Decode(&v)
}

// merge adds to fresh what raw has and known, which is raw as this version understands it, has not.
func merge(raw, known, fresh any) any {
	switch fresh := fresh.(type) {
	case map[string]any:
		raw, ok1 := raw.(map[string]any)
		known, ok2 := known.(map[string]any)
		if ok1 && ok2 && identity(known) == identity(fresh) {
			mergeFields(raw, known, fresh)
		}
	case []any:
		raw, ok1 := raw.([]any)
		known, ok2 := known.([]any)
		if !ok1 || !ok2 || len(raw) != len(known) {
			return fresh
		}
		for i := range fresh {
			for j := range known {
				if key := identity(fresh[i]); key != "" && identity(known[j]) == key {
					fresh[i] = merge(raw[j], known[j], fresh[i])
					break
				}
			}
		}
	}
	return fresh
}

func mergeFields(raw, known, fresh map[string]any) {
	for name, value := range raw {
		if k, ok := known[name]; ok {
			if f, ok := fresh[name]; ok {
				fresh[name] = merge(value, k, f)
			}
		} else if !hasFold(known, name) && !hasFold(fresh, name) {
			fresh[name] = value
		}
	}
}

// hasFold reports whether there is a field of that name as encoding/json compares them.
func hasFold(m map[string]any, name string) bool {
	for k := range m {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// identity tells elements of lists apart, and an operation from the next.
func identity(v any) string {
	m, _ := v.(map[string]any)
	for _, field := range []string{"id", "role"} {
		if s, ok := m[field].(string); ok {
			return s
		}
	}
	return ""
}
