package parity

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Frames and values that are longer, and rows that are more, are told by their beginning and a sum.
const (
	longValue = 120
	manyRows  = 12
)

// firstOID is the first that an object of users' own can have: databases number theirs each for itself.
const firstOID = 16384

// plain are the messages without a body.
var plain = map[byte]string{
	'1': "ParseComplete", '2': "BindComplete", '3': "CloseComplete", 'n': "NoData", 's': "PortalSuspended", 'I': "EmptyQueryResponse", 'c': "CopyDone",
}

// names are those of all messages, as scripts wait for them.
var names = map[byte]string{
	'R': "Authentication", 'S': "ParameterStatus", 'K': "BackendKeyData", 'Z': "ReadyForQuery", 'T': "RowDescription", 'D': "DataRow", 'C': "CommandComplete",
	'E': "ErrorResponse", 'N': "NoticeResponse", 't': "ParameterDescription", 'G': "CopyInResponse", 'H': "CopyOutResponse", 'W': "CopyBothResponse",
	'd': "CopyData", 'v': "NegotiateProtocolVersion", 'V': "FunctionCallResponse", 'A': "NotificationResponse",
}

// temporary is a schema of temporary tables, whose number is the backend's.
var temporary = regexp.MustCompile(`pg_temp_\d+`)

// interrupted is what a cancel request found a block of PL/pgSQL, or a COPY, at: that is a matter of time.
var interrupted = regexp.MustCompile(` \| W ([^|]*inline_code_block|COPY items)[^|]* \|`)

func nameOf(kind byte) string {
	if n := plain[kind]; n != "" {
		return n
	}
	if n := names[kind]; n != "" {
		return n
	}
	return fmt.Sprintf("%q", kind)
}

// render tells a message without losing anything but what no two servers have alike: keys, process numbers, numbers of objects, lines of source.
func render(kind byte, body []byte) string {
	b := &fields{rest: body}
	text := b.message(kind)
	if b.bad || len(b.rest) > 0 {
		return fmt.Sprintf("%s malformed %s", nameOf(kind), short(body))
	}
	text = temporary.ReplaceAllString(text, "pg_temp_*")
	if strings.Contains(text, "| C 57014 |") {
		text = interrupted.ReplaceAllString(text, " | W * |")
	}
	if text == "" {
		return nameOf(kind)
	}
	return nameOf(kind) + " " + text
}

func (b *fields) message(kind byte) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	between := " "
	switch kind {
	case 'R':
		add("%d", b.int32())
		if rest := b.take(len(b.rest)); len(rest) > 0 {
			add("%s", short(rest))
		}
	case 'S':
		add("%s=%s", b.text(), b.text())
	case 'K':
		b.int32()
		add("* %d bytes", len(b.take(len(b.rest))))
	case 'Z':
		add("%s", b.take(1))
	case 'T':
		between = ", "
		for range b.count() {
			name := b.text()
			add("%s table=%s column=%d type=%s size=%d mod=%d format=%d", name, b.oid(), b.int16(), b.oid(), b.int16(), b.int32(), b.int16())
		}
	case 't':
		for range b.count() {
			add("%s", b.oid())
		}
	case 'D':
		between = " | "
		for range b.count() {
			add("%s", b.value())
		}
	case 'V':
		add("%s", b.value())
	case 'C':
		add("%s", b.text())
	case 'E', 'N':
		between = " | "
		for len(b.rest) > 0 && !b.bad {
			field := b.take(1)
			if field[0] == 0 {
				break
			}
			value := b.text()
			if field[0] == 'L' {
				value = "*"
			}
			add("%s %s", field, value)
		}
	case 'G', 'H', 'W':
		add("%v", b.take(1))
		for range b.count() {
			add("%d", b.int16())
		}
	case 'd':
		add("%s", short(b.take(len(b.rest))))
	case 'v':
		add("%d", b.int32())
		for range b.int32() {
			add("%s", b.text())
		}
	case 'A':
		b.int32()
		add("* %s %s", b.text(), b.text())
	default:
		if rest := b.take(len(b.rest)); len(rest) > 0 {
			add("%s", short(rest))
		}
	}
	return strings.Join(parts, between)
}

// short quotes bytes.
func short(p []byte) string {
	if len(p) > longValue {
		return fmt.Sprintf("%s… %d bytes, sum %s", strconv.QuoteToASCII(string(p[:20])), len(p), sum(p))
	}
	return strconv.QuoteToASCII(string(p))
}

func sum(p []byte) string {
	s := sha256.Sum256(p)
	return hex.EncodeToString(s[:6])
}

// fields reads the body of a message.
type fields struct {
	rest []byte
	bad  bool
}

func (b *fields) take(n int) []byte {
	if n < 0 || n > len(b.rest) {
		b.bad, b.rest = true, nil
		return make([]byte, 8)
	}
	p := b.rest[:n]
	b.rest = b.rest[n:]
	return p
}

func (b *fields) int32() int32 {
	p := b.take(4)
	return int32(binary.BigEndian.Uint32(p))
}

func (b *fields) int16() int16 {
	p := b.take(2)
	return int16(binary.BigEndian.Uint16(p))
}

// count is of what follows.
func (b *fields) count() int {
	if n := int(b.int16()); !b.bad {
		return n
	}
	return 0
}

func (b *fields) oid() string {
	if n := uint32(b.int32()); n < firstOID {
		return strconv.FormatUint(uint64(n), 10)
	}
	return "own"
}

func (b *fields) text() string {
	i := slices.Index(b.rest, 0)
	p := b.take(i + 1)
	if b.bad || i < 0 {
		b.bad = true
		return ""
	}
	text := string(p[:i])
	if quoted := strconv.Quote(text); len(text) > longValue || quoted != `"`+text+`"` && strings.ContainsAny(text, "\n\x00|") {
		return short(p[:i])
	}
	return text
}

func (b *fields) value() string {
	n := b.int32()
	if n == -1 {
		return "NULL"
	}
	return short(b.take(int(n)))
}

// fold shortens long runs of rows.
func fold(lines []string) []string {
	var out []string
	kind := func(l string) string { k, _, _ := strings.Cut(l, " "); return k }
	for i := 0; i < len(lines); {
		j := i
		for j < len(lines) && kind(lines[j]) == kind(lines[i]) {
			j++
		}
		if k := kind(lines[i]); j-i > manyRows && (k == "DataRow" || k == "CopyData") {
			out = append(out, lines[i], fmt.Sprintf("… %d more, sum %s", j-i-2, sum([]byte(strings.Join(lines[i:j], "\n")))), lines[j-1])
		} else {
			out = append(out, lines[i:j]...)
		}
		i = j
	}
	return out
}

// difference is the shortest list of lines to remove (-) and to add (+).
func difference(want, got []string) []string {
	n, m := len(want), len(got)
	length := make([][]int, n+1)
	for i := range length {
		length[i] = make([]int, m+1)
	}
	for i := n - 1; i >= 0; i-- {
		for j := m - 1; j >= 0; j-- {
			if want[i] == got[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < n || j < m; {
		switch {
		case i < n && j < m && want[i] == got[j]:
			i, j = i+1, j+1
		case j == m || i < n && length[i+1][j] >= length[i][j+1]:
			out = append(out, "-"+want[i])
			i++
		default:
			out = append(out, "+"+got[j])
			j++
		}
	}
	return out
}
