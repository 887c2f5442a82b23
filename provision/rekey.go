package provision

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgkennel/pgkennel/tenant"
)

// rekey seals with the directory's key of today what earlier ones had sealed: of one tenant, or of all.
func rekey(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	var all []*tenant.Record
	var err error
	if o.Tenant != "" {
		var r *tenant.Record
		r, err = m.find(ctx, o.Tenant)
		all = append(all, r)
	} else {
		all, err = m.dir.List(ctx)
	}
	if err != nil {
		return nil, err
	}
	n := 0
	var failures []error
	for _, r := range all {
		changed, err := m.rekeyOne(ctx, r.ID, o.By)
		if err != nil {
			failures = append(failures, fmt.Errorf("tenant %s: %w", r.Name, err))
		}
		if changed {
			n++
		}
	}
	if len(failures) > 0 {
		return nil, Errorf(KindFailed, "not all secrets could be sealed anew").WithDetail("%v", errors.Join(failures...)).
			WithHint("the key that they were sealed with has to be in more_key_files of [directory]")
	}
	res := &Result{Changed: n > 0}
	if n > 0 {
		res.Notes = []string{fmt.Sprintf("the secrets of %d tenants are sealed with today's key; backups made before still need the earlier one", n)}
	}
	return res, nil
}

// rekeyOne seals one tenant's secrets, and reports whether there was anything to do.
func (m *Manager) rekeyOne(ctx context.Context, id, by string) (bool, error) {
	for range maxTries {
		r, err := m.dir.Get(ctx, id)
		if errors.Is(err, tenant.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		r = r.Clone()
		changed, err := m.reseal(r)
		if err != nil || !changed {
			return false, err
		}
		r.Updated = m.o.Now().UTC()
		_, err = m.dir.Put(ctx, r, tenant.Entry{Time: r.Updated, Who: by, What: VerbRekey, ID: r.ID, Name: r.Name})
		if !errors.Is(err, tenant.ErrConflict) {
			return err == nil, err
		}
	}
	return false, tenant.ErrConflict
}

// reseal seals those secrets of a record that today's key did not.
func (m *Manager) reseal(r *tenant.Record) (changed bool, err error) {
	one := func(field string, s tenant.Ciphertext) tenant.Ciphertext {
		if err != nil || !m.o.Vault.Stale(s) {
			return s
		}
		var text string
		if text, err = m.o.Vault.Open(r.ID, field, s); err != nil {
			return s
		}
		changed = true
		return m.o.Vault.Seal(r.ID, field, text)
	}
	r.Admin = one(tenant.AdminField, r.Admin)
	r.Authority.Key = one(tenant.AuthorityField, r.Authority.Key)
	r.Authority.NextKey = one(tenant.AuthorityField, r.Authority.NextKey)
	for i := range r.Logins {
		l := &r.Logins[i]
		l.Secret = one(l.Field(), l.Secret)
	}
	if op := r.Operation; op != nil {
		for arg, field := range map[string]string{argOrder: orderField(op.ID), argPassword: passwordField(op.ID), argAdmin: tenant.AdminField} {
			if s, ok := op.Args[arg]; ok {
				op.Args[arg] = string(one(field, tenant.Ciphertext(s)))
			}
		}
	}
	return changed, err
}

// orderField and passwordField bind what is sealed of an operation.
func orderField(op string) string    { return "operation/" + op }
func passwordField(op string) string { return "password/" + op }

// dropRecord takes a record out of the directory that can't be read: nothing else can be done with it, and it is in the way of what is done to all.
func dropRecord(ctx context.Context, m *Manager, o Order, _ func(Progress)) (*Result, error) {
	err := m.dir.Drop(ctx, o.Tenant, tenant.Entry{Time: m.o.Now().UTC(), Who: o.By, What: VerbDrop})
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		return nil, Errorf(KindNotFound, "there is no record %s", o.Tenant).WithHint("drop wants the ID of a record, which the error about it has")
	case errors.Is(err, tenant.ErrReadable):
		return nil, Errorf(KindState, "record %s is not damaged", o.Tenant).WithDetail("%v", err).WithHint("remove takes tenants away; what a newer version wrote is for that")
	case err != nil:
		return nil, err
	}
	return &Result{Changed: true, Notes: []string{
		"the record " + o.Tenant + " is gone; its backups stay, and what there is of its instance until the next repair of all tenants: copy it before",
	}}, nil
}
