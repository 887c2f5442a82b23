package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgkennel/pgkennel/provision"
)

// Logs implements provision.Driver.
func (d *Driver) Logs(ctx context.Context, in *provision.Instance, lines int, follow bool) (io.ReadCloser, error) {
	p, err := d.at(in.ID)
	if err != nil {
		return nil, err
	}
	b, end, err := readTail(p.log, lines)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if have := bytes.Count(b, []byte("\n")); have < lines {
		if before, _, err := readTail(p.log+".1", lines-have); err == nil {
			b = append(before, b...)
		}
	}
	if !follow {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return &follower{ctx: ctx, path: p.log, before: b, at: end, closed: make(chan struct{})}, nil
}

// tailMost bounds how much of a log is read at once.
const tailMost = 8 << 20

// readTail reads the last lines of a file, and says where it ended.
func readTail(path string, lines int) ([]byte, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || lines <= 0 {
		return nil, end, err
	}
	var b []byte
	for from := end; from > 0 && len(b) < tailMost && bytes.Count(b, []byte("\n")) <= lines; {
		n := min(from, 64<<10)
		from -= n
		block := make([]byte, n)
		if _, err := f.ReadAt(block, from); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		b = append(block, b...)
	}
	at := len(b)
	for left := lines; left > 0 && at > 0; left-- {
		at = bytes.LastIndexByte(b[:at-1], '\n') + 1
	}
	return b[at:], end, nil
}

// follower reads a log as it grows, until its context is done: then it ends. Its reads wait without a goroutine.
type follower struct {
	ctx    context.Context //nolint:containedctx // it is the reader's life: io.Reader has no place for it
	path   string
	before []byte // what was there
	at     int64
	closed chan struct{}
}

func (f *follower) Read(b []byte) (int, error) {
	for {
		if len(f.before) > 0 {
			n := copy(b, f.before)
			f.before = f.before[n:]
			return n, nil
		}
		n, err := f.next(b)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-f.ctx.Done():
			return 0, io.EOF
		case <-f.closed:
			return 0, fs.ErrClosed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (f *follower) next(b []byte) (int, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if st, err := file.Stat(); err == nil && st.Size() < f.at {
		f.at = 0 // it was cut
	}
	n, err := file.ReadAt(b, f.at)
	f.at += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *follower) Close() error {
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
	return nil
}

// cutLogs moves the newest part of logs that are too long away, and empties them. Servers hold theirs open, at its end.
func (d *Driver) cutLogs(ctx context.Context) {
	entries, _ := os.ReadDir(d.o.DataDir) // without it there is none
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok || !goodID.MatchString(id) {
			continue
		}
		path := filepath.Join(d.o.DataDir, e.Name())
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		var err error
		switch {
		case st.Size > d.o.LogSize:
			err = cut(path, d.o.LogSize)
		case st.Blocks*512 > d.o.LogSize+16<<20: // a superuser's programs can reserve room behind its end
			err = os.Truncate(path, st.Size)
		}
		if err != nil {
			d.log.WarnContext(ctx, "log is too long, and can't be cut", "instance", id, "error", err)
		}
	}
}

func cut(path string, keep int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Seek(max(end-keep, 0), io.SeekStart); err != nil {
		return err
	}
	old, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, io.LimitReader(f, 2*keep))
	if err = errors.Join(err, old.Close()); err != nil {
		return err
	}
	return f.Truncate(0)
}
