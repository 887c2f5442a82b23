package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// pkg is one package of the module as its source files show it.
type pkg struct {
	path  string // below the module, such as "pooler/pool"
	name  string // such as "pool"
	files []file
}

// file is one Go file, of any build constraint.
type file struct {
	name    string
	test    bool
	imports []string
	lines   int
	doc     bool     // has a package comment
	exits   []string // positions of calls that end the process
}

// load reads every package of the module that holds the current directory.
func load() ([]pkg, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", explained(err))
	}
	list := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name", "./...")
	list.Dir = strings.TrimSpace(string(root))
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", explained(err))
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct{ ImportPath, Dir, Name string }
		if err := dec.Decode(&listed); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("output of go list: %w", err)
		}
		p := pkg{path: relative(listed.ImportPath), name: listed.Name}
		paths, err := filepath.Glob(filepath.Join(listed.Dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			f, err := inspect(path, nil)
			if err != nil {
				return nil, err
			}
			p.files = append(p.files, f)
		}
		pkgs = append(pkgs, p)
	}
}

// explained adds what a failed command wrote to stderr.
func explained(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}

// inspect parses one file; src is as for parser.ParseFile.
func inspect(path string, src any) (file, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	f := file{
		name:  filepath.Base(path),
		test:  strings.HasSuffix(path, "_test.go"),
		lines: fset.File(tree.FileStart).LineCount(),
		doc:   tree.Doc != nil && strings.TrimSpace(tree.Doc.Text()) != "",
	}
	for _, spec := range tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, imported)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		owner, ok := sel.X.(*ast.Ident)
		if ok && (owner.Name == "os" && sel.Sel.Name == "Exit" || owner.Name == "log" && strings.HasPrefix(sel.Sel.Name, "Fatal")) {
			f.exits = append(f.exits, fset.Position(call.Pos()).String())
		}
		return true
	})
	return f, nil
}

// relative cuts the module's prefix off; foreign paths stay as they are.
func relative(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// matches tells whether path is pattern, or below it if the pattern ends in /... .
func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func anyMatch(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// below tells whether path is root or a package below it; a major version suffix counts as below.
func below(root, path string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// checkFloors reports packages without a floor and imports that do not go down.
func checkFloors(pkgs []pkg) (faults []string) {
	for _, p := range pkgs {
		floor, known := floors[p.path]
		if !known {
			faults = append(faults, fmt.Sprintf("%s: package has no floor; give it one in internal/archtest and docs/architecture.md", p.path))
			continue
		}
		for _, f := range p.files {
			for _, path := range f.imports {
				to := relative(path)
				if to == path { // foreign
					continue
				}
				if fault := checkEdge(p.path, floor, f, to); fault != "" {
					faults = append(faults, p.path+"/"+f.name+": "+fault)
				}
			}
		}
	}
	return faults
}

func checkEdge(from string, floor int, f file, to string) string {
	target, known := floors[to]
	if !known {
		return "imports " + to + ", which has no floor"
	}
	if f.test {
		if to == from || slices.Contains(testsOnly, to) {
			return ""
		}
		if _, ok := testsMay[edge{from, to}]; ok {
			return ""
		}
	} else if slices.Contains(testsOnly, to) && !slices.Contains(testsOnly, from) {
		return "imports " + to + ", which is for tests"
	}
	if target >= floor {
		return fmt.Sprintf("imports %s of floor %d from floor %d; imports go down", to, target, floor)
	}
	for _, b := range banned {
		if matches(b.from, from) && matches(b.to, to) {
			return "imports " + to + ": " + b.why
		}
	}
	return ""
}

// checkHomes reports foreign modules imported outside their homes, and doors to the outside in pure packages.
func checkHomes(pkgs []pkg) (faults []string) {
	for _, p := range pkgs {
		for _, f := range p.files {
			if f.test {
				continue
			}
			for _, path := range f.imports {
				for _, h := range homes {
					if below(h.foreign, path) && (h.except == "" || !below(h.except, path)) && !anyMatch(h.only, p.path) {
						faults = append(faults, fmt.Sprintf("%s/%s: imports %s: %s", p.path, f.name, path, h.why))
					}
				}
				if slices.Contains(pure, p.path) && slices.Contains(impure, path) {
					faults = append(faults, fmt.Sprintf("%s/%s: imports %s: the package is pure", p.path, f.name, path))
				}
			}
		}
	}
	return faults
}

// checkFiles reports missing, doubled and misplaced package comments, files that grew too long, and calls that end the
// process outside cmd.
func checkFiles(pkgs []pkg) (faults []string) {
	for _, p := range pkgs {
		var docs []string
		sources := 0
		for _, f := range p.files {
			if f.test {
				continue
			}
			sources++
			if f.doc {
				docs = append(docs, f.name)
			}
			if f.lines > maxLines {
				faults = append(faults, fmt.Sprintf("%s/%s: %d lines, more than %d: it has more than one idea", p.path, f.name, f.lines, maxLines))
			}
			if !strings.HasPrefix(p.path, "cmd/") && p.path != "bench" && p.path != "bench/density" && p.path != "integration/drivers" {
				for _, at := range f.exits {
					faults = append(faults, at+": ends the process; only cmd/*, bench and integration/drivers may")
				}
			}
		}
		switch {
		case sources == 0:
		case len(docs) != 1:
			faults = append(faults, fmt.Sprintf("%s: %d package comments %v, want one", p.path, len(docs), docs))
		case p.name != "main" && docs[0] != p.name+".go":
			faults = append(faults, fmt.Sprintf("%s: the package comment is in %s, want %s.go", p.path, docs[0], p.name))
		}
	}
	return faults
}
