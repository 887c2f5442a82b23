package tenant

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Directory is the truth about tenants that are not in the configuration. It is safe for concurrent use.
type Directory interface {
	// Get returns the record of an ID, and ErrNotFound if there is none.
	Get(ctx context.Context, id string) (*Record, error)
	// Find returns the record that has a claim, such as name/acme (Record.Claims), and ErrNotFound if none has.
	Find(ctx context.Context, claim string) (*Record, error)
	// List returns all records, in the order of their names.
	List(ctx context.Context) ([]*Record, error)
	// Put writes a record if the directory's has r.Revision still, 0 meaning that there is none, and returns it with its new revision. Else it fails
	// with ErrConflict; if another has one of its claims, with a *TakenError. The entry goes to the audit with it, both or none.
	Put(ctx context.Context, r *Record, e Entry) (*Record, error)
	// Delete takes a record away, if it has that revision still.
	Delete(ctx context.Context, r *Record, e Entry) error
	// Watch tells of changes until ctx is done; then the channel is closed. The first Change has Reset, and all records; so has each that comes after
	// changes may have been missed.
	Watch(ctx context.Context) (<-chan Change, error)
	// Audit returns the latest entries, the newest first; of one tenant if id is not empty.
	Audit(ctx context.Context, id string, limit int) ([]Entry, error)
	// Prune deletes the audit's entries from before a time, and those beyond the latest most; a zero time, or zero, asks for neither. It returns how many it
	// deleted. What is done to a tenant adds entries, and nothing else takes any away.
	Prune(ctx context.Context, before time.Time, most int) (int, error)
	// Drop takes a record away that can't be read, with the claims that it has. It fails with ErrReadable if it can be read, or a newer version could.
	Drop(ctx context.Context, id string, e Entry) error
	// Lock waits until nobody else has a lock of that name, anywhere. It is held until unlock; lost is closed should it be lost before.
	Lock(ctx context.Context, name string) (unlock func(), lost <-chan struct{}, err error)
	// Alive says, until ctx is done, that a host's runner is there; Hosts lists those that are.
	Alive(ctx context.Context, h Host) error
	Hosts(ctx context.Context) ([]Host, error)
	// Close lets go of everything. The directory is not used after.
	Close() error
}

// Change is what changed in a directory.
type Change struct {
	Reset   bool
	Records []*Record
	Deleted []string // IDs
	// Err is not nil while the directory can't be reached: what is known stays as it was.
	Err error
}

// Entry is one line of the audit.
type Entry struct {
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	What   string    `json:"what"` // the verb, and the step of it
	ID     string    `json:"id"`   // of the tenant
	Name   string    `json:"name"`
	Detail string    `json:"detail,omitempty"` // holds no secret
}

// Host is a machine whose instances somebody looks after.
type Host struct {
	Name   string    `json:"name"`
	Runner string    `json:"runner"` // one run of one process
	Since  time.Time `json:"since"`
}

// Errors of a Directory.
var (
	ErrNotFound = errors.New("there is no such tenant")
	ErrReadable = errors.New("the record can be read")
	ErrConflict = errors.New("the tenant was changed by somebody else meanwhile")
	// ErrInUse is a file that another process has open.
	ErrInUse = errors.New("the directory is in use by another process")
)

// TakenError is a claim that another tenant has.
type TakenError struct{ Claim, ID string }

// Error implements error. It does not say who has it.
func (e *TakenError) Error() string { return fmt.Sprintf("%s is taken", e.Claim) }
