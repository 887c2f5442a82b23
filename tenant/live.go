package tenant

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync/atomic"
)

// Live finds the records of a directory, as it is now. Its methods take no lock and return at once; what they return does not change.
type Live interface {
	ByName(name string) *Record
	ByID(id string) *Record
	ByKey(cluster, key string) *Record
	BySchema(cluster, schema string) *Record
	// All calls f for each record until it returns false.
	All(f func(*Record) bool)
}

// follower makes tenants of records. It remembers those it made last, so that who asks often gets the same one.
type follower struct {
	from Live
	made [1 << 14]atomic.Pointer[followed]
	seed maphash.Seed
}

// followed is a tenant and the record that it was made of; the tenant is nil if it can't be one.
type followed struct {
	rec *Record
	t   *Tenant
}

// Follow has the registry know the tenants of a directory that are in a cluster, besides its own, which win. It is called before the registry is used.
func (r *Registry) Follow(l Live) { r.live = &follower{from: l, seed: maphash.MakeSeed()} }

// Virtual reports whether the tenant shares a cluster of the configuration with others.
func (r *Record) Virtual() bool { return r.Cluster != "" && r.Isolation != Instance }

// InCluster reports whether clients of a cluster of the configuration come to the tenant: it is virtual, or has an instance of its own all the same.
func (r *Record) InCluster() bool { return r.Cluster != "" }

// followed is the tenant of a record; nil if that is none, or none yet.
func (r *Registry) followed(rec *Record) *Tenant {
	if rec == nil || !rec.InCluster() || rec.Phase == Creating || rec.Phase == Removing || rec.Phase == Removed {
		return nil
	}
	at := &r.live.made[maphash.String(r.live.seed, rec.ID)%uint64(len(r.live.made))]
	if f := at.Load(); f != nil && f.rec == rec {
		return f.t
	}
	f := &followed{rec: rec}
	t := &Tenant{
		Name: rec.Name, Key: rec.Key, Isolation: rec.Isolation, Mode: rec.Mode, Cluster: rec.Cluster, Shard: rec.Shard,
		Schema: rec.Schema, Role: rec.Role, Database: rec.Database, ID: rec.ID, State: Active, Access: rec.Access,
	}
	if rec.Isolation == Instance { // where it is, and how to log in there, is the instance's to know: its sessions go on when that changes
		t.Mode, t.Shard, t.Role, t.Database = Strict, 0, "", ""
		t.Down = rec.Access.Enabled && (rec.Phase == Stopped || rec.Phase == Failed && !rec.Dormant())
	}
	switch {
	case rec.Phase == OnHold:
		t.State = Suspended
	case !rec.Routable() && !t.Down, rec.Isolation == Instance && (len(rec.Logins) == 0 || rec.Logins[0].Disabled):
		t.State = Disabled
	}
	if r.names[t.Name] == nil && (t.Key == "" || r.keys[place{t.Cluster, t.Key}] == nil) && r.complete(t) == nil && !r.ownsOf(t) {
		f.t = t
	}
	at.Store(f)
	return f.t
}

// takenLive reports whether the directory has the name, or a place, that a tenant without an entry would have.
func (r *Registry) takenLive(t *Tenant) bool {
	if r.live == nil {
		return false
	}
	other := func(rec *Record) bool { return rec != nil && (rec.Cluster != t.Cluster || rec.Key != t.Key) }
	if other(r.live.from.ByName(t.Name)) || t.Schema != "" && other(r.live.from.BySchema(t.Cluster, t.Schema)) {
		return true
	}
	for _, name := range []string{t.Schema, t.Role, t.Database} { // what tenants of the directory have is named by their IDs
		if id, ok := strings.CutPrefix(name, "t_"); ok && other(r.live.from.ByID(id)) {
			return true
		}
	}
	return false
}

// Configured reports whether a tenant of the configuration is called so.
func (r *Registry) Configured(name string) bool { return r.names[name] != nil }

// ConfiguredKey finds a tenant of the configuration by its key; nil if none has an entry with it.
func (r *Registry) ConfiguredKey(cluster, key string) *Tenant { return r.keys[place{cluster, key}] }

// Makes reports whether a key without an entry makes a tenant of a cluster, which is called as the key is.
func (r *Registry) Makes(cluster, key string) bool { return key != "" && r.makes(cluster, key) }

// Allows reports whether clients of an address may be the tenant's.
func (t *Tenant) Allows(from netip.Addr) bool { return t.Access.Allows(from) }

// ReadOnly reports whether the tenant may only read.
func (t *Tenant) ReadOnly() bool { return t.Access.ReadOnly || t.Access.Full }

// Entries calls f for each tenant of the configuration until it returns false.
func (r *Registry) Entries(f func(*Tenant) bool) {
	for i := range r.o.Tenants {
		if t := r.names[r.o.Tenants[i].Name]; t != nil && !f(t) {
			return
		}
	}
}
