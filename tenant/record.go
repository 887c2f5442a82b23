package tenant

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Record is what the directory knows of a tenant. What was got from a directory must not be changed: who wants another makes a Clone.
type Record struct {
	// ID is the tenant's for ever, and no other's (NewID). What it has on servers and disks is named by it, never by Name.
	ID string `json:"id"`
	// Revision is the directory's: it grows with each change. Zero is a record that is not there yet.
	Revision int64 `json:"-"`
	// Name is what logins and operators say. It can be changed.
	Name string `json:"name"`
	// Key is its value of the tenant column, as PostgreSQL prints it; empty = it has none.
	Key       string    `json:"key,omitempty"`
	Isolation Isolation `json:"isolation"`
	Mode      Mode      `json:"mode,omitempty"` // an instance has none
	Phase     Phase     `json:"phase"`
	// Reason is why it failed or is suspended, for operators.
	Reason string `json:"reason,omitempty"`
	Access Access `json:"access"`

	// Cluster is the database of the configuration that a virtual tenant shares with others, and Shard the part of it; below zero = where the mapping
	// has its key. Of an instance, Cluster is where clients come to it as to its virtual tenants; empty = nowhere. It has no Shard.
	Cluster string `json:"cluster,omitempty"`
	Shard   int    `json:"shard,omitempty"`
	// Schema and Role are a virtual tenant's own. Database is that on the server, of an instance too.
	Schema   string `json:"schema,omitempty"`
	Role     string `json:"role,omitempty"`
	Database string `json:"database,omitempty"`

	// Driver made its instance, on Host, and noted in Facts what it has to know of it: its port, directories, user.
	Driver string            `json:"driver,omitempty"`
	Host   string            `json:"host,omitempty"`
	Facts  map[string]string `json:"facts,omitempty"`
	// Endpoint is where it listens.
	Endpoint Endpoint `json:"endpoint,omitzero"`
	// Authority is what pgkennels of other hosts know it by, and it them, if it listens for those (Endpoint.Remote), or a replica does.
	Authority Authority `json:"authority,omitzero"`
	// Version is PostgreSQL's major one, such as 15.
	Version string `json:"version,omitempty"`
	// Admin is the password of the instance's bootstrap superuser, which is pgkennel's.
	Admin      Ciphertext        `json:"admin,omitempty"`
	Limits     Limits            `json:"limits,omitzero"`
	Settings   map[string]string `json:"settings,omitempty"` // of postgresql.conf
	Extensions []string          `json:"extensions,omitempty"`
	Origin     Origin            `json:"origin,omitzero"`
	// SuspendAfter puts an instance to sleep that nobody used for so long; 0 = never.
	SuspendAfter time.Duration `json:"suspend_after,omitempty"` // nanoseconds

	// Logins are who may log in. The first is the tenant's own, and called as the tenant is.
	Logins   []Login   `json:"logins,omitempty"`
	Replicas []Replica `json:"replicas,omitempty"`
	Backups  Backups   `json:"backups,omitzero"`

	// Ends are those of its instance that nobody ordered.
	Ends Ends `json:"ends,omitzero"`

	// Operation is what is being done to it; nil = nothing.
	Operation *Operation `json:"operation,omitempty"`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Forget is when a removed tenant goes with all it has; until then it can be brought back.
	Forget time.Time `json:"forget,omitzero"`
}

// Phase is where a tenant is in its life.
type Phase uint8

// The phases. A tenant can be reached in Ready, and in Asleep, which the first login ends.
const (
	Creating Phase = iota + 1
	Ready          // it serves
	Asleep         // its instance is down because nobody used it; the next login wakes it
	Stopped        // its instance is down until an operator starts it
	OnHold         // suspended by an operator: logins fail as with a wrong password
	Removing       // it is being taken down
	Removed        // it is down, and kept until Forget
	Failed         // an operation failed and could not be undone; Reason says why
)

var phases = [...]string{
	Creating: "creating", Ready: "ready", Asleep: "asleep", Stopped: "stopped", OnHold: "suspended", Removing: "removing", Removed: "removed", Failed: "failed",
}

// String returns the phase's name, as operators see it.
func (p Phase) String() string { return nameOf(phases[:], int(p)) }

// ParsePhase finds a phase by its name.
func ParsePhase(s string) (Phase, bool) { return parse[Phase](phases[:], s) }

