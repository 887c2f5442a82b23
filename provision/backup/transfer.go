package backup

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgkennel/pgkennel/provision"
)

// An exported tenant is a tar, in age if there is a passphrase: the manifest, each file of the backup in gzip, and in the end their checksums. So it can be
// read without pgkennel too: age -d FILE | tar -x, and then gunzip -c dump.gz | pg_restore.
const (
	exportManifest = "pgkennel.json"
	exportSums     = "checksums.json"
	exportSuffix   = ".gz"
	// exportFactor makes a passphrase that people chose slow to try: about a second for each.
	exportFactor = 18
	ageMagic     = "age-encryption.org/v1\n"
)

// Export implements provision.Transfer.
func (a *Archive) Export(ctx context.Context, b *provision.Backup, passphrase string, w io.Writer, report func(provision.Progress)) error {
	m, err := a.manifest(b.Tenant, b.ID)
	if err != nil {
		return fail(err)
	}
	if m.Content == ofInstance {
		return provision.Errorf(provision.KindInvalid, "backup %s is a physical one, and can't be exported", b.ID).WithHint("Export a logical backup.")
	}
	return fail(a.export(ctx, m, passphrase, w, report))
}

func (a *Archive) export(ctx context.Context, m *manifest, passphrase string, w io.Writer, report func(provision.Progress)) error {
	out := w
	var enc io.WriteCloser
	if passphrase != "" {
		r, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return err
		}
		r.SetWorkFactor(a.factor)
		if enc, err = age.Encrypt(w, r); err != nil {
			return err
		}
		out = enc
	}
	var total int64
	for _, f := range m.Files {
		total += f.Packed
	}
	meter := newMeter(report, "export", total)
	t := tar.NewWriter(out)
	head := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: m.Backup.Finished.Truncate(time.Second), Format: tar.FormatPAX})
	}
	whole := func(name string, x any) error {
		text, err := json.MarshalIndent(x, "", "  ")
		if err != nil {
			return err
		}
		if err := head(name, int64(len(text))); err != nil {
			return err
		}
		_, err = t.Write(text)
		return err
	}
	if err := whole(exportManifest, m); err != nil {
		return err
	}
	sums := make(map[string]string, len(m.Files))
	for _, f := range m.Files {
		from, err := a.place.open(m.Backup.Tenant, m.Backup.ID, f.Name)
		if err != nil {
			return err
		}
		o, err := a.keys.openPacked(from, f.SHA256, m.Backup.Tenant, m.Backup.ID, f.Name)
		if err != nil {
			return err
		}
		if err := head(f.Name+exportSuffix, f.Packed); err != nil {
			return errors.Join(err, o.Close())
		}
		sum := sha256.New()
		_, err = io.Copy(io.MultiWriter(t, sum), meter.reader(reading{ctx, o}))
		if err := errors.Join(err, o.Close()); err != nil {
			return err
		}
		sums[f.Name] = hex.EncodeToString(sum.Sum(nil))
	}
	if err := whole(exportSums, sums); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	if enc != nil {
		if err := enc.Close(); err != nil {
			return err
		}
	}
	meter.end()
	return nil
}

// Import implements provision.Transfer. Who made the file nobody can say, so a restore of it gets nothing by the superuser's hand that the tenant was not given
// already: no extensions that are not trusted, and no functions with the rights of an owner whom others share.
func (a *Archive) Import(ctx context.Context, id, passphrase string, r io.Reader, report func(provision.Progress)) (*provision.Backup, error) {
	b, err := a.imports(ctx, id, passphrase, r, report)
	return b, fail(err)
}

// notExport is a file that is not what Export wrote.
func notExport(format string, args ...any) *provision.Error {
	return provision.Errorf(provision.KindInvalid, "the file can't be imported: %s", fmt.Sprintf(format, args...))
}

