package admin

import (
	"strings"

	"github.com/pgkennel/pgkennel/pooler/pgwire"
)

// What is in this file is PostgreSQL's, and has next to no effect here: drivers and their pools send it unasked.

// set reads what follows SET.
func (p *parser) set(k *command) *pgwire.Error {
	k.verb, k.tag = verbSet, "SET"
	if found, err := p.accept("session", "local"); err != nil {
		return err
	} else if found && p.tok.is("characteristics") {
		if err := p.sequence("characteristics", "as", "transaction"); err != nil {
			return err
		}
		k.name = "transaction"
		return p.skipWords()
	}
	switch {
	case p.tok.is("transaction"):
		k.name = "transaction"
		return p.skipWords()
	case p.tok.is("time"):
		k.name = "timezone"
		if err := p.sequence("time", "zone"); err != nil {
			return err
		}
		return p.values(k)
	case p.tok.is("names"):
		k.name = "client_encoding"
		if err := p.expect("names"); err != nil {
			return err
		}
		if p.ended() {
			return nil
		}
		return p.values(k)
	case p.tok.is("role"), p.tok.is("authorization"):
		return unsupported("SET "+strings.ToUpper(p.tok.text), "")
	}
	var err *pgwire.Error
	if k.name, err = p.dotted(); err != nil {
		return err
	}
	if found, err := p.accept("=", "to"); err != nil || !found {
		return first(err, syntaxError(p.text, p.tok))
	}
	return p.values(k)
}

// values reads a parameter's value: words, strings, numbers with a sign or a point, in a list.
func (p *parser) values(k *command) *pgwire.Error {
	if p.ended() {
		return syntaxError(p.text, p.tok)
	}
	var value strings.Builder
	flush := func() { k.values = append(k.values, value.String()); value.Reset() }
	for !p.ended() {
		switch {
		case p.tok.is(","):
			flush()
		case p.tok.kind == tokenSymbol && strings.Contains("+-.", p.tok.text), p.tok.kind != tokenSymbol:
			value.WriteString(p.tok.text)
		default:
			return syntaxError(p.text, p.tok)
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
	flush()
	return nil
}

func (p *parser) reset(k *command) *pgwire.Error {
	k.verb, k.tag = verbSet, "RESET"
	var err *pgwire.Error
	k.name, err = p.dotted()
	return err
}

func (p *parser) begin(k *command) *pgwire.Error {
	if k.tag == "START" {
		if !p.tok.is("transaction") {
			return syntaxError(p.text, p.tok)
		}
		k.tag = "START TRANSACTION"
	}
	k.verb, k.tx = verbTransaction, pgwire.TxActive
	return p.skipWords()
}

func (p *parser) commit(k *command) *pgwire.Error {
	k.verb, k.tag, k.tx = verbTransaction, "COMMIT", pgwire.TxIdle
	return p.finish()
}

func (p *parser) rollback(k *command) *pgwire.Error {
	k.verb, k.tag, k.tx = verbTransaction, "ROLLBACK", pgwire.TxIdle
	return p.finish()
}

// finish reads [WORK|TRANSACTION] [AND NO CHAIN]. Savepoints and chains are too much for a console.
func (p *parser) finish() *pgwire.Error {
	if _, err := p.accept("work", "transaction"); err != nil {
		return err
	}
	if p.tok.is("and") {
		return p.sequence("and", "no", "chain")
	}
	return nil
}

func (p *parser) discard(k *command) *pgwire.Error {
	for _, what := range []string{"all", "plans", "sequences", "temporary", "temp"} {
		if p.tok.is(what) {
			k.verb, k.name, k.tag = verbDiscard, what, "DISCARD "+strings.ToUpper(what)
			return p.advance()
		}
	}
	return syntaxError(p.text, p.tok)
}

func (p *parser) deallocate(k *command) *pgwire.Error {
	k.verb = verbDiscard
	if _, err := p.accept("prepare"); err != nil {
		return err
	}
	if found, err := p.accept("all"); found || err != nil {
		k.tag, k.name = "DEALLOCATE ALL", "all"
		return err
	}
	name, err := p.dotted()
	if err != nil {
		return err
	}
	return pgwire.Errorf(pgwire.CodeInvalidStatementName, `prepared statement "%s" does not exist`, shorten(name)).
		WithDetail("The console has none of SQL's own.")
}

func (p *parser) closeAll(k *command) *pgwire.Error {
	k.verb, k.tag = verbDiscard, "CLOSE CURSOR ALL"
	return p.expect("all")
}

func (p *parser) unlisten(k *command) *pgwire.Error {
	k.verb = verbDiscard
	if !p.tok.is("*") && p.tok.kind != tokenWord && p.tok.kind != tokenQuoted {
		return syntaxError(p.text, p.tok)
	}
	return p.advance()
}

func first(errs ...*pgwire.Error) *pgwire.Error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
