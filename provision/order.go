package provision

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Executor carries out orders: a Manager, or the API's client, for one in another process.
type Executor interface {
	// Execute returns when the order is carried out, or has failed, with a *Error. report, if not nil, is told how it goes on. An order whose operation was
	// recorded goes on when ctx ends: Execute returns, and it can be looked at with show.
	Execute(ctx context.Context, o Order, report func(Progress)) (*Result, error)
}

// The verbs of orders.
const (
	VerbCreate    = "create"
	VerbList      = "list"
	VerbShow      = "show"
	VerbStart     = "start"
	VerbStop      = "stop"
	VerbRestart   = "restart"
	VerbSuspend   = "suspend"
	VerbResume    = "resume"
	VerbEnable    = "enable-access"
	VerbDisable   = "disable-access"
	VerbReadOnly  = "read-only"
	VerbRename    = "rename"
	VerbSet       = "set"
	VerbPassword  = "password"
	VerbConnect   = "connect" // what psql needs
	VerbLogs      = "logs"
	VerbStats     = "stats"
	VerbBackup    = "backup"
	VerbBackups   = "backups"
	VerbVerify    = "verify" // backup --verify
	VerbRestore   = "restore"
	VerbClone     = "clone"
	VerbRemove    = "remove"
	VerbRepair    = "repair"
	VerbRekey     = "rekey"
	VerbDrop      = "drop" // a record that can't be read, by its ID
	VerbImport    = "import"
	VerbExport    = "export"
	VerbUser      = "user"
	VerbReplica   = "replica"
	VerbAudit     = "audit"
	VerbSleep     = "sleep" // the pooler's own, or the runner's
	VerbWake      = tenant.VerbWake
	VerbMaintain  = "maintain" // the runner's own: disk full, read only; and not any more
	VerbReconcile = "reconcile"
)

// Order is one thing to be done. Fields that its verb has no use for are an error.
type Order struct {
	Verb   string `json:"verb"`
	Tenant string `json:"tenant,omitempty"` // its name; repair, list and rekey may have none: all
	By     string `json:"-"`                // who wants it; the API sets it

	// create, clone, set
	Isolation    string            `json:"isolation,omitempty"`
	Mode         string            `json:"mode,omitempty"`
	Key          string            `json:"key,omitempty"`
	Cluster      string            `json:"database,omitempty"` // of the configuration
	Shard        *int              `json:"shard,omitempty"`
	Driver       string            `json:"driver,omitempty"`
	Host         string            `json:"host,omitempty"`
	Version      string            `json:"version,omitempty"`
	Template     string            `json:"template,omitempty"` // a file of SQL in the template directory, or tenant:NAME
	Extensions   []string          `json:"extensions,omitempty"`
	Limits       *tenant.Limits    `json:"limits,omitempty"`
	LimitsOnly   []string          `json:"limits_only,omitempty"` // set: of Limits, only those of these names count; empty = all
	Settings     map[string]string `json:"settings,omitempty"`    // an empty value takes one back
	Superuser    bool              `json:"superuser,omitempty"`
	Password     string            `json:"password,omitempty"` // empty = one is made
	Init         string            `json:"init,omitempty"`     // SQL
	Enable       bool              `json:"enable,omitempty"`
	SuspendAfter *time.Duration    `json:"suspend_after,omitempty"`
	Archive      *bool             `json:"archive,omitempty"`
	Every        *time.Duration    `json:"backup_every,omitempty"`
	Keep         *int              `json:"backup_keep,omitempty"`
	DryRun       bool              `json:"dry_run,omitempty"`

	Now      bool           `json:"now,omitempty"`      // disable-access: close sessions; remove: no grace; stop: do not wait for transactions
	Networks []netip.Prefix `json:"networks,omitempty"` // enable-access
	On       *bool          `json:"on,omitempty"`       // read-only
	Name     string         `json:"name,omitempty"`     // rename; clone and restore: the new tenant's; import: likewise
	Backup   string         `json:"backup,omitempty"`   // restore, verify: its ID; empty = the latest
	Kind     string         `json:"kind,omitempty"`     // backup: logical or physical
	ToTime   time.Time      `json:"to_time,omitzero"`
	Action   string         `json:"action,omitempty"` // user, replica: create, remove, set, password, list
	Login    string         `json:"login,omitempty"`  // user; password: whose
	ReadOnly *bool          `json:"read_only,omitempty"`
	Replica  string         `json:"replica,omitempty"`
	Force    bool           `json:"force,omitempty"`
	File     string         `json:"file,omitempty"` // import, export
	// Passphrase encrypts what export writes; empty = it is not encrypted.
	Passphrase string `json:"passphrase,omitempty"`
	Lines      int    `json:"lines,omitempty"`
	Follow     bool   `json:"follow,omitempty"`
	Removed    bool   `json:"removed,omitempty"` // list: those too
	Limit      int    `json:"limit,omitempty"`
}

// Progress is how an order goes on.
type Progress struct {
	Tenant string `json:"tenant,omitempty"`
	Step   string `json:"step,omitempty"`
	// Done of Total: steps, or bytes if Bytes.
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
	Bytes bool   `json:"bytes,omitempty"`
	Line  string `json:"line,omitempty"` // of a log
}

