package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// What a test came to.
const (
	passing = "passed"
	failing = "failed"
	skipped = "skipped"
	absent  = "did not run"
)

// result is one test's.
type result struct {
	Status  string
	Message string
}

// results are by the test's name.
type results map[string]result

// scratch is a folder of a run's own.
var scratch = regexp.MustCompile(`/tmp/[\w.-]+/\d+`)

// set keeps the worst of tests of one name.
func (r results) set(name string, new result) {
	name = scratch.ReplaceAllString(name, "/tmp")
	if old, ok := r[name]; !ok || old.Status == passing || new.Status == failing {
		r[name] = new
	}
}

// parse reads what a run left in dir.
func parse(format, dir string) (results, error) {
	read := map[string]struct {
		pattern string
		reader  func([]byte, results) error
	}{
		"junit": {"*.xml", parseJUnit}, "gotest": {"*.json", parseGoTest}, "tap": {"*.tap", parseTAP}, "unittest": {"*.txt", parseUnittest},
	}[format]
	files, err := filepath.Glob(filepath.Join(dir, read.pattern))
	if err != nil {
		return nil, err
	}
	all := results{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := read.reader(text, all); err != nil {
			return all, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	return all, nil
}

// parseJUnit reads JUnit's XML, whatever the nesting.
func parseJUnit(text []byte, all results) error {
	type note struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string `xml:"classname,attr"`
		Name    string `xml:"name,attr"`
		Failure *note  `xml:"failure"`
		Error   *note  `xml:"error"`
		Skipped *note  `xml:"skipped"`
	}
	for dec := xml.NewDecoder(bytes.NewReader(text)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "testcase" {
			continue
		}
		var c testcase
		if err := dec.DecodeElement(&c, &start); err != nil {
			return err
		}
		name := strings.TrimPrefix(c.Class+"."+c.Name, "test.") // node's own runner calls every class test
		switch {
		case c.Failure != nil:
			all.set(name, result{failing, c.Failure.Message + "\n" + c.Failure.Text})
		case c.Error != nil:
			all.set(name, result{failing, c.Error.Message + "\n" + c.Error.Text})
		case c.Skipped != nil:
			all.set(name, result{skipped, c.Skipped.Message})
		default:
			all.set(name, result{passing, ""})
		}
	}
}

// parseGoTest reads the output of go test -json.
func parseGoTest(text []byte, all results) error {
	said := map[string]string{}
	for lines := bufio.NewReader(bytes.NewReader(text)); ; {
		l, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		var event struct{ Action, Package, Test, Output string }
		if json.Unmarshal(l, &event) != nil {
			continue // what a test wrote without a newline has its line for itself
		}
		if event.Test == "" {
			continue
		}
		name := strings.TrimPrefix(event.Package+"."+event.Test, "root.") // the module's own package
		switch event.Action {
		case "output":
			said[name] += event.Output
		case "pass":
			all.set(name, result{passing, ""})
		case "skip":
			all.set(name, result{skipped, said[name]})
		case "fail":
			all.set(name, result{failing, said[name]})
		}
	}
}

var tapLine = regexp.MustCompile(`(?m)^(not )?ok(?: \d+)?(?: -)? (.*?)(?: # (?i:skip)(.*))?$((?:\n#.*)*)`)

// parseTAP reads the Test Anything Protocol, without nesting; what follows a line behind # belongs to it.
func parseTAP(text []byte, all results) error {
	for _, m := range tapLine.FindAllSubmatch(text, -1) {
		switch {
		case len(m[1]) > 0:
			all.set(string(m[2]), result{failing, strings.ReplaceAll(string(m[4]), "\n#", "\n")})
		case len(m[3]) > 0:
			all.set(string(m[2]), result{skipped, string(m[3])})
		default:
			all.set(string(m[2]), result{passing, ""})
		}
	}
	return nil
}

var (
	unittestLine  = regexp.MustCompile(`(?ms)^(test\w*) \(([\w.]+)\)[^\n]*?(?:\n[^\n]*?)?? \.\.\. (?:.*?)(ok|FAIL|ERROR|skipped[^\n]*|expected failure|unexpected success)$`)
	unittestFault = regexp.MustCompile(`(?ms)^=+\n(?:FAIL|ERROR): (\w+) \(([\w.]+)\)(.*?)\n(?:=====|-----[-]+\nRan )`)
)

// parseUnittest reads what Python's unittest prints with -v.
func parseUnittest(text []byte, all results) error {
	name := func(method, class []byte) string {
		return strings.TrimSuffix(string(class), "."+string(method)) + "." + string(method)
	}
	for _, m := range unittestLine.FindAllSubmatch(text, -1) {
		switch status := string(m[3]); {
		case status == "ok", status == "expected failure":
			all.set(name(m[1], m[2]), result{passing, ""})
		case strings.HasPrefix(status, "skipped"):
			all.set(name(m[1], m[2]), result{skipped, status})
		default:
			all.set(name(m[1], m[2]), result{failing, status})
		}
	}
	for rest := text; ; {
		m := unittestFault.FindSubmatchIndex(rest)
		if m == nil {
			return nil
		}
		all.set(name(rest[m[2]:m[3]], rest[m[4]:m[5]]), result{failing, string(rest[m[6]:m[7]])})
		rest = rest[m[7]+1:]
	}
}
