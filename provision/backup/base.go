package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgkennel/pgkennel/provision"
)

// baseName is the file that pg_basebackup wrote: a tar of the data directory, with the WAL that it needs to be whole.
const baseName = "base"

// Base implements provision.Archive. The WAL that the backup needs is in it, and held for it by a slot meanwhile.
func (a *Archive) Base(ctx context.Context, from provision.Source, note string, report func(provision.Progress)) (*provision.Backup, error) {
	if from.Driver == nil || from.Instance == nil {
		return nil, provision.Errorf(provision.KindRefused, "a tenant without an instance of its own has no physical backups").WithHint("Take a logical one.")
	}
	l := a.busy(from.Record.ID)
	l.RLock()
	defer l.RUnlock()
	return a.make(from, provision.Physical, ofInstance, note, func(k *making) error { return a.base(ctx, k, from, report) })
}

func (a *Archive) base(ctx context.Context, k *making, from provision.Source, report func(provision.Progress)) error {
	conn, err := connect(ctx, from.Connect)
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	version, err := server(ctx, conn)
	if err != nil {
		return err
	}
	k.m.Backup.Version = strconv.Itoa(version)
	var total int64
	if err := conn.QueryRow(ctx, `SELECT (SELECT system_identifier::text FROM pg_control_system()), (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
(SELECT sum(pg_database_size(oid))::bigint FROM pg_database)`).Scan(&k.m.System, &k.m.Segment, &total); err != nil {
		return err
	}
	if k.m.System[0] == '-' { // it is unsigned
		n, err := strconv.ParseInt(k.m.System, 10, 64)
		if err != nil {
			return err
		}
		k.m.System = strconv.FormatUint(uint64(n), 10) //nolint:gosec // the same bits
	}
	// Temporary: it goes with the connection.
	if err := execute(ctx, conn, "SELECT pg_create_physical_replication_slot("+literal("pgkennel_"+strings.ToLower(strings.ReplaceAll(k.m.Backup.ID, "-", "_")))+", true, true)"); err != nil {
		return fmt.Errorf("hold WAL for the backup: %w", err)
	}
	cmd, err := a.tool(ctx, from, from.Connect, version, "pg_basebackup",
		"--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--manifest-checksums=SHA256", "--label=pgkennel")
	if err != nil {
		return err
	}
	m := newMeter(report, "backup", total)
	err = k.write(baseName, func(w io.Writer) error {
		pr, pw := io.Pipe()
		var info *baseInfo
		var scanned error
		done := make(chan struct{})
		go func() {
			defer close(done)
			info, scanned = scanBase(pr, nil)
			if scanned != nil {
				pr.CloseWithError(scanned)
				return
			}
			_, scanned = io.Copy(io.Discard, pr) // tar pads its end
		}()
		err := output(cmd, "pg_basebackup", io.MultiWriter(m.writer(w), pw))
		pw.CloseWithError(err)
		<-done
		if err != nil {
			return err
		}
		if scanned != nil {
			return scanned
		}
		k.m.Start, k.m.End = info.start, info.end
		return nil
	})
	if err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&k.m.Backup.From); err != nil {
		return err
	}
	k.m.Backup.From = k.m.Backup.From.UTC()
	k.m.Backup.Until = k.m.Backup.From
	m.end()
	return nil
}

// baseInfo is what is known of a base backup when all of it was seen.
type baseInfo struct{ start, end string }

// maxLabel and maxList are how long a backup's label and its list of files may be.
const (
	maxLabel = 64 << 10
	maxList  = 1 << 30
)

var startLine = regexp.MustCompile(`(?m)^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)$`)

