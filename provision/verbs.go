package provision

import (
	"context"
	"slices"

	"github.com/pgkennel/pgkennel/tenant"
)

// verb is what there is to know of one.
type verb struct {
	// fields are those of an Order that it has a use for.
	fields []string
	named  bool // it needs a tenant's name
	// read carries out what changes no tenant.
	read func(ctx context.Context, m *Manager, o Order, report func(Progress)) (*Result, error)
	// begin looks whether the tenant is in a state for it, and changes the record as it is to be from the beginning of the operation. It makes nothing.
	begin func(ctx context.Context, c *change) error
	// makes: begin makes the record (create, clone).
	makes bool
	// steps are the operation's, in their order; none = the record is all there is to change. They follow from the record alone, all through the
	// operation.
	steps func(j *job) []step
	// after is done to a tenant whose record was changed; what fails there is the runner's to try again.
	after func(ctx context.Context, m *Manager, r *tenant.Record) error
	// undo: what failed is undone. Else it stays where it is, and the phase is failed.
	undo bool
	// aside: it goes while another operation is under way.
	aside bool
	// physical: it makes no sense for virtual tenants.
	physical bool
}

// step is a small part of an operation, which can be repeated.
type step struct {
	name string
	do   func(ctx context.Context, j *job) error
	undo func(ctx context.Context, j *job) error // nil = there is nothing to undo
}

// verbRestoreAs is restore with the name of a new tenant, which gets what the backup has.
const verbRestoreAs = "restore-as"

var placement = []string{
	"Tenant", "Isolation", "Mode", "Key", "Cluster", "Shard", "Driver", "Host", "Version", "Extensions", "Limits", "Settings", "Superuser", "Password",
	"Enable", "SuspendAfter", "Archive", "Every", "Keep", "DryRun", "Networks",
}

func with(list []string, more ...string) []string { return append(slices.Clone(list), more...) }

// verbs is the table of all verbs.
func verbs() map[string]*verb {
	one := []string{"Tenant"}
	return map[string]*verb{
		VerbCreate: {fields: with(placement, "Template", "Init"), named: true, makes: true, begin: beginCreate, steps: createSteps, undo: true},

		VerbList:  {fields: []string{"Tenant", "Removed"}, read: list},
		VerbShow:  {fields: one, named: true, read: show},
		VerbAudit: {fields: []string{"Tenant", "Limit"}, read: audit},

		VerbStart:   {fields: one, named: true, begin: beginStart, steps: startSteps, physical: true},
		VerbResume:  {fields: one, named: true, begin: beginResume, steps: resumeSteps},
		VerbWake:    {fields: one, named: true, begin: beginWake, steps: startSteps, physical: true},
		VerbStop:    {fields: []string{"Tenant", "Now"}, named: true, begin: beginStop, steps: stopSteps, physical: true},
		VerbSleep:   {fields: []string{"Tenant", "Now"}, named: true, undo: true, begin: beginSleep, steps: stopSteps, physical: true},
		VerbSuspend: {fields: []string{"Tenant", "Now"}, named: true, begin: beginSuspend, steps: suspendSteps},
		VerbRestart: {fields: []string{"Tenant", "Now"}, named: true, begin: beginRestart, steps: restartSteps, physical: true},

		VerbEnable:  {fields: []string{"Tenant", "Networks"}, named: true, begin: beginEnable, after: settle, aside: true},
		VerbDisable: {fields: []string{"Tenant", "Now"}, named: true, begin: beginDisable, after: settle, aside: true},

		VerbRename:   {fields: []string{"Tenant", "Name"}, named: true, begin: beginRename, aside: true},
		VerbReadOnly: {fields: []string{"Tenant", "On"}, named: true, begin: beginReadOnly, after: settle, aside: true},
		VerbPassword: {fields: []string{"Tenant", "Login", "Password"}, named: true, begin: beginPassword, aside: true},
		VerbMaintain: {fields: []string{"Tenant", "On"}, named: true, begin: beginMaintain, after: settle, aside: true},
		VerbUser: {
			fields: []string{"Tenant", "Action", "Login", "Password", "ReadOnly", "Limits", "On"}, named: true,
			begin: beginUser, steps: userSteps, after: settle, undo: true,
		},
		VerbSet: {
			fields: []string{"Tenant", "Limits", "LimitsOnly", "Settings", "Extensions", "SuspendAfter", "Archive", "Every", "Keep", "Key", "Cluster", "Now"}, named: true,
			begin: beginSet, steps: setSteps, undo: true,
		},

		VerbReplica: {
			fields: []string{"Tenant", "Action", "Host", "Driver", "Replica", "Force"}, named: true, physical: true,
			begin: beginReplica, steps: replicaSteps, undo: true,
		},
		VerbBackup:  {fields: []string{"Tenant", "Kind"}, named: true, begin: beginBackup, steps: backupSteps, undo: true},
		VerbBackups: {fields: one, named: true, read: backups},
		VerbVerify:  {fields: []string{"Tenant", "Backup"}, named: true, begin: beginVerify, steps: verifySteps, undo: true},
		VerbRestore: {fields: []string{"Tenant", "Backup", "ToTime"}, named: true, begin: beginRestore, steps: restoreSteps},
		verbRestoreAs: {
			fields: with(placement, "Name", "Backup", "ToTime"), named: true, makes: true, begin: beginClone, steps: cloneSteps, undo: true,
		},
		VerbClone:  {fields: with(placement, "Name"), named: true, makes: true, begin: beginClone, steps: cloneSteps, undo: true},
		VerbImport: {fields: with(placement, "Name", "File", "Passphrase"), named: true, makes: true, begin: beginImport, steps: cloneSteps, undo: true},
		VerbExport: {fields: []string{"Tenant", "File", "Backup", "Passphrase"}, named: true, read: export},

		VerbConnect:   {fields: one, named: true, read: connect},
		VerbLogs:      {fields: []string{"Tenant", "Lines", "Follow"}, named: true, read: logs},
		VerbStats:     {fields: one, read: stats},
		VerbRepair:    {fields: []string{"Tenant", "Force"}, read: repair},
		VerbRekey:     {fields: one, read: rekey},
		VerbDrop:      {fields: one, named: true, read: dropRecord},
		VerbReconcile: {fields: one, named: true, read: repair},

		VerbRemove: {fields: []string{"Tenant", "Now", "Keep"}, named: true, begin: beginRemove, steps: removeSteps},
	}
}
