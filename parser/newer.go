package parser

import "strings"

// The parser knows PostgreSQL 16's grammar. What later versions added and 16 refuses is known here by its words: a text counts as newer
// SQL only if
//   - the syntax error is at a token, not at the end of the text nor in the scanner (an unterminated string never is newer SQL),
//   - and it holds the words of one of these features somewhere outside of literals and comments.
//
// Anything else with a syntax error is a mistake, and gets PostgreSQL's own message at once.
var newerWords = [][]string{
	// PostgreSQL 17
	{"merge", "...", "returning"},
	{"not", "matched", "by"},
	{"json_table"},
	{"json_value", "...", "returning"},
	{"json_value", "...", "on"},
	{"json_value", "...", "passing"},
	{"json_query", "...", "returning"},
	{"json_query", "...", "on"},
	{"json_query", "...", "passing"},
	{"json_query", "...", "wrapper"},
	{"json_query", "...", "quotes"},
	{"json_exists", "...", "on"},
	{"json_exists", "...", "passing"},
	{"json_serialize", "...", "returning"},
	{"json_scalar", "...", "returning"},
	{"json", "...", "unique", "keys"},
	{"json", "...", "format"},
	{"at", "local"},
	{"set", "expression", "as"},
	{"set", "access", "method", "default"},
	// PostgreSQL 18
	{"returning", "with"},
	{"virtual"},
	{"generated", "always", "as"},
	{"without", "overlaps"},
	{"period"},
	{"enforced"},
	{"add", "not", "null"},
	{"constraint", "*", "not", "null"},
	{"alter", "constraint", "*", "inherit"},
	{"alter", "constraint", "*", "no", "inherit"},
	{"vacuum", "...", "only"},
	{"analyze", "...", "only"},
	{"create", "foreign", "table", "...", "like"},
	{"default", "privileges", "...", "large", "objects"},
	// PostgreSQL 19, as far as known
	{"group", "by", "all"},
	{"ignore", "nulls"},
	{"respect", "nulls"},
	{"graph_table"},
	{"property", "graph"},
	{"repack"},
	{"wait", "for", "lsn"},
	{"for", "portion", "of"},
	{"merge", "partitions"},
	{"split", "partition"},
}

// mayBeNewer reports that a text that gave this error may be SQL of a PostgreSQL newer than the parser.
func mayBeNewer(text string, err *SyntaxError) bool {
	if err.Code != codeSyntax || !strings.HasPrefix(err.Message, "syntax error at or near ") {
		return false
	}
	matched := make([]int, len(newerWords)) // words matched so far
	found := false
	s := Scan(text)
	for {
		switch tok := s.Next(); tok.Kind {
		case TokenEnd:
			return found
		case TokenError:
			return false
		case TokenLineComment, TokenBlockComment:
		case TokenPunct:
			if text[tok.Start] == ';' {
				clear(matched)
				break
			}
			found = match(matched, "") || found
		case TokenWord:
			found = match(matched, lower(text[tok.Start:tok.End])) || found
		default:
			found = match(matched, "") || found
		}
	}
}

// match takes one more token into the features matched so far; word is empty for a token that is no word. It reports that
// a feature is complete. "..." stands for any tokens, "*" for one.
func match(matched []int, word string) bool {
	complete := false
	for i, words := range newerWords {
		n := matched[i]
		switch {
		case words[n] == "...":
			if word == words[n+1] {
				n += 2
			}
		case words[n] == word || words[n] == "*":
			n++
		case words[0] == word:
			n = 1
		default:
			n = 0
		}
		if n == len(words) {
			complete, n = true, 0
		}
		matched[i] = n
	}
	return complete
}
