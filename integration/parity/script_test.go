package parity

import (
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// script is one conversation.
type script struct {
	file, name string
	place      string // file:line
	options    []string
	text       []string // as it stands in the file
	want       []string
	steps      []step
}

// key is the tenant that the script's statements name.
func (s *script) key() int {
	h := fnv.New32a()
	h.Write([]byte(s.full()))
	return 100_000 + int(h.Sum32()%900_000)
}

func (s *script) full() string { return s.file + "/" + s.name }

// step is one line of a script: bytes to send, or something else to do.
type step struct {
	send []byte
	verb string
	args []string
}

// readScripts reads a file: "script NAME [OPTION…]", lines, "----", the answer, and a blank line.
func readScripts(t *testing.T, path string) (list []*script) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Base(path)
	var s *script
	answer := false
	for n, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case s == nil && (len(words) == 0 || words[0][0] == '#'):
		case s == nil:
			if words[0] != "script" || len(words) < 2 {
				t.Fatalf("%s:%d: want script NAME, got %q", path, n+1, line)
			}
			s, answer = &script{file: file, name: words[1], place: fmt.Sprintf("%s:%d", path, n+1), options: words[2:]}, false
			list = append(list, s)
		case line == "----":
			answer = true
		case answer && line == "":
			s = nil
		case answer:
			s.want = append(s.want, line)
		default:
			s.text = append(s.text, line)
			if len(words) > 0 && words[0][0] != '#' {
				st, err := parseStep(strings.NewReplacer(
					"{k}", strconv.Itoa(s.key()), "{large}", strconv.Itoa(*large), "*large}", "*"+strconv.Itoa(*large)+"}",
				).Replace(strings.TrimSpace(line)))
				if err != nil {
					t.Fatalf("%s:%d: %v", path, n+1, err)
				}
				s.steps = append(s.steps, st)
			}
		}
	}
	return list
}

// large is what stands for {large} in scripts. Answers to other than the default are PostgreSQL's of that run.
var large = flag.Int("large", defaultLarge, "how many bytes a large value has; 100_000_000 takes a minute")

const defaultLarge = 3_000_000

// rewriteScripts writes the answers into the file.
func rewriteScripts(t *testing.T, path string, list []*script) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	s, answer := 0, false
	for line := range strings.Lines(string(old)) {
		switch line {
		case "----\n":
			b.WriteString(line + strings.Join(append(slices.Clone(list[s].want), ""), "\n"))
			s, answer = s+1, true
		case "\n":
			answer = false
			b.WriteString(line)
		default:
			if !answer {
				b.WriteString(line)
			}
		}
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	repeated = regexp.MustCompile(`\{(.)\*(\d+)\}`)
	verbs    = []string{"ready", "until", "past", "closed", "conn", "login", "cancel", "hangup", "half", "send", "dial", "bytes"}
)

