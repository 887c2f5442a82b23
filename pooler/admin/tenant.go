package admin

import (
	"cmp"
	"context"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// Tenants carries out orders for tenants of the directory.
type Tenants interface {
	// Tenant returns when an order is carried out. Passwords that were made are in the answer, once.
	Tenant(ctx context.Context, o TenantOrder) (TenantAnswer, error)
}

// TenantOrder is a CREATE, ALTER or DROP TENANT.
type TenantOrder struct {
	Verb    string // as pgkennel tenant has it: create, start, enable-access, ...
	Name    string
	Options []TenantOption
	By      string // who gives it
}

// TenantOption is one of the order's options; flags have no value.
type TenantOption struct{ Name, Value string }

// TenantAnswer is what an order led to.
type TenantAnswer struct {
	Secrets []TenantSecret
	Notes   []string
}

// TenantSecret is a password that was made.
type TenantSecret struct{ Login, Password string }

// tenantFlags are the options that have no value.
var tenantFlags = map[string]bool{"enable": true, "superuser": true, "archive": true, "now": true, "force": true}

// tenantOptions are those of CREATE TENANT, and of ALTER TENANT ... SET.
const tenantOptions = "archive backup_every backup_keep config connections cpu database disk driver enable extension host io isolation key memory mode password " +
	"shard suspend_after superuser template version"

// secretOptions are never shown.
var secretOptions = map[string]bool{"password": true}

var secretColumns = columns("login password")

// tenantName reads TENANT and a name, which counts as written.
func (p *parser) tenantName(k *command) *pgwire.Error {
	if err := p.expect("tenant"); err != nil {
		return err
	}
	if p.ended() || p.tok.kind == tokenSymbol || p.tok.text == "" {
		return syntaxError(p.text, p.tok).WithHint("The name of a tenant is wanted; with a - in it, in quotes.")
	}
	k.verb, k.name = verbTenant, p.tok.text
	k.tag += " TENANT"
	return p.advance()
}

func (p *parser) createTenant(k *command) *pgwire.Error {
	if err := p.tenantName(k); err != nil {
		return err
	}
	k.order.Verb, k.secrets = "create", true
	return p.tenantOptions(k, tenantOptions)
}

func (p *parser) dropTenant(k *command) *pgwire.Error {
	if err := p.tenantName(k); err != nil {
		return err
	}
	k.order.Verb = "remove"
	return p.tenantOptions(k, "now force")
}

// tenantActions are what ALTER TENANT can do: the verb, and the options that it takes.
var tenantActions = map[string]struct{ verb, options string }{
	"start": {"start", ""}, "stop": {"stop", "now"}, "restart": {"restart", ""}, "suspend": {"suspend", ""}, "resume": {"resume", ""},
	"enable": {"enable-access", "cidr"}, "disable": {"disable-access", "now"}, "set": {"set", tenantOptions}, "repair": {"repair", ""}, "backup": {"backup", "kind"},
}

func (p *parser) alterTenant(k *command) *pgwire.Error {
	if err := p.tenantName(k); err != nil {
		return err
	}
	at := p.tok
	action := strings.ToLower(at.text)
	if at.kind != tokenWord {
		return syntaxError(p.text, at)
	}
	if err := p.advance(); err != nil {
		return err
	}
	switch a, ok := tenantActions[action]; {
	case ok:
		k.order.Verb = a.verb
		if action == "set" && p.ended() {
			return syntaxError(p.text, p.tok)
		}
		return p.tenantOptions(k, a.options)
	case action == "rename":
		k.order.Verb = "rename"
		if err := p.expect("to"); err != nil {
			return err
		}
		return p.tenantValue(k, "name")
	case action == "read":
		k.order.Verb = "read-only"
		only := p.tok.is("only")
		if found, err := p.accept("only", "write"); err != nil || !found {
			return cmp.Or(err, syntaxError(p.text, p.tok))
		}
		k.order.Options = []TenantOption{{"on", map[bool]string{true: "true", false: "false"}[only]}}
		return nil
	case action == "password":
		k.order.Verb, k.secrets = "password", true
		if p.ended() {
			return nil
		}
		return p.tenantValue(k, "password")
	}
	return syntaxError(p.text, at).WithHint(
		"ALTER TENANT has START, STOP, RESTART, SUSPEND, RESUME, ENABLE, DISABLE, READ ONLY, READ WRITE, RENAME TO, SET, PASSWORD, BACKUP and REPAIR.")
}

// tenantOptions reads options up to the end: a name, and its value unless it is a flag; = and commas may stand between them.
func (p *parser) tenantOptions(k *command, known string) *pgwire.Error {
	for !p.ended() {
		if _, err := p.accept(","); err != nil {
			return err
		}
		at := p.tok
		name := strings.ToLower(at.text)
		if at.kind != tokenWord || !containsWord(known, name) {
			e := syntaxError(p.text, at)
			if known != "" {
				e = e.WithHint("There is %s.", strings.ToUpper(strings.Join(strings.Fields(known), ", ")))
			}
			return e
		}
		if err := p.advance(); err != nil {
			return err
		}
		if tenantFlags[name] {
			k.order.Options = append(k.order.Options, TenantOption{name, ""})
			continue
		}
		if _, err := p.accept("="); err != nil {
			return err
		}
		if err := p.tenantValue(k, name); err != nil {
			return err
		}
	}
	return nil
}

func containsWord(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if w == word {
			return true
		}
	}
	return false
}

func (p *parser) tenantValue(k *command, name string) *pgwire.Error {
	if p.ended() || p.tok.kind == tokenSymbol {
		return syntaxError(p.text, p.tok)
	}
	k.order.Options = append(k.order.Options, TenantOption{name, p.tok.text})
	return p.advance()
}

// tenant carries out an order.
func (c *Console) tenant(ctx context.Context, s *Statement, k *command, u User) *pgwire.Error {
	o := k.order
	o.Name, o.By = k.name, "console "+u.Name
	attrs := []any{"user", u.Name, "client", u.Client, "command", k.tag, "order", o.Verb, "tenant", o.Name}
	for _, x := range o.Options {
		if !secretOptions[x.Name] {
			attrs = append(attrs, "option_"+x.Name, x.Value)
		}
	}
	c.Log.InfoContext(ctx, "admin command", attrs...)
	answer, err := c.Controller.Tenant(ctx, o)
	if err != nil {
		c.Log.WarnContext(ctx, "admin command failed", append(attrs, "error", err)...)
		return controlError(ctx, k, err)
	}
	for _, note := range answer.Notes {
		s.Notices = append(s.Notices, pgwire.Noticef("%s", note))
	}
	if k.secrets {
		s.Rows.width = len(s.Columns)
		w := &writer{rows: &s.Rows}
		for _, x := range answer.Secrets {
			w.text(x.Login)
			w.text(x.Password)
		}
	}
	return nil
}
