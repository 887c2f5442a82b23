package state

import (
	"cmp"
	"strings"
)

// dateStyle is the one setting whose value may be half of one: SET DateStyle TO YMD leaves the output format as it was, SET DateStyle TO ISO the order of
// day, month and year (PostgreSQL manual, DateStyle).
const dateStyle = "datestyle"

// over is v, the setting of DateStyle, with what it leaves as it was in old. What can't be read replaces old: PostgreSQL says what it is.
func (v Var) over(old Var) Var {
	format, order, ok := v.dateStyle()
	if !ok || format != "" && order != "" {
		return v
	}
	oldFormat, oldOrder, ok := old.dateStyle()
	if !ok {
		return v
	}
	value := strings.Trim(cmp.Or(format, oldFormat)+", "+cmp.Or(order, oldOrder), ", ")
	return Var{Name: dateStyle, Value: value, Raw: true}
}

// partial reports that what v sets depends on what was set before.
func (v Var) partial() bool {
	if v.Name != dateStyle {
		return false
	}
	format, order, ok := v.dateStyle()
	return !ok || format == "" || order == ""
}

// dateStyle reads a value as PostgreSQL does (check_datestyle), but for DEFAULT as an element.
func (v Var) dateStyle() (format, order string, ok bool) {
	if v.Special || strings.ContainsRune(v.Value, '\\') {
		return "", "", false
	}
	german := false
	for word := range strings.SplitSeq(v.Value, ",") {
		word = strings.ToLower(strings.Trim(word, "'\" \t\r\n"))
		f, o := "", ""
		switch {
		case word == "iso", word == "sql":
			f = strings.ToUpper(word)
		case strings.HasPrefix(word, "postgres"):
			f = "Postgres"
		case word == "german":
			f, german = "German", true
		case word == "ymd":
			o = "YMD"
		case word == "dmy", strings.HasPrefix(word, "euro"):
			o = "DMY"
		case word == "mdy", word == "us", strings.HasPrefix(word, "noneuro"):
			o = "MDY"
		default:
			return "", "", false
		}
		if f != "" && format != "" && f != format || o != "" && order != "" && o != order {
			return "", "", false // PostgreSQL refuses it
		}
		format, order = cmp.Or(f, format), cmp.Or(o, order)
	}
	if german && order == "" {
		order = "DMY"
	}
	return format, order, true
}
