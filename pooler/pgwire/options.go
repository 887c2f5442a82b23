package pgwire

import (
	"strconv"
	"strings"
)

// ParseOptions takes the startup parameter "options" apart the way PostgreSQL does (pg_split_opts and process_postgres_switches): words
// separated by white space, a backslash before a white space or a backslash makes it ordinary, "-c name=value", "--name=value"
// with dashes in the name read as underscores, and the old one-letter switches that stand for a parameter. Parameters come in
// the order given; the last of a name counts. What PostgreSQL refuses is an error with its SQLSTATE and text.
func ParseOptions(options string) ([]Param, error) {
	var params []Param
	args := splitOptions(options)
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' {
			return nil, badOption(arg)
		}
		if arg == "--" { // the end of the switches; nothing may follow
			if i+1 < len(args) {
				return nil, badOption(args[i+1])
			}
			break
		}
		for pos := 1; pos < len(arg); pos++ {
			letter := arg[pos]
			kind := strings.IndexByte(switches, letter)
			if kind < 0 || letter == ':' {
				// getopt is done with a word only at its end; before that PostgreSQL complains about the one in front.
				switch {
				case pos == len(arg)-1:
					return nil, badOption(arg)
				case i > 0:
					return nil, badOption(args[i-1])
				default:
					return nil, badOption("postgres")
				}
			}
			value, blamed := "", arg
			if kind+1 < len(switches) && switches[kind+1] == ':' {
				value = arg[pos+1:]
				pos = len(arg)
				if value == "" {
					if i++; i >= len(args) {
						return nil, badOption(arg)
					}
					value, blamed = args[i], args[i]
				}
			}
			var err error
			if params, err = appendSwitch(params, letter, value, blamed); err != nil {
				return nil, err
			}
		}
	}
	return params, nil
}

// switches is PostgreSQL's getopt string for a backend; a colon follows the letters that take a value.
const switches = "B:bc:C:D:d:EeFf:h:ijk:lN:nOPp:r:S:sTt:v:W:-:"

// appendSwitch appends what one switch sets. Switches PostgreSQL ignores from a client set nothing.
func appendSwitch(params []Param, letter byte, value, arg string) ([]Param, error) {
	set := func(name, value string) ([]Param, error) { return append(params, Param{Name: name, Value: value}), nil }
	switch letter {
	case 'c', '-':
		name, v, ok := strings.Cut(value, "=")
		if !ok {
			if letter == 'c' {
				return nil, Fatalf(CodeSyntaxError, "-c %s requires a value", value)
			}
			return nil, Fatalf(CodeSyntaxError, "--%s requires a value", value)
		}
		return set(strings.ReplaceAll(name, "-", "_"), v)
	case 'B':
		return set("shared_buffers", value)
	case 'd':
		return appendDebug(params, value), nil
	case 'e':
		return set("datestyle", "euro")
	case 'F':
		return set("fsync", "false")
	case 'f':
		if value != "" && planSwitches[value[0]] != "" { // the first letter decides, the rest is ignored
			return set(planSwitches[value[0]], "false")
		}
		return nil, badOption(arg)
	case 'h':
		return set("listen_addresses", value)
	case 'i':
		return set("listen_addresses", "*")
	case 'k':
		return set("unix_socket_directories", value)
	case 'l':
		return set("ssl", "true")
	case 'N':
		return set("max_connections", value)
	case 'O':
		return set("allow_system_table_mods", "true")
	case 'P':
		return set("ignore_system_indexes", "true")
	case 'p':
		return set("port", value)
	case 'S':
		return set("work_mem", value)
	case 's':
		return set("log_statement_stats", "true")
	case 't':
		switch {
		case strings.HasPrefix(value, "pa"):
			return set("log_parser_stats", "true")
		case strings.HasPrefix(value, "pl"):
			return set("log_planner_stats", "true")
		case strings.HasPrefix(value, "e"):
			return set("log_executor_stats", "true")
		default:
			return nil, badOption(arg)
		}
	case 'W':
		return set("post_auth_delay", value)
	default: // b, C, D, E, j, n, r, T, v: without effect in a client's options
		return params, nil
	}
}

// planSwitches is what -f followed by the letter turns off.
var planSwitches = [256]string{
	's': "enable_seqscan", 'i': "enable_indexscan", 'o': "enable_indexonlyscan", 'b': "enable_bitmapscan",
	't': "enable_tidscan", 'n': "enable_nestloop", 'm': "enable_mergejoin", 'h': "enable_hashjoin",
}

// appendDebug appends what -d sets for a backend (set_debug_options). A level that is no number counts as 0, as with atoi.
func appendDebug(params []Param, level string) []Param {
	n, err := strconv.Atoi(level)
	if err != nil || n <= 0 {
		return append(params, Param{Name: "log_min_messages", Value: "notice"})
	}
	params = append(params, Param{Name: "log_min_messages", Value: "debug" + strconv.Itoa(n)})
	for i, p := range []Param{
		{Name: "log_statement", Value: "all"},
		{Name: "debug_print_parse", Value: "true"},
		{Name: "debug_print_plan", Value: "true"},
		{Name: "debug_print_rewritten", Value: "true"},
	} {
		if n >= i+2 {
			params = append(params, p)
		}
	}
	return params
}

func badOption(arg string) error {
	return Fatalf(CodeSyntaxError, "invalid command-line argument for server process: %s", arg).
		WithHint(`Try "postgres --help" for more information.`)
}

// splitOptions is pg_split_opts.
func splitOptions(s string) []string {
	var args []string
	for i := 0; i < len(s); {
		if isSpace(s[i]) {
			i++
			continue
		}
		var word []byte
		escaped := false
		for ; i < len(s) && (escaped || !isSpace(s[i])); i++ {
			if !escaped && s[i] == '\\' {
				escaped = true
				continue
			}
			escaped = false
			word = append(word, s[i])
		}
		args = append(args, string(word))
	}
	return args
}

// isSpace is C's isspace in the C locale.
func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

// JoinOptions writes parameters as a value for the startup parameter "options" that ParseOptions and PostgreSQL read back unchanged. Names
// must be parameter names: PostgreSQL reads a dash in them as an underscore and ends them at the first equals sign.
func JoinOptions(params []Param) string {
	var b []byte
	for i, p := range params {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, "-c "...)
		b = appendEscaped(b, p.Name)
		b = append(b, '=')
		b = appendEscaped(b, p.Value)
	}
	return string(b)
}

func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		if isSpace(s[i]) || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return b
}
