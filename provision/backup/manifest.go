package backup

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/pgkennel/pgkennel/provision"
)

// format is the version of what is kept. Who finds a later one refuses it.
const format = 1

// manifestName is the file that describes a backup; maxManifest is how long it may be.
const (
	manifestName = "manifest.json"
	maxManifest  = 32 << 20
)

// What a backup holds.
const (
	ofDatabase = "database" // one database, by pg_dump
	ofSchema   = "schema"   // one schema, by pg_dump
	ofRows     = "rows"     // a tenant's rows of shared tables, by COPY
	ofInstance = "instance" // everything, by pg_basebackup
)

// manifest describes a backup. It is kept as text, with a code that authenticates it.
type manifest struct {
	Format  int              `json:"format"`
	Backup  provision.Backup `json:"backup"`
	Content string           `json:"content"`
	Files   []file           `json:"files"`

	// Imported: somebody else made it.
	Imported bool `json:"imported,omitempty"`

	// Of a database or schema.
	Schema     string      `json:"schema,omitempty"`
	Extensions []extension `json:"extensions,omitempty"` // in the order in which they were made
	// Roles are those that privileges and policies name.
	Roles []string `json:"roles,omitempty"`

	// Relations are tables, indexes and the like: each needs a lock in a restore.
	Relations int64 `json:"relations,omitempty"`
	// Tables are of rows, or those that were copied beside the dump.
	Tables []table `json:"tables,omitempty"`

	// Of rows.
	Column string `json:"column,omitempty"`

	// Of an instance.
	System  string `json:"system,omitempty"`  // PostgreSQL's system identifier
	Start   string `json:"start,omitempty"`   // the first WAL segment that it needs
	Segment int64  `json:"segment,omitempty"` // bytes of one
	End     string `json:"end,omitempty"`     // the location from which on it is consistent
}

// file is one stored file.
type file struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`  // as stored
	Packed int64  `json:"packed"` // decrypted
	Plain  int64  `json:"plain"`  // and decompressed
	SHA256 string `json:"sha256"` // as stored
}

// extension is one, and the schema that its things are in.
type extension struct {
	Name   string `json:"name"`
	Schema string `json:"schema"`
}

// table is one table's rows.
type table struct {
	Schema  string   `json:"schema"`
	Name    string   `json:"name"`
	Columns []string `json:"columns"` // without the tenant's, in the order in which they are in the file
	File    string   `json:"file"`
	Rows    int64    `json:"rows"`
	// Partitioned: its rows are its partitions'.
	Partitioned bool `json:"partitioned,omitempty"`
}

// sealed is a manifest as it is stored.
type sealed struct {
	Key      string          `json:"key"` // its ID
	MAC      string          `json:"mac"`
	Manifest json.RawMessage `json:"manifest"`
}

var (
	backupID = regexp.MustCompile(`^[0-9]{8}T[0-9]{9}Z-[a-z2-7]{8}$`)
	tenantID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	fileName = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)
)

// encode is the manifest as it is stored.
func (k keys) encode(m *manifest) ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	s := sealed{Key: k[0].ID(), MAC: mac(k[0], text, m.Backup.Tenant, m.Backup.ID), Manifest: text}
	return json.Marshal(s)
}

// decode reads a manifest, which has to be that of a backup of a tenant.
func (k keys) decode(text []byte, tenant, id string) (*manifest, error) {
	where := "the manifest of backup " + id
	var s sealed
	if err := strict(text, &s); err != nil {
		return nil, damaged(where, "%v", err)
	}
	key := k.byID(s.Key)
	if key == nil {
		return nil, provision.Errorf(provision.KindFailed, "%s was made with another key", where).
			WithDetail("Its key's ID is %q; the key in use is %s.", s.Key, k[0].ID()).WithHint("Backups need the key file that was in use when they were made.")
	}
	if !hmac.Equal([]byte(mac(key, s.Manifest, tenant, id)), []byte(s.MAC)) {
		return nil, damaged(where, "its code does not fit; it may belong to another backup or tenant")
	}
	m, err := parseManifest(s.Manifest)
	if err != nil {
		return nil, damaged(where, "%v", err)
	}
	if m.Backup.ID != id || m.Backup.Tenant != tenant {
		return nil, damaged(where, "it is another backup's")
	}
	return m, nil
}

// parseManifest checks what a manifest says: names of files in it become names on disk.
func parseManifest(text []byte) (*manifest, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, err
	}
	if head.Format != format {
		return nil, fmt.Errorf("its format is %d, and this pgkennel knows %d", head.Format, format)
	}
	m := &manifest{}
	if err := strict(text, m); err != nil {
		return nil, err
	}
	if !backupID.MatchString(m.Backup.ID) || !tenantID.MatchString(m.Backup.Tenant) {
		return nil, errors.New("its IDs are not valid")
	}
	files := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if !fileName.MatchString(f.Name) || files[f.Name] || f.Bytes < 0 || f.Packed < 0 || f.Plain < 0 {
			return nil, fmt.Errorf("its file %q is not valid", f.Name)
		}
		files[f.Name] = true
	}
	kind, needs := provision.Logical, []string{}
	switch m.Content {
	case ofDatabase:
		needs = append(needs, dumpName)
	case ofSchema:
		needs = append(needs, dumpName)
		if m.Schema == "" {
			return nil, errors.New("it names no schema")
		}
	case ofRows:
		if m.Column == "" {
			return nil, errors.New("it names no column")
		}
	case ofInstance:
		kind, needs = provision.Physical, append(needs, baseName)
		if _, err := parseLSN(m.End); err != nil {
			return nil, err
		}
		if _, err := parseSegment(m.Start); err != nil || !systemID.MatchString(m.System) || !validSegment(m.Segment) {
			return nil, errors.New("where its WAL begins is not valid")
		}
	default:
		return nil, fmt.Errorf("its content %q is unknown", m.Content)
	}
	for _, t := range m.Tables {
		needs = append(needs, t.File)
	}
	for _, n := range needs {
		if !files[n] {
			return nil, fmt.Errorf("its file %q is missing", n)
		}
	}
	if m.Backup.Kind != kind {
		return nil, fmt.Errorf("its kind %q does not fit", m.Backup.Kind)
	}
	return m, nil
}

// strict reads JSON that has nothing unknown in it, and nothing behind it.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind its end")
	}
	return nil
}

// sum adds up the files: sizes and checksums of the backup are of all of them.
func (m *manifest) sum() {
	h := sha256.New()
	m.Backup.Bytes = 0
	for _, f := range m.Files {
		fmt.Fprintf(h, "%s %s\n", f.SHA256, f.Name)
		m.Backup.Bytes += f.Bytes
	}
	m.Backup.SHA256 = hex.EncodeToString(h.Sum(nil))
}

func (m *manifest) file(name string) file {
	for _, f := range m.Files {
		if f.Name == name {
			return f
		}
	}
	return file{}
}

// major is the number of a version such as 15 or 9.6.
func major(version string) string {
	version, _, _ = strings.Cut(version, ".")
	return version
}
