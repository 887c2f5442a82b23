package backup

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// chain is the WAL archive of one system. After each restore the server goes on on a new timeline, which branches off where the restore ended; its history
// file says from where. The archive has the WAL of all of them.
type chain struct {
	segments map[segment]item
	history  map[uint32][]branch // by timeline: its ancestors, the oldest first
	files    []string            // of histories
}

// branch is where a timeline was left for the next.
type branch struct {
	timeline uint32
	at       uint64 // the WAL location
}

// maxHistory is how long a history file may be.
const maxHistory = 1 << 20

func (a *Archive) chain(id, system string) (*chain, error) {
	items, err := a.place.list(false, id, walDir, system)
	if err != nil {
		return nil, err
	}
	c := &chain{segments: make(map[segment]item), history: make(map[uint32][]branch)}
	for _, it := range items {
		if s, err := parseSegment(it.name); err == nil {
			c.segments[s] = it
			continue
		}
		found := historyName.FindStringSubmatch(it.name)
		if found == nil {
			continue
		}
		n, err := strconv.ParseUint(found[1], 16, 32)
		if err != nil {
			return nil, err
		}
		text, err := a.historyFile(id, system, it.name)
		if err == nil {
			c.history[uint32(n)], err = parseHistory(text)
		}
		if err != nil {
			a.log.Warn("history of a timeline can't be read", "tenant", id, "file", it.name, "error", err)
			delete(c.history, uint32(n))
			continue
		}
		c.files = append(c.files, it.name)
	}
	return c, nil
}

func (a *Archive) historyFile(id, system, name string) ([]byte, error) {
	path := []string{id, walDir, system, name}
	from, err := a.place.open(path...)
	if err != nil {
		return nil, err
	}
	o, err := a.keys.open(from, "", path...)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(io.LimitReader(o, maxHistory))
}

var historyLine = regexp.MustCompile(`^\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(\s|$)`)

// parseHistory reads a history file: a line for each ancestor, with the location where it was left.
func parseHistory(text []byte) ([]branch, error) {
	var list []branch
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		found := historyLine.FindStringSubmatch(line)
		if found == nil {
			return nil, fmt.Errorf("%q is no line of a history", line)
		}
		n, err := strconv.ParseUint(found[1], 10, 32)
		if err != nil {
			return nil, err
		}
		at, err := parseLSN(found[2])
		if err != nil {
			return nil, err
		}
		list = append(list, branch{uint32(n), at})
	}
	return list, lines.Err()
}

// parseLSN reads a WAL location, such as 0/3000158.
func parseLSN(s string) (uint64, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not a WAL location", s)
	}
	return h<<32 | l, nil
}

// any reports whether any timeline has a segment.
func (c *chain) any(s segment) bool {
	for x := range c.segments {
		if x.high == s.high && x.low == s.low {
			return true
		}
	}
	return false
}

// target is the latest timeline that a backup can be brought forward on, with its ancestors from the backup's on; of the backup's own there are none.
func (c *chain) target(m *manifest) (uint32, []branch) {
	s, err := parseSegment(m.Start)
	if err != nil {
		return 0, nil
	}
	end, err := parseLSN(m.End)
	if err != nil {
		return s.timeline, nil
	}
	best, way := s.timeline, []branch(nil)
	for n, ancestors := range c.history {
		i := slices.IndexFunc(ancestors, func(b branch) bool { return b.timeline == s.timeline })
		if n > best && i >= 0 && ancestors[i].at >= end {
			best, way = n, ancestors[i:]
		}
	}
	return best, way
}

// follow are the segments from a backup's first on, on the timeline that is its target, as far as none is missing.
func (c *chain) follow(m *manifest) (list []item, timeline uint32) {
	timeline, way := c.target(m)
	s, err := parseSegment(m.Start)
	if err != nil || !validSegment(m.Segment) {
		return nil, timeline
	}
	way = append(slices.Clone(way), branch{timeline, math.MaxUint64})
	for n := s.number(m.Segment); ; n++ {
		found := ""
		// A segment in which a timeline branches off is in both: the server reads the later one's.
		for i, b := range way {
			begins := i == 0 || way[i-1].at/uint64(m.Segment) <= n //nolint:gosec // a valid size
			if begins && n <= b.at/uint64(m.Segment) {             //nolint:gosec // likewise
				if it, ok := c.segments[at(b.timeline, n, m.Segment)]; ok {
					found, list = it.name, append(list, it)
					if i > 0 && len(list) > 1 && sameNumber(list[len(list)-2].name, it.name) {
						list = append(list[:len(list)-2], it)
					}
				}
			}
		}
		if found == "" {
			return list, timeline
		}
	}
}

// sameNumber reports whether two names are of one segment on two timelines.
func sameNumber(a, b string) bool { return a[8:] == b[8:] }

// until is the latest time to which a backup can be restored: that of the last segment in a row, or when it ended.
func (c *chain) until(m *manifest) time.Time {
	until := m.Backup.From
	if list, _ := c.follow(m); len(list) > 0 {
		if t := list[len(list)-1].at.UTC(); t.After(until) {
			until = t
		}
	}
	return until
}
