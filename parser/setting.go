package parser

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// Command gives the SET command that makes this setting: what is to be sent to another connection. Empty where there is none
// (Unknown values, SHOW).
func (s *Setting) Command() string {
	set := "SET "
	if s.Local {
		set = "SET LOCAL "
	}
	switch {
	case s.SQL == "":
		return ""
	case s.Special:
		return set + s.SQL
	default:
		return set + quoteIdent(s.Name) + " TO " + s.SQL
	}
}

// settingName gives the canonical name of a setting: names are compared without regard to case, and some have an old one.
func settingName(name string) string {
	switch name = lower(name); name {
	case "sort_mem":
		return "work_mem"
	case "vacuum_mem":
		return "maintenance_work_mem"
	default:
		return name
	}
}

// listQuoted are the settings whose value is a list of identifiers: SET quotes each of its arguments, set_config takes the list as it
// stands (GUC_LIST_QUOTE).
func listQuoted(name string) bool {
	switch name {
	case "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries", "unix_socket_directories":
		return true
	default:
		return false
	}
}

func (u *unit) variableSet(v *pg_query.VariableSetStmt) {
	s := u.s
	set := &Setting{Name: settingName(v.Name), Local: v.IsLocal}
	u.block(SelectBlock, nil).collect(v.Args...) // pg_query takes $1 here, PostgreSQL does not
	switch v.Kind {
	case pg_query.VariableSetKind_VAR_SET_VALUE:
		s.Kind, s.Set = Set, set
		u.setValues(set, v.Args)
	case pg_query.VariableSetKind_VAR_SET_DEFAULT:
		s.Kind, s.Set = Set, set
		set.Default, set.SQL = true, "DEFAULT"
	case pg_query.VariableSetKind_VAR_SET_CURRENT:
		s.Kind, s.Set = Set, set
		set.Special, set.SQL = true, quoteIdent(set.Name)+" FROM CURRENT"
		s.Effects |= EffUnjudged
	case pg_query.VariableSetKind_VAR_SET_MULTI:
		u.setTransaction(v, set)
	case pg_query.VariableSetKind_VAR_RESET:
		s.Kind, s.Set = Reset, set
		set.Default, set.SQL = true, "DEFAULT"
	case pg_query.VariableSetKind_VAR_RESET_ALL:
		s.Kind = ResetAll
	default:
		s.Kind, s.Effects = Utility, EffUnjudged
	}
	if s.Set != nil && set.Name == "seed" {
		s.Effects |= EffUnjudged // as setseed(): what random() gives from now on is state that nothing takes away
	}
	if s.Set != nil && (set.Name == "role" || set.Name == "session_authorization") {
		s.Effects |= EffSetRole
	}
}

// setValues fills in the arguments of SET.
func (u *unit) setValues(set *Setting, args []*pg_query.Node) {
	var sql []string
	for _, n := range args {
		e := u.classify(n)
		if e.Kind != ExprValue || e.Value.Kind == ValueParam || e.Value.Kind == ValueNull || len(e.Value.Casts) > 0 {
			u.setInterval(set, n)
			return
		}
		number := e.Value.Kind == ValueInteger || e.Value.Kind == ValueNumeric
		set.Values = append(set.Values, listed(set.Name, e.Value.Text, number))
		if number {
			sql = append(sql, e.Value.Text)
		} else {
			sql = append(sql, quoteLiteral(e.Value.Text))
		}
	}
	set.SQL = strings.Join(sql, ", ")
}

// listed gives what an argument of SET is to a list of identifiers, where the setting is one: it is quoted, unless it is a number, and then
// the list is split again.
func listed(setting, text string, number bool) string {
	if !listQuoted(setting) {
		return text
	}
	if number {
		text = lower(text)
	}
	return CutName(text)
}

// foldsByLocale reports that a list of identifiers may hold an upper-case letter that PostgreSQL makes a lower-case one in databases of a
// single-byte encoding, as their locale says. Quotes are not looked at.
func foldsByLocale(list string) bool {
	return strings.ContainsFunc(list, func(r rune) bool {
		return r >= utf8.RuneSelf && (r == utf8.RuneError || unicode.IsUpper(r) || unicode.IsTitle(r))
	})
}

// EncodingMatters reports that a name is not the same in databases of all encodings: it may be too long in some, or be folded in some.
func EncodingMatters(name string) bool {
	const longest = 2 // bytes of a character in another encoding, for each byte of it in UTF-8
	beyond := strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf })
	return beyond && (len(name)*longest > maxName || foldsByLocale(name))
}

// Bits of an interval's fields in its type modifier (datetime.h).
const (
	intervalHour   = 1 << 10
	intervalMinute = 1 << 11
	intervalFull   = 0x7fff
)

