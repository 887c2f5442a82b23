package parser

import pg_query "github.com/pganalyze/pg_query_go/v5"

func (u *unit) copy(c *pg_query.CopyStmt) {
	s := u.s
	s.Copy = &Copy{Columns: names(c.Attlist), Server: c.Filename != "" || c.IsProgram, Where: c.WhereClause != nil}
	if c.Relation != nil {
		t := table(c.Relation)
		s.Copy.Table = &t
	}
	s.Copy.options(c.Options)
	b := u.block(SelectBlock, nil)
	b.collect(c.WhereClause)
	b.collect(c.Options...)
	switch {
	case c.IsFrom:
		s.Kind = CopyFrom
		u.keep(b)
	case c.Query != nil:
		s.Kind = CopyTo
		s.Query = u.query(c.Query, nil)
	default:
		s.Kind = CopyTo
		b.q.From = []*From{tableItem(c.Relation)}
		for _, name := range s.Copy.Columns {
			b.q.Output = append(b.q.Output, Output{Name: name, Expr: Expr{Kind: ExprColumn, Column: Column{Name: name}}})
		}
		if s.Copy.Columns == nil {
			b.q.Output = []Output{{Star: true}}
		}
		s.Query = b.q
	}
}

// options reads COPY's options, of the old and the new syntax, and fills in the defaults of the format.
func (c *Copy) options(list []*pg_query.Node) {
	given := map[string]*pg_query.DefElem{}
	for _, n := range list {
		if d := n.GetDefElem(); d != nil {
			given[d.Defname] = d
		}
	}
	c.Format = "text"
	if d := given["format"]; d != nil {
		c.Format = lower(optionString(d))
	}
	switch c.Format {
	case "text":
		c.Delimiter, c.Null = '\t', `\N`
	case "csv":
		c.Delimiter, c.Quote = ',', '"'
	}
	oneByte(given["delimiter"], &c.Delimiter)
	oneByte(given["quote"], &c.Quote)
	c.Escape = c.Quote
	oneByte(given["escape"], &c.Escape)
	if d := given["null"]; d != nil {
		c.Null = optionString(d)
	}
	if d := given["default"]; d != nil {
		c.Default = optionString(d)
	}
	if d := given["encoding"]; d != nil {
		c.Encoding = optionString(d)
	}
	if d := given["header"]; d != nil {
		c.Header = optionBool(d, true) // MATCH
	}
	c.ForceNull = columnList(given["force_null"])
	c.ForceNotNull = columnList(given["force_not_null"])
}

// oneByte reads an option of one byte; another length, which PostgreSQL refuses, gives 0.
func oneByte(d *pg_query.DefElem, to *byte) {
	if d == nil {
		return
	}
	*to = 0
	if s := optionString(d); len(s) == 1 {
		*to = s[0]
	}
}

func columnList(d *pg_query.DefElem) []string {
	switch {
	case d == nil:
		return nil
	case d.GetArg().GetAStar() != nil:
		return []string{"*"}
	default:
		return names(d.GetArg().GetList().GetItems())
	}
}