// Access says who may use a tenant that is there.
type Access struct {
	Enabled bool `json:"enabled"`
	// Networks are those that clients may come from; none = any.
	Networks []netip.Prefix `json:"networks,omitempty"`
	// ReadOnly: transactions may only read (default_transaction_read_only, which no client may change back). Full: because its disk is nearly full.
	ReadOnly bool `json:"read_only,omitempty"`
	Full     bool `json:"full,omitempty"`
	// Fenced: its roles are kept out at the server too, so that a pooler that did not hear of it can do nothing.
	Fenced bool `json:"fenced,omitempty"`
	// Asked is by which order it was changed, if that waits for the runner of another host: once it is in force at the server, the runner takes this away.
	Asked string `json:"asked,omitempty"`
}

// Endpoint is where a tenant's PostgreSQL listens.
type Endpoint struct {
	Host string `json:"host,omitempty"` // a directory if it begins with /: of its unix socket
	Port int    `json:"port,omitempty"`
	// CA is the certificate, in PEM, of who signs the server's. With it nobody connects but by TLS, and to no server that has not a certificate for Host.
	CA string `json:"ca,omitempty"`
	// Remote is the IP address of its host where it listens, at Port, for pgkennels of other hosts: by TLS, with certificates of the record's Authority on both
	// sides. Empty = it does not.
	Remote string `json:"remote,omitempty"`
}

// Limits bound what a tenant may use; zero = nothing does.
type Limits struct {
	CPU         int   `json:"cpu,omitempty"`    // thousandths of a core
	Memory      int64 `json:"memory,omitempty"` // bytes
	Disk        int64 `json:"disk,omitempty"`   // bytes
	IO          int64 `json:"io,omitempty"`     // bytes a second, of reading, and of writing
	Connections int   `json:"connections,omitempty"`
}

// Origin is the SQL that a tenant's schema was made of.
type Origin struct {
	Template string `json:"template,omitempty"` // file, or tenant whose schema was taken
	Hash     string `json:"hash,omitempty"`     // SHA-256 of the SQL, in hex
}

// Login is somebody who may log in to a tenant.
type Login struct {
	Name string `json:"name"` // the client's word, in front of @tenant
	Role string `json:"role"` // on the server
	// Verifier is of the password that clients prove (SCRAM-SHA-256$...), and Secret the password of the role on the server. They differ, so that
	// who knows the one can't go past the pooler.
	Verifier    string     `json:"verifier"`
	Secret      Ciphertext `json:"secret"`
	ReadOnly    bool       `json:"read_only,omitempty"`
	Superuser   bool       `json:"superuser,omitempty"`
	Disabled    bool       `json:"disabled,omitempty"`
	Connections int        `json:"connections,omitempty"` // 0 = the tenant's
}

// Replica is a read replica of a tenant's instance.
type Replica struct {
	ID       string            `json:"id"`
	Driver   string            `json:"driver"`
	Host     string            `json:"host"`
	Facts    map[string]string `json:"facts,omitempty"`
	Endpoint Endpoint          `json:"endpoint,omitzero"`
	Ends     Ends              `json:"ends,omitzero"`
}

// EndsOf are those of one of the tenant's instances, by its ID; nil = it has none of that.
func (r *Record) EndsOf(id string) *Ends {
	if id == r.ID {
		return &r.Ends
	}
	for i := range r.Replicas {
		if r.Replicas[i].ID == id {
			return &r.Replicas[i].Ends
		}
	}
	return nil
}

// NotDown forgets since when the tenant's instances are down: they are up, or nobody wants them to be.
func (r *Record) NotDown() {
	r.Ends.Down = time.Time{}
	for i := range r.Replicas {
		r.Replicas[i].Ends.Down = time.Time{}
	}
}

// Backups says how a tenant is backed up.
type Backups struct {
	Archive bool          `json:"archive,omitempty"` // its WAL is kept, for restores to a point in time
	Every   time.Duration `json:"every,omitempty"`   // nanoseconds; 0 = on demand only
	Keep    int           `json:"keep,omitempty"`    // how many; 0 = all
}

// Ends are how often an instance ended by itself, or lost a process for want of memory or by a crash, as its host's runner saw it.
type Ends struct {
	Count    int       `json:"count,omitempty"`     // of its server
	OOMKills int64     `json:"oom_kills,omitempty"` // of its processes, by the kernel
	Crashes  int64     `json:"crashes,omitempty"`   // of its processes, by another signal
	Last     time.Time `json:"last,omitzero"`       // when any of them was seen last
	Reason   string    `json:"reason,omitempty"`    // of that
	// Down is since when it is started again and again, and not up; zero = it is up, or to be down.
	Down time.Time `json:"down_since,omitzero"`
	// Known is what of the kernel's count is in OOMKills.
	Known int64 `json:"known,omitempty"`
}

