package store

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgkennel/pgkennel/tenant"
)

// KeyVariable is the environment variable that may have the key of a directory.
const KeyVariable = "PGKENNEL_DIRECTORY_KEY"

// LoadKey returns the key that the secrets of a directory are encrypted with: value, which is that of KeyVariable, or if that is empty the contents of the
// file at path. If there is no file and make is true, it makes one with a new key, and created is true.
func LoadKey(path, value string, make bool) (key *tenant.Secret, created bool, err error) {
	if value != "" {
		if key, err = tenant.NewSecret([]byte(value)); err != nil {
			return nil, false, fmt.Errorf("%s: %w", KeyVariable, err)
		}
		return key, false, nil
	}
	if path == "" {
		return nil, false, fmt.Errorf("the directory has no key: set key_file, or %s in the environment", KeyVariable)
	}
	key, err = readKey(path)
	if !make || !errors.Is(err, os.ErrNotExist) {
		return key, false, err
	}
	if created, err = makeKey(path); err != nil {
		return nil, false, fmt.Errorf("key file: %w", err)
	}
	key, err = readKey(path) // somebody else may have made it first
	return key, created && err == nil, err
}

func readKey(path string) (*tenant.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("key file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("key file %s: it is no file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("key file %s: others may read or change it (mode %04o): chmod 600 it, and think of the key as known to them", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key, err := tenant.NewSecret(b)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return key, nil
}

// makeKey makes a key file, unless there is one. It gets its name when it is whole.
func makeKey(path string) (created bool, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name()) // it has another name by then
	var b [32]byte
	rand.Read(b[:]) // it does not fail
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(b[:]))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, os.ErrExist) {
			return false, nil
		}
		return false, err
	}
	return true, syncFolder(filepath.Dir(path))
}
