package router

import (
	"slices"
	"strings"

	"github.com/pgkennel/pgkennel/parser"
	"github.com/pgkennel/pgkennel/pooler/pgwire"
	"github.com/pgkennel/pgkennel/sharding"
	"github.com/pgkennel/pgkennel/sharding/topology"
)

// copyPlan is a COPY FROM STDIN into a table whose rows decide where it runs.
type copyPlan struct {
	table   string
	copy    *parser.Copy
	columns int // of the data
	keys    []copyKey
}

// copyKey is a column of the data that decides.
type copyKey struct {
	index              int
	column             string
	typ                sharding.KeyType
	mapping            *sharding.Mapping // nil: only NULL is refused
	noBlanks           bool              // see value.noBlanks
	forceNull, notNull bool              // CSV
}

// copyFrom compiles COPY FROM.
func (c *compiler) copyFrom(s *parser.Statement) {
	c.analyse(s.Query)
	cp := s.Copy
	rel := c.relation(cp.Table)
	several := c.r.shards > 1
	switch {
	case cp.Server && several:
		c.st.needsHint(shardMissing("COPY from a file or program of the server's"))
	case cp.Server && rel.tenant:
		c.st.refuse(tenantMissing(rel.name, c.r.tenant, "The rows come from a file or program of the server's, where they can't be seen."))
	case rel.class == relView || rel.class == relOpaqueView:
		c.st.needsHint(shardMissing("COPY through view " + quote(rel.name)))
	case rel.hasKey() && several || rel.tenant:
		c.copyRows(cp, rel, several)
	case several && rel.class != relTemp && rel.class != relHoused:
		c.st.needsHint(shardMissing("COPY to table " + quote(rel.name) + ", which is not sharded,"))
	}
	if rel.rules {
		c.st.needsKey(tenantMissing(rel.name, "", "What its rules and functions do can't be seen."))
	}
}

// copyRows plans to look at the rows.
func (c *compiler) copyRows(cp *parser.Copy, rel *relation, several bool) {
	columns := cp.Columns
	if columns == nil && rel.table != nil {
		for i := range rel.table.Columns {
			if col := &rel.table.Columns[i]; !col.Generated {
				columns = append(columns, col.Name)
			}
		}
	}
	refuse := c.st.needsHint
	if rel.tenant {
		refuse = c.st.needsOwner
	}
	switch {
	case columns == nil:
		refuse(pgwire.Errorf(pgwire.CodeFeatureNotSupported, "COPY without a column list needs to know the columns of table %q", rel.name).
			WithRoutine(RefusalShardMissing).WithDetail("The tables' columns have not been loaded.").WithHint("Name the columns: COPY %s (...) FROM STDIN.", rel.name))
		return
	case !readable(cp):
		refuse(shardMissing("COPY with these options"))
		return
	case !asciiSafe(cp.Encoding):
		refuse(needsUTF8("COPY data"))
		return
	}
	plan := &copyPlan{table: rel.name, copy: cp, columns: len(columns)}
	if several && !rel.hasKey() && rel.class != relHoused {
		c.st.needsHint(shardMissing("COPY to table " + quote(rel.name) + ", which is not sharded,"))
	}
	if several && rel.hasKey() {
		for _, e := range rel.entries {
			if e.fits(rel) {
				plan.add(cp, columns, e.column, copyKey{typ: e.typ, mapping: e.mapping, noBlanks: e.dropsBlanks(rel)})
			}
		}
		if len(plan.keys) == 0 {
			refuse(tenantMissing(rel.name, rel.entries[0].column, "The rows of the COPY have no column "+quote(rel.entries[0].column)+" that decides where they live."))
			return
		}
	}
	if rel.tenant && !plan.has(c.r.tenant) && !plan.add(cp, columns, c.r.tenant, copyKey{}) {
		c.st.needsOwner(tenantMissing(rel.name, c.r.tenant, "The rows of the COPY have no column "+quote(c.r.tenant)+"."))
		return
	}
	c.st.copy = plan
}

func (p *copyPlan) has(column string) bool {
	return slices.ContainsFunc(p.keys, func(k copyKey) bool { return k.column == column })
}

