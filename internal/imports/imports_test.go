// SPDX-License-Identifier: Apache-2.0

// Package imports holds the tests of the repository itself: who may import whom, and what stands at the top of each file.
package imports

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weirnet/weir/"

// allowed reads the import table of ARCHITECTURE.md: what a folder's non-test files may import besides the standard library.
// A name without a dot is a folder of this module; a name stands for everything below it.
func allowed(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Who may import whom\n")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no import table")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	table := map[string][]string{}
	quoted := regexp.MustCompile("`([^`]+)`")
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\|(.*)$").FindAllStringSubmatch(section, -1) {
		table[row[1]] = nil
		for _, name := range quoted.FindAllStringSubmatch(row[2], -1) {
			table[row[1]] = append(table[row[1]], name[1])
		}
	}
	return table
}

func TestImportsAreThoseOfTheTable(t *testing.T) {
	tables, met := allowed(t), map[string]bool{}
	forEachFile(t, func(path string, content []byte) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return
		}
		folder := ""
		for name := range tables {
			if strings.HasPrefix(path, name+"/") && len(name) > len(folder) {
				folder = name
			}
		}
		if folder == "" {
			t.Errorf("%s is in no folder of the import table", path)
			return
		}
		if met[folder] = true; folder == "cmd/weir" {
			return // may import everything
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ImportsOnly)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			local, inside := strings.CutPrefix(name, module)
			if !inside {
				local = name
				if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
					continue // standard library
				}
			}
			if !slices.ContainsFunc(tables[folder], func(may string) bool { return local == may || strings.HasPrefix(local, may+"/") }) {
				t.Errorf("%s imports %s, which %s may not", path, name, folder)
			}
		}
	})
	for name := range tables {
		if !met[name] {
			t.Errorf("the import table has a row for %s, which has no files", name)
		}
	}
}

// Every file says its licence, but for those that cannot hold a comment or are text for people.
func TestEveryFileHasAnSPDXLine(t *testing.T) {
	forEachFile(t, func(path string, content []byte) {
		if strings.HasPrefix(path, "LICENSE") || strings.HasPrefix(path, "bpf/include/") {
			return // the licences themselves; vendored headers keep their own
		}
		if strings.Contains(path, "/testdata/") || strings.Contains(path, "_bpfel.") {
			return
		}
		switch filepath.Ext(path) {
		case ".md", ".mod", ".sum", ".json", ".svg":
			return
		}
		head := content[:min(len(content), 400)]
		if !bytes.Contains(head, []byte("SPDX-License-Identifier:")) {
			t.Errorf("%s has no SPDX line at its top", path)
		}
		if want := licence(path); !bytes.Contains(head, []byte(want)) {
			t.Errorf("%s is not under %s", path, want)
		}
	})
}

func licence(path string) string {
	if ext := filepath.Ext(path); ext == ".c" || ext == ".h" {
		return "GPL-2.0-only OR BSD-2-Clause"
	}
	return "Apache-2.0"
}

func forEachFile(t *testing.T, f func(path string, content []byte)) {
	t.Helper()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && (relative == ".git" || relative == "bin"):
			return filepath.SkipDir
		case entry.IsDir(), relative == ".git", entry.Type()&fs.ModeSymlink != 0: // in a worktree .git is a file; links lead to what is seen anyway
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		f(filepath.ToSlash(relative), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("saw only %d files: this is not the repository", files)
	}
}