func (a *Archive) imports(ctx context.Context, id, passphrase string, r io.Reader, report func(provision.Progress)) (*provision.Backup, error) {
	if !tenantID.MatchString(id) {
		return nil, provision.Errorf(provision.KindInvalid, "%q is not a tenant's ID", id)
	}
	in, err := unsealed(reading{ctx, r}, passphrase)
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(in)
	m, err := importedManifest(t)
	if err != nil {
		return nil, err
	}
	var total int64
	for _, f := range m.Files {
		total += f.Packed
	}
	meter := newMeter(report, "import", total)
	d, err := a.place.draft(id, a.newID())
	if err != nil {
		return nil, err
	}
	defer d.abort()
	k := &making{a: a, draft: d, m: m}
	files := m.Files
	m.Files, m.Imported = nil, true
	m.Backup = provision.Backup{ID: d.name(), Tenant: id, Kind: provision.Logical, Started: a.now().UTC(), Version: m.Backup.Version, Note: "imported"}
	sums := make(map[string]string, len(files))
	for _, f := range files {
		h, err := t.Next()
		if err != nil {
			return nil, notExport("%v", err)
		}
		if h.Name != f.Name+exportSuffix || h.Typeflag != tar.TypeReg {
			return nil, notExport("it has %q where %s should be", h.Name, f.Name+exportSuffix)
		}
		sum := sha256.New()
		if err := k.writePacked(f.Name, io.TeeReader(meter.reader(t), sum)); err != nil {
			return nil, err
		}
		sums[f.Name] = hex.EncodeToString(sum.Sum(nil))
	}
	if err := compareSums(t, sums); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // all of what is authenticated
		return nil, notExport("%v", err)
	}
	meter.end()
	return k.finish()
}

// unsealed decrypts a file, if it is encrypted.
func unsealed(r io.Reader, passphrase string) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	start, err := b.Peek(len(ageMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(start) != ageMagic {
		if passphrase != "" {
			return nil, notExport("it is not encrypted, and there is a passphrase for it")
		}
		return b, nil
	}
	if passphrase == "" {
		return nil, notExport("it is encrypted").WithHint("Say its passphrase.")
	}
	who, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	who.SetMaxWorkFactor(exportFactor)
	in, err := age.Decrypt(b, who)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, notExport("the passphrase is another one")
	}
	if err != nil {
		return nil, notExport("%v", err)
	}
	return in, nil
}

// importedManifest reads the first entry.
func importedManifest(t *tar.Reader) (*manifest, error) {
	text, err := small(t, exportManifest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, notExport("%v", err)
	}
	if m.Content == ofInstance {
		return nil, notExport("it is a physical backup")
	}
	return m, nil
}

func compareSums(t *tar.Reader, sums map[string]string) error {
	text, err := small(t, exportSums)
	if err != nil {
		return err
	}
	var want map[string]string
	if err := strict(text, &want); err != nil {
		return notExport("%v", err)
	}
	for name, sum := range sums {
		if want[name] != sum {
			return notExport("%s is damaged", name+exportSuffix)
		}
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return notExport("there is something behind its end")
	}
	return nil
}

// small reads an entry as a whole.
func small(t *tar.Reader, name string) ([]byte, error) {
	h, err := t.Next()
	if err != nil {
		return nil, notExport("%v", err)
	}
	if h.Name != name || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return nil, notExport("it has %q where %s should be", strings.ToValidUTF8(h.Name, "?"), name)
	}
	text, err := io.ReadAll(t)
	if err != nil {
		return nil, notExport("%v", err)
	}
	return text, nil
}

// writePacked stores what is compressed already, having looked whether it is.
func (k *making) writePacked(name string, r io.Reader) error {
	into, err := k.draft.create(name)
	if err != nil {
		return err
	}
	s, err := k.a.keys.seal(into, k.m.Backup.Tenant, k.m.Backup.ID, name)
	if err != nil {
		return errors.Join(err, into.Close())
	}
	plain, err := func() (int64, error) {
		tee := io.TeeReader(r, &packing{s})
		z, err := gzip.NewReader(tee)
		if err != nil {
			return 0, notExport("%s: %v", name, err)
		}
		n, err := io.Copy(io.Discard, z) //nolint:gosec // it is counted, and kept as it came
		if err != nil {
			if e := (*provision.Error)(nil); errors.As(err, &e) || s.failed != nil {
				return 0, err
			}
			return 0, notExport("%s: %v", name, err)
		}
		_, err = io.Copy(io.Discard, tee)
		return n, err
	}()
	if err != nil {
		into.Close() // it goes with the draft
		return err
	}
	if err := errors.Join(s.enc.Close(), into.Close()); err != nil {
		return err
	}
	k.m.Files = append(k.m.Files, file{Name: name, Bytes: s.stored.n, Packed: s.packed, Plain: plain, SHA256: s.sum()})
	return nil
}
