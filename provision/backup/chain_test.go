package backup

import (
	"strconv"
	"strings"
	"testing"
)

func TestAChainFollowsTheTimelinesOfABackup(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	c := &chain{segments: map[segment]item{}, history: map[uint32][]branch{
		// 2 branched off 1 in segment 5, 3 off 2 in 7; 4 off 1 in 3, when the archive had 1 to 8 of it.
		2: {{1, 5*size + 100}}, 3: {{1, 5*size + 100}, {2, 7 * size}}, 4: {{1, 3*size + 8}},
	}}
	for name := range strings.FieldsSeq("1:1 1:2 1:3 1:4 1:5 1:6 1:7 1:8 2:5 2:6 3:7 3:8 3:10 4:3 4:4") {
		n, err := strconv.ParseUint(name[2:], 10, 32)
		check(t, err)
		s := at(uint32(name[0]-'0'), n, size)
		c.segments[s] = item{name: s.String()}
	}
	for _, x := range []struct{ start, end, want string }{
		{"1:1", "0/180000", "4: 1:1 1:2 4:3 4:4"},
		{"1:4", "0/480000", "3: 1:4 2:5 2:6 3:7 3:8"}, // 4 branched off before it
		{"1:6", "0/680000", "1: 1:6 1:7 1:8"},         // and 2 and 3 too
		{"2:5", "0/580000", "3: 2:5 2:6 3:7 3:8"},
		{"3:8", "0/880000", "3: 3:8"},
		{"4:4", "0/480000", "4: 4:4"},
		{"1:9", "0/980000", "1:"}, // nothing is there yet
	} {
		start := at(uint32(x.start[0]-'0'), uint64(x.start[2]-'0'), size)
		list, timeline := c.follow(&manifest{Start: start.String(), End: x.end, Segment: size})
		got := string(rune('0'+timeline)) + ":"
		for _, it := range list {
			s, err := parseSegment(it.name)
			check(t, err)
			got += " " + string(rune('0'+s.timeline)) + ":" + string(rune('0'+s.low))
		}
		if got != x.want {
			t.Errorf("from %s: got %q, want %q", x.start, got, x.want)
		}
	}
}

func TestParseHistory(t *testing.T) {
	t.Parallel()
	got, err := parseHistory([]byte("1\t0/3000158\tno recovery target specified\n\n# said\n 2\tA/FF000000\tbefore 2000-01-01 00:00:00+00\n"))
	check(t, err)
	if len(got) != 2 || got[0] != (branch{1, 0x3000158}) || got[1] != (branch{2, 0xAFF000000}) {
		t.Errorf("got %x", got)
	}
	for _, bad := range []string{"x", "1", "1\t3000158", "99999999999\t0/1", "1\t0/100000000"} {
		if _, err := parseHistory([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
