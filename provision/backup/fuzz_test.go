package backup

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// FuzzList feeds the reader of backup_manifests, with the right sum.
func FuzzList(f *testing.F) {
	file := `{"Path":"a","Size":1,"Checksum-Algorithm":"SHA256","Checksum":"00"}`
	for _, seed := range []string{
		`{"PostgreSQL-Backup-Manifest-Version":1,"Files":[` + file + `],"WAL-Ranges":[{"Timeline":1,"Start-LSN":"0/2000028","End-LSN":"0/2000100"}],`,
		`{"PostgreSQL-Backup-Manifest-Version":2,"Files":[{"Encoded-Path":"2e2e2f61","Checksum-Algorithm":"SHA256"}],"WAL-Ranges":[{}],`,
		`{"PostgreSQL-Backup-Manifest-Version":3,"Files":[],"WAL-Ranges":[],`, `{"Files":[{"Checksum-Algorithm":"CRC32C"}],`, `{`, ``,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, end, err := parseList(fmt.Appendf(nil, `%s"Manifest-Checksum":"%x"}`, text, sha256.Sum256([]byte(text))))
		if err != nil && (list != nil || end != "") {
			t.Errorf("%v, %q, in spite of %v", list, end, err)
		}
		for _, x := range list {
			if x.Method != "SHA256" {
				t.Errorf("a checksum by %q was taken", x.Method)
			}
		}
		if _, _, err := parseList([]byte(text)); err == nil && !strings.Contains(text, "Manifest-Checksum") {
			t.Errorf("%q was taken, without its sum", text)
		}
	})
}

// FuzzHistory feeds the readers of what PostgreSQL names timelines and places in WAL by: what is taken is the same when it is written and read again.
func FuzzHistory(f *testing.F) {
	for _, seed := range []string{
		"1\t0/3000158\tno recovery target specified\n\n# said\n 2\tA/FF000000\tbefore 2000-01-01 00:00:00+00\n", "4294967296\t0/0\n", "1 0/0", "1\t0\n", "1\t0/123456789\n",
		"000000010000000A000000FF", "0000000100000000", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseHistory([]byte(text)); err == nil {
			var b strings.Builder
			for _, x := range list {
				fmt.Fprintf(&b, "%d\t%X/%X\twhy\n", x.timeline, x.at>>32, uint32(x.at))
			}
			again, err := parseHistory([]byte(b.String()))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(list) {
				t.Errorf("%q is %v, and then %v, %v", text, list, again, err)
			}
		}
		if s, err := parseSegment(text); err == nil && s.String() != text {
			t.Errorf("%q is %v", text, s)
		}
		if n, err := parseLSN(text); err == nil {
			if again, err := parseLSN(fmt.Sprintf("%X/%X", n>>32, uint32(n))); err != nil || again != n {
				t.Errorf("%q is %d, and then %d, %v", text, n, again, err)
			}
		}
	})
}