// parseStep reads a line. {x*1000} is x a thousand times.
func parseStep(line string) (step, error) {
	for {
		m := repeated.FindStringSubmatchIndex(line)
		if m == nil {
			break
		}
		n, err := strconv.Atoi(line[m[4]:m[5]])
		if err != nil {
			return step{}, err
		}
		line = line[:m[0]] + strings.Repeat(line[m[2]:m[3]], n) + line[m[1]:]
	}
	verb, rest, _ := strings.Cut(line, " ")
	if slices.Contains(verbs, verb) {
		return step{verb: verb, args: strings.Fields(rest)}, nil
	}
	// Names and options of a message stand before a colon.
	head, tail, colon := strings.Cut(line, ": ")
	if !colon {
		head, tail = strings.TrimSuffix(line, ":"), ""
	}
	words := strings.Fields(head)
	option := func(name string) string {
		for _, w := range words[1:] {
			if v, ok := strings.CutPrefix(w, name+"="); ok {
				return v
			}
		}
		return ""
	}
	var kind byte
	var b []byte
	var err error
	str := func(s string) { b = append(append(b, s...), 0) }
	codes := func(list string) {
		parts := strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
		b = binary.BigEndian.AppendUint16(b, uint16(len(parts)))
		for _, p := range parts {
			n, cerr := strconv.Atoi(p)
			b, err = binary.BigEndian.AppendUint16(b, uint16(n)), errOr(err, cerr)
		}
	}
	text := func(s string) []byte {
		u, uerr := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
		err = errOr(err, uerr)
		return []byte(u)
	}
	values := func(list string) {
		count := len(b)
		b = append(b, 0, 0)
		for n := 1; strings.TrimSpace(list) != ""; n++ {
			list = strings.TrimLeft(list, " ")
			if r, ok := strings.CutPrefix(list, "NULL"); ok {
				b, list = binary.BigEndian.AppendUint32(b, ^uint32(0)), r
			} else if r, ok := strings.CutPrefix(list, "'"); ok {
				v, r, _ := strings.Cut(r, "'")
				raw := text(v)
				b, list = append(binary.BigEndian.AppendUint32(b, uint32(len(raw))), raw...), r
			} else if r, ok := strings.CutPrefix(list, "x'"); ok {
				v, r, _ := strings.Cut(r, "'")
				raw, herr := hex.DecodeString(v)
				err = errOr(err, herr)
				b, list = append(binary.BigEndian.AppendUint32(b, uint32(len(raw))), raw...), r
			} else {
				err = errOr(err, fmt.Errorf("a value is 'text', x'hex' or NULL, not %q", list))
				return
			}
			binary.BigEndian.PutUint16(b[count:], uint16(n))
		}
	}
	switch words[0] {
	case "Query":
		kind = 'Q'
		str(rest)
	case "Parse": // Parse [s=NAME] [t=OID,…]: SQL
		kind = 'P'
		str(option("s"))
		str(tail)
		var types []string
		if list := option("t"); list != "" {
			types = strings.Split(list, ",")
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(types)))
		for _, o := range types {
			n, cerr := strconv.ParseUint(o, 10, 32)
			b, err = binary.BigEndian.AppendUint32(b, uint32(n)), errOr(err, cerr)
		}
	case "Bind": // Bind [p=PORTAL] [s=NAME] [f=FORMATS] [r=FORMATS]: VALUE…
		kind = 'B'
		str(option("p"))
		str(option("s"))
		codes(option("f"))
		values(tail)
		codes(option("r"))
	case "Describe", "Close": // Describe S|P [NAME]
		kind = words[0][0]
		b = append(b, words[1]...)
		str(strings.Join(words[2:], " "))
	case "Execute": // Execute [p=PORTAL] [n=ROWS]
		kind = 'E'
		str(option("p"))
		n := 0
		if o := option("n"); o != "" {
			n, err = strconv.Atoi(o)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	case "Sync":
		kind = 'S'
	case "Flush":
		kind = 'H'
	case "Terminate":
		kind = 'X'
	case "CopyData":
		kind, b = 'd', text(rest)
	case "CopyDone":
		kind = 'c'
	case "CopyFail":
		kind = 'f'
		str(rest)
	case "FunctionCall": // FunctionCall OID [f=FORMATS] [r=FORMAT]: VALUE…
		kind = 'F'
		n, cerr := strconv.ParseUint(words[1], 10, 32)
		err = cerr
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		codes(option("f"))
		values(tail)
		r, _ := strconv.Atoi("0" + option("r"))
		b = binary.BigEndian.AppendUint16(b, uint16(r))
	case "Frame": // Frame KIND [len=N] BODY: any message, with the length it says if that is not its own
		k, body, _ := strings.Cut(rest, " ")
		length := -1
		if o, ok := strings.CutPrefix(body, "len="); ok {
			o, body, _ = strings.Cut(o, " ")
			if length, err = strconv.Atoi(o); err != nil {
				return step{}, err
			}
		}
		raw := text(body)
		if length < 0 && !strings.Contains(line, "len=") {
			length = 4 + len(raw)
		}
		return step{send: append(binary.BigEndian.AppendUint32(text(k), uint32(int32(length))), raw...)}, err
	case "Bytes":
		return step{send: text(rest)}, err
	default:
		return step{}, fmt.Errorf("no message is called %q", words[0])
	}
	frame := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(b)))
	return step{send: append(frame, b...)}, err
}

func errOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// startup is a startup packet.
func startup(version uint32, params []string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	for _, p := range params {
		b = append(append(b, p...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// whole reports whether the script has anything to be put into fewer packets.
func (s *script) whole() bool {
	return !slices.Contains(s.options, "apart") && len(s.steps) > 2
}

// not reports whether the script is none for a world; why stands above it.
func (s *script) not(world string) bool {
	return slices.ContainsFunc(s.options, func(o string) bool {
		list, ok := strings.CutPrefix(o, "not=")
		return ok && slices.Contains(strings.Split(list, ","), world)
	})
}
