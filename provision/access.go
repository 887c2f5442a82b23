package provision

import (
	"context"
	"net/netip"
	"slices"

	"github.com/pgkennel/pgkennel/tenant"
)

// beginEnable lets clients in. The networks are those of the order; without any they stay as they are.
func beginEnable(_ context.Context, c *change) error {
	a := &c.r.Access
	networks := slices.Clone(c.o.Networks)
	for i, n := range networks {
		if n != n.Masked() {
			networks[i] = n.Masked()
			c.notes = append(c.notes, "network "+n.String()+" is "+n.Masked().String())
		}
	}
	if slices.Contains(networks, netip.MustParsePrefix("0.0.0.0/0")) && slices.Contains(networks, netip.MustParsePrefix("::/0")) {
		networks = nil // any
	} else if len(networks) == 0 {
		networks = a.Networks
	}
	c.nothing = a.Enabled && !a.Fenced && slices.Equal(a.Networks, networks)
	// The server lets its roles in before poolers let clients in: who came between would be told of a server that refuses.
	c.again = a.Fenced
	a.Enabled, a.Fenced, a.Networks = !a.Fenced, false, networks
	c.detail = "networks: any"
	if len(networks) > 0 {
		c.detail = "networks:"
		for _, n := range networks {
			c.detail += " " + n.String()
		}
	}
	if c.again {
		c.detail = "at the server"
		return c.refuseIn(tenant.Removing, tenant.Removed)
	}
	switch c.old.Phase {
	case tenant.Stopped, tenant.OnHold, tenant.Failed, tenant.Creating:
		c.notes = append(c.notes, "the tenant is "+c.old.Phase.String()+": clients get in when it is ready")
	case tenant.Ready, tenant.Asleep, tenant.Removing, tenant.Removed:
	}
	return c.refuseIn(tenant.Removing, tenant.Removed)
}

// beginDisable keeps clients out: new ones; with Now also those that are in, at the server too.
func beginDisable(_ context.Context, c *change) error {
	a := &c.r.Access
	c.nothing = !a.Enabled && (a.Fenced || !c.o.Now)
	a.Enabled, a.Fenced = false, a.Fenced || c.o.Now
	if a.Fenced {
		c.detail = "at the server too"
	}
	return nil
}
