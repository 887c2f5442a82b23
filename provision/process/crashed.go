package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// crashes are processes of an instance that ended by a signal while its server went on, as far as a Watch read of it in the log.
type crashes struct {
	count int64
	last  string // how the last of them ended
}

// crashLine is the server's word for it. No session can write that: its lines have its user and database in front of LOG, and its own number, and go on behind a tab.
var crashLine = regexp.MustCompile(`(?m)^[^\s\[][^\[\n]*\[([0-9]+)\] LOG:  .* \(PID [0-9]+\) was terminated by signal ([0-9]+)\b`)

// logMost bounds how much of a log is read at a look, and tooLong is a line that is not waited for the end of.
const (
	logMost = 1 << 20
	tooLong = 64 << 10
)

// readLogs looks into what servers wrote since the last look, and returns whose processes crashed. at is how far each log was read; what was there when the first look
// began is not read. Where a Runner has the logs, nothing is known.
func (d *Driver) readLogs(at map[string]int64, servers map[string]seen, first bool) (ids []string) {
	if d.enclosed != nil {
		return nil
	}
	for id, s := range servers {
		path := filepath.Join(d.o.DataDir, id+".log")
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		from, known := at[id]
		if !known && first {
			from = st.Size
		}
		if from > st.Size { // it was cut
			from = 0
		}
		at[id] = from
		if from == st.Size {
			continue
		}
		n, signal, next := crashesIn(path, from, s.pid)
		if at[id] = next; n == 0 {
			continue
		}
		d.mu.Lock()
		c := d.mu.crashes[id]
		d.mu.crashes[id] = crashes{c.count + n, fmt.Sprintf("signal %d (%s)", signal, signal)}
		d.mu.Unlock()
		ids = append(ids, id)
	}
	for id := range at {
		if _, there := servers[id]; !there {
			delete(at, id)
		}
	}
	return ids
}

// crashesIn counts the crashes that a server tells of in a log from a place on, and says where to go on. Those by signal 9 are the kernel's, who has no memory left,
// or somebody's who wanted it.
func crashesIn(path string, from int64, server int) (n int64, last syscall.Signal, next int64) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, from
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end-from > logMost {
		from = end - logMost
	}
	text := make([]byte, logMost)
	read, err := f.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, from
	}
	text = text[:read]
	if whole := bytes.LastIndexByte(text, '\n') + 1; whole > 0 || len(text) < tooLong {
		text = text[:whole]
	}
	for _, m := range crashLine.FindAllSubmatch(text, -1) {
		signal, err := strconv.Atoi(string(m[2]))
		if err == nil && signal != int(syscall.SIGKILL) && string(m[1]) == strconv.Itoa(server) {
			n, last = n+1, syscall.Signal(signal)
		}
	}
	return n, last, from + int64(len(text))
}
