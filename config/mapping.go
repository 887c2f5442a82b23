package config

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/sharding/topology"
)

// maxListed is how many mistakes of one kind are listed for one mapping.
const maxListed = 20

// resolve decodes a mapping for a data type and reports values of another type, values listed twice, ranges that
// overlap or hold nothing, and shards that the cluster does not have. Without a data type only the shards are checked.
func (b *builder) resolve(set *ruleSet, dt DataType, cluster string) *Mapping {
	b.checkShards(set, cluster)
	m := &Mapping{}
	for i, d := range set.defaults {
		at := b.config.at(d.shardOff)
		if i > 0 {
			b.r.fail(at, "keep one of them", "a mapping has two defaults; the first is %s", b.config.at(set.defaults[0].shardOff))
			continue
		}
		m.Default, m.HasDefault, m.DefaultNames = d.shard, true, set.named[d.shardOff]
	}
	b.checkNames(set)
	if len(set.lists) == 0 && len(set.ranges) == 0 && len(set.defaults) == 0 && !set.broken {
		b.r.fail(b.config.at(set.off), "remove it to shard by hash", "a mapping has no entries")
	}
	switch dt {
	case Bigint:
		m.Ints = resolveRules(b, set, dt, codec[int64]{decode: decodeInt, compare: cmp.Compare[int64], show: func(v int64) string { return strconv.FormatInt(v, 10) }})
	case UUID:
		m.UUIDs = resolveRules(b, set, dt, codec[[16]byte]{decode: decodeUUID, compare: func(a, c [16]byte) int { return bytes.Compare(a[:], c[:]) }, show: showUUID})
	case Text:
		m.Texts = resolveRules(b, set, dt, codec[string]{decode: decodeText, compare: strings.Compare, show: strconv.Quote, arena: &arena{}})
	}
	b.written[m] = m.numberNames(set.names)
	return m
}

// checkShards reports rules for shards that no endpoint serves.
func (b *builder) checkShards(set *ruleSet, cluster string) {
	if b.clusters[cluster] == nil {
		return
	}
	c := capped{r: b.r, max: maxListed}
	check := func(n topology.ShardID, off uint32) {
		if !b.hasShard(cluster, n) {
			c.fail(b.config.at(off), "add an endpoint with shard = "+strconv.Itoa(int(n))+", or correct the number", "database %q has no shard %d", cluster, n)
		}
	}
	for _, l := range set.lists {
		check(l.shard, l.shardOff)
	}
	for _, r := range set.ranges {
		check(r.shard, r.shardOff)
	}
	for _, d := range set.defaults {
		check(d.shard, d.shardOff)
	}
	c.end("rules for shards that are not there")
}

// codec is what one data type can do.
type codec[T any] struct {
	decode  func(token string) (T, string) // or what is wrong with the token
	compare func(a, b T) int
	show    func(T) string
	arena   *arena // where texts are copied to; nil for types that need no copy
}

// resolveRules decodes and sorts. What is said twice keeps its first meaning: the configuration is refused anyway.
func resolveRules[T any](b *builder, set *ruleSet, dt DataType, c codec[T]) *Rules[T] {
	out := &Rules[T]{}
	wrong := capped{r: b.r, max: maxListed}
	decode := func(off uint32) (T, bool) {
		tok := b.config.token(off)
		v, msg := c.decode(tok)
		if msg != "" {
			hint := ""
			if strings.HasPrefix(msg, "the value is a ") { // of another type
				msg += ", but data_type is " + dt.String()
				if dt == Text {
					hint = "write it in quotes"
				}
			}
			wrong.fail(b.config.at(off), hint, "%s", msg)
			return v, false
		}
		return c.keep(v), true
	}
	resolveLists(b, set, c, out, decode)
	resolveRanges(b, set, c, out, decode)
	wrong.end("values of another type")
	return out
}