// Operation is the journal of one thing that is done to a tenant, step by step: whoever reads it can go on, or undo it.
type Operation struct {
	ID   string `json:"id"`
	Verb string `json:"verb"` // create, stop, ...
	By   string `json:"by"`   // who wanted it
	// Args are what it was asked for with; secrets in it are Ciphertexts.
	Args map[string]string `json:"args,omitempty"`
	// Runner is who is at it: one run of one process. Another who takes over writes itself here first, and then the first one's changes conflict.
	Runner string `json:"runner,omitempty"`
	// Done are the steps that are through, Now the one that was begun. Undoing: it failed (Error), and steps are taken back from the last one.
	Done     []string  `json:"done,omitempty"`
	Now      string    `json:"now,omitempty"`
	Undoing  bool      `json:"undoing,omitempty"`
	Error    string    `json:"error,omitempty"`
	From     Phase     `json:"from,omitempty"` // the phase before it
	Started  time.Time `json:"started"`
	Attempts int       `json:"attempts,omitempty"`
}

// ids are written in base 32, in lower case: they are part of names of roles, files and units.
var ids = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns an ID that no tenant ever had: 16 letters and digits, of 80 random bits.
func NewID() string {
	var b [10]byte
	rand.Read(b[:]) // it does not fail
	return ids.EncodeToString(b[:])
}

// Clone returns a copy that may be changed.
func (r *Record) Clone() *Record {
	c := *r
	c.Facts, c.Settings = maps.Clone(r.Facts), maps.Clone(r.Settings)
	c.Access.Networks, c.Extensions, c.Logins = slices.Clone(r.Access.Networks), slices.Clone(r.Extensions), slices.Clone(r.Logins)
	c.Replicas = slices.Clone(r.Replicas)
	for i := range c.Replicas {
		c.Replicas[i].Facts = maps.Clone(c.Replicas[i].Facts)
	}
	if r.Operation != nil {
		o := *r.Operation
		o.Args, o.Done = maps.Clone(o.Args), slices.Clone(o.Done)
		c.Operation = &o
	}
	return &c
}

// Routable reports whether clients may reach the tenant, if need be after it was woken.
func (r *Record) Routable() bool {
	return r.Access.Enabled && (r.Phase == Ready || r.Dormant())
}

// VerbWake is the verb of the operation that a client's coming begins.
const VerbWake = "wake"

// Dormant reports whether the tenant is down until somebody comes: asleep, or could not be woken for the last one who came. What kept it down then, such as a
// full disk, may be over.
func (r *Record) Dormant() bool {
	op := r.Operation
	return r.Phase == Asleep || r.Phase == Failed && op != nil && op.Verb == VerbWake && !op.Undoing
}

// Login finds a login by its name, nil if there is none.
func (r *Record) Login(name string) *Login {
	for i := range r.Logins {
		if r.Logins[i].Name == name {
			return &r.Logins[i]
		}
	}
	return nil
}

// Allows reports whether clients may come from an address. Those of unix sockets have none, and may.
func (a *Access) Allows(from netip.Addr) bool {
	if len(a.Networks) == 0 || !from.IsValid() {
		return true
	}
	from = from.Unmap()
	return slices.ContainsFunc(a.Networks, func(p netip.Prefix) bool { return p.Contains(from) })
}

// Claims are the names that the tenant has, and no other may have at the same time. A directory holds them together with the record.
func (r *Record) Claims() []string {
	list := []string{"name/" + r.Name}
	add := func(parts ...string) { list = append(list, strings.Join(parts, "/")) }
	if r.Key != "" && r.Cluster != "" {
		add("key", r.Cluster, r.Key)
	}
	if r.Cluster != "" {
		shard := fmt.Sprint(r.Shard)
		if r.Schema != "" && r.Database == "" {
			add("schema", r.Cluster, shard, r.Schema)
		}
		if r.Role != "" {
			add("role", r.Cluster, r.Role)
		}
		if r.Database != "" {
			add("database", r.Cluster, r.Database)
		}
	}
	port := func(host string, facts map[string]string) {
		if p := facts[PortFact]; p != "" {
			add("port", host, p)
		}
		if u := facts[UIDFact]; u != "" {
			add("uid", host, u)
		}
	}
	port(r.Host, r.Facts)
	for i := range r.Replicas {
		port(r.Replicas[i].Host, r.Replicas[i].Facts)
	}
	return list
}

// PortFact and UIDFact are facts that drivers note of instances which no two instances of a host may share: the TCP port and the user it runs as.
const (
	PortFact = "port"
	UIDFact  = "uid"
)