func (p *copyPlan) add(cp *parser.Copy, columns []string, column string, k copyKey) bool {
	k.index, k.column = slices.Index(columns, column), column
	if k.index < 0 {
		return false
	}
	names := func(list []string) bool { return slices.Contains(list, column) || slices.Contains(list, "*") }
	k.forceNull, k.notNull = names(cp.ForceNull), names(cp.ForceNotNull)
	p.keys = append(p.keys, k)
	return true
}

// fits reports that the table's column can hold keys of the entry's type.
func (e *entry) fits(rel *relation) bool {
	col := rel.column(e.column)
	return rel.table == nil || col != nil && familyOfType(col.Type) == familyOf(e.typ)
}

// dropsBlanks reports that a stored key may lack blanks that it had at its end.
func (e *entry) dropsBlanks(rel *relation) bool {
	col := rel.column(e.column)
	return e.typ == sharding.Text && (col == nil || col.Type != "text")
}

// readable reports that the options are such as PostgreSQL accepts, so that the rows can be told apart.
func readable(cp *parser.Copy) bool {
	switch cp.Format {
	case "binary":
		return true
	case "text":
		return cp.Delimiter != 0 && cp.Delimiter != '\\' && cp.Delimiter != '\n' && cp.Delimiter != '\r'
	case "csv":
		return cp.Delimiter != 0 && cp.Quote != 0 && cp.Escape != 0 && cp.Delimiter != cp.Quote && cp.Delimiter != '\n' && cp.Delimiter != '\r' &&
			cp.Quote != '\n' && cp.Quote != '\r' && cp.Escape != '\n' && cp.Escape != '\r'
	}
	return false
}

