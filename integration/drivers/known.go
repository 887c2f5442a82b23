package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// difference is a test that passes against PostgreSQL and does not through pgkennel.
type difference struct {
	Mode    string `json:"mode"`
	Test    string `json:"test"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`            // empty: nobody knows it
	Message string `json:"message,omitempty"` // of a test whose reason nobody knows
}

// known is a line of a suite's file of known differences.
type known struct {
	mode, pattern, reason string
	match                 *regexp.Regexp
}

// readKnown reads a suite's file: lines of mode | pattern | reason. Of a pattern, * is any text; both is any mode.
func readKnown(path string) ([]known, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all []known
	for n, l := range strings.Split(string(text), "\n") {
		if l = strings.TrimSpace(l); l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.SplitN(l, " | ", 3)
		if len(f) != 3 || f[0] != transaction && f[0] != session && f[0] != "both" || strings.TrimSpace(f[2]) == "" {
			return nil, fmt.Errorf("%s:%d: want mode | pattern | reason", path, n+1)
		}
		match := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(f[1])), `\*`, `.*`)
		all = append(all, known{f[0], f[1], f[2], regexp.MustCompile("(?s)^" + match + "$")})
	}
	return all, nil
}

// met reports whether the line is the reason of any difference.
func (k known) met(all []difference) bool {
	return slices.ContainsFunc(all, func(d difference) bool {
		return d.Reason == k.reason && (k.mode == d.Mode || k.mode == "both") && k.match.MatchString(d.Test)
	})
}

// reason is that of the first line which means the test.
func reason(all []known, mode, test string) string {
	for _, k := range all {
		if (k.mode == mode || k.mode == "both") && k.match.MatchString(test) {
			return k.reason
		}
	}
	return ""
}

// sumOf is a checksum of files of a folder, by their names; of a folder, of what is in it.
func sumOf(dir string, names ...string) (string, error) {
	h := sha256.New()
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s\n%d\n", path, len(text))
			h.Write(text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
