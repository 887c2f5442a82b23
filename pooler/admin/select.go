package admin

import (
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// expr is one expression of a SELECT: a constant, or one of a few functions that clients ask without being told to.
type expr struct {
	title string
	oid   uint32
	value func(c *Console, u User) (text string, null bool)
}

const maxExprs = 64

func constant(title, text string, oid uint32) expr {
	return expr{title, oid, func(*Console, User) (string, bool) { return text, false }}
}

// functions are what SELECT can call, by name.
var functions = map[string]expr{
	"version":                {"version", pgwire.OIDText, func(c *Console, _ User) (string, bool) { return c.banner(), false }},
	"current_database":       {"current_database", pgwire.OIDText, func(_ *Console, u User) (string, bool) { return u.Database, false }},
	"current_catalog":        {"current_catalog", pgwire.OIDText, func(_ *Console, u User) (string, bool) { return u.Database, false }},
	"current_user":           {"current_user", pgwire.OIDText, userName},
	"session_user":           {"session_user", pgwire.OIDText, userName},
	"user":                   {"user", pgwire.OIDText, userName},
	"current_schema":         {"current_schema", pgwire.OIDText, func(*Console, User) (string, bool) { return "", true }},
	"pg_is_in_recovery":      constant("pg_is_in_recovery", "f", pgwire.OIDBool),
	"pg_advisory_unlock_all": constant("pg_advisory_unlock_all", "", pgwire.OIDText),
}

// withoutParens are the functions that SQL has as keywords.
var withoutParens = map[string]bool{"current_catalog": true, "current_user": true, "session_user": true, "user": true, "current_schema": true}

func userName(_ *Console, u User) (string, bool) { return u.Name, false }

// banner is the version as people read it.
func (c *Console) banner() string {
	v := c.Inspector.Version()
	return "PostgreSQL " + v.Server + ", the admin console of " + v.Program + " " + v.Version
}

// selectList reads what follows SELECT.
func (p *parser) selectList(k *command) *pgwire.Error {
	k.verb, k.tag = verbSelect, "SELECT 1"
	for {
		e, err := p.expr()
		if err != nil {
			return err
		}
		if len(k.list) == maxExprs {
			return pgwire.Errorf(pgwire.CodeTooManyColumns, "target lists can have at most %d entries", maxExprs)
		}
		k.list = append(k.list, e)
		if found, err := p.accept(","); !found || err != nil {
			return err
		}
	}
}

func (p *parser) expr() (expr, *pgwire.Error) {
	if p.ended() {
		return expr{}, syntaxError(p.text, p.tok)
	}
	e, ok, err := p.primary()
	if err != nil {
		return expr{}, err
	}
	if found, err := p.accept("as"); err != nil {
		return expr{}, err
	} else if found || p.tok.kind == tokenQuoted {
		if p.tok.kind != tokenWord && p.tok.kind != tokenQuoted {
			return expr{}, syntaxError(p.text, p.tok)
		}
		e.title = p.tok.text
		if err := p.advance(); err != nil {
			return expr{}, err
		}
	}
	if !ok || !p.ended() && !p.tok.is(",") {
		return expr{}, pgwire.Errorf(pgwire.CodeFeatureNotSupported, "the admin console runs no queries").
			WithHint("Its data are behind SHOW; SHOW HELP explains.")
	}
	return e, nil
}

// primary reads a constant or a call; ok is false for what is neither.
func (p *parser) primary() (e expr, ok bool, err *pgwire.Error) {
	t := p.tok
	if t.kind == tokenSymbol {
		return expr{}, false, nil
	}
	if err := p.advance(); err != nil {
		return expr{}, false, err
	}
	lower := strings.ToLower(t.text)
	switch {
	case t.kind == tokenString:
		return constant("?column?", t.text, pgwire.OIDText), true, nil
	case t.kind == tokenWord && isDigits(t.text):
		n, err := strconv.ParseInt(t.text, 10, 32)
		return constant("?column?", strconv.FormatInt(n, 10), pgwire.OIDInt4), err == nil, nil
	case t.is("null"):
		return expr{"?column?", pgwire.OIDText, func(*Console, User) (string, bool) { return "", true }}, true, nil
	case t.is("true"), t.is("false"):
		return constant("bool", lower[:1], pgwire.OIDBool), true, nil
	}
	if lower == "pg_catalog" && p.tok.is(".") {
		if err := p.advance(); err != nil {
			return expr{}, false, err
		}
		lower = strings.ToLower(p.tok.text)
		if err := p.advance(); err != nil {
			return expr{}, false, err
		}
	}
	e, ok = functions[lower]
	if !ok {
		return expr{}, false, nil
	}
	if p.tok.is("(") {
		return e, true, p.sequence("(", ")")
	}
	return e, withoutParens[lower], nil
}

// selectRow is SELECT's one row.
func (c *Console) selectRow(s *Statement, k *command, u User) {
	s.Rows.width = len(k.list)
	w := &writer{rows: &s.Rows}
	for _, e := range k.list {
		if text, null := e.value(c, u); null {
			w.null()
		} else {
			w.text(text)
		}
	}
}
