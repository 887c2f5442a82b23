package parser

import (
	"math/big"
	"slices"
	"strconv"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// constant classifies a literal; bit strings are opaque.
func (u *unit) constant(c *pg_query.A_Const) Expr {
	var v Value
	switch x := c.Val.(type) {
	case *pg_query.A_Const_Ival:
		v.Kind, v.Text = ValueInteger, strconv.Itoa(int(x.Ival.GetIval()))
	case *pg_query.A_Const_Fval:
		v.Kind, v.Text = numeral(x.Fval.GetFval())
	case *pg_query.A_Const_Sval:
		v.Kind, v.Text = ValueString, x.Sval.GetSval()
	case *pg_query.A_Const_Boolval:
		v.Kind, v.Text = ValueBool, strconv.FormatBool(x.Boolval.GetBoolval())
	case *pg_query.A_Const_Bsval:
		return Expr{}
	default:
		if !c.Isnull {
			return Expr{}
		}
		v.Kind = ValueNull
	}
	u.span(&v, c.Location)
	return Expr{Kind: ExprValue, Value: v}
}

// numeral decodes a number that does not fit pg_query's 32-bit integers, which comes as written, but with its sign in front.
func numeral(text string) (ValueKind, string) {
	text = strings.ReplaceAll(text, "_", "")
	digits := strings.TrimPrefix(text, "-")
	if len(digits) > 2 && digits[0] == '0' && class[digits[1]]&classDigit == 0 && digits[1] != '.' && digits[1] != 'e' && digits[1] != 'E' {
		var n big.Int
		if _, ok := n.SetString(text, 0); ok {
			return ValueInteger, n.String()
		}
		return ValueNumeric, text
	}
	if strings.Trim(digits, "0123456789") != "" {
		return ValueNumeric, text
	}
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return ValueInteger, "0"
	}
	if text[0] == '-' {
		return ValueInteger, "-" + digits
	}
	return ValueInteger, digits
}

// signed classifies a sign in front of a number that PostgreSQL's grammar has not folded: +5, -(5::int8).
func (u *unit) signed(e *pg_query.A_Expr) Expr {
	schema, op := qualified(e.Name)
	if e.Kind != pg_query.A_Expr_Kind_AEXPR_OP || e.Lexpr != nil || len(e.Name) > 1 && schema != "pg_catalog" || op != "+" && op != "-" {
		return Expr{}
	}
	arg := u.classify(e.Rexpr)
	v := arg.Value
	if arg.Kind != ExprValue || v.Kind != ValueInteger && v.Kind != ValueNumeric || slices.ContainsFunc(v.Casts, notNumber) {
		return Expr{}
	}
	if op == "-" {
		if rest, negative := strings.CutPrefix(v.Text, "-"); negative {
			v.Text = rest
		} else if v.Text != "0" {
			v.Text = "-" + v.Text
		}
	}
	v.Start, v.End, v.Literal, v.Negative = 0, 0, 0, false
	if len(e.Name) == 1 {
		u.span(&v, e.Location)
	}
	return Expr{Kind: ExprValue, Value: v}
}

func notNumber(cast string) bool {
	switch cast {
	case "int2", "int4", "int8", "numeric", "float4", "float8":
		return false
	default:
		return true
	}
}

// span finds the bytes of the literal or parameter that pg_query says starts at location. A sign belongs to its number unless something
// stands between them; without a known span, End stays 0.
func (u *unit) span(v *Value, location int32) {
	if location < 0 || int(location) >= len(u.text) {
		return
	}
	s := Scanner{text: u.text, pos: int(location)}
	tok := s.Next()
	start := tok.Start
	number, negative := v.Kind == ValueInteger || v.Kind == ValueNumeric, false
	for number && tok.Kind == TokenPunct && (u.text[tok.Start] == '-' || u.text[tok.Start] == '+') {
		negative = negative != (u.text[tok.Start] == '-')
		tok = s.Next()
	}
	switch tok.Kind {
	case TokenInteger, TokenFloat:
		if !number {
			return
		}
	case TokenString, TokenEscapeString, TokenDollarString:
		if v.Kind != ValueString {
			return
		}
	case TokenUnicodeString:
		if v.Kind != ValueString {
			return
		}
		ahead := s
		if next := nextCode(&ahead); next.Kind == TokenWord && strings.EqualFold(u.text[next.Start:next.End], "uescape") {
			tok = nextCode(&ahead)
		}
	case TokenWord:
		if v.Kind != ValueNull && v.Kind != ValueBool {
			return
		}
	case TokenParam:
		if v.Kind != ValueParam {
			return
		}
	default:
		return
	}
	v.Start, v.End = u.origin.offset(start), u.origin.offset(tok.End)
	v.Literal = u.literals.at(tok)
	v.Negative = negative && v.Literal > 0
}

// nextCode gives the next token that is no comment.
func nextCode(s *Scanner) Token {
	for {
		if t := s.Next(); t.Kind != TokenLineComment && t.Kind != TokenBlockComment {
			return t
		}
	}
}

// boolean reads v as PostgreSQL reads a boolean constant; ok is false where it is none.
func boolean(v Value) (value, null, ok bool) {
	for _, c := range v.Casts {
		if c != "bool" {
			return false, false, false
		}
	}
	switch v.Kind {
	case ValueNull:
		return false, true, true
	case ValueBool:
		return v.Text == "true", false, true
	case ValueString:
		value, ok := parseBool(v.Text)
		return value, false, ok
	case ValueInteger, ValueNumeric, ValueParam:
	}
	return false, false, false
}

// parseBool reads a boolean as PostgreSQL's boolin does: the words and their unique prefixes, in any case, with blanks around.
func parseBool(s string) (value, ok bool) {
	s = strings.ToLower(strings.Trim(s, " \t\n\r\f\v"))
	if s == "" {
		return false, false
	}
	switch {
	case strings.HasPrefix("true", s), strings.HasPrefix("yes", s), s == "on", s == "1":
		return true, true
	case strings.HasPrefix("false", s), strings.HasPrefix("no", s), s == "of", s == "off", s == "0":
		return false, true
	default:
		return false, false
	}
}
