package pooler

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkennel/pgkennel/tenant"
)

// salt is what a client learns that has no password.
func (k *kennel) salt(user, database string) string {
	k.t.Helper()
	c, err := net.Dial("tcp", k.addr())
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close()
	f := pgproto3.NewFrontend(c, c)
	params := map[string]string{"user": user}
	if database != "" {
		params["database"] = database
	}
	f.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: params})
	f.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=abcdefghijklmnopqrst")})
	if err := f.Flush(); err != nil {
		k.t.Fatal(err)
	}
	for {
		m, err := f.Receive()
		if err != nil {
			k.t.Fatal(err)
		}
		if m, ok := m.(*pgproto3.AuthenticationSASLContinue); ok {
			for word := range strings.SplitSeq(string(m.Data), ",") {
				if s, ok := strings.CutPrefix(word, "s="); ok {
					return s
				}
			}
			k.t.Fatalf("no salt in %q", m.Data)
		}
	}
}

// Who has no password can't tell by salts which tenants there are: neither by naming one in several ways, nor by waiting for what changes.
func TestSaltsTellNothing(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	r := k.tenant("acme")
	ways := [][2]string{{"%", "%"}, {"%@%", ""}, {"%@%", "%"}, {"%", ""}}
	for _, name := range []string{"acme", "nobody"} {
		first := ""
		for _, w := range ways {
			s := k.salt(strings.ReplaceAll(w[0], "%", name), strings.ReplaceAll(w[1], "%", name))
			if first == "" {
				first = s
			}
			if s != first {
				t.Errorf("%s, named as %v, has another salt", name, w)
			}
		}
	}
	before := k.salt("acme", "acme")
	for _, change := range []func(*tenant.Record){
		func(r *tenant.Record) { r.Access.Enabled = false },
		func(r *tenant.Record) { r.Access.Enabled, r.Phase = true, tenant.OnHold },
	} {
		k.dir.change(r.ID, change)
		if k.salt("acme", "acme") != before {
			t.Error("the salt tells that the tenant may not log in")
		}
		if _, err := k.try("acme", "acme", password("acme")); err == nil || !strings.Contains(err.Error(), "28P01") {
			t.Errorf("login: %v", err)
		}
	}
	if !bytes.Equal(k.shared.Auth.MockSecret, k.vault.Mock()) {
		t.Error("a restart gives logins that there are not other salts")
	}
}

// Nor which tenants a database has, virtual ones or others, to which its user logs in as user@tenant.
func TestSaltsOfVirtualTenants(t *testing.T) {
	t.Parallel()
	k, _ := newCity(t)
	id := k.attached().ID
	k.virtual("two", "2")
	for _, database := range []string{"shop", ""} {
		before := make(map[string]string)
		for _, name := range []string{"acme", "two", "one", "nobody"} {
			before[name] = k.salt("app@"+name, database)
		}
		for name, salt := range before { // whether there is such a tenant or not
			if k.salt("app@"+name, "shop") != salt || k.salt("app@"+name, "") != salt {
				t.Errorf("the salt tells that there is a tenant %s", name)
			}
		}
		k.dir.change(id, func(r *tenant.Record) { r.Access.Enabled = false })
		if k.salt("app@acme", database) != before["acme"] {
			t.Error("the salt tells that the tenant may not log in")
		}
		k.dir.change(id, func(r *tenant.Record) { r.Access.Enabled = true })
	}
	c, err := k.app("two")
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
}