// asciiSafe reports that in this encoding a byte below 0x80 is always the ASCII character.
func asciiSafe(encoding string) bool {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}, encoding)
	if name == "" || isUTF8(encoding) || name == "sqlascii" {
		return true
	}
	for _, prefix := range []string{"latin", "iso8859", "win125", "windows125", "win866", "win874", "koi8", "euc"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func isUTF8(encoding string) bool {
	return strings.EqualFold(encoding, "utf8") || strings.EqualFold(encoding, "utf-8") || strings.EqualFold(encoding, "unicode")
}

// Copy returns what watches the rows of a COPY FROM STDIN, for a route whose Plan is PlanCopy.
func (rt *Route) Copy(in *Input) (*CopyRouter, *pgwire.Error) {
	plan, err := rt.plan(in, in.Params, false)
	if err != nil {
		return nil, err
	}
	for _, st := range rt.statements {
		if st.copy == nil {
			continue
		}
		r := &CopyRouter{plan: st.copy, utf8: in.UTF8}
		if e := st.copy.copy.Encoding; e != "" {
			r.utf8 = isUTF8(e)
		}
		// Not asked again of the plan: its shard may be the hint's, or none yet.
		if hint, hinted, _ := rt.hint(in); hinted {
			r.shard, r.fixed = hint, true
		}
		if len(st.homes) > 0 {
			r.shard, r.fixed = st.homes[0].shard, true
		}
		if rt.router.shards == 1 {
			r.fixed = true
		}
		r.start()
		return r, nil
	}
	return nil, pgwire.Errorf(pgwire.CodeInternalError, "plan %v is no COPY", plan.Kind)
}

// CopyRouter watches the rows of a COPY FROM STDIN as they pass in CopyData messages, cut anywhere. The first row's key
// says where they go; a row of another shard, without a key, or with one that no mapping covers is an error. It keeps no
// more of a row than its keys. It belongs to one session.
type CopyRouter struct {
	plan  *copyPlan
	utf8  bool
	fixed bool // the shard was addressed by a hint, or is the only one

	shard topology.ShardID
	known bool
	err   *pgwire.Error

	row   int64 // from 1, the header included
	field int
	key   *copyKey // of the field at hand, nil if it is none
	buf   []byte   // what there is of it
	// dirty: the line at hand has begun. header: it is the header.
	dirty, header bool
	ended         bool // the rest is not read by the server

	text   textState
	csv    csvState
	binary binaryState
}

// maxCopyKey bounds a key, in bytes as it is sent.
const maxCopyKey = 64 << 10

// Binary reports that the data is in binary format, for CopyInResponse.
func (r *CopyRouter) Binary() bool { return r.plan.copy.Format == "binary" }

// ColumnCount is the number of columns of the data, for CopyInResponse.
func (r *CopyRouter) ColumnCount() int { return r.plan.columns }

func (r *CopyRouter) start() {
	r.row = 1
	r.beginField(0)
	if r.plan.copy.Header && !r.Binary() {
		r.key = nil
		r.header = true
	}
}

// Feed takes the next bytes of the data: the contents of a CopyData message, or a part of it. It returns the shard once it
// is known. After an error every call returns it.
func (r *CopyRouter) Feed(data []byte) (shard topology.ShardID, known bool, err *pgwire.Error) {
	if r.err == nil && !r.ended {
		switch r.plan.copy.Format {
		case "binary":
			r.feedBinary(data)
		case "csv":
			r.feedCSV(data)
		default:
			r.feedText(data)
		}
	}
	return r.result()
}

// Finish ends the data: a last line need not have an end. Known is false if there was no row.
func (r *CopyRouter) Finish() (shard topology.ShardID, known bool, err *pgwire.Error) {
	if r.err == nil && !r.ended {
		switch r.plan.copy.Format {
		case "binary":
			r.finishBinary()
		case "csv":
			r.finishCSV()
		default:
			r.finishText()
		}
		r.ended = true
	}
	return r.result()
}

func (r *CopyRouter) result() (topology.ShardID, bool, *pgwire.Error) {
	if r.err != nil {
		return 0, false, r.err
	}
	return r.shard, r.known || r.fixed, nil
}

func (r *CopyRouter) fail(e *pgwire.Error) {
	if r.err == nil {
		r.err = e
	}
}

// beginField starts field i of the row.
func (r *CopyRouter) beginField(i int) {
	r.field, r.key, r.buf = i, nil, r.buf[:0]
	if r.header {
		return
	}
	for k := range r.plan.keys {
		if r.plan.keys[k].index == i {
			r.key = &r.plan.keys[k]
		}
	}
}

// keep adds bytes to the key at hand.
func (r *CopyRouter) keep(b ...byte) {
	if len(r.buf)+len(b) > maxCopyKey {
		r.fail(pgwire.Errorf(pgwire.CodeProgramLimitExceeded, "sharding key of COPY is too long").
			WithDetail("Row %d: column %q has more than %d bytes.", r.row, r.key.column, maxCopyKey))
		return
	}
	r.buf = append(r.buf, b...)
}

// endRow checks that no key was missing.
func (r *CopyRouter) endRow() {
	for i := range r.plan.keys {
		if k := &r.plan.keys[i]; k.index > r.field && !r.header {
			r.fail(pgwire.Errorf(pgwire.CodeBadCopyFileFormat, "missing data for column %q", k.column).WithDetail("Row %d of the COPY is too short.", r.row))
		}
	}
	r.header = false
	r.row++
	r.dirty = false
	r.beginField(0)
}

// decide takes the value of the key at hand.
func (r *CopyRouter) decide(value []byte, null, isBinary bool) {
	k := r.key
	if value == nil {
		value = []byte{} // nil is NULL
	}
	if null {
		r.fail(r.at(tenantNull(r.plan.table, k.column)))
		return
	}
	if k.mapping == nil {
		return
	}
	p := param{noBlanks: k.noBlanks, use: sharding.Assign}
	key, reading := p.read(k.typ, value, isBinary, 0)
	if reading != sharding.Exact {
		r.fail(r.at(pgwire.Errorf(pgwire.CodeInvalidTextRepresentation, "invalid sharding key for column %q of table %q", k.column, r.plan.table).
			WithDetail("It is no %s that the table would keep unchanged.", k.typ)))
		return
	}
	if !r.utf8 && !key.ASCII() {
		r.fail(r.at(needsUTF8("a sharding key")))
		return
	}
	shard, ok := k.mapping.Lookup(key)
	switch {
	case !ok:
		r.fail(r.at(tenantUnknown(r.plan.table, k.column, strings.Clone(key.String()))))
	case !r.known && !r.fixed:
		r.shard, r.known = shard, true
	case shard != r.shard:
		r.fail(r.at(crossShard(r.plan.table, k.column).WithDetail("Row %d of the COPY lives on another shard than the rows before it, or than the one that was addressed.", r.row).
			WithHint("Send the rows of each tenant in a COPY of their own.")))
	default:
		r.known = true
	}
}

// at says in an error's context which row it is about.
func (r *CopyRouter) at(e *pgwire.Error) *pgwire.Error {
	copied := *e
	copied.Where = "COPY " + r.plan.table + ", row " + itoa(r.row)
	return &copied
}
