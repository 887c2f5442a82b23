package pooler

import (
	"testing"

	"github.com/pgkennel/pgkennel/tenant"
)

func TestInstanceLogins(t *testing.T) {
	t.Parallel()
	k := newKennel(t, kennelOptions{})
	k.tenant("acme", "bi")
	k.tenant("globex")
	for _, x := range []struct{ user, database, login, code, want string }{
		{"acme", "acme", "acme", "", "acme"},
		{"acme@acme", "acme", "acme", "", "acme"},
		{"acme@acme", "acme@acme", "acme", "", "acme"}, // no database: libpq takes the user's name
		{"bi@acme", "acme", "bi", "", "acme"},
		{"bi@acme", "bi@acme", "bi", "", "acme"},
		{"bi", "acme", "bi", "", "acme"},
		{"globex", "globex", "globex", "", "globex"},
		{"bi@globex", "globex", "bi", "28P01", ""},
		{"acme@globex", "globex", "acme", "28P01", ""},
		{"bi@acme", "globex", "bi", "28P01", ""},
		{"acme", "globex", "acme", "28P01", ""},
		{"acme", "acme", "globex", "28P01", ""},
		{"bi", "bi", "bi", "28P01", ""},
		{"acme", "postgres", "acme", "28P01", ""},
		{"@acme", "acme", "acme", "28P01", ""},
		{"acme@", "acme", "acme", "28P01", ""},
		{"nobody", "nobody", "nobody", "28P01", ""},
	} {
		c, err := k.try(x.user, x.database, password(x.login))
		if x.code != "" {
			if err == nil {
				c.Close(t.Context())
			}
			wantCode(t, x.user+" to "+x.database, x.code, err)
			continue
		}
		if err != nil {
			t.Errorf("%s to %s: %v", x.user, x.database, err)
			continue
		}
		if got := value(t, c, "select name from items"); got != x.want {
			t.Errorf("%s to %s: got rows of %s", x.user, x.database, got)
		}
		c.Close(t.Context())
	}
	for _, x := range []struct{ option, code string }{{"acme", ""}, {"globex", "28P01"}, {"nobody", "28P01"}} {
		c, err := k.try("acme", "acme", password("acme"), "options", "-c pgkennel.tenant="+x.option)
		if x.code == "" && err == nil {
			c.Close(t.Context())
			continue
		}
		wantCode(t, "option "+x.option, x.code, err)
	}
}

var _ tenant.Live = (*records)(nil)