func resolveLists[T any](b *builder, set *ruleSet, c codec[T], out *Rules[T], decode func(uint32) (T, bool)) {
	if len(set.values) == 0 {
		return
	}
	values := make([]T, 0, len(set.values))
	shards := make([]topology.ShardID, 0, len(set.values))
	var names []int32 // nil where no entry has any
	if len(set.names) > 0 {
		names = make([]int32, 0, len(set.values))
	}
	offs := make([]uint32, 0, len(set.values))
	next := 0
	for _, l := range set.lists {
		for _, off := range set.values[next : next+int(l.n)] {
			if v, ok := decode(off); ok {
				values, shards, offs = append(values, v), append(shards, l.shard), append(offs, off)
				if names != nil {
					names = append(names, set.named[l.shardOff])
				}
			}
		}
		next += int(l.n)
	}
	sortBy(values, c.compare, func(i, j int) {
		shards[i], shards[j] = shards[j], shards[i]
		offs[i], offs[j] = offs[j], offs[i]
		if names != nil {
			names[i], names[j] = names[j], names[i]
		}
	})
	twice := capped{r: b.r, max: maxListed}
	for from, to := 0, 0; from < len(values); from = to { // a run of equal values
		first := from
		for to = from + 1; to < len(values) && c.compare(values[from], values[to]) == 0; to++ {
			if offs[to] < offs[first] {
				first = to
			}
		}
		for i := from; i < to && to > from+1; i++ {
			if i == first {
				continue
			}
			what := fmt.Sprintf("on shard %d", shards[first])
			if shards[first] != shards[i] {
				what = fmt.Sprintf("on shards %d and %d", shards[first], shards[i])
			}
			twice.fail(b.config.at(offs[i]), "remove one of them", "value %s is listed twice, %s; the first is %s", c.show(values[i]), what, b.config.at(offs[first]))
		}
	}
	twice.end("values listed twice")
	out.Values, out.ValueShards, out.ValueNames = values, shards, names
}

func resolveRanges[T any](b *builder, set *ruleSet, c codec[T], out *Rules[T], decode func(uint32) (T, bool)) {
	if len(set.ranges) == 0 {
		return
	}
	raw := set.ranges[:0] // in place: what is refused is not needed again
	starts, ends := make([]T, 0, len(set.ranges)), make([]T, 0, len(set.ranges))
	empty := capped{r: b.r, max: maxListed}
	for _, r := range set.ranges {
		var start, end T
		ok, ok2 := true, true
		if r.start != 0 {
			start, ok = decode(r.start)
		}
		if r.end != 0 {
			end, ok2 = decode(r.end)
		}
		if !ok || !ok2 {
			continue
		}
		if r.start != 0 && r.end != 0 {
			switch n := c.compare(start, end); {
			case n == 0:
				empty.fail(b.config.at(r.start), "the end is not part of a range", "the range from %s to %s is empty", c.show(start), c.show(end))
				continue
			case n > 0:
				empty.fail(b.config.at(r.start), "swap them", "the range from %s to %s is inverted", c.show(start), c.show(end))
				continue
			}
		}
		raw, starts, ends = append(raw, r), append(starts, start), append(ends, end)
	}
	empty.end("ranges that hold nothing")
	set.ranges = raw
	sortRanges(raw, starts, ends, c.compare)
	reportOverlaps(b, raw, starts, ends, c)
	out.Starts, out.Ends = starts, ends
	out.RangeShards = make([]topology.ShardID, len(raw))
	for i, r := range raw {
		out.RangeShards[i] = r.shard
	}
	if len(set.names) > 0 {
		out.RangeNames = make([]int32, len(raw))
		for i, r := range raw {
			out.RangeNames[i] = set.named[r.shardOff]
		}
	}
	if n := len(raw); n > 0 {
		out.OpenStart, out.OpenEnd = raw[0].start == 0, raw[n-1].end == 0
	}
}