// setInterval fills in the argument of SET TIME ZONE INTERVAL, the only one that is no plain literal.
func (u *unit) setInterval(set *Setting, n *pg_query.Node) {
	cast := n.GetTypeCast()
	_, name := qualified(cast.GetTypeName().GetNames())
	text := cast.GetArg().GetAConst().GetSval()
	if name != "interval" || text == nil {
		u.s.Effects |= EffUnjudged
		return
	}
	set.Values, set.Special = []string{text.Sval}, true
	mods := cast.TypeName.Typmods
	switch {
	case len(mods) == 0:
		set.SQL = "TIME ZONE INTERVAL " + quoteLiteral(text.Sval)
	case len(mods) == 2 && mods[0].GetAConst().GetIval().GetIval() == intervalFull:
		set.SQL = "TIME ZONE INTERVAL(" + u.classify(mods[1]).Value.Text + ") " + quoteLiteral(text.Sval)
	case len(mods) == 1 && mods[0].GetAConst().GetIval().GetIval() == intervalHour:
		set.SQL = "TIME ZONE INTERVAL " + quoteLiteral(text.Sval) + " HOUR"
	case len(mods) == 1 && mods[0].GetAConst().GetIval().GetIval() == intervalHour|intervalMinute:
		set.SQL = "TIME ZONE INTERVAL " + quoteLiteral(text.Sval) + " HOUR TO MINUTE"
	default:
		u.s.Effects |= EffUnjudged
	}
}

