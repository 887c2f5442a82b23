// Package tenant says who a tenant is, where it lives, how it is kept apart from the others, and how a login names it.
//
// It is pure: a Registry is an immutable picture of all tenants, made anew when they change. Who asks keeps the one it got.
package tenant

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Isolation is how a tenant's rows are kept apart from others'.
type Isolation uint8

// The isolations.
const (
	// Row: tables shared with others, whose policies show each tenant its own rows (PostgreSQL manual, 5.9 Row Security Policies).
	Row Isolation = iota + 1
	// Schema: a schema and a role of its own in a shared database.
	Schema
	// Database: a database of its own in a shared instance.
	Database
	// Instance: a PostgreSQL of its own.
	Instance
)

var isolations = [...]string{Row: "row", Schema: "schema", Database: "database", Instance: "instance"}

// String returns the isolation's name, as configuration has it.
func (i Isolation) String() string { return nameOf(isolations[:], int(i)) }

// ParseIsolation finds an isolation by its name.
func ParseIsolation(s string) (Isolation, bool) { return parse[Isolation](isolations[:], s) }

// Mode is what holds a tenant within its isolation.
type Mode uint8

// The modes.
const (
	// Strict: server connections log in as the tenant's own role, which can reach nothing else, whatever SQL it runs.
	Strict Mode = iota + 1
	// Sealed: tenants share a login; policies check a signature that only pgkennel can make. Row isolation only.
	Sealed
	// Shared: tenants share a login that may become any of their roles. It holds against mistakes, not against hostile SQL.
	Shared
)

var modes = [...]string{Strict: "strict", Sealed: "sealed", Shared: "shared"}

// String returns the mode's name, as configuration has it.
func (m Mode) String() string { return nameOf(modes[:], int(m)) }

// ParseMode finds a mode by its name.
func ParseMode(s string) (Mode, bool) { return parse[Mode](modes[:], s) }

// State is whether a tenant may be used.
type State uint8

// The states.
const (
	Active    State = iota + 1
	Disabled        // nobody may log in
	Suspended       // nobody may log in, for what the operator knows
)

var states = [...]string{Active: "active", Disabled: "disabled", Suspended: "suspended"}

// String returns the state's name, as configuration has it.
func (s State) String() string { return nameOf(states[:], int(s)) }

// ParseState finds a state by its name.
func ParseState(s string) (State, bool) { return parse[State](states[:], s) }

func nameOf(names []string, i int) string {
	if i <= 0 || i >= len(names) {
		return "unknown"
	}
	return names[i]
}

func parse[T ~uint8](names []string, s string) (T, bool) {
	for i, name := range names {
		if i > 0 && name == s {
			return T(i), true
		}
	}
	return 0, false
}

// Tenant is one customer of the application. It is immutable.
type Tenant struct {
	// Name is what a login says. A tenant that is known by its key only has that for a name.
	Name string
	// Key is its value of the tenant column, as PostgreSQL prints it; empty = it has none.
	Key       string
	Isolation Isolation
	Mode      Mode
	State     State
	// Cluster and Shard are where it lives. A Shard below zero is where the mapping has the key.
	Cluster string
	Shard   int
	// Schema and Role are its own (Schema isolation: both; else a Role where the mode is Strict).
	Schema, Role string
	// Database is its own on the server; empty = the shard's. Database isolation only.
	Database string
	// ID and Access are of the directory's record; empty for tenants of the configuration.
	ID     string
	Access Access
	// Down: its own instance was stopped, or failed, and an operator has to start it.
	Down bool

	context []Setting
}

// Setting is a run-time parameter of a server connection and its value, which is a value and no SQL.
type Setting struct{ Name, Value string }

// SearchPathSetting and RoleSetting are the parameters besides the tenant's own setting that a context may hold.
const (
	SearchPathSetting = "search_path"
	ReadOnlySetting   = "default_transaction_read_only"
	RoleSetting       = "role"
)

// Context returns what a server connection must carry to work for the tenant, in the order in which it is to be set: the role comes last, for
// the tenant's role may set less than the login. In strict mode there is no role in it: the connection's login is the tenant's. The slice must
// not be changed.
func (t *Tenant) Context() []Setting { return t.context }

// SearchPath is the search_path of the tenant's schema, empty if it has none.
func (t *Tenant) SearchPath() string {
	if t.Schema == "" {
		return ""
	}
	return QuoteIdent(t.Schema) + ", public"
}

// Same reports whether both are the same tenant, nil being none. Who has the name of another one, but not its key or its schema, is not.
func (t *Tenant) Same(o *Tenant) bool {
	return t == o || t != nil && o != nil && t.Name == o.Name && t.Cluster == o.Cluster && t.ID == o.ID && t.Key == o.Key && t.Schema == o.Schema
}

// Equal reports whether both have everything in common, but for who may come in.
func (t *Tenant) Equal(o *Tenant) bool {
	a, b := *t, *o
	same := slices.Equal(a.context, b.context)
	a.context, b.context = nil, nil
	a.Access, b.Access = Access{}, Access{}
	return same && reflect.DeepEqual(a, b)
}

func (t *Tenant) setContext(setting string) {
	t.context = nil
	if t.Key != "" && setting != "" {
		t.context = append(t.context, Setting{setting, t.Key})
	}
	if p := t.SearchPath(); p != "" {
		t.context = append(t.context, Setting{SearchPathSetting, p})
	}
	if t.ReadOnly() && t.Isolation != Instance { // whose login says so, and can change
		t.context = append(t.context, Setting{ReadOnlySetting, "on"})
	}
	if t.Mode == Shared && t.Role != "" {
		t.context = append(t.context, Setting{RoleSetting, t.Role})
	}
}

// QuoteIdent quotes an identifier as SQL has it, whatever it is.
func QuoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// MaxName is how long an identifier of PostgreSQL may be, in bytes; what is longer it cuts off (manual, 4.1.1).
const MaxName = 63

// ValidName reports whether s may be a tenant's name: lower-case letters, digits, _ and -, the first a letter or digit.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || s[0] == '-' || s[0] == '_' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// CheckIdent says what is wrong with the name of a tenant's schema, role or database, empty if nothing: it is cut off or folded by
// no tool, and taken for no keyword of SET.
func CheckIdent(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > MaxName:
		return "has more than 63 bytes, which PostgreSQL would cut off"
	case strings.HasPrefix(s, "pg_"):
		return "begins with pg_, which PostgreSQL keeps for itself"
	case s == "public" || s == "none" || s == "information_schema" || s == "postgres" || s == "template0" || s == "template1":
		return "is a name that PostgreSQL has a meaning for"
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return "has other characters than lower-case letters, digits, _ and -"
		}
	}
	return ""
}

// MarshalText implements encoding.TextMarshaler.
func (i Isolation) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Isolation) UnmarshalText(b []byte) error {
	return unmarshal(i, b, ParseIsolation, "isolation")
}

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Mode) UnmarshalText(b []byte) error { return unmarshal(m, b, ParseMode, "mode") }

// MarshalText implements encoding.TextMarshaler.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Phase) UnmarshalText(b []byte) error { return unmarshal(p, b, ParsePhase, "phase") }

func unmarshal[T any](to *T, b []byte, parse func(string) (T, bool), what string) error {
	v, ok := parse(string(b))
	if !ok {
		return fmt.Errorf("%q is no %s", b, what)
	}
	*to = v
	return nil
}
