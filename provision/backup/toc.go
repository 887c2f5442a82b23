package backup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// An archive of pg_dump's custom format begins with a table of contents. In it are a few statements that only a superuser may run, or that were done before:
// CREATE EXTENSION with its comment, and the tenant's schema. They are emptied on their way to pg_restore, which does not run an empty statement.

// tocMagic begins an archive; tocKnown are the versions whose table of contents is known (PostgreSQL 12 to 18).
const tocMagic = "PGDMP"

var tocKnown = [2]byte{14, 16} // of 1.14 and 1.16

// maxTOC bounds what a table of contents may say of its own lengths.
const (
	maxEntries = 4 << 20
	maxString  = 1 << 30
)

// entry is what decides about a statement.
type entry struct{ desc, tag, namespace string }

// toc copies an archive and empties the statements that drop says. What it does not understand it does not change.
type toc struct {
	r       *bufio.Reader
	w       *bufio.Writer
	intSize int
	offSize int
	minor   byte
}

func filterTOC(r io.Reader, w io.Writer, drop func(entry) bool) error {
	t := &toc{r: bufio.NewReaderSize(r, 1<<16), w: bufio.NewWriterSize(w, 1<<16)}
	if err := t.run(drop); err != nil {
		return err
	}
	if err := t.w.Flush(); err != nil {
		return err
	}
	_, err := io.Copy(w, t.r)
	return err
}

var errTOC = errors.New("not an archive of pg_dump")

func (t *toc) run(drop func(entry) bool) error {
	head := make([]byte, len(tocMagic)+6) // version, sizes, format
	if err := t.raw(head); err != nil {
		return err
	}
	const custom = 1
	v := head[len(tocMagic):]
	if string(head[:len(tocMagic)]) != tocMagic || v[5] != custom || v[3] < 1 || v[3] > 8 || v[4] < 1 || v[4] > 8 {
		return errTOC
	}
	if v[0] != 1 || v[1] < tocKnown[0] || v[1] > tocKnown[1] {
		return fmt.Errorf("its archive version %d.%d is not known", v[0], v[1])
	}
	t.minor, t.intSize, t.offSize = v[1], int(v[3]), int(v[4])
	if t.minor >= 15 {
		if err := t.raw(make([]byte, 1)); err != nil { // compression
			return err
		}
	} else if _, err := t.int(); err != nil {
		return err
	}
	for range 7 { // when it was made
		if _, err := t.int(); err != nil {
			return err
		}
	}
	for range 3 { // database, versions
		if err := t.pass(); err != nil {
			return err
		}
	}
	n, err := t.int()
	if err != nil {
		return err
	}
	if n < 0 || n > maxEntries {
		return errTOC
	}
	for range n {
		if err := t.entry(drop); err != nil {
			return err
		}
	}
	return nil
}

// entry copies one entry. Its statements are kept until its schema is known, which is behind them.
func (t *toc) entry(drop func(entry) bool) error {
	for range 2 { // ID, whether it has data
		if _, err := t.int(); err != nil {
			return err
		}
	}
	for range 2 { // of the catalog
		if err := t.pass(); err != nil {
			return err
		}
	}
	var e entry
	for _, s := range []*string{&e.tag, &e.desc} {
		b, ok, err := t.string()
		if err != nil {
			return err
		}
		if err := t.put(b, ok); err != nil {
			return err
		}
		*s = string(b)
	}
	if _, err := t.int(); err != nil { // section
		return err
	}
	type text struct {
		b  []byte
		ok bool
	}
	var texts [4]text // statement, its opposite, COPY, schema
	for i := range texts {
		b, ok, err := t.string()
		if err != nil {
			return err
		}
		texts[i] = text{b, ok}
	}
	e.namespace = string(texts[3].b)
	if drop(e) {
		texts[0] = text{nil, true}
		texts[1] = text{nil, true}
	}
	for _, x := range texts {
		if err := t.put(x.b, x.ok); err != nil {
			return err
		}
	}
	for range 2 { // tablespace, access method
		if err := t.pass(); err != nil {
			return err
		}
	}
	if t.minor >= 16 { // kind
		if _, err := t.int(); err != nil {
			return err
		}
	}
	for range 2 { // owner, OIDs
		if err := t.pass(); err != nil {
			return err
		}
	}
	for { // what it depends on
		b, ok, err := t.string()
		if err != nil {
			return err
		}
		if err := t.put(b, ok); err != nil {
			return err
		}
		if !ok {
			break
		}
	}
	return t.raw(make([]byte, 1+t.offSize)) // where its data are
}

// raw copies bytes, and shows them.
func (t *toc) raw(b []byte) error {
	if _, err := io.ReadFull(t.r, b); err != nil {
		return short(err)
	}
	_, err := t.w.Write(b)
	return err
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTOC
	}
	return err
}

// int copies a number: its sign, and its bytes, the lowest first.
func (t *toc) int() (int64, error) {
	b := make([]byte, 1+t.intSize)
	if err := t.raw(b); err != nil {
		return 0, err
	}
	return t.number(b)
}

func (t *toc) number(b []byte) (int64, error) {
	var wide [8]byte
	copy(wide[:], b[1:])
	n := binary.LittleEndian.Uint64(wide[:])
	if n > 1<<62 {
		return 0, errTOC
	}
	if b[0] != 0 {
		return -int64(n), nil
	}
	return int64(n), nil
}

// string reads a text; not ok is NULL.
func (t *toc) string() (text []byte, ok bool, err error) {
	b := make([]byte, 1+t.intSize)
	if _, err := io.ReadFull(t.r, b); err != nil {
		return nil, false, short(err)
	}
	n, err := t.number(b)
	if err != nil {
		return nil, false, err
	}
	if n < 0 {
		return nil, false, nil
	}
	if n > maxString {
		return nil, false, errTOC
	}
	var s strings.Builder // it grows with what is there, not with what is said
	if _, err := io.CopyN(&s, t.r, n); err != nil {
		return nil, false, short(err)
	}
	return []byte(s.String()), true, nil
}

func (t *toc) put(text []byte, ok bool) error {
	b := make([]byte, 1+t.intSize)
	if ok {
		var wide [8]byte
		binary.LittleEndian.PutUint64(wide[:], uint64(len(text)))
		if t.intSize < 8 && uint64(len(text)) >= 1<<(8*t.intSize) {
			return errTOC
		}
		copy(b[1:], wide[:])
	} else {
		b[0], b[1] = 1, 1 // -1
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	_, err := t.w.Write(text)
	return err
}

func (t *toc) pass() error {
	b, ok, err := t.string()
	if err != nil {
		return err
	}
	return t.put(b, ok)
}