// quoteLiteral writes s as a literal that means the same whatever standard_conforming_strings is.
func quoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.IndexByte(s, '\\') >= 0 {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// quoteIdent writes name as a quoted identifier.
func quoteIdent(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// isSetConfig reports that f is PostgreSQL's set_config, as far as its name tells.
func isSetConfig(f Function) bool {
	return f.Name == "set_config" && (f.Schema == "" || f.Schema == "pg_catalog")
}

// judgeOnce notes the set_config calls that certainly run once: those directly in the select list of a SELECT of one row.
func (u *unit) judgeOnce(s *pg_query.SelectStmt) {
	if s.Op != pg_query.SetOperation_SETOP_NONE || len(s.FromClause) > 0 || s.WhereClause != nil || s.HavingClause != nil || len(s.GroupClause) > 0 ||
		s.LimitCount != nil || s.LimitOffset != nil || len(s.ValuesLists) > 0 || s.WithClause != nil || len(s.SortClause) > 0 || len(s.DistinctClause) > 0 {
		return
	}
	once := map[*pg_query.FuncCall]bool{}
	for _, n := range s.TargetList {
		val := n.GetResTarget().GetVal()
		if !oneValue(val) {
			return
		}
		if call := val.GetFuncCall(); call != nil {
			once[call] = true
		}
	}
	u.once = once
	if len(s.TargetList) == 1 {
		u.only = s.TargetList[0].GetResTarget()
	}
}

// oneValue reports that an expression is evaluated once per row and makes no rows of its own.
func oneValue(n *pg_query.Node) bool {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_AConst, *pg_query.Node_ParamRef:
		return true
	case *pg_query.Node_TypeCast:
		return oneValue(x.TypeCast.Arg)
	case *pg_query.Node_NamedArgExpr:
		return oneValue(x.NamedArgExpr.Arg)
	case *pg_query.Node_FuncCall:
		call := x.FuncCall
		f := function(call)
		if !IsBuiltin(f) || isSetReturning(f) || isAggregate(f) || call.Over != nil || call.AggStar || call.AggDistinct || call.AggFilter != nil || len(call.AggOrder) > 0 {
			return false
		}
		for _, arg := range call.Args {
			if !oneValue(arg) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// setConfig records a call of set_config.
func (u *unit) setConfig(call *pg_query.FuncCall) {
	args, ok := setConfigArgs(call)
	if !ok {
		u.s.Effects |= EffUnjudged
		return
	}
	if p := args[0].GetParamRef(); p != nil {
		local := u.classify(args[2])
		u.literals.pin(local.Value)
		value, null, ok := boolean(local.Value)
		u.s.Effects |= EffNamed
		u.s.Named = append(u.s.Named, Named{int(p.Number), local.Kind == ExprValue && ok && value && !null})
		return
	}
	name, known := u.constantText(args[0])
	if !known || name == nil {
		u.s.Effects |= EffUnjudged
		return
	}
	set := Setting{Name: settingName(*name)}
	local := u.classify(args[2])
	u.literals.pin(local.Value)
	value, null, ok := boolean(local.Value)
	if local.Kind != ExprValue || !ok {
		u.unseen(set.Name)
		return
	}
	set.Local = value && !null
	text, known := u.constantText(args[1])
	u.sole(call, set, args[1], text, known)
	switch {
	case !known && set.Local:
		set.Unknown = true
	case !known:
		u.unseen(set.Name)
		return
	case text == nil:
		set.Default, set.SQL = true, "DEFAULT"
	case listQuoted(set.Name):
		list, ok := SplitIdents(*text)
		if !ok || foldsByLocale(*text) {
			u.unseen(set.Name)
			return
		}
		set.Values = list
		quoted := make([]string, len(list))
		for i, ident := range list {
			quoted[i] = quoteLiteral(ident)
		}
		if set.SQL = strings.Join(quoted, ", "); set.SQL == "" {
			set.SQL = "''"
		}
	default:
		set.Values, set.SQL = []string{*text}, quoteLiteral(*text)
	}
	if set.Name == "role" || set.Name == "session_authorization" {
		u.s.Effects |= EffSetRole
	}
	if !set.Local && !u.once[call] {
		u.unseen(set.Name)
	}
	if set.Name == "seed" {
		u.s.Effects |= EffUnjudged
	}
	u.s.Effects |= EffSetConfig
	u.s.SetConfigs = append(u.s.SetConfigs, set)
}

// unseen notes that a setting may be set, and that only the server knows to what.
func (u *unit) unseen(name string) {
	u.s.Effects |= EffUnseen
	if !slices.Contains(u.s.Unseen, name) {
		u.s.Unseen = append(u.s.Unseen, name)
	}
}

// sole notes that the statement is nothing but this call.
func (u *unit) sole(call *pg_query.FuncCall, set Setting, value *pg_query.Node, text *string, known bool) {
	if u.only == nil || u.only.GetVal().GetFuncCall() != call || u.s.Kind != Select {
		return
	}
	param := 0
	switch e := u.classify(value); {
	case known && text != nil:
		set.Values = []string{*text}
	case known:
		set.Default = true
	case e.Kind == ExprValue && e.Value.Kind == ValueParam:
		param = e.Value.Param
	default:
		return
	}
	u.s.Sole, u.s.SoleParam, u.s.SoleColumn = &set, param, "set_config"
	if u.only.Name != "" {
		u.s.SoleColumn = u.only.Name
	}
}

// setConfigArgs puts the three arguments in order.
func setConfigArgs(call *pg_query.FuncCall) (args [3]*pg_query.Node, ok bool) {
	if len(call.Args) != len(args) || call.FuncVariadic {
		return args, false
	}
	for i, n := range call.Args {
		if named := n.GetNamedArgExpr(); named != nil {
			switch named.Name {
			case "setting_name":
				i = 0
			case "new_value":
				i = 1
			case "is_local":
				i = 2
			default:
				return args, false
			}
			n = named.Arg
		}
		if args[i] != nil {
			return args, false
		}
		args[i] = n
	}
	return args, true
}

// constantText reads a constant of type text; a nil text is NULL.
func (u *unit) constantText(n *pg_query.Node) (text *string, ok bool) {
	e := u.classify(n)
	if e.Kind != ExprValue {
		return nil, false
	}
	u.literals.pin(e.Value)
	for _, c := range e.Value.Casts {
		if c != "text" && c != "varchar" {
			return nil, false
		}
	}
	switch e.Value.Kind {
	case ValueNull:
		return nil, true
	case ValueString:
		return &e.Value.Text, true
	case ValueInteger, ValueNumeric, ValueBool, ValueParam:
	}
	return nil, false
}

// SplitIdents splits a list of identifiers as PostgreSQL's SplitIdentifierString does in a database whose encoding is UTF8. It is not ok where
// PostgreSQL refuses the list, and where its versions differ: a vertical tab is space to some, and part of a name to others.
func SplitIdents(s string) (list []string, ok bool) {
	const space = " \t\n\r\f"
	s = strings.TrimLeft(s, space)
	if s == "" {
		return nil, true
	}
	for {
		var name string
		if s != "" && s[0] == '"' {
			for s = s[1:]; ; {
				i := strings.IndexByte(s, '"')
				if i < 0 {
					return nil, false
				}
				name, s = name+s[:i], s[i+1:]
				if s == "" || s[0] != '"' {
					break
				}
				name, s = name+`"`, s[1:]
			}
		} else {
			i := strings.IndexAny(s, ","+space)
			if i < 0 {
				i = len(s)
			}
			if i == 0 || strings.IndexByte(s[:i], '\v') >= 0 {
				return nil, false
			}
			name, s = lower(s[:i]), s[i:]
		}
		list = append(list, CutName(name))
		s = strings.TrimLeft(s, space)
		if s == "" {
			return list, true
		}
		if s[0] != ',' {
			return nil, false
		}
		s = strings.TrimLeft(s[1:], space)
	}
}

// maxName is how many bytes of a name PostgreSQL keeps (NAMEDATALEN without the NUL).
const maxName = 63

// CutName gives what PostgreSQL makes of a name that is too long, in a database whose encoding is UTF8: as many whole characters as fit
// (truncate_identifier, pg_mbcliplen).
func CutName(name string) string {
	if len(name) <= maxName {
		return name
	}
	at := 0
	for at < len(name) {
		n := 1
		switch c := name[at]; { // as pg_utf_mblen, which looks at the first byte only
		case c&0xe0 == 0xc0:
			n = 2
		case c&0xf0 == 0xe0:
			n = 3
		case c&0xf8 == 0xf0:
			n = 4
		}
		if at+n > maxName {
			break
		}
		at += n
	}
	return name[:at]
}