// scanBase reads the tar of a base backup and compares its files with PostgreSQL's list of them. each, if not nil, is given every entry, and reads it.
func scanBase(r io.Reader, each func(*tar.Header, io.Reader) error) (*baseInfo, error) {
	type seen struct {
		size int64
		sum  [sha256.Size]byte
	}
	info := &baseInfo{}
	files := map[string]seen{}
	var list []byte
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("base backup: %w", err)
		}
		name := path.Clean(h.Name)
		var kept bytes.Buffer
		sum := sha256.New()
		body := io.TeeReader(tr, sum)
		switch name {
		case "backup_label":
			body = io.TeeReader(body, &bounded{&kept, maxLabel})
		case "backup_manifest":
			body = io.TeeReader(body, &bounded{&kept, maxList})
		}
		if each != nil {
			if err := each(h, body); err != nil {
				return nil, err
			}
		}
		n, err := io.Copy(io.Discard, body)
		if err != nil {
			return nil, fmt.Errorf("base backup: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		_ = n
		s := seen{size: h.Size}
		sum.Sum(s.sum[:0])
		switch name {
		case "backup_label":
			if found := startLine.FindSubmatch(kept.Bytes()); found != nil {
				info.start = string(found[1])
			}
			files[name] = s
		case "backup_manifest":
			list = kept.Bytes()
		default:
			files[name] = s
		}
	}
	if info.start == "" {
		return nil, errors.New("base backup: it has no label that says where its WAL begins")
	}
	entries, end, err := parseList(list)
	if err != nil {
		return nil, fmt.Errorf("base backup: list of its files: %w", err)
	}
	info.end = end
	for _, e := range entries {
		f, ok := files[e.Path]
		switch {
		case !ok:
			return nil, fmt.Errorf("base backup: %s is missing", e.Path)
		case f.size != e.Size || hex.EncodeToString(f.sum[:]) != e.Checksum:
			return nil, fmt.Errorf("base backup: %s is not as the server sent it", e.Path)
		}
		delete(files, e.Path)
	}
	for name := range files {
		if !strings.HasPrefix(name, "pg_wal/") { // WAL has checksums of its own
			return nil, fmt.Errorf("base backup: %s is in it, and not on its list of files", name)
		}
	}
	return info, nil
}

func checkBase(r io.Reader) error {
	if _, err := scanBase(r, nil); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// bounded is a buffer that takes no more than so much.
type bounded struct {
	b *bytes.Buffer
	n int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.b.Len()+len(p) > b.n {
		return 0, errors.New("it is too long")
	}
	return b.b.Write(p)
}

// listed is one file of backup_manifest.
type listed struct {
	Path     string
	Encoded  string `json:"Encoded-Path"`
	Size     int64
	Checksum string
	Method   string `json:"Checksum-Algorithm"`
}

// parseList reads a backup_manifest (PostgreSQL manual, 77 Backup Manifest Format): the files, and where the WAL ends that the backup needs.
func parseList(text []byte) ([]listed, string, error) {
	var l struct {
		Version int `json:"PostgreSQL-Backup-Manifest-Version"`
		Files   []listed
		WAL     []struct {
			End string `json:"End-LSN"`
		} `json:"WAL-Ranges"`
		Checksum string `json:"Manifest-Checksum"`
	}
	if len(text) == 0 {
		return nil, "", errors.New("there is none")
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, "", err
	}
	end := bytes.LastIndex(text, []byte(`"Manifest-Checksum"`))
	if end < 0 {
		return nil, "", errors.New("it has no checksum")
	}
	if sum := sha256.Sum256(text[:end]); hex.EncodeToString(sum[:]) != l.Checksum {
		return nil, "", errors.New("its checksum does not fit")
	}
	if l.Version < 1 || l.Version > 2 {
		return nil, "", fmt.Errorf("its version %d is not known", l.Version)
	}
	for i := range l.Files {
		f := &l.Files[i]
		if f.Encoded != "" {
			b, err := hex.DecodeString(f.Encoded)
			if err != nil {
				return nil, "", err
			}
			f.Path = string(b)
		}
		if f.Method != "SHA256" {
			return nil, "", fmt.Errorf("%s has a checksum of the kind %q", f.Path, f.Method)
		}
	}
	if len(l.WAL) == 0 {
		return nil, "", errors.New("it does not say where its WAL ends")
	}
	return l.Files, l.WAL[len(l.WAL)-1].End, nil
}
