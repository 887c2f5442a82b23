package provision

import (
	"context"
	"io"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
)

// Backup is one copy of a tenant's data.
type Backup struct {
	ID       string    `json:"id"`     // begins with its time, in UTC
	Tenant   string    `json:"tenant"` // ID
	Kind     string    `json:"kind"`   // logical or physical
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Version  string    `json:"version"` // PostgreSQL's major one
	Bytes    int64     `json:"bytes"`   // as kept: compressed and encrypted
	SHA256   string    `json:"sha256"`  // of what is kept
	// Verified is when it was last restored to see whether it can be.
	Verified time.Time `json:"verified,omitzero"`
	// From is the earliest time to which a physical one can be restored; Until the latest, as far as WAL was archived.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Note  string    `json:"note,omitempty"` // such as final
}

// The kinds of backups.
const (
	Logical  = "logical"
	Physical = "physical"
)

// Source is a tenant's database, to be read from or written to.
type Source struct {
	Record   *tenant.Record
	Instance *Instance // whose Password is good; of a virtual tenant the shared server's
	Driver   Driver    // of Instance
	// Connect is how its database is reached as somebody who may read and write all of the tenant's.
	Connect Connect
	// Column is the tenant column, and Tables those that have it, quoted, with those first that others refer to: where the tenant shares tables, its data are the
	// rows in them that have Record.Key in Column.
	Column string
	Tables []string
}

// Archive keeps backups: encrypted, with their checksums. It is safe for concurrent use.
type Archive interface {
	// Dump makes a logical backup (pg_dump, custom format), Base a physical one (pg_basebackup). What failed leaves nothing.
	Dump(ctx context.Context, from Source, note string, report func(Progress)) (*Backup, error)
	Base(ctx context.Context, from Source, note string, report func(Progress)) (*Backup, error)
	// List returns a tenant's backups, the newest first.
	List(ctx context.Context, id string) ([]Backup, error)
	// Load restores a logical backup into a database without tables; all or nothing.
	Load(ctx context.Context, b *Backup, to Source, report func(Progress)) error
	// Unpack makes a data directory of a physical backup, for an instance that is down, and has it recover until a time; zero = as far as WAL is there.
	Unpack(ctx context.Context, b *Backup, to Source, until time.Time, report func(Progress)) error
	// Check reads a backup and compares checksums; Verified notes that it was restored.
	Check(ctx context.Context, b *Backup, until time.Time) error
	Verified(ctx context.Context, b *Backup, at time.Time) error
	// Collect takes finished WAL segments out of the spool into the archive.
	Collect(ctx context.Context, from Source) error
	// Expire deletes a tenant's oldest backups but keep, with WAL that no backup needs; Forget all of them.
	Expire(ctx context.Context, id string, keep int) ([]Backup, error)
	Forget(ctx context.Context, id string) error
}

// Transfer brings a tenant from one pgkennel to another, as one file. An Archive may be one too.
type Transfer interface {
	// Export writes a logical backup, encrypted if there is a passphrase.
	Export(ctx context.Context, b *Backup, passphrase string, w io.Writer, report func(Progress)) error
	// Import makes a backup of a tenant, to be loaded, of what Export wrote. What failed leaves nothing.
	Import(ctx context.Context, id, passphrase string, r io.Reader, report func(Progress)) (*Backup, error)
}

// Virtual makes tenants in databases that they share with others.
type Virtual interface {
	// Place completes the record of a new tenant: its database, shard, schema, role; or refuses it. It makes nothing.
	Place(ctx context.Context, r *tenant.Record) error
	// Attach completes the record of a tenant with an instance of its own to which clients of such a database come as well: the database, and its key there;
	// or refuses it. It makes nothing, and asks no server.
	Attach(ctx context.Context, r *tenant.Record) error
	// Make makes what the record says (schema, role, privileges, database), Unmake takes it away with all data. Both can be repeated.
	Make(ctx context.Context, r *tenant.Record) error
	Unmake(ctx context.Context, r *tenant.Record) error
	// Fence keeps a tenant's own role out at the server itself, or lets it in again, and ends its connections.
	Fence(ctx context.Context, r *tenant.Record, closed bool) error
	// Source is how the tenant's data are read and written by an operator.
	Source(ctx context.Context, r *tenant.Record) (Source, error)
	// Size is how many bytes its data have.
	Size(ctx context.Context, r *tenant.Record) (int64, error)
}
