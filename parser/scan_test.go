package parser

import (
	"strings"
	"testing"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// pgKind maps a token of pg_query's scanner to ours; dollar, escape and plain strings are one kind there.
func pgKind(t *pg_query.ScanToken) TokenKind {
	switch t.Token {
	case pg_query.Token_IDENT:
		return TokenWord // or TokenQuotedIdent
	case pg_query.Token_UIDENT:
		return TokenUnicodeIdent
	case pg_query.Token_ICONST:
		return TokenInteger
	case pg_query.Token_FCONST:
		return TokenFloat // or TokenInteger
	case pg_query.Token_SCONST:
		return TokenString // or the escape and dollar forms
	case pg_query.Token_USCONST:
		return TokenUnicodeString
	case pg_query.Token_BCONST:
		return TokenBitString
	case pg_query.Token_XCONST:
		return TokenHexString
	case pg_query.Token_PARAM:
		return TokenParam
	case pg_query.Token_Op, pg_query.Token_LESS_EQUALS, pg_query.Token_GREATER_EQUALS, pg_query.Token_NOT_EQUALS, pg_query.Token_EQUALS_GREATER:
		return TokenOperator
	case pg_query.Token_SQL_COMMENT:
		return TokenLineComment
	case pg_query.Token_C_COMMENT:
		return TokenBlockComment
	}
	if t.KeywordKind != pg_query.KeywordKind_NO_KEYWORD {
		return TokenWord
	}
	return TokenPunct
}

func sameKind(ours, theirs TokenKind) bool {
	switch ours {
	case TokenQuotedIdent:
		return theirs == TokenWord
	case TokenInteger:
		return theirs == TokenInteger || theirs == TokenFloat // integers beyond 32 bits
	case TokenEscapeString, TokenDollarString:
		return theirs == TokenString
	default:
		return ours == theirs
	}
}

// compareScan holds our tokens to pg_query's; where that refuses a text for what is in a token (bad escapes), ours need not.
func compareScan(t *testing.T, sql string) {
	t.Helper()
	theirs, err := pg_query.Scan(sql)
	s := Scan(sql)
	end := 0
	for i := 0; ; i++ {
		tok := s.Next()
		if tok.Start < end || tok.End < tok.Start || tok.End > len(sql) {
			t.Fatalf("token %v out of order in %q", tok, sql)
		}
		if gap := sql[end:tok.Start]; strings.Trim(gap, " \t\n\r\f") != "" {
			t.Fatalf("gap %q before token %v in %q", gap, tok, sql)
		}
		end = tok.End
		if tok.Kind == TokenError {
			if s.Err() == "" {
				t.Fatalf("error token without a reason in %q", sql)
			}
			if err == nil {
				t.Fatalf("we refuse %q (%s at %d), pg_query does not", sql, s.Err(), tok.Start)
			}
			if n := s.Next(); n.Kind != TokenEnd {
				t.Fatalf("token %v after an error in %q", n, sql)
			}
			return
		}
		if err != nil {
			if tok.Kind == TokenEnd {
				return
			}
			continue
		}
		if tok.Kind == TokenEnd {
			if i != len(theirs.Tokens) {
				t.Fatalf("got %d tokens, want %d in %q", i, len(theirs.Tokens), sql)
			}
			return
		}
		if i >= len(theirs.Tokens) {
			t.Fatalf("token %v past pg_query's last in %q", tok, sql)
		}
		want := theirs.Tokens[i]
		// pg_query does not keep the end of U& tokens.
		endKnown := want.Token != pg_query.Token_USCONST && want.Token != pg_query.Token_UIDENT
		switch tok.Kind {
		case TokenString, TokenEscapeString, TokenUnicodeString, TokenBitString, TokenHexString:
			gaps := 0
			blankGaps(sql, tok, func(_, _ int) { gaps++ })
			if gaps > 0 {
				// PostgreSQL continues a string behind a comment; pg_query, which keeps comments as tokens, does not.
				return
			}
		}
		if tok.Start != int(want.Start) || endKnown && tok.End != int(want.End) || !sameKind(tok.Kind, pgKind(want)) {
			t.Fatalf("token %d: got %v %q, want %v in %q", i, tok, sql[tok.Start:tok.End], want, sql)
		}
	}
}

var scanSeeds = []string{
	"", " ", ";", "select 1", "select n'abc', e'a\\'b', U&'x' uescape '!', \"a\"\"b\", U&\"x\", $a$ x $a$ /* a /* b */ c */ -- foo",
	"1.5 .5 5. 1..10 1e10 0x1f 1_000 $1 a.b :: := => <= >= <> != @@ +- *-- x", "a<-1 b=-1 c@-1 '...' b'01' x'1f' [1:2] a$b é1",
	"'a'\n'b'", "'a' -- c\n 'b'", "'a' 'b'", "e'a'\n'\\''", "$$a$$", "$a$ $b$ $a$", "$a$b$a$c", "$1a", "$a", "0x", "0b12", "0b", "0o8", "1_", "1__0",
	"1e", "1e+", "1e+5", "1.e5", "1.5e", "1.a", "1...", "0x1_f", "0x_1", "0xg", "1.5.3", "/*/", "/**/", "/*/*/", "/* */ */", "--", "--\r1", "a--b\nc", "+/*x*/-",
	"@-- x", "@-", "+-", "-+", "*+-", "<--", "=-", "=>-", "!=", "!=-", "!!", "<>-", "a::int", "::=", ":=:", "\"\"", "U&\"\"", "u&x", "u&'a'\n'b'", "b'1'\n'0'", "b'1' -- c\n '0'", "U&'a' -- c\n 'b' c", "x'1' --\n'2'", "b'1''0'",
	"x'1''f'", "\"a", "'a", "e'a\\", "e'\\", "{}", "\\", "\x00", "a\x00b", "\x80\xff", "$\xc3\xa9$x$\xc3\xa9$", "$a", "$$", "$$$$", "$_1$x$_1$", "a$$b$$", "1$$b$$",
	"0_1", "00", "007", "1_000.000_1", "1_000..000", "1...2", "1_0..a", "1_000e1_0", "._1", ".1_", strings.Repeat("+", 70), strings.Repeat("~", 63), strings.Repeat("~", 64), "a.b.c", "\v1", "1\v",
	"e'\\x27'", "e'\\u0027'", "e'\\u'", "U&'\\0061'", "N'a'", "n'a'\n'b'", "?|", "?-", "-?-", "a-b", "a - b", "a->>'b'", "#>>", "^@", "0XFF", "1E5", "$12345678901",
}

func TestScanMatchesPostgreSQL(t *testing.T) {
	for _, sql := range scanSeeds {
		if strings.IndexByte(sql, 0) < 0 {
			compareScan(t, sql)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, sql := range scanSeeds {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if strings.IndexByte(sql, 0) >= 0 {
			// What pg_query would see ends at the NUL; ours must only not go wrong.
			s := Scan(sql)
			for s.Next().Kind != TokenEnd {
			}
			return
		}
		compareScan(t, sql)
	})
}

func TestScanAllocatesNothing(t *testing.T) {
	sql := []byte("SELECT a.*, 'x', E'\\n', $1, $$q$$, 1.5e3 /* c */ FROM \"T\" a WHERE tenant_id = 0x1F -- end\n AND b @> '{}'")
	if n := testing.AllocsPerRun(100, func() {
		s := ScanBytes(sql)
		for s.Next().Kind != TokenEnd {
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkScan(b *testing.B) {
	sql := []byte("SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.tenant_id = 42 AND o.state = 'open' LIMIT 20")
	b.SetBytes(int64(len(sql)))
	b.ReportAllocs()
	for b.Loop() {
		s := ScanBytes(sql)
		for s.Next().Kind != TokenEnd {
		}
	}
}