// sortRanges sorts by start, open ones first.
func sortRanges[T any](raw []rawRange, starts, ends []T, compare func(a, b T) int) {
	open := 0
	for i := range raw { // more than one open start is a mistake, found later
		if raw[i].start == 0 {
			raw[i], raw[open] = raw[open], raw[i]
			starts[i], starts[open] = starts[open], starts[i]
			ends[i], ends[open] = ends[open], ends[i]
			open++
		}
	}
	raw, ends = raw[open:], ends[open:]
	sortBy(starts[open:], compare, func(i, j int) {
		raw[i], raw[j] = raw[j], raw[i]
		ends[i], ends[j] = ends[j], ends[i]
	})
}

func reportOverlaps[T any](b *builder, raw []rawRange, starts, ends []T, c codec[T]) {
	overlaps := capped{r: b.r, max: maxListed}
	show := func(i int) string {
		from, to := "the beginning", "the end"
		if raw[i].start != 0 {
			from = c.show(starts[i])
		}
		if raw[i].end != 0 {
			to = c.show(ends[i])
		}
		return "from " + from + " to " + to
	}
	offset := func(i int) uint32 {
		if raw[i].start != 0 {
			return raw[i].start
		}
		return raw[i].end
	}
	widest := 0 // the range before that reaches furthest
	for i := 1; i < len(raw); i++ {
		if raw[i].start == 0 || raw[widest].end == 0 || c.compare(starts[i], ends[widest]) < 0 {
			first, second := widest, i
			if offset(first) > offset(second) {
				first, second = second, first
			}
			overlaps.fail(b.config.at(offset(second)), "a value must have one shard; the end is not part of a range", "the range %s overlaps the one %s in %s", show(second), show(first), b.config.at(offset(first)))
		}
		if raw[widest].end != 0 && (raw[i].end == 0 || c.compare(ends[i], ends[widest]) > 0) {
			widest = i
		}
	}
	overlaps.end("ranges that overlap")
}

// sortBy sorts keys, and moves along whatever swap swaps. Keys that are sorted already, as they mostly are, cost one pass.
func sortBy[T any](keys []T, compare func(a, b T) int, swap func(i, j int)) {
	if slices.IsSortedFunc(keys, compare) {
		return
	}
	perm := make([]uint32, len(keys))
	for i := range perm {
		perm[i] = offset(i)
	}
	slices.SortFunc(perm, func(i, j uint32) int { return compare(keys[i], keys[j]) })
	for i := range perm {
		// Position i wants what was at perm[i]; follow where swaps have moved that since.
		j := int(perm[i])
		for j < i {
			j = int(perm[j])
		}
		if i != j {
			keys[i], keys[j] = keys[j], keys[i]
			swap(i, j)
		}
		perm[i] = offset(j)
	}
}

// token returns the token at an offset that the scanner has noted: a string with its quotes, a bare word, or an opening bracket.
func (d *document) token(off uint32) string {
	sc := scanner{doc: d, s: d.text, i: int(off)}
	switch d.text[off] {
	case '[', '{':
		return d.text[off : off+1]
	case '"', '\'':
		if !sc.skipString() {
			return d.text[off : off+1]
		}
	default:
		sc.token()
	}
	return d.text[off:sc.i]
}

// tokenKind says what a token is that is not what a column needs.
func tokenKind(tok string) string {
	switch {
	case tok[0] == '"' || tok[0] == '\'':
		return "a text"
	case tok[0] == '[':
		return "a list of values"
	case tok[0] == '{':
		return "a table"
	case tok == "true" || tok == "false":
		return "a truth value"
	}
	if _, msg := parseInt(tok); msg == "" {
		return "a number"
	}
	if strings.Contains(tok, ":") || len(tok) > 7 && tok[4] == '-' && tok[7] == '-' {
		return "a date or time"
	}
	if _, err := strconv.ParseFloat(strings.ReplaceAll(tok, "_", ""), 64); err == nil {
		return "a fraction"
	}
	return "not a number"
}

