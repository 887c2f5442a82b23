package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pgkennel/pgkennel/tenant"
	"github.com/pgkennel/pgkennel/tenant/store/envelope"
)

// saveEvery is how long a cache that has to be saved may wait for more that is to be saved; longer, if saving takes long.
const saveEvery = 2 * time.Second

// cacheState says when the cache is to be saved.
type cacheState struct {
	due  <-chan time.Time // nil = there is nothing to save
	took time.Duration
}

// touch notes that there is something to save.
func (c *cacheState) touch() {
	if c.due == nil {
		c.due = time.After(max(saveEvery, 20*c.took))
	}
}

// cacheHead is the first line of a cache.
type cacheHead struct {
	Cache   int       `json:"pgkennel_cache"` // its format
	Source  string    `json:"source"`
	Saved   time.Time `json:"saved"`
	Records int       `json:"records"`
}

// cacheLine is each line but the first and the last, which is the SHA-256 of the others.
type cacheLine struct {
	Revision int64          `json:"revision"`
	Record   *tenant.Record `json:"record"`
}

// save writes the cache, if there is something to save. Before the end it is asked to wait no longer.
func (m *Mirror) save(end bool) {
	if m.saved.due == nil {
		return
	}
	m.saved.due = nil
	if m.o.Cache == "" {
		return
	}
	began := time.Now()
	err := replaceFile(m.o.Cache, m.write)
	m.saved.took = time.Since(began)
	if err != nil {
		m.log.Error("what is known of the directory can't be saved", "path", m.o.Cache, "error", err)
		if !end {
			m.saved.touch()
		}
	}
}

// write writes the cache's contents.
func (m *Mirror) write(to io.Writer) error {
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(to, sum), 1<<16)
	enc := json.NewEncoder(w)
	err := enc.Encode(cacheHead{envelope.Format, m.o.Source, time.Now().UTC(), m.Len()})
	for r := range m.All {
		if err == nil {
			err = enc.Encode(cacheLine{r.Revision, r})
		}
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "%x\n", sum.Sum(nil))
	return err
}

// load takes the cache for the directory's contents, if there is one and it is whole.
func (m *Mirror) load() {
	if m.o.Cache == "" {
		return
	}
	head, list, err := readCache(m.o.Cache, m.o.Source)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return
	case err != nil:
		m.log.Error("the saved contents of the directory are of no use", "path", m.o.Cache, "error", err)
		return
	}
	m.apply(tenant.Change{Reset: true, Records: list})
	m.saved.due = nil // it is what is saved
	s := m.state.Load()
	m.state.Store(&mirrorState{since: head.Saved, err: s.err})
	m.log.Warn("the directory can't be reached; what was saved of it is used", "saved", head.Saved, "tenants", m.Len())
	m.readyOnce.Do(func() { close(m.ready) })
}

// readCache reads a cache. Nothing of one that is not whole is returned.
func readCache(path, source string) (head cacheHead, list []*tenant.Record, err error) {
	f, err := os.Open(path)
	if err != nil {
		return head, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return head, nil, err
	case info.Mode().Perm()&0o022 != 0:
		return head, nil, fmt.Errorf("others may write to it (mode %04o)", info.Mode().Perm())
	}
	return decodeCache(f, source)
}

func decodeCache(from io.Reader, source string) (head cacheHead, list []*tenant.Record, err error) {
	lines := cacheReader{bufio.NewReaderSize(from, 1<<16), sha256.New()}
	line, err := lines.next()
	if err == nil {
		err = json.Unmarshal(line, &head)
	}
	switch {
	case err != nil:
		return head, nil, fmt.Errorf("its beginning: %w", err)
	case head.Cache > envelope.Format:
		return head, nil, ErrNewer
	case head.Cache != envelope.Format || head.Records < 0:
		return head, nil, errors.New("it is no cache")
	case head.Source != source:
		return head, nil, fmt.Errorf("it is that of another directory, %q", head.Source)
	}
	for i := range head.Records {
		if line, err = lines.next(); err != nil {
			return head, nil, fmt.Errorf("record %d: %w", i+1, err)
		}
		var c cacheLine
		if err = json.Unmarshal(line, &c); err != nil {
			return head, nil, fmt.Errorf("record %d: %w", i+1, err)
		}
		if c.Record == nil {
			return head, nil, fmt.Errorf("record %d: it is none", i+1)
		}
		if err := envelope.Check(c.Record.ID, c.Record); err != nil {
			return head, nil, fmt.Errorf("record %d: %w", i+1, err)
		}
		c.Record.Revision = c.Revision
		list = append(list, c.Record)
	}
	want := hex.EncodeToString(lines.sum.Sum(nil))
	if line, err = lines.next(); err != nil || string(bytes.TrimSpace(line)) != want {
		return head, nil, errors.New("it was changed, or not written to its end")
	}
	return head, list, nil
}

// cacheReader reads lines and sums them up.
type cacheReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (c *cacheReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > envelope.MaxBytes+1024:
			return nil, errors.New("a line is too long")
		case err == nil:
			c.sum.Write(line)
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, io.ErrUnexpectedEOF
		}
	}
}

// replaceFile writes a file so that there is always a whole one at path, of mode 0600, and that it outlasts a crash.
func replaceFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is renamed if all went well
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder has the names in a folder outlast a crash.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