// Result is what an order led to.
type Result struct {
	Changed bool           `json:"changed"`
	Tenants []*View        `json:"tenants,omitempty"`
	Secrets []Secret       `json:"secrets,omitempty"` // shown once
	Backups []Backup       `json:"backups,omitempty"`
	Audit   []tenant.Entry `json:"audit,omitempty"`
	// Plan is what a dry run would do, step by step.
	Plan  []string `json:"plan,omitempty"`
	Notes []string `json:"notes,omitempty"` // such as what a setting still needs
	// Connect is how an operator reaches the tenant's database itself.
	Connect *Connect `json:"connect,omitempty"`
}

// Secret is a password that was made.
type Secret struct {
	Login    string `json:"login"`
	Password string `json:"password"`
}

// Connect is how an operator reaches a database.
type Connect struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	User     string `json:"user"`
	Password string `json:"password"`
	Database string `json:"database"`
	// Options are startup options (libpq's options, PGOPTIONS) with which the session is who it should be: what a virtual tenant's makes belongs to the role that
	// owns what tenants use. Who only reads can do without.
	Options string `json:"options,omitempty"`
	// CA is the authority that the server's certificate has to come from, in PEM, if there is one: then by TLS only (sslmode=verify-full).
	CA string `json:"ca,omitempty"`
	// Auth is how the server has to ask for the password, as libpq's require_auth; empty = as it likes. One of pgkennel's own proves itself by that.
	Auth string `json:"require_auth,omitempty"`
}

// Env is what libpq is told of it that has no place in a program's arguments. Before version 16 it lets a server ask as it likes: the server should have proved
// itself just before.
func (c *Connect) Env() []string {
	env := []string{"PGPASSWORD=" + c.Password, "PGPASSFILE=/dev/null"}
	if c.Auth != "" {
		env = append(env, "PGREQUIREAUTH="+c.Auth)
	}
	return env
}

// requirement is Auth as a part of a connection string. Without one, the environment may have it.
func (c *Connect) requirement() string {
	if c.Auth == "" {
		return ""
	}
	return " channel_binding=prefer require_auth=" + c.Auth
}

// ConnString is how pgx connects, but for the password and the authority.
func (c *Connect) ConnString() string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname='%s' passfile=/dev/null%s", quote.Replace(c.Host), c.Port, quote.Replace(c.User), quote.Replace(c.Database), c.requirement())
}

// View is a tenant as operators see it: without secrets.
type View struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Key          string            `json:"key,omitempty"`
	Isolation    string            `json:"isolation"`
	Mode         string            `json:"mode,omitempty"`
	Phase        string            `json:"state"`
	Reason       string            `json:"reason,omitempty"`
	Access       tenant.Access     `json:"access"`
	Cluster      string            `json:"cluster,omitempty"`
	Shard        *int              `json:"shard,omitempty"`
	Schema       string            `json:"schema,omitempty"`
	Role         string            `json:"role,omitempty"`
	Database     string            `json:"database,omitempty"`
	Driver       string            `json:"driver,omitempty"`
	Host         string            `json:"host,omitempty"`
	Endpoint     tenant.Endpoint   `json:"endpoint,omitzero"`
	Version      string            `json:"version,omitempty"`
	Limits       tenant.Limits     `json:"limits,omitzero"`
	Settings     map[string]string `json:"settings,omitempty"`
	Extensions   []string          `json:"extensions,omitempty"`
	Origin       tenant.Origin     `json:"origin,omitzero"`
	SuspendAfter time.Duration     `json:"suspend_after,omitempty"`
	Logins       []LoginView       `json:"logins,omitempty"`
	Replicas     []tenant.Replica  `json:"replicas,omitempty"`
	Backups      tenant.Backups    `json:"backups,omitzero"`
	Operation    *OperationView    `json:"operation,omitempty"`
	Ends         tenant.Ends       `json:"ends,omitzero"`
	Usage        *Usage            `json:"usage,omitempty"`
	Stats        map[string]int64  `json:"stats,omitempty"`
	Created      time.Time         `json:"created"`
	Updated      time.Time         `json:"updated"`
	Forget       time.Time         `json:"forget,omitzero"`
}

// LoginView is a login without its secrets.
type LoginView struct {
	Name        string `json:"name"`
	ReadOnly    bool   `json:"read_only,omitempty"`
	Superuser   bool   `json:"superuser,omitempty"`
	Disabled    bool   `json:"disabled,omitempty"`
	Connections int    `json:"connections,omitempty"`
}

// OperationView is what is being done to a tenant.
type OperationView struct {
	Verb    string    `json:"verb"`
	By      string    `json:"by"`
	Step    string    `json:"step"`
	Undoing bool      `json:"undoing,omitempty"`
	Error   string    `json:"error,omitempty"`
	Started time.Time `json:"started"`
}

// ErrorKind is what sort of failure an order met.
type ErrorKind string

// The kinds.
const (
	KindInvalid  ErrorKind = "invalid" // the order makes no sense
	KindNotFound ErrorKind = "not_found"
	KindTaken    ErrorKind = "taken"   // a name, a key
	KindState    ErrorKind = "state"   // the tenant is in a state in which that can't be done
	KindBusy     ErrorKind = "busy"    // something else is being done to it
	KindRefused  ErrorKind = "refused" // the host can't give it
	KindFailed   ErrorKind = "failed"
)

// Error is why an order was not carried out.
type Error struct {
	Kind    ErrorKind `json:"kind"`
	Message string    `json:"message"`
	Detail  string    `json:"detail,omitempty"`
	Hint    string    `json:"hint,omitempty"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// WithDetail and WithHint return the error with one more field.
func (e *Error) WithDetail(format string, args ...any) *Error {
	c := *e
	c.Detail = fmt.Sprintf(format, args...)
	return &c
}

// WithHint returns the error with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}
