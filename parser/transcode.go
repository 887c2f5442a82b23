package parser

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// origin maps offsets in a transcoded text back to the original. A nil origin maps each to itself.
type origin struct {
	grown []int // offsets, in the transcoded text, of the second bytes that transcoding made
}

// offset gives the original's offset.
func (o *origin) offset(i int) int {
	if o == nil {
		return i
	}
	return i - sort.SearchInts(o.grown, i)
}

// transcode makes valid UTF-8 of a text in some single-byte encoding, taking each byte from 0x80 on for the Latin-1 letter: to
// PostgreSQL's scanner all of them are letters of identifiers, so that tokens stay what they are. A text that is UTF-8 is left alone.
func transcode(sql string) (string, *origin) {
	if utf8.ValidString(sql) {
		return sql, nil
	}
	o := &origin{}
	var b strings.Builder
	b.Grow(len(sql) + len(sql)/8)
	for i := range len(sql) {
		if sql[i] < utf8.RuneSelf {
			b.WriteByte(sql[i])
			continue
		}
		b.WriteRune(rune(sql[i]))
		o.grown = append(o.grown, b.Len()-1)
	}
	return b.String(), o
}
