package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSuitesAreWhole: every suite has what a run needs, every folder is a suite's, and what is known of each can be read.
func TestSuitesAreWhole(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	for _, s := range suites {
		listed[s.name] = true
		for _, script := range []string{"install", "run"} {
			if info, err := os.Stat(filepath.Join("suites", s.name, script)); err != nil {
				t.Error(err)
			} else if info.Mode()&0o111 == 0 {
				t.Errorf("%s/%s can't be run", s.name, script)
			}
		}
		if _, err := readKnown(filepath.Join("suites", s.name, "known")); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir("suites")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !listed[e.Name()] {
			t.Errorf("suites/%s is in no table", e.Name())
		}
	}
}

// TestPageIsOfTheResults: the page for readers says what the file for programs says, each suite is in it, and nothing in it is without a reason.
func TestPageIsOfTheResults(t *testing.T) {
	t.Parallel()
	r, err := readReport("../../docs/compatibility.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, r.page()) {
		t.Error("docs/compatibility.md is not of docs/compatibility.json: run make drivers")
	}
	if len(r.Suites) != len(suites) {
		t.Errorf("%d suites in docs/compatibility.json, %d in the table", len(r.Suites), len(suites))
	}
	for _, l := range r.Suites {
		for _, d := range l.Differences {
			if d.Reason == "" {
				t.Errorf("%s, %s: %s has no reason", l.Name, d.Mode, d.Test)
			}
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		format, file, text string
		want               results
	}{
		{"tap", "a.tap", "ok - one\nnot ok 2 - two\n# why\n# and why\nok 3 three # SKIP not here\n", results{
			"one": {passing, ""}, "two": {failing, "\n why\n and why"}, "three": {skipped, " not here"},
		}},
		{"gotest", "a.json", `{"Action":"output","Package":"p/root","Test":"TestA","Output":"why\n"}` + "\n" + `no event` + "\n" +
			`{"Action":"fail","Package":"root","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"x/sub","Test":"TestB/c"}` + "\n", results{
			"TestA": {failing, ""}, "sub.TestB/c": {passing, ""},
		}},
		{"junit", "a.xml", `<testsuites><testsuite><testcase classname="c" name="one"/><testsuite><testcase classname="c" name="two"><failure message="why">at</failure></testcase>` +
			`<testcase classname="c" name="three"><skipped message="no"/></testcase></testsuite></testsuite></testsuites>`, results{
			"c.one": {passing, ""}, "c.two": {failing, "why\nat"}, "c.three": {skipped, "no"},
		}},
		{"unittest", "a.txt", "test_one (a.B.test_one) ... ok\ntest_two (a.B.test_two)\nIts text. ... FAIL\ntest_three (a.B.test_three) ... skipped 'no'\n", results{
			"a.B.test_one": {passing, ""}, "a.B.test_two": {failing, "FAIL"}, "a.B.test_three": {skipped, "skipped 'no'"},
		}},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, test.file), []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := parse(test.format, dir)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" && test.format != "gotest" || got["TestA"].Status != test.want["TestA"].Status {
			t.Errorf("%s: %s", test.format, diff)
		}
	}
}

// TestDifferencesNeedReasons: what is known is explained, anything else is not, and what fails by itself is no difference.
func TestDifferencesNeedReasons(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(path, []byte("# words\nboth | a* | as it is\ntransaction | b | likewise\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := readKnown(path)
	if err != nil {
		t.Fatal(err)
	}
	pass, fail := result{passing, ""}, result{failing, "why"}
	var l line
	l.Passed = map[string]int{}
	l.compare(map[string]results{
		direct:      {"a1": pass, "b": pass, "c": pass, "d": fail, "e": {skipped, ""}, "g/1": pass, "g": pass},
		transaction: {"a1": fail, "b": fail, "c": pass, "d": fail, "e": fail, "g": fail},
		session:     {"a1": pass, "b": fail, "c": pass, "d": pass, "g/1": pass},
	}, both, known)
	want := []difference{
		{transaction, "a1", failing, "as it is", ""},
		{transaction, "b", failing, "likewise", ""},
		{session, "b", failing, "", "why"},
		{transaction, "g/1", absent, "", "why"},
	}
	if diff := cmp.Diff(want, l.Differences); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{transaction: 1, session: 3}, l.Passed); diff != "" || l.Direct != 4 || l.Failed != 1 || l.Skipped != 1 {
		t.Errorf("%+v %s", l, diff)
	}
}
