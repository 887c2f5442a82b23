package judge

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
)

// Function is a function, procedure or aggregate as the catalogs have it.
type Function struct {
	Schema, Name string
	// Language as pg_language names it, and the extension that the function belongs to; empty = none.
	Language, Extension string
	Aggregate           bool
	// Source is prosrc: a body, or a symbol. Atomic is the body of SQL's own kind (BEGIN ATOMIC, RETURN) as PostgreSQL writes it; empty = it has none.
	Source, Atomic string
	// Defaults are the expressions of arguments that may be left out.
	Defaults string
	// Settings are those that hold while it runs.
	Settings []string
	// Calls are functions that it stands for: those of an aggregate.
	Calls []string
}

// Judge tells what the function does.
func (f *Function) Judge(texts *Texts) *Code {
	c := f.body(texts)
	c.Calls = append(c.Calls, f.Calls...)
	if f.Defaults != "" {
		c.add(texts.judge(sqlExpression, f.Defaults))
	}
	for _, s := range f.Settings {
		if strings.HasPrefix(strings.ToLower(s), "standard_conforming_strings") {
			c.odd("its text is read by other rules")
		}
	}
	return c
}

func (f *Function) body(texts *Texts) *Code {
	c := &Code{}
	switch {
	case f.Aggregate:
	case f.Atomic != "":
		c.add(texts.judge(sqlText, strippedOfAtomic(f.Atomic)))
	case f.Language == "sql":
		if len(f.Source) > maxBody {
			c.odd("it is too long")
			break
		}
		c.add(texts.judge(sqlText, f.Source))
	case f.Language == "plpgsql":
		c.add(texts.judge(plpgsqlBody, f.Source))
	case f.Language == "c" && f.Extension != "":
		c.library(f.Extension, f.Name)
	default:
		c.stays("nobody can read language " + f.Language)
	}
	return c
}

// strippedOfAtomic turns a body of SQL's own kind into statements.
func strippedOfAtomic(body string) string {
	s := strings.TrimSpace(body)
	if rest, ok := strings.CutPrefix(s, "RETURN "); ok {
		return "SELECT " + rest
	}
	s = strings.TrimSpace(strings.TrimPrefix(s, "BEGIN ATOMIC"))
	return strings.TrimSpace(strings.TrimSuffix(s, "END"))
}

// library judges a function in C by what is known of its extension.
func (c *Code) library(extension, name string) {
	except, known := extensions[extension]
	if !known {
		c.stays("nobody knows what extension " + extension + " does")
		return
	}
	for _, prefix := range except {
		if strings.HasPrefix(name, prefix) {
			c.stays("it is one of the functions of extension " + extension + " that change the session, or run SQL")
		}
	}
}

// extensions are those whose functions in C leave nothing in the session, with the beginnings of the names of those that do, or that run SQL which they are
// given.
var extensions = map[string][]string{
	"address_standardizer": nil,
	"amcheck":              nil,
	"bloom":                nil,
	"btree_gin":            nil,
	"btree_gist":           nil,
	"citext":               nil,
	"cube":                 nil,
	"dict_int":             nil,
	"dict_xsyn":            nil,
	"earthdistance":        nil,
	"fuzzystrmatch":        nil,
	"hll":                  {"hll_set_"},
	"hstore":               nil,
	"intagg":               nil,
	"intarray":             nil,
	"isn":                  {"isn_weak"},
	"ltree":                nil,
	"moddatetime":          nil,
	"insert_username":      nil,
	"pageinspect":          nil,
	"pg_buffercache":       nil,
	"pg_freespacemap":      nil,
	"pg_stat_statements":   nil,
	"pg_trgm":              {"set_limit"},
	"pg_uuidv7":            nil,
	"pg_visibility":        nil,
	"pgcrypto":             nil,
	"pgrowlocks":           nil,
	"pgstattuple":          nil,
	"postgis":              nil,
	"seg":                  nil,
	"sslinfo":              nil,
	"tablefunc":            {"crosstab", "connectby"},
	"tcn":                  nil,
	"tsm_system_rows":      nil,
	"tsm_system_time":      nil,
	"unaccent":             nil,
	"uuid-ossp":            nil,
	"vector":               nil,
	"xml2":                 {"xpath_table"},
}

// Extensions are those that are known, but for those whose functions keep state that DISCARD ALL leaves: where a database has functions in C of others, or in
// other languages than SQL and PL/pgSQL, nothing is known of what code in it leaves.
func Extensions() []string {
	var list []string
	for name := range extensions {
		if name != "isn" {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// builtin reports whether a function of PostgreSQL's own is known by its name, whatever its arguments: what it does the parser knows.
func builtin(name string) bool {
	return parser.IsBuiltin(parser.Function{Name: name, Args: 2}) && parser.IsBuiltin(parser.Function{Name: name})
}