func decodeInt(tok string) (int64, string) {
	n, msg := parseInt(tok)
	if msg == notNumber {
		msg = "the value is " + tokenKind(tok)
	}
	return n, msg
}

const notNumber = "the value is not a number"

// parseInt reads an integer as TOML has them: 1_000, 0xff, 0o17, 0b1.
func parseInt(tok string) (int64, string) {
	digits, neg := tok, false
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		neg, digits = digits[0] == '-', digits[1:]
	}
	base := uint64(10)
	if len(digits) > 2 && digits[0] == '0' && len(digits) == len(tok) {
		switch digits[1] {
		case 'x':
			base = 16
		case 'o':
			base = 8
		case 'b':
			base = 2
		}
		if base != 10 {
			digits = digits[2:]
		}
	}
	if digits == "" || base == 10 && len(digits) > 1 && digits[0] == '0' {
		return 0, notNumber
	}
	var n uint64
	for i := range len(digits) {
		c := digits[i]
		if c == '_' {
			if i == 0 || i == len(digits)-1 || digits[i-1] == '_' {
				return 0, notNumber
			}
			continue
		}
		v, ok := hexDigit(c)
		if !ok || uint64(v) >= base {
			return 0, notNumber
		}
		if n > math.MaxInt64/base+1 {
			return 0, "the value is too large for a bigint"
		}
		n = n*base + uint64(v)
	}
	switch {
	case neg && n <= 1<<63:
		return -int64(n), ""
	case !neg && n <= math.MaxInt64:
		return int64(n), ""
	}
	return 0, "the value is too large for a bigint"
}

// decodeUUID takes every spelling that PostgreSQL takes: either case, braces, hyphens after any four digits or none.
func decodeUUID(tok string) (u [16]byte, msg string) {
	if tok[0] != '"' && tok[0] != '\'' {
		return u, "the value is " + tokenKind(tok)
	}
	s, msg := unquote(tok)
	if msg != "" {
		return u, msg
	}
	if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
		s = s[1 : len(s)-1]
	}
	i := 0
	for n := range u {
		if n > 0 && n%2 == 0 && i < len(s) && s[i] == '-' {
			i++
		}
		if i+2 > len(s) {
			return u, "the value is a text that is not a UUID"
		}
		hi, ok := hexDigit(s[i])
		lo, ok2 := hexDigit(s[i+1])
		if !ok || !ok2 {
			return u, "the value is a text that is not a UUID"
		}
		u[n] = hi<<4 | lo
		i += 2
	}
	if i != len(s) {
		return u, "the value is a text that is not a UUID"
	}
	return u, ""
}

func showUUID(u [16]byte) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func decodeText(tok string) (string, string) {
	if tok[0] != '"' && tok[0] != '\'' {
		return "", "the value is " + tokenKind(tok)
	}
	s, msg := unquote(tok)
	if msg == "" && strings.ContainsRune(s, 0) {
		msg = "the value holds a NUL character"
	}
	return s, msg
}

// keep copies a text out of the file.
func (c codec[T]) keep(v T) T {
	if c.arena == nil {
		return v
	}
	if s, ok := any(v).(string); ok {
		if kept, ok := any(c.arena.keep(s)).(T); ok {
			return kept
		}
	}
	return v
}

// arena holds many short texts in few allocations.
type arena struct{ buf strings.Builder }

const arenaBytes = 64 << 10

func (a *arena) keep(s string) string {
	if len(s) > arenaBytes/4 {
		return strings.Clone(s)
	}
	if a.buf.Cap()-a.buf.Len() < len(s) {
		a.buf = strings.Builder{}
		a.buf.Grow(arenaBytes)
	}
	from := a.buf.Len()
	a.buf.WriteString(s)
	return a.buf.String()[from:]
}
